#include "flame/ops/matmul.h"

#include "flame/ops/gemm.h"
#include "flame/ops/pointwise.h"
#include "reference.h"

using namespace flame;
using reference::Array;

namespace {

Array times(const Array& a, const Array& b) {  // with broadcasting of the leading extents
  const auto batch = [](const Shape& shape) { return shape.without(-1).without(-1); };
  const Shape lead = broadcast(batch(a.shape), batch(b.shape));
  const int64_t m = a.shape.dim(-2), k = a.shape.dim(-1), n = b.shape.dim(-1);
  Array y(lead.inserted(lead.rank(), m).inserted(lead.rank() + 1, n));
  const auto matrix = [&](int64_t index, const Shape& shape) {  // of the result's index, that in `shape`
    int64_t result = 0, stride = 1;
    for (int i = lead.rank() - 1, own = shape.rank() - 3; own >= 0; --i, --own) {
      if (shape[own] != 1) result += index % lead[i] * stride;
      stride *= shape[own];
      index /= lead[i];
    }
    return result;
  };
  for (int64_t l = 0; l < lead.numel(); ++l)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j)
        for (int64_t p = 0; p < k; ++p)
          y[(l * m + i) * n + j] += a[(matrix(l, a.shape) * m + i) * k + p] * b[(matrix(l, b.shape) * k + p) * n + j];
  return y;
}

Array project(const Array& x, const Array& weight) {
  const int64_t in = weight.shape[1], out = weight.shape[0];
  Array y(x.shape.with(-1, out));
  for (int64_t i = 0; i < y.shape.numel(); ++i)
    for (int64_t p = 0; p < in; ++p) y[i] += x[i / out * in + p] * weight[i % out * in + p];
  return y;
}

Array affine(const std::vector<Array>& in) {
  Array y = project(in[0], in[1]);
  for (int64_t i = 0; i < y.shape.numel() && in.size() > 2; ++i) y[i] += in[2][i % in[2].shape.numel()];
  return y;
}

constexpr float scale = 0.37f;

Array lora(const std::vector<Array>& in) {
  Array y = affine({in[0], in[1], in[2]});
  const Array low = project(project(in[0], in[3]), in[4]);
  for (int64_t i = 0; i < y.shape.numel(); ++i) y[i] += scale * low[i];
  return y;
}

Tensor run_matmul(const std::vector<Tensor>& in) { return matmul(in[0], in[1]); }
Tensor run_linear(const std::vector<Tensor>& in) { return linear(in[0], in[1], in.size() > 2 ? in[2] : Tensor()); }
Tensor run_lora(const std::vector<Tensor>& in) { return lora_linear(in[0], in[1], in[2], in[3], in[4], scale); }

std::vector<Tensor> lora_inputs(const Shape& x, int64_t out, int64_t rank, DType dtype = DType::f32) {
  const int64_t in = x.dim(-1);
  std::vector<Tensor> inputs;
  for (const Shape& shape : {x, Shape{out, in}, Shape{out}, Shape{rank, in}, Shape{out, rank}})
    inputs.push_back(cast(Tensor::randn(shape), dtype));
  return inputs;
}

TEST(Matmul, AgreesWithTheDefinition) {
  const std::vector<std::pair<Shape, Shape>> cases = {{{1, 1}, {1, 1}},
                                                      {{7, 5}, {5, 3}},
                                                      {{2, 3, 7, 5}, {2, 3, 5, 4}},
                                                      {{2, 3, 4, 5}, {5, 6}},
                                                      {{4, 5}, {3, 5, 2}},
                                                      {{2, 1, 4, 5}, {3, 5, 2}},
                                                      {{2, 1, 4, 5}, {1, 3, 5, 2}},
                                                      {{2, 1, 3, 1, 2, 3}, {2, 1, 2, 3, 2}},
                                                      {{17, 13}, {13, 19}}};
  for (const auto& [a, b] : cases) {
    SCOPED_TRACE(text(a, " x ", b));
    reference::expect_same(
        run_matmul, [](const auto& in) { return times(in[0], in[1]); }, {Tensor::randn(a), Tensor::randn(b)}, 2e-6);
  }
}

TEST(Matmul, IsRightWhereThreadsShareTheWork) {
  const Tensor a = Tensor::randn({3, 211, 97}), b = Tensor::randn({3, 97, 131});
  EXPECT_LT(reference::error(matmul(a, b), times(Array(a), Array(b))), 2e-6);
}

