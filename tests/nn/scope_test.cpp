#include "flame/nn/scope.h"

#include <gtest/gtest.h>

#include "flame/nn/layers.h"
#include "tests/nn/weight_map.h"

namespace flame {
namespace {

Scope scope_of(const WeightMap& weights) { return Scope(weights, DType::f32, Device::cpu()); }

TEST(Scope, JoinsPathsByDots) {
  const WeightMap weights({});
  const Scope scope = scope_of(weights) / "blocks" / 3 / "attn.to_q";
  EXPECT_EQ(scope.path(), "blocks.3.attn.to_q");
  EXPECT_EQ(scope.full("weight"), "blocks.3.attn.to_q.weight");
  EXPECT_EQ(scope_of(weights).full("weight"), "weight");
}

TEST(Scope, KnowsTensorsAndWhatIsAboveThem) {
  const WeightMap weights({{"a.to_q.weight", Tensor::ones({2, 2})}, {"a.to_q2", Tensor::ones({1})}});
  const Scope scope = scope_of(weights) / "a";
  EXPECT_TRUE(scope.has("to_q"));
  EXPECT_TRUE(scope.has("to_q.weight"));
  EXPECT_TRUE(scope.has("to_q2"));
  EXPECT_FALSE(scope.has("to_"));
  EXPECT_FALSE(scope.has("to_q.bias"));
}

TEST(Scope, CountsChildrenInOrderOfNumbers) {
  std::map<std::string, Tensor> tensors = {{"other.weight", Tensor::ones({1})}};
  for (int i = 0; i < 12; ++i) tensors["blocks." + std::to_string(i) + ".weight"] = Tensor::ones({1});
  WeightMap weights(tensors);
  EXPECT_EQ(scope_of(weights).count("blocks"), 12);
  EXPECT_EQ((scope_of(weights) / "blocks").count(), 12);
  EXPECT_EQ(scope_of(weights).count("other"), 0);
  weights.tensors.erase("blocks.7.weight");
  EXPECT_EQ(error_of([&] { scope_of(weights).count("blocks"); }),
            "checkpoint small.safetensors: there is model.blocks.8, but no model.blocks.7");
}

TEST(Scope, NamesTheClosestTensorWhereOneIsMissing) {
  const WeightMap weights({{"attn1.to_q.weight", Tensor::ones({2, 2})}, {"attn2.to_key.weight", Tensor::ones({2, 2})}});
  EXPECT_EQ(error_of([&] { Linear(scope_of(weights) / "attn1" / "to_k"); }),
            "checkpoint small.safetensors: there is no tensor model.attn1.to_k.weight; the closest is "
            "model.attn1.to_q.weight");
  EXPECT_EQ(
      error_of([&] { Linear(scope_of(weights) / "decoder" / "up" / "0" / "upsample" / "conv"); }),
      "checkpoint small.safetensors: there is no tensor model.decoder.up.0.upsample.conv.weight, nor one like it; "
      "there are 2, such as model.attn1.to_q.weight");
}

TEST(Scope, SaysWhatShapeItExpected) {
  const WeightMap weights({{"q.weight", Tensor::ones({2, 3})}, {"q.bias", Tensor::ones({2})}});
  const std::string start = "checkpoint small.safetensors: tensor model.q.weight has shape [2, 3], expected ";
  EXPECT_EQ(error_of([&] { Linear(scope_of(weights) / "q", {.in = 4}); }), start + "[2, 4]");
  EXPECT_EQ(error_of([&] { Conv2d(scope_of(weights) / "q"); }), start + "[out, in, kernel, kernel]");
  EXPECT_EQ(error_of([&] { LayerNorm(scope_of(weights) / "q"); }), start + "[width]");
}

TEST(Scope, BorrowsWhatFitsAndCastsTheRest) {
  const Tensor f32 = Tensor::from<float>({1, -2.5f, 3, 65504}, {2, 2});
  const Tensor half = Tensor::from<f16>({f16(1), f16(-2.5f), f16(3), f16(65504)}, {2, 2});
  const WeightMap weights({{"f32", f32}, {"f16", half}});
  const Scope scope = scope_of(weights);
  EXPECT_EQ(scope.weight("f32", {2, 2}).raw(), f32.raw());
  EXPECT_EQ(scope.weight("f16", {2, 2}).to_host<float>(), f32.to_host<float>());
  EXPECT_TRUE(scope.weight("f16", {2, 2}).frozen());
}

TEST(Scope, CountsCopiesAsWeights) {
  const WeightMap weights({{"f16", Tensor::zeros({1024, 64}, DType::f16)}});
  const size_t index = static_cast<size_t>(Purpose::weights), before = memory_use(Device::cpu()).by_purpose[index];
  const Tensor held = scope_of(weights).weight("f16", {1024, 64});
  EXPECT_EQ(memory_use(Device::cpu()).by_purpose[index] - before, held.bytes());
}

TEST(Scope, TurnsConvolutionWeights) {
  const Tensor stored = Tensor::arange(2 * 3 * 2 * 2).reshape({2, 3, 2, 2});  // [out, in, kh, kw]
  const WeightMap weights({{"c.weight", stored}, {"one.weight", stored.reshape({6, 4, 1, 1})}});
  const Conv2d conv(scope_of(weights) / "c");
  EXPECT_EQ(conv.weight().shape(), (Shape{2, 2, 2, 3}));
  const auto from = stored.to_host<float>(), to = conv.weight().to_host<float>();
  for (int out = 0; out < 2; ++out)
    for (int in = 0; in < 3; ++in)
      for (int at = 0; at < 4; ++at) EXPECT_EQ(to[(out * 4 + at) * 3 + in], from[(out * 3 + in) * 4 + at]);
  const Conv2d one(scope_of(weights) / "one");
  EXPECT_EQ(one.weight().shape(), (Shape{6, 1, 1, 4}));
  EXPECT_EQ(one.weight().raw(), stored.raw());
}

}  // namespace
}  // namespace flame
