#include "emulator.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

// That the emulator does what CUDA does, and shows the mistakes that it is for. Run in both orders.
namespace {

constexpr unsigned threads = 96;

class CudaEmulator : public testing::Test {
 protected:
  void SetUp() override {
    cudaStreamCreateWithFlags(&main, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    for (cudaEvent_t* event : {&forked, &joined}) cudaEventCreateWithFlags(event, cudaEventDisableTiming);
  }
  void TearDown() override {
    for (cudaEvent_t event : {forked, joined}) cudaEventDestroy(event);
    for (cudaStream_t stream : {main, side}) cudaStreamDestroy(stream);
  }
  void fork() {
    cudaEventRecord(forked, main);
    cudaStreamWaitEvent(side, forked);
  }
  void join() {
    cudaEventRecord(joined, side);
    cudaStreamWaitEvent(main, joined);
  }

  template <class... Parameters, class... Arguments>
  static void give(cudaStream_t stream, void (*kernel)(Parameters...), Arguments... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = 3;
    config.blockDim = dim3(32, threads / 32);
    config.stream = stream;
    ASSERT_EQ(cudaLaunchKernelEx(&config, kernel, arguments...), cudaSuccess);
  }
  template <class... Parameters>
  std::vector<int> run(void (*kernel)(int*, Parameters...), std::type_identity_t<Parameters>... arguments) {
    std::vector<int> out(3 * threads, -1);
    give(main, kernel, out.data(), arguments...);
    EXPECT_EQ(cudaStreamSynchronize(main), cudaSuccess);
    return out;
  }

  cudaStream_t main, side;
  cudaEvent_t forked, joined;
};

__device__ unsigned thread() { return threadIdx.y * blockDim.x + threadIdx.x; }
__device__ unsigned thread_of_grid() { return blockIdx.x * threads + thread(); }

__global__ void number_threads(int* out) { out[thread_of_grid()] = static_cast<int>(thread_of_grid()); }

TEST_F(CudaEmulator, RunsEveryThreadOfEveryBlock) {
  std::vector<int> expected(3 * threads);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(run(number_threads), expected);
}

// The sum of what the neighbours on both sides wrote.
__global__ void add_neighbours(int* out, bool with_barrier) {
  __shared__ int written[threads];
  written[thread()] = 0;
  __syncthreads();
  written[thread()] = 1;
  if (with_barrier) __syncthreads();
  out[thread_of_grid()] = written[(thread() + 1) % threads] + written[(thread() + threads - 1) % threads];
}

TEST_F(CudaEmulator, ShowsThatABarrierIsMissing) {
  EXPECT_EQ(run(add_neighbours, true), std::vector<int>(3 * threads, 2));
  EXPECT_NE(run(add_neighbours, false), std::vector<int>(3 * threads, 2));
}

// One thread writes what others read.
__global__ void read_from_one(int* out, unsigned writer, bool with_barrier) {
  __shared__ int written;
  if (thread() == 0) written = 0;
  __syncthreads();
  if (thread() == writer) written = 7;
  if (with_barrier) __syncthreads();
  const bool reads = thread() != writer && thread() != threads - 1 - writer;
  out[thread_of_grid()] = reads ? written : 7;
}

TEST_F(CudaEmulator, ShowsThatABarrierIsMissingForOneThread) {
  const std::vector<int> right(3 * threads, 7);
  for (unsigned writer : {0u, threads - 1}) EXPECT_EQ(run(read_from_one, writer, true), right);
  EXPECT_NE(run(read_from_one, cuda_emulator::late() ? 0u : threads - 1, false), right);
}

__global__ void add_by_shuffles(int* out, bool down) {
  int sum = static_cast<int>(thread());
  for (int step = 16; step > 0; step /= 2)
    sum += down ? __shfl_down_sync(~0u, sum, static_cast<unsigned>(step)) : __shfl_xor_sync(~0u, sum, step);
  out[thread_of_grid()] = sum;
}

TEST_F(CudaEmulator, ShufflesWithinAWarp) {
  const std::vector<int> exchanged = run(add_by_shuffles, false), moved = run(add_by_shuffles, true);
  for (unsigned i = 0; i < 3 * threads; ++i) {
    const int warp = static_cast<int>(i % threads / 32), sum = 31 * 16 + 32 * 32 * warp;
    EXPECT_EQ(exchanged[i], sum) << i;
    if (i % 32 == 0) {
      EXPECT_EQ(moved[i], sum) << i;
    }
  }
}

__global__ void add_of_some_lanes(int* out) {
  if (threadIdx.x >= 20) return;
  int sum = 1;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  out[thread_of_grid()] = sum;
}

TEST_F(CudaEmulator, ShufflesNothingOfUseFromLanesThatHaveEnded) { EXPECT_NE(run(add_of_some_lanes)[0], 20); }

// All but the last warp, which has ended, and whether one of them said so.
__global__ void ask_the_block(int* out, unsigned who) {
  if (threadIdx.y == 2) return;
  out[thread_of_grid()] = __syncthreads_or(thread() == who);
}

TEST_F(CudaEmulator, CountsNoThreadThatHasEnded) {
  const std::vector<int> yes = run(ask_the_block, 40), no = run(ask_the_block, 70);
  for (unsigned i = 0; i < 3 * threads; ++i) {
    EXPECT_EQ(yes[i], i % threads < 64 ? 1 : -1) << i;
    EXPECT_EQ(no[i], i % threads < 64 ? 0 : -1) << i;
  }
}

__global__ void part_ways(int* out) {
  if (threadIdx.x < 5)
    __syncthreads();
  else
    out[thread()] = __shfl_xor_sync(~0u, 1, 1);
}
__global__ void meet_in_branches(int* out) {
  if (threadIdx.x < 16)
    out[thread()] = __shfl_xor_sync(~0u, 1, 1);
  else
    out[thread()] = __shfl_xor_sync(~0u, 2, 1);
}

TEST_F(CudaEmulator, EndsTheProgramWhereThreadsDoNotMeet) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(run(part_ways), "threads wait for others that wait elsewhere: .*emulator_test.cpp:");
  EXPECT_DEATH(run(meet_in_branches), "threads meet at different barriers: .*emulator_test.cpp:");
}

__global__ void use_shared_memory(int*) {}

TEST_F(CudaEmulator, RefusesLaunchesThatACardWould) {
  const auto launch = [&](unsigned threads, size_t bytes) {
    cudaLaunchConfig_t config = {};
    config.blockDim = threads;
    config.dynamicSmemBytes = bytes;
    config.stream = main;
    return cudaLaunchKernelEx(&config, use_shared_memory, nullptr);
  };
  EXPECT_EQ(launch(1024, 48 << 10), cudaSuccess);
  EXPECT_EQ(launch(1025, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(32, 50 << 10), cudaErrorInvalidValue);
  cudaFuncSetAttribute(use_shared_memory, cudaFuncAttributeMaxDynamicSharedMemorySize, 50 << 10);
  EXPECT_EQ(launch(32, 50 << 10), cudaSuccess);
  cudaSetDevice(1);
  EXPECT_EQ(launch(32, 0), cudaErrorInvalidResourceHandle) << "the stream is the other device's";
  cudaSetDevice(0);
}

#if defined(__SANITIZE_ADDRESS__)
__global__ void write_beyond(int* memory, int count) { memory[count] = 1; }

TEST_F(CudaEmulator, LetsTheSanitizerSeeWritesBeyondABuffer) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  void* memory = nullptr;
  ASSERT_EQ(cudaMalloc(&memory, 61 * sizeof(int)), cudaSuccess);
  const auto write = [&](int at) {
    give(main, write_beyond, static_cast<int*>(memory), at);
    cudaStreamSynchronize(main);
  };
  write(60);
  EXPECT_DEATH(write(61), "heap-buffer-overflow");
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
}
#endif

__global__ void set_to(int* x, int value) { *x = value; }
__global__ void copy_to(const int* from, int* to) { *to = *from; }

TEST_F(CudaEmulator, ShowsThatStreamsDoNotWaitForEachOther) {
  // What the second stream read, between two writes of the first's.
  const auto read = [&](bool fork_first, bool join_then) {
    int x = 0, got = 0;
    give(main, set_to, &x, 1);
    if (fork_first) fork();
    give(side, copy_to, &x, &got);
    if (join_then) join();
    give(main, set_to, &x, 2);
    cudaStreamSynchronize(fork_first ? main : side);
    cudaStreamSynchronize(fork_first ? side : main);
    return got;
  };
  EXPECT_EQ(read(true, true), 1);
  EXPECT_EQ(read(true, false), cuda_emulator::late() ? 2 : 1);
  EXPECT_EQ(read(false, true), cuda_emulator::late() ? 0 : 1);
}

TEST_F(CudaEmulator, ReplaysWhatWasCaptured) {
  int x = 0, got = 0;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  ASSERT_EQ(cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  give(main, set_to, &x, 1);
  fork();
  give(side, copy_to, &x, &got);
  join();
  give(main, set_to, &x, 2);
  ASSERT_EQ(cudaStreamEndCapture(main, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  EXPECT_EQ(x, 0) << "captured work is not done at once";
  for (int round = 0; round < 2; ++round) {
    x = got = 0;
    cudaGraphLaunch(executable, main);
    cudaStreamSynchronize(main);
    EXPECT_EQ(x, 2);
    EXPECT_EQ(got, 1);
  }
  cudaGraphDestroy(graph);
  cudaGraphExecDestroy(executable);
}

TEST_F(CudaEmulator, RefusesACaptureThatLeavesAStreamBehind) {
  int x = 0, got = 0;
  cudaGraph_t graph;
  ASSERT_EQ(cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  give(main, set_to, &x, 1);
  fork();
  give(side, copy_to, &x, &got);
  EXPECT_EQ(cudaStreamEndCapture(main, &graph), cudaErrorStreamCaptureUnjoined);
}

TEST_F(CudaEmulator, RefusesACaptureThatWaits) {
  int x = 0;
  cudaGraph_t graph;
  ASSERT_EQ(cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  give(main, set_to, &x, 1);
  cudaEventRecord(forked, main);
  void* memory;
  EXPECT_EQ(cudaMalloc(&memory, 4), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(main, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(graph, nullptr);
  EXPECT_EQ(cudaStreamWaitEvent(main, forked), cudaErrorCapturedEvent);
}

}  // namespace