TEST(Matmul, OfNothingIsZero) {
  const Tensor y = matmul(Tensor::zeros({2, 3, 0}), Tensor::zeros({2, 0, 4}));
  EXPECT_EQ(reference::error(y, Array(Tensor::zeros({2, 3, 4}))), 0);
  const Tensor sum = linear(Tensor::zeros({3, 0}), Tensor::zeros({2, 0}), Tensor::from({1.0f, 2.0f}, {2}));
  EXPECT_EQ(reference::error(sum, Array(Tensor::from({1.0f, 2.0f, 1.0f, 2.0f, 1.0f, 2.0f}, {3, 2}))), 0);
}

TEST(Matmul, SaysWhatDoesNotFit) {
  EXPECT_THROW(matmul(Tensor::zeros({2, 3}), Tensor::zeros({2, 3})), Error);
  EXPECT_THROW(matmul(Tensor::zeros({2, 3}), Tensor::zeros({3})), Error);
  EXPECT_THROW(matmul(Tensor::zeros({2, 2, 3}), Tensor::zeros({3, 3, 2})), Error);
  EXPECT_THROW(matmul(Tensor::zeros({2, 3}), Tensor::zeros({3, 2}, DType::bf16)), Error);
  EXPECT_THROW(matmul(Tensor::zeros({2, 3}, DType::i32), Tensor::zeros({3, 2}, DType::i32)), Error);
}

TEST(Linear, AgreesWithTheDefinition) {
  for (const Shape& x : {Shape{5}, Shape{1, 5}, Shape{77, 5}, Shape{2, 3, 4, 5}}) {
    SCOPED_TRACE(text(x));
    const Tensor weight = Tensor::randn({7, 5});
    reference::expect_same(run_linear, affine, {Tensor::randn(x), weight, Tensor::randn({7})}, 2e-6);
    reference::expect_same(run_linear, affine, {Tensor::randn(x), weight}, 2e-6);
  }
}

TEST(Linear, OfAFrozenWeightAgreesWithTheDefinition) {
  for (const Shape& shape : {Shape{7, 5}, Shape{32, 32}, Shape{48, 64}, Shape{64, 3}}) {
    SCOPED_TRACE(text(shape));
    const Tensor weight = Tensor::randn(shape);
    weight.freeze();
    for (int64_t rows : {1, 6, 300}) {
      const Tensor x = Tensor::randn({rows, shape[1]}), bias = Tensor::randn({shape[0]});
      const auto op = [&](const std::vector<Tensor>& in) { return linear(in[0], weight, in[1]); };
      EXPECT_LT(reference::error(op({x, bias}), affine({Array(x), Array(weight), Array(bias)})), 2e-6);
      if (rows > 6) continue;  // the slopes take too long
      reference::expect_same(
          op,
          [&](const auto& in) {
            return affine({in[0], Array(weight), in[1]});
          },
          {x, bias}, 2e-6);
    }
  }
}

TEST(Linear, KeepsOneCopyOfASmallFrozenWeightForEachDirection) {
  const auto held = [] { return memory_use(Device::cpu()).by_purpose[static_cast<size_t>(Purpose::weights)]; };
  const size_t before = held();
  const Tensor weight = Tensor::randn({128, 256});
  weight.freeze();
  for (int run = 0; run < 3; ++run) {
    const Tensor x = Tensor::randn({16, 256}).requires_grad();
    Tape tape;
    linear(x, weight).sum().backward();
    EXPECT_LE(held() - before, 2 * weight.bytes());
  }
}

TEST(Linear, StoresHalvesAndComputesInFloat) {
  for (auto [dtype, tolerance] : {std::pair{DType::f16, 6e-4}, {DType::bf16, 4e-3}}) {
    const std::vector<Tensor> inputs = {cast(Tensor::randn({9, 33}), dtype), cast(Tensor::randn({6, 33}), dtype),
                                        cast(Tensor::randn({6}), dtype)};
    reference::expect_same(run_linear, affine, inputs, tolerance);
    EXPECT_EQ(run_linear(inputs).dtype(), dtype);
  }
}

