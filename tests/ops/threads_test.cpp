#include <thread>

#include "flame/ops/attention.h"
#include "flame/ops/conv.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "reference.h"

using namespace flame;

namespace {

struct Network {
  Tensor x = Tensor::randn({2, 8, 8, 32});  // with weights that keep its size
  Tensor kernel = Tensor::randn({32, 3, 3, 32}) * 0.06f, narrow = Tensor::randn({8, 3, 3, 32}) * 0.06f;
  Tensor weight = Tensor::randn({32, 32}) * 0.18f;
  Tensor down = Tensor::randn({4, 32}) * 0.18f, up = Tensor::randn({32, 4});

  // The result and the gradients of x, down and up.
  std::vector<std::vector<float>> run() const {
    Tape tape;
    const Tensor x = this->x.requires_grad(), down = this->down.requires_grad(), up = this->up.requires_grad();
    const Tensor h = conv2d(x, kernel, {}, 1, 1).reshape({2, 64, 32});
    const Tensor tokens = lora_linear(h, weight, {}, down, up, 0.5f).reshape({2, 64, 2, 16});
    const Tensor mixed = scaled_dot_product_attention(tokens, tokens, tokens).reshape({2, 8, 8, 32});
    const Tensor y = conv2d(mixed, narrow, {}, 2, 1);
    GradientMap gradients = (y * y).sum().backward();
    return {y.to_host<float>(), gradients[x].to_host<float>(), gradients[down].to_host<float>(),
            gradients[up].to_host<float>()};
  }
};

// Of both kinds of threads, and while the copies of the frozen weights are being made.
TEST(Threads, RunTheSameNetworkAtOnceAndAgree) {
  constexpr int count = 4;
  const Network network;
  const auto expected = network.run();
  for (const Tensor& weight : {network.kernel, network.narrow, network.weight}) weight.freeze();
  std::vector<std::vector<std::vector<float>>> results(2 * count);
#pragma omp parallel for num_threads(count)
  for (int i = 0; i < count; ++i) results[static_cast<size_t>(i)] = network.run();
  std::vector<std::thread> threads;
  for (size_t i = count; i < results.size(); ++i) threads.emplace_back([&, i] { results[i] = network.run(); });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) {
    EXPECT_EQ(result, results[0]);
    for (size_t i = 0; i < expected.size(); ++i) {  // those of a weight that is not frozen, which has another method
      double most = 0, size = 0;
      for (size_t j = 0; j < expected[i].size(); ++j) {
        most = std::max<double>(most, std::abs(result[i][j] - expected[i][j]));
        size = std::max<double>(size, std::abs(expected[i][j]));
      }
      EXPECT_LT(most, 2e-5 * size);
    }
  }
}

}  // namespace
