#include "flame/ops/attention.h"

#include "reference.h"

using namespace flame;
using reference::Array;

namespace {

void normalise(double* row, int64_t n) {
  double most = -INFINITY, sum = 0;
  for (int64_t j = 0; j < n; ++j) most = std::max(most, row[j]);
  for (int64_t j = 0; j < n; ++j) sum += row[j] = std::exp(row[j] - most);
  for (int64_t j = 0; j < n; ++j) row[j] /= sum;
}

Array soft(const std::vector<Array>& in) {
  Array y = in[0];
  const int64_t width = y.shape.dim(-1);
  for (int64_t i = 0; i < y.shape.numel() / width; ++i) normalise(&y[i * width], width);
  return y;
}

Array attend(const std::vector<Array>& in, bool causal) {
  const Array &q = in[0], &k = in[1], &v = in[2];
  const int64_t queries = q.shape[1], keys = k.shape[1], heads = q.shape[2], depth = q.shape[3];
  Array out(q.shape);
  for (int64_t n = 0; n < q.shape[0]; ++n) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < queries; ++i) {
        const int64_t seen = causal ? std::min(i + 1, keys) : keys, row = ((n * queries + i) * heads + h) * depth;
        const auto key = [&](int64_t j) { return ((n * keys + j) * heads + h) * depth; };
        std::vector<double> p(static_cast<size_t>(seen));
        for (int64_t j = 0; j < seen; ++j)
          for (int64_t d = 0; d < depth; ++d)
            p[static_cast<size_t>(j)] += q[row + d] * k[key(j) + d] / std::sqrt(static_cast<double>(depth));
        normalise(p.data(), seen);
        for (int64_t j = 0; j < seen; ++j)
          for (int64_t d = 0; d < depth; ++d) out[row + d] += p[static_cast<size_t>(j)] * v[key(j) + d];
      }
    }
  }
  return out;
}

std::vector<Tensor> random(int64_t n, int64_t queries, int64_t keys, int64_t heads, int64_t depth) {
  return {Tensor::randn({n, queries, heads, depth}), Tensor::randn({n, keys, heads, depth}),
          Tensor::randn({n, keys, heads, depth})};
}

reference::Op op(bool causal) {
  return [causal](const std::vector<Tensor>& in) { return scaled_dot_product_attention(in[0], in[1], in[2], causal); };
}
reference::Function definition(bool causal) {
  return [causal](const std::vector<Array>& in) { return attend(in, causal); };
}

TEST(Softmax, AgreesWithTheDefinition) {
  const auto run = [](const std::vector<Tensor>& in) { return softmax(in[0]); };
  for (const Shape& shape : {Shape{1}, Shape{7}, Shape{3, 1}, Shape{5, 77}, Shape{2, 3, 13}})
    reference::expect_same(run, soft, {Tensor::randn(shape)}, 2e-6);
  reference::expect_same(run, soft, {cast(Tensor::randn({3, 13}), DType::f16)}, 2e-3);
  reference::expect_same(run, soft, {cast(Tensor::randn({3, 13}), DType::bf16)}, 1.6e-2);
}

TEST(Softmax, BearsLargeScores) {
  const Tensor y = softmax(Tensor::from<float>({1e4f, 1e4f, -1e4f, -3e38f}, {4}));
  EXPECT_EQ(y.to_host<float>(), (std::vector<float>{0.5f, 0.5f, 0, 0}));
}

TEST(Attention, AgreesWithTheDefinition) {
  for (bool causal : {false, true}) {
    reference::expect_same(op(causal), definition(causal), random(1, 1, 1, 1, 1), 5e-6);
    reference::expect_same(op(causal), definition(causal), random(2, 7, 5, 3, 4), 5e-6);
    reference::expect_same(op(causal), definition(causal), random(1, 5, 11, 2, 3), 5e-6);
    reference::expect_same(op(causal), definition(causal), random(1, 13, 13, 1, 8), 5e-6);
  }
}

// Against the same in one more way: differences of a thousand inputs would take minutes, the chain rule written out
// does not. dP = dO v', dS = P (dP - sum(dP P)).
std::vector<Array> gradients_by_hand(const std::vector<Array>& in, const Array& dy, bool causal) {
  const Array &q = in[0], &k = in[1], &v = in[2];
  const int64_t queries = q.shape[1], keys = k.shape[1], heads = q.shape[2], depth = q.shape[3];
  const double scale = 1 / std::sqrt(static_cast<double>(depth));
  std::vector<Array> result = {Array(q.shape), Array(k.shape), Array(v.shape)};
  for (int64_t item = 0; item < q.shape[0] * heads * queries; ++item) {
    const int64_t h = item % heads, i = item / heads % queries, n = item / heads / queries, row = item * depth;
    const int64_t seen = causal ? std::min(i + 1, keys) : keys;
    const auto key = [&](int64_t j) { return ((n * keys + j) * heads + h) * depth; };
    const auto size = static_cast<size_t>(seen);
    std::vector<double> p(size), dp(size);
    for (int64_t j = 0; j < seen; ++j)
      for (int64_t d = 0; d < depth; ++d) p[static_cast<size_t>(j)] += scale * q[row + d] * k[key(j) + d];
    normalise(p.data(), seen);
    double mean = 0;
    for (int64_t j = 0; j < seen; ++j) {
      for (int64_t d = 0; d < depth; ++d) dp[static_cast<size_t>(j)] += dy[row + d] * v[key(j) + d];
      mean += p[static_cast<size_t>(j)] * dp[static_cast<size_t>(j)];
    }
    for (int64_t j = 0; j < seen; ++j) {
      const double weight = p[static_cast<size_t>(j)], ds = scale * weight * (dp[static_cast<size_t>(j)] - mean);
      for (int64_t d = 0; d < depth; ++d) {
        result[0][row + d] += ds * k[key(j) + d];
        result[1][key(j) + d] += ds * q[row + d];
        result[2][key(j) + d] += weight * dy[row + d];
      }
    }
  }
  return result;
}

