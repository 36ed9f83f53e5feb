#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <source_location>
#include <tuple>

// What FLAME uses of CUDA, on the CPU: with FLAME_CUDA=EMULATED the whole code for GPUs is compiled as plain C++ and
// every kernel runs thread by thread, for sanitizers to watch where there is no GPU. The names and their meaning are
// those of the CUDA C++ Programming Guide and the runtime's API reference; nothing here is fast.
//
// There are two GPUs where CUDA_EMULATOR is in the environment. Its value is one of two orders of work, which together
// show what only luck keeps right:
//   early  threads run from a block's first to its last, each up to its next barrier, blocks likewise, and a stream's
//          work as soon as it is given;
//   late   from the last to the first, and work no sooner than something waits for it.

// --- the language ---
#define __host__
#define __device__
#define __global__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define __builtin_assume(condition)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Of the thread that runs now: one at a time, in the whole process.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_emulator {

// The launch's own shared memory.
std::byte* shared_memory();
// Copies of the thread that runs, in the background.
void begin_copy(std::function<void()> copy);
void finish_copies();

// All who meet at a barrier have to come from the same place in the source, or the program ends.
using Site = std::source_location;
// A barrier of all threads of the block that have not ended; whether any of them said true.
bool wait_for_block(bool said, const Site& site);
// A barrier of a warp. Each lane shows some bytes there; what all get has those of lane i at i * most_shown, until the
// next barrier but one. Lanes that have ended, or never were, show 0xff.
constexpr size_t most_shown = 64;
const std::byte* wait_for_warp(const void* shown, size_t bytes, const Site& site);
unsigned lane();

template <class T>
const T& shown_by(const std::byte* all, unsigned lane) {
  return *reinterpret_cast<const T*>(all + lane % 32 * most_shown);
}

}  // namespace cuda_emulator

inline void __syncthreads(const cuda_emulator::Site& site = cuda_emulator::Site::current()) {
  cuda_emulator::wait_for_block(false, site);
}
inline int __syncthreads_or(int said, const cuda_emulator::Site& site = cuda_emulator::Site::current()) {
  return cuda_emulator::wait_for_block(said != 0, site);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, const cuda_emulator::Site& site = cuda_emulator::Site::current()) {
  const unsigned from = cuda_emulator::lane() ^ static_cast<unsigned>(mask);
  return cuda_emulator::shown_by<T>(cuda_emulator::wait_for_warp(&value, sizeof(T), site), from);
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned distance,
                   const cuda_emulator::Site& site = cuda_emulator::Site::current()) {
  const unsigned lane = cuda_emulator::lane(), from = lane + distance < 32 ? lane + distance : lane;
  return cuda_emulator::shown_by<T>(cuda_emulator::wait_for_warp(&value, sizeof(T), site), from);
}

inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline void __stwb(uint4* to, uint4 value) { *to = value; }
inline bool __isGlobal(const void*) { return true; }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t both = uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}

// --- the runtime ---
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureUnjoined = 904,
  cudaErrorCapturedEvent = 907,
};
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();

namespace cuda_emulator {
struct Stream;
struct Event;
struct Graph;
}  // namespace cuda_emulator
using cudaStream_t = cuda_emulator::Stream*;
using cudaEvent_t = cuda_emulator::Event*;
using cudaGraph_t = cuda_emulator::Graph*;
using cudaGraphExec_t = cuda_emulator::Graph*;
using cudaGraphNode_t = void*;

struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount, maxThreadsPerMultiProcessor;
  size_t sharedMemPerBlockOptin;
};
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaDriverGetVersion(int* version);

enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocPortable = 1 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);

enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes,
                                cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream);

enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace cuda_emulator {
constexpr size_t most_shared_bytes = size_t{163} << 10;
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread);
cudaError_t allow_shared_memory(const void* kernel, size_t bytes);
}  // namespace cuda_emulator

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const std::tuple<std::decay_t<Parameters>...> given(std::forward<Arguments>(arguments)...);
  return cuda_emulator::launch(*config, reinterpret_cast<const void*>(kernel),
                               [kernel, given] { std::apply(kernel, given); });
}

struct cudaFuncAttributes {
  int ptxVersion;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  attributes->ptxVersion = 80;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  return cuda_emulator::allow_shared_memory(reinterpret_cast<const void*>(kernel), static_cast<size_t>(bytes));
}
