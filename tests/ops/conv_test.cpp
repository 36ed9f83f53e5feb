#include "flame/ops/conv.h"

#include "reference.h"

using namespace flame;
using reference::Array;

namespace {

Array convolve(const std::vector<Array>& in, int stride, Padding padding) {
  const Array &x = in[0], &w = in[1];
  const int64_t n = x.shape[0], height = x.shape[1], width = x.shape[2], c = x.shape[3];
  const int64_t out = w.shape[0], kh = w.shape[1], kw = w.shape[2];
  const auto [top, left, bottom, right] = padding;
  Array y({n, (height + top + bottom - kh) / stride + 1, (width + left + right - kw) / stride + 1, out});
  for (int64_t i = 0; i < y.shape.numel(); ++i) {
    const int64_t o = i % out, column = i / out % y.shape[2], row = i / out / y.shape[2] % y.shape[1];
    const int64_t sample = i / out / y.shape[2] / y.shape[1];
    if (in.size() > 2) y[i] = in[2][o];
    for (int64_t a = 0; a < kh; ++a) {
      for (int64_t b = 0; b < kw; ++b) {
        const int64_t h = row * stride + a - top, v = column * stride + b - left;
        if (h < 0 || h >= height || v < 0 || v >= width) continue;
        for (int64_t p = 0; p < c; ++p)
          y[i] += x[((sample * height + h) * width + v) * c + p] * w[((o * kh + a) * kw + b) * c + p];
      }
    }
  }
  return y;
}

struct Case {
  Shape x, weight;
  int stride;
  Padding padding;
};

void check(const Case& c, double tolerance, DType dtype = DType::f32) {
  SCOPED_TRACE(text(c.x, " * ", c.weight, " stride ", c.stride, " padding ", c.padding));
  const auto op = [&](const std::vector<Tensor>& in) {
    return conv2d(in[0], in[1], in.size() > 2 ? in[2] : Tensor(), c.stride, c.padding);
  };
  const auto expected = [&](const std::vector<Array>& in) { return convolve(in, c.stride, c.padding); };
  const auto random = [&](const Shape& shape) { return cast(Tensor::randn(shape), dtype); };
  reference::expect_same(op, expected, {random(c.x), random(c.weight), random({c.weight[0]})}, tolerance);
  reference::expect_same(op, expected, {random(c.x), random(c.weight)}, tolerance);
}

TEST(Conv2d, AgreesWithTheDefinition) {
  check({{1, 4, 5, 3}, {2, 3, 3, 3}, 1, 1}, 2e-6);
  check({{2, 5, 4, 1}, {3, 3, 3, 1}, 2, 1}, 2e-6);
  check({{2, 3, 3, 5}, {7, 1, 1, 5}, 1, 0}, 2e-6);
  check({{1, 5, 5, 2}, {3, 1, 1, 2}, 2, 0}, 2e-6);
  check({{1, 1, 1, 2}, {2, 3, 3, 2}, 1, 1}, 2e-6);
  check({{1, 6, 7, 2}, {2, 5, 3, 2}, 3, 2}, 2e-6);
  check({{2, 3, 4, 4}, {3, 2, 2, 4}, 1, 0}, 2e-6);
  check({{2, 4, 6, 3}, {4, 3, 3, 3}, 2, {0, 0, 1, 1}}, 2e-6);  // as SDXL's autoencoder halves a picture
  check({{1, 3, 4, 2}, {3, 2, 2, 2}, 1, {1, 0, 0, 1}}, 2e-6);
  check({{1, 3, 2, 2}, {2, 3, 4, 2}, 1, {0, 3, 2, 1}}, 2e-6);
}

TEST(Conv2d, StoresHalvesAndComputesInFloat) {
  check({{1, 4, 4, 3}, {4, 3, 3, 3}, 1, 1}, 6e-4, DType::f16);
  check({{1, 4, 4, 3}, {4, 3, 3, 3}, 1, 1}, 4e-3, DType::bf16);
}

// What the UNet and the autoencoder ask for: batch, side, in, out, stride.
constexpr int64_t network[][5] = {{4, 16, 64, 64, 1},  {4, 8, 128, 128, 1}, {4, 4, 128, 128, 1}, {4, 16, 4, 64, 1},
                                  {4, 16, 64, 4, 1},   {4, 16, 128, 64, 1}, {4, 16, 64, 64, 2},  {4, 8, 64, 128, 1},
                                  {4, 8, 128, 128, 2}, {1, 128, 3, 32, 1},  {1, 128, 32, 3, 1},  {1, 128, 32, 32, 2},
                                  {1, 16, 4, 64, 1},   {1, 16, 64, 8, 1}};

TEST(Conv2d, NeverRunsReferenceCode) {
  for (const auto& [n, side, in, out, stride] : network) {
    const Tensor x = Tensor::empty({n, side, side, in}), weight = Tensor::empty({out, 3, 3, in});
    for (bool backward : {false, true}) {
      const std::string name = conv2d_implementation(x, weight, static_cast<int>(stride), 1, backward);
      EXPECT_EQ(name.find("ref"), name.npos) << name << " for " << x.shape() << " * " << weight.shape();
      EXPECT_FALSE(name.empty());
    }
  }
}

TEST(Conv2d, NeverRunsReferenceCodeForGroups) {
  for (const int64_t each : {1, 8, 16, 20}) {  // channels of a group
    const Tensor x = Tensor::empty({2, 32, 32, 8 * each}), weight = Tensor::empty({8 * each, 3, 3, each});
    for (bool backward : {false, true}) {
      const std::string name = conv2d_implementation(x, weight, 1, 1, backward);
      EXPECT_EQ(name.find("ref"), name.npos) << name << " for " << x.shape() << " * " << weight.shape();
    }
  }
}

TEST(Conv2d, IsRightAtTheNetworksSizes) {
  for (const auto& [n, side, in, out, stride] : network) {
    if (n * side * side * in * out > 5'000'000) continue;  // the plain loops take too long
    const Tensor x = Tensor::randn({n, side, side, in}), weight = Tensor::randn({out, 3, 3, in});
    const Tensor bias = Tensor::randn({out});
    const int step = static_cast<int>(stride);
    EXPECT_LT(
        reference::error(conv2d(x, weight, bias, step, 1), convolve({Array(x), Array(weight), Array(bias)}, step, 1)),
        2e-6);
  }
}

// The gradient of sum(y dy) for x, for stride 1: each product of the sum above, the other way round.
Array input_gradient(const Array& dy, const Array& w, const Shape& x, Padding padding) {
  Array dx(x);
  const int64_t out = w.shape[0], kh = w.shape[1], kw = w.shape[2], c = w.shape[3];
  for (int64_t i = 0; i < dy.shape.numel(); ++i) {
    const int64_t o = i % out, column = i / out % dy.shape[2], row = i / out / dy.shape[2] % dy.shape[1];
    const int64_t sample = i / out / dy.shape[2] / dy.shape[1];
    for (int64_t tap = 0; tap < kh * kw; ++tap) {
      const int64_t h = row + tap / kw - padding.top, v = column + tap % kw - padding.left;
      if (h < 0 || h >= x[1] || v < 0 || v >= x[2]) continue;
      for (int64_t p = 0; p < c; ++p)
        dx[((sample * x[1] + h) * x[2] + v) * c + p] += dy[i] * w[(o * kh * kw + tap) * c + p];
    }
  }
  return dx;
}

// Added one after the other, 5760 products would be off by 1e-6.
TEST(Conv2d, RoundsAsLittleAsAMatrixProductAtSdxlsWidths) {
  const Tensor x = Tensor::randn({1, 8, 8, 640}), weight = Tensor::randn({64, 3, 3, 640});
  EXPECT_LT(reference::error(conv2d(x, weight, {}, 1, 1), convolve({Array(x), Array(weight)}, 1, 1)), 6e-7);

  const Tensor narrow = Tensor::randn({1, 8, 8, 64}).requires_grad(), wide = Tensor::randn({640, 3, 3, 64});
  Tape tape;
  const Tensor y = conv2d(narrow, wide, {}, 1, 1), dy = Tensor::randn(y.shape());
  GradientMap gradients;
  tape.backward(y, dy, gradients);
  EXPECT_LT(reference::error(gradients[narrow], input_gradient(Array(dy), Array(wide), narrow.shape(), 1)), 6e-7);
}

TEST(Conv2d, OfAFrozenWeightAgreesWithTheDefinition) {
  const std::vector<std::pair<Case, DType>> cases = {{{{4, 16, 16, 64}, {64, 3, 3, 64}, 1, 1}, DType::f32},
                                                     {{{8, 4, 4, 128}, {64, 3, 3, 128}, 1, 1}, DType::f32},
                                                     {{{3, 11, 7, 40}, {32, 3, 3, 40}, 1, 1}, DType::f32},
                                                     {{{3, 10, 8, 32}, {48, 3, 3, 32}, 1, 0}, DType::f32},
                                                     {{{4, 6, 6, 32}, {32, 3, 3, 32}, 1, 2}, DType::f32},
                                                     {{{1, 37, 41, 32}, {32, 3, 3, 32}, 1, 1}, DType::f32},
                                                     {{{2, 8, 8, 32}, {32, 3, 3, 32}, 1, 1}, DType::bf16},
                                                     {{{2, 9, 8, 32}, {32, 3, 3, 32}, 1, {2, 0, 1, 1}}, DType::f32}};
  for (const auto& [c, dtype] : cases) {
    SCOPED_TRACE(text(c.x, " * ", c.weight, " padding ", c.padding, " ", dtype));
    const Tensor x = cast(Tensor::randn(c.x), dtype).requires_grad(), weight = cast(Tensor::randn(c.weight), dtype);
    weight.freeze();
    EXPECT_STREQ(conv2d_implementation(x, weight, 1, c.padding, false), "winograd");
    const Tensor bias = cast(Tensor::randn({c.weight[0]}), dtype);
    const double tolerance = dtype == DType::f32 ? 5e-6 : 4e-3;  // rounding errors are five times the plain sum's
    Tape tape;
    const Tensor y = conv2d(x, weight, bias, 1, c.padding), dy = cast(Tensor::randn(y.shape()), dtype);
    EXPECT_LT(reference::error(y, convolve({Array(x), Array(weight), Array(bias)}, 1, c.padding)), tolerance);
    GradientMap gradients;
    tape.backward(y, dy, gradients);
    EXPECT_LT(reference::error(gradients[x], input_gradient(Array(dy), Array(weight), c.x, c.padding)), tolerance);
  }
}

TEST(Conv2d, OfAFrozenWeightRepeatsToTheBit) {
  const Tensor weight = Tensor::randn({64, 3, 3, 64});
  weight.freeze();
  const auto op = [&](const std::vector<Tensor>& in) { return conv2d(in[0], weight, in[1], 1, 1); };
  reference::expect_repeatable(op, {Tensor::randn({4, 16, 16, 64}), Tensor::randn({64})});
}

TEST(Conv2d, SeesAWeightThatChanged) {
  const Tensor x = Tensor::randn({1, 4, 4, 2}), weight = Tensor::randn({3, 3, 3, 2});
  conv2d(x, weight, {}, 1, 1);
  weight.copy_from(Tensor::randn({3, 3, 3, 2}));
  EXPECT_LT(reference::error(conv2d(x, weight, {}, 1, 1), convolve({Array(x), Array(weight)}, 1, 1)), 2e-6);
}

TEST(Conv2d, KeepsOneCopyOfAFrozenWeightForEachDirection) {
  const Tensor weights = Tensor::randn({2, 16, 3, 3, 16});  // two in one buffer must not be confused
  weights.freeze();
  const Tensor x = Tensor::randn({1, 8, 8, 16}).requires_grad();
  const auto at = [](const MemoryUse& use) { return use.by_purpose[static_cast<size_t>(Purpose::weights)]; };
  size_t after_first = 0;
  for (int run = 0; run < 3; ++run) {
    for (int64_t which : {0, 1}) {
      const Tensor weight = weights.rows(which, 1).view({16, 3, 3, 16});
      Tape tape;
      const Tensor y = conv2d(x, weight, {}, 1, 1);
      EXPECT_LT(reference::error(y, convolve({Array(x), Array(weight)}, 1, 1)), 2e-6);
      GradientMap gradients;
      tape.backward(y, Tensor::ones(y.shape()), gradients);
    }
    const size_t held = at(memory_use(Device::cpu()));
    if (run == 0) after_first = held;
    EXPECT_EQ(held, after_first);
    EXPECT_GE(held, 2 * weights.bytes());
  }
  EXPECT_THROW(weights.fill(0), Error);
}

TEST(Conv2d, KeepsOnlyWhatAGradientNeeds) {
  const auto op = [](const std::vector<Tensor>& in) { return conv2d(in[0], in[1], in[2], 1, 1); };
  const std::vector<Tensor> inputs = {Tensor::randn({1, 4, 4, 3}), Tensor::randn({5, 3, 3, 3}), Tensor::randn({5})};
  EXPECT_EQ(reference::bytes_kept(op, inputs, {0}), inputs[1].bytes());
  EXPECT_EQ(reference::bytes_kept(op, inputs, {1}), inputs[0].bytes());
  EXPECT_EQ(reference::bytes_kept(op, inputs, {2}), 0u);
}

TEST(Conv2d, RepeatsToTheBit) {
  const auto op = [](const std::vector<Tensor>& in) { return conv2d(in[0], in[1], in[2], 1, 1); };
  reference::expect_repeatable(op,
                               {Tensor::randn({4, 16, 16, 64}), Tensor::randn({64, 3, 3, 64}), Tensor::randn({64})});
}

TEST(Conv2d, SaysWhatDoesNotFit) {
  const Tensor x = Tensor::zeros({1, 4, 4, 3});
  EXPECT_THROW(conv2d(x, Tensor::zeros({2, 3, 3, 4})), Error);
  EXPECT_THROW(conv2d(x, Tensor::zeros({2, 5, 5, 3})), Error);
  EXPECT_THROW(conv2d(x, Tensor::zeros({2, 3, 3, 3}), Tensor::zeros({3})), Error);
  EXPECT_THROW(conv2d(x, Tensor::zeros({2, 3, 3, 3}), {}, 0), Error);
}

}  // namespace