TEST(Linear, KeepsOnlyWhatAGradientNeeds) {
  const std::vector<Tensor> inputs = {Tensor::randn({10, 5}), Tensor::randn({7, 5}), Tensor::randn({7})};
  EXPECT_EQ(reference::bytes_kept(run_linear, inputs, {0}), inputs[1].bytes());
  EXPECT_EQ(reference::bytes_kept(run_linear, inputs, {1}), inputs[0].bytes());
  EXPECT_EQ(reference::bytes_kept(run_linear, inputs, {2}), 0u);
}

TEST(LoraLinear, AgreesWithTheDefinition) {
  for (const Shape& x : {Shape{1, 6}, Shape{2, 11, 6}})
    for (int64_t rank : {1, 4}) reference::expect_same(run_lora, lora, lora_inputs(x, 5, rank), 3e-6);
  reference::expect_same(run_lora, lora, lora_inputs({2, 11, 6}, 5, 4, DType::bf16), 1.2e-2);
}

TEST(LoraLinear, IsLinearPlusAdapterAtTheNetworksSizes) {
  const auto inputs = lora_inputs({4, 256, 64}, 128, 8);
  const std::vector<Array> arrays(inputs.begin(), inputs.end());
  EXPECT_LT(reference::error(run_lora(inputs), lora(arrays)), 2e-6);
}

TEST(LoraLinear, KeepsTheInputAndTheRankWideProduct) {
  const auto inputs = lora_inputs({2, 11, 6}, 5, 4);  // x, weight, bias, down, up
  const size_t product = 2 * 11 * 4 * sizeof(float);
  const auto kept = [&](const std::vector<size_t>& trainable) {
    return reference::bytes_kept(run_lora, inputs, trainable);
  };
  EXPECT_EQ(kept({}), 0u);
  EXPECT_EQ(kept({3, 4}), inputs[0].bytes() + inputs[4].bytes() + product);
  EXPECT_EQ(kept({4}), product);
  EXPECT_EQ(kept({0}), inputs[1].bytes() + inputs[3].bytes() + inputs[4].bytes());
}

// A leaf may want its gradient wider than it is itself: adapters in mixed precision.
TEST(LoraLinear, GivesGradientsInTheDtypeThatTheyAreWantedIn) {
  const auto inputs = lora_inputs({2, 11, 6}, 5, 4, DType::bf16);
  const auto gradients = [&](DType dtype) {
    std::vector<Tensor> in = inputs;
    for (size_t i : {3, 4}) in[i] = in[i].requires_grad(dtype);
    Tape tape;
    GradientMap found;
    tape.backward(run_lora(in), Tensor::ones({2, 11, 5}, DType::bf16), found);
    return std::vector<Tensor>{found[in[3]], found[in[4]]};
  };
  const auto narrow = gradients(DType::bf16), wide = gradients(DType::f32);
  for (size_t i = 0; i < wide.size(); ++i) {
    EXPECT_EQ(wide[i].dtype(), DType::f32);
    EXPECT_EQ(reference::error(cast(wide[i], DType::bf16), Array(narrow[i])), 0);
    EXPECT_GT(reference::error(wide[i], Array(narrow[i])), 0) << "rounded on the way";
  }
}

TEST(Gemm, ScalesTheProductAndNotWhatIsAddedToIt) {
  for (const int64_t depth : {0, 9, 700}) {  // 700: in parts
    const Tensor a = Tensor::randn({7, depth}), b = Tensor::randn({depth, 5}), before = Tensor::randn({7, 5}),
                 bias = Tensor::randn({5});
    for (const bool accumulate : {false, true}) {
      const Tensor c = before.clone();
      gemm(a, b, c, {.alpha = scale, .accumulate = accumulate}, bias);
      Array expected = times(Array(a), Array(b));
      for (int64_t i = 0; i < 35; ++i)
        expected[i] = scale * expected[i] + Array(bias)[i % 5] + (accumulate ? Array(before)[i] : 0);
      EXPECT_LT(reference::error(c, expected), 1e-6) << depth << (accumulate ? ", accumulated" : "");
    }
  }
}

TEST(Gemm, RepeatsToTheBit) {
  reference::expect_repeatable(run_lora, lora_inputs({4, 256, 64}, 64, 8));
  reference::expect_repeatable(run_matmul, {Tensor::randn({8, 128, 96}), Tensor::randn({8, 96, 128})});
}

}  // namespace