TEST(Attention, AgreesAcrossBlocksAndAtTheNetworksSizes) {
  struct Case {
    int64_t n, queries, keys, heads, depth;
    bool causal;
  };
  for (const Case& c : {Case{4, 256, 256, 2, 32, false},
                        {4, 256, 77, 2, 32, false},
                        {2, 77, 77, 3, 16, true},
                        {1, 523, 523, 1, 8, true},
                        {1, 300, 1031, 2, 8, false},
                        {1, 300, 1031, 1, 8, true},
                        {1, 600, 64, 1, 8, true},
                        {1, 16, 16, 1, 512, false}}) {
    SCOPED_TRACE(text(c.n, " ", c.queries, " ", c.keys, " ", c.heads, " ", c.depth, " ", c.causal));
    auto inputs = random(c.n, c.queries, c.keys, c.heads, c.depth);
    const std::vector<Array> arrays(inputs.begin(), inputs.end());
    for (auto& input : inputs) input = input.requires_grad();
    Tape tape;
    const Tensor out = op(c.causal)(inputs), dy = Tensor::randn(out.shape());
    EXPECT_LT(reference::error(out, attend(arrays, c.causal)), 5e-6);
    GradientMap gradients;
    tape.backward(out, dy, gradients);
    const auto expected = gradients_by_hand(arrays, Array(dy), c.causal);
    for (size_t i = 0; i < 3; ++i)
      EXPECT_LT(reference::error(gradients[inputs[i]], expected[i]), 5e-6) << "input " << i;
  }
}

TEST(Attention, StoresHalvesAndComputesInFloat) {
  for (auto [dtype, tolerance] : {std::pair{DType::f16, 2e-3}, {DType::bf16, 1.6e-2}}) {
    auto inputs = random(1, 7, 9, 2, 4);
    for (auto& input : inputs) input = cast(input, dtype);
    reference::expect_same(op(false), definition(false), inputs, tolerance);
  }
}

TEST(Attention, NeverKeepsTheScores) {
  const auto inputs = random(2, 100, 50, 3, 4);
  const size_t sums = 2 * 100 * 3 * sizeof(float), q = inputs[0].bytes(), k = inputs[1].bytes();
  EXPECT_EQ(reference::bytes_kept(op(false), inputs, {}), 0u);
  EXPECT_EQ(reference::bytes_kept(op(false), inputs, {0, 1, 2}), 2 * q + 2 * k + sums);
  EXPECT_EQ(reference::bytes_kept(op(false), inputs, {2}), q + k + sums);
}

TEST(Attention, HasRoomForTheAutoencodersLongRows) {
  reset_peak(Device::cpu());
  const size_t before = memory_use(Device::cpu()).current;
  const auto inputs = random(1, 4096, 4096, 1, 64);
  const Tensor out = op(false)(inputs);
  EXPECT_LT(memory_use(Device::cpu()).peak - before,
            4 * out.bytes() + (size_t{1} << 20) * 2 * static_cast<size_t>(threads()));
  Tensor row = inputs[0].rows(0, 1).view({4096, 1, 1, 64}).rows(4095, 1);
  EXPECT_LT(reference::error(out.view({4096, 1, 1, 64}).rows(4095, 1),
                             attend({Array(row), Array(inputs[1]), Array(inputs[2])}, false)),
            5e-6);
}

TEST(Attention, RepeatsToTheBit) {
  reference::expect_repeatable(op(false), random(4, 256, 256, 2, 32));
  reference::expect_repeatable(op(true), random(1, 523, 523, 1, 8));
}

TEST(Attention, SaysWhatDoesNotFit) {
  const Tensor q = Tensor::zeros({2, 3, 4, 5});
  EXPECT_THROW(scaled_dot_product_attention(q, Tensor::zeros({2, 3, 4, 6}), Tensor::zeros({2, 3, 4, 6})), Error);
  EXPECT_THROW(scaled_dot_product_attention(q, q, Tensor::zeros({2, 4, 4, 5})), Error);
  EXPECT_THROW(scaled_dot_product_attention(q, q, Tensor::zeros({2, 3, 4, 5}, DType::f16)), Error);
}

}  // namespace
