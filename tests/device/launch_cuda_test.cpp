#include "flame/device/launch_cuda.h"

#include <gtest/gtest.h>

#include <cstring>

#include "flame/device/graph.h"
#include "flame/ops/adapter_gradients_cuda.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/norm.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

// Kernels that are launched early give the bits of those that are not.
namespace flame {
namespace {

class EarlyLaunches : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
  }
  void TearDown() override { cuda::set_early_launches(true); }
};

// Long and short kernels, products of the library, copies and work on the second stream: each reads what the ones
// before wrote, and its result lies where they have read.
class Chain {
 public:
  void operator()() const {
    state.copy_from(start);
    few.fill(1);
    gradient.fill(0);
    Tensor read;  // by the second stream
    cudaEvent_t done = nullptr;
    for (int round = 0; round < 12; ++round) {
      const Tensor mixed = silu(matmul(state, weight)) + state;
      for (int time = 0; time < 4; ++time) few.copy_from(few * 0.5f + mean(mixed, {0}));
      if (done) cuda::wait_for(gpu, done);
      read = mixed;
      const cuda::Matrix left = cuda::matrix(read);
      cuda::Matrix right = left;
      right.columns = ranks;
      cuda::add_adapter_gradients(cuda::fork(gpu), std::vector<cuda::AdapterGradient>{
                                                       {.left = left, .right = right, .to = gradient.data<float>()}});
      done = cuda::mark(gpu);
      state.copy_from(layer_norm(mixed - few, gain, few, 1e-5f));
    }
    cuda::wait_for(gpu, done);
  }

  std::vector<Tensor> results() const {
    return {state.to(Device::cpu()), few.to(Device::cpu()), gradient.to(Device::cpu())};
  }

 private:
  static constexpr int64_t rows = 3000, columns = 320, ranks = 16;
  const Device gpu = Device::cuda();
  static Tensor random(const Shape& shape) { return cast(Tensor::randn(shape), DType::bf16).to(Device::cuda()); }

  const Tensor start = random({rows, columns}), weight = random({columns, columns}) * 0.06f;
  const Tensor gain = Tensor::ones({columns}, DType::bf16, gpu);
  const Tensor state = Tensor::zeros({rows, columns}, DType::bf16, gpu);
  const Tensor few = Tensor::zeros({columns}, DType::bf16, gpu);
  const Tensor gradient = Tensor::zeros({columns, ranks}, DType::f32, gpu);
};

void expect_same_bits(const std::vector<Tensor>& got, const std::vector<Tensor>& expected, const std::string& when) {
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(std::memcmp(got[i].raw(), expected[i].raw(), expected[i].bytes()), 0) << when << ", result " << i;
}

TEST_F(EarlyLaunches, ChangeNoBit) {
  const Chain chain;
  const auto plain = [&] {
    const ArenaScope arena(Device::cuda());
    chain();
    return chain.results();
  };
  cuda::set_early_launches(false);
  const std::vector<Tensor> expected = plain();
  expect_same_bits(plain(), expected, "without early launches");

  cuda::set_early_launches(true);
  for (int run = 1; run <= 50; ++run) expect_same_bits(plain(), expected, text("plain run ", run));
  const ArenaScope arena(Device::cuda());
  const CapturedGraph graph(Device::cuda(), chain);
  for (int replay = 1; replay <= 200; ++replay) {
    graph();
    if (replay % 4 == 0) expect_same_bits(chain.results(), expected, text("replay ", replay));
  }
}

// The kind of edge between two kernels of ours, as they are captured.
cudaGraphDependencyType captured_edge() {
  const Tensor x = Tensor::zeros({1000}, DType::f32, Device::cuda());
  const cudaStream_t stream = cuda::stream(Device::cuda());
  cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  x.fill(1);
  x.fill(2);
  cudaGraph_t graph;
  cuda::check(cudaStreamEndCapture(stream, &graph));
  cudaGraphNode_t from, to;
  cudaGraphEdgeData edge = {};
  size_t edges = 1;
  cuda::check(cudaGraphGetEdges(graph, &from, &to, &edge, &edges));
  cuda::check(cudaGraphDestroy(graph));
  EXPECT_EQ(edges, 1u);
  return static_cast<cudaGraphDependencyType>(edge.type);
}

TEST_F(EarlyLaunches, AreSeenInGraphsWhereKernelsWait) {
  EXPECT_EQ(captured_edge(),
            cuda::kernels_wait() ? cudaGraphDependencyTypeProgrammatic : cudaGraphDependencyTypeDefault);
  cuda::set_early_launches(false);
  EXPECT_EQ(captured_edge(), cudaGraphDependencyTypeDefault);
}

}  // namespace
}  // namespace flame
