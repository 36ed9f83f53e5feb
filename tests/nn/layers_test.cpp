#include "flame/nn/layers.h"

#include <gtest/gtest.h>

#include <cmath>

#include "flame/nn/attention.h"
#include "flame/ops/layout.h"
#include "tests/nn/weight_map.h"

namespace flame {
namespace {

Tensor random(const Shape& shape, uint64_t seed) {
  Generator generator(seed);
  return Tensor::randn(shape, generator);
}

void expect_close(const Tensor& a, const Tensor& b, double tolerance) {
  ASSERT_EQ(a.shape(), b.shape());
  const auto x = a.to_host<float>(), y = b.to_host<float>();
  double difference = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) difference += std::pow(x[i] - y[i], 2), size += std::pow(y[i], 2);
  EXPECT_GT(size, 0);
  EXPECT_LE(std::sqrt(difference / size), tolerance);
}

// weight + scale up down, as matrices in double.
Tensor merged(const Tensor& weight, const Tensor& up, const Tensor& down, float scale) {
  const int64_t out = up.dim(0), rank = down.dim(0), in = down.numel() / rank;
  const auto u = up.to_host<float>(), d = down.to_host<float>();
  auto w = weight.to_host<float>();
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t j = 0; j < in; ++j) {
      double sum = 0;
      for (int64_t r = 0; r < rank; ++r) sum += double{u[i * rank + r]} * d[r * in + j];
      w[i * in + j] += static_cast<float>(scale * sum);
    }
  }
  return Tensor::from(w, weight.shape());
}

TEST(Linear, WithAnAdapterIsTheMergedLayer) {
  const WeightMap weights({{"weight", random({7, 5}, 1)}, {"bias", random({7}, 2)}});
  const Linear layer(Scope(weights, DType::f32, Device::cpu())), handle = layer;
  const Tensor x = random({2, 3, 5}, 3), down = random({2, 5}, 4), up = random({7, 2}, 5);
  handle.adapter() = Adapter{down, up, 0.5f};

  WeightMap other = weights;
  other.tensors["weight"] = merged(weights.tensors.at("weight"), up, down, 0.5f);
  expect_close(layer(x), Linear(Scope(other, DType::f32, Device::cpu()))(x), 1e-6);
}

TEST(Conv2d, WithAnAdapterIsTheMergedLayer) {
  for (const int stride : {1, 2}) {
    const WeightMap weights({{"weight", random({6, 4, 3, 3}, 1)}, {"bias", random({6}, 2)}});
    const Scope scope(weights, DType::f32, Device::cpu());
    const Conv2d layer(scope, stride, 1), plain(scope, stride, 1);
    const Tensor x = random({2, 8, 6, 4}, 3), down = random({2, 4, 3, 3}, 4), up = random({6, 2, 1, 1}, 5);
    layer.adapter() = Adapter{channels_last(down), channels_last(up), 0.5f};

    WeightMap other = weights;
    other.tensors["weight"] = merged(weights.tensors.at("weight"), up, down, 0.5f);
    expect_close(layer(x), Conv2d(Scope(other, DType::f32, Device::cpu()), stride, 1)(x), 1e-6);
  }
}

TEST(Linear, WantsItsBiasUnlessToldOtherwise) {
  const WeightMap weights({{"weight", Tensor::ones({3, 2})}});
  const Scope scope(weights, DType::f32, Device::cpu());
  EXPECT_NE(error_of([&] { Linear(scope, {.in = 2}); }).find("no tensor model.bias"), std::string::npos);
  EXPECT_EQ(Linear(scope)(Tensor::ones({1, 2})).to_host<float>(), (std::vector<float>{2, 2, 2}));
}

TEST(Module, ListsLayersAndCountsParameters) {
  struct Two : Module {
    explicit Two(const Scope& scope) : Module(scope), linear(scope / "a"), conv(scope / "b" / 0, 1, 1) {}
    Linear linear;
    Conv2d conv;
  };
  const WeightMap weights({{"a.weight", Tensor::ones({3, 2})},
                           {"a.bias", Tensor::ones({3})},
                           {"b.0.weight", Tensor::ones({4, 2, 3, 3})},
                           {"unused", Tensor::ones({9})}});
  const Two two(Scope(weights, DType::f32, Device::cpu()));
  EXPECT_EQ(two.parameter_count(), 6 + 3 + 72);
  ASSERT_EQ(two.linears().size(), 1u);
  EXPECT_EQ(two.linears()[0].first, "a");
  ASSERT_EQ(two.convs().size(), 1u);
  EXPECT_EQ(two.convs()[0].first, "b.0");
  two.convs()[0].second.adapter() = Adapter{};
  EXPECT_TRUE(two.conv.adapter().has_value());
}

TEST(Attention, ReadsTheContext) {
  // One key only: every query gets its value, so the layer is out(v(context)), whatever q and k are.
  const WeightMap weights({{"q.weight", random({8, 8}, 1)},
                           {"k.weight", random({8, 6}, 2)},
                           {"v.weight", random({8, 6}, 3)},
                           {"o.weight", random({8, 8}, 4)},
                           {"o.bias", random({8}, 5)}});
  const Scope scope(weights, DType::f32, Device::cpu());
  const Attention attention(scope, {"q", "k", "v", "o"}, {.width = 8, .heads = 2, .context = 6, .bias = Bias::none});
  const Tensor x = random({2, 5, 8}, 6), context = random({2, 1, 6}, 7);
  const Tensor value = Linear(scope / "o")(Linear(scope / "v")(context));  // [2, 1, 8]
  expect_close(attention(x, context), repeat(value, 1, 5), 1e-5);
}

}  // namespace
}  // namespace flame
