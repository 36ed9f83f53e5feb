#include <gtest/gtest.h>
#include <omp.h>

#include "flame/autograd/tape.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

namespace flame {
namespace {

class SplitBatch : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_threads(GetParam()); }
  void TearDown() override { set_threads(before_); }

 private:
  int before_ = threads();
};

std::vector<float> ramp(int64_t count, float start) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(start + 0.25f * static_cast<float>(i % 7));
  return values;
}
Tensor sample_rows(float start) { return Tensor::from(ramp(5 * 3, start), {5, 3}); }

void expect_equal(const Tensor& a, const Tensor& b) {
  ASSERT_EQ(a.shape(), b.shape());
  const auto x = a.to_host<float>(), y = b.to_host<float>();
  for (size_t i = 0; i < x.size(); ++i) EXPECT_FLOAT_EQ(x[i], y[i]) << "element " << i;
}

TEST_P(SplitBatch, GivesWhatTheWholeGives) {
  const Tensor weight = Tensor::from(ramp(2 * 3, -1), {2, 3}), frozen = Tensor::from(ramp(3, 2), {3});
  const auto run = [&](bool split, GradientMap& gradients, Tensor& x, Tensor& y, Tensor& w) {
    Tape tape;
    x = sample_rows(1).requires_grad(), y = sample_rows(-0.5f).requires_grad(), w = weight.requires_grad();
    const BatchFunction f = [&](std::span<const Tensor> in) { return linear(in[0] * in[1] * frozen + in[1], w); };
    const Tensor scaled = x * 3;  // no leaf: its gradient has to come out of the pieces and go on
    const std::vector<Tensor> inputs = {scaled, y};
    const Tensor result = split ? split_batch(f, inputs) : f(inputs);
    tape.backward(result * result, Tensor::ones(result.shape()), gradients);
    return result;
  };
  GradientMap whole, pieces;
  Tensor x, y, w, px, py, pw;
  const Tensor expected = run(false, whole, x, y, w);
  expect_equal(run(true, pieces, px, py, pw), expected);
  expect_equal(pieces[px], whole[x]);
  expect_equal(pieces[py], whole[y]);
  expect_equal(pieces[pw], whole[w]);
}

TEST_P(SplitBatch, AddsToBoundGradientsAndRepeatsItself) {
  const Tensor w = Tensor::from(ramp(2 * 3, -1), {2, 3}).requires_grad();
  const auto gradient = [&](int passes) {
    const Tensor sum = Tensor::zeros(w.shape());
    GradientMap gradients;
    gradients.bind(w, sum);
    for (int i = 0; i < passes; ++i) {
      Tape tape;
      const Tensor y = split_batch([&](std::span<const Tensor> in) { return linear(in[0], w); }, {sample_rows(1)});
      tape.backward(y.sum(), gradients);
    }
    return sum;
  };
  expect_equal(gradient(2), gradient(1) * 2);
  EXPECT_EQ(gradient(1).to_host<float>(), gradient(1).to_host<float>());
}

TEST_P(SplitBatch, GivesEachThreadSomeSamplesIfThereAreEnough) {
  std::vector<int64_t> rows(static_cast<size_t>(GetParam()));
  split_batch(
      [&](std::span<const Tensor> in) {
        rows[static_cast<size_t>(omp_get_thread_num())] += in[0].dim(0);
        return in[0];
      },
      {sample_rows(1)});
  EXPECT_GE(rows[0], GetParam() > 5 ? 5 : 1);
  for (int64_t count : rows) EXPECT_GE(count, 5 / GetParam());
}

TEST_P(SplitBatch, RecordsNothingThatNobodyWantsAndCountsWhatIsKept) {
  Tape tape;
  const Tensor x = sample_rows(1), w = Tensor::from(ramp(2 * 3, -1), {2, 3});
  const auto through = [&](const Tensor& weight) {
    return split_batch([&](std::span<const Tensor> in) { return linear(in[0], weight); }, {x});
  };
  EXPECT_FALSE(through(w).wants_grad());
  EXPECT_EQ(tape.size(), 0u);
  EXPECT_EQ(tape.bytes_kept(), 0u);
  EXPECT_TRUE(through(w.requires_grad()).wants_grad());
  EXPECT_EQ(tape.size(), 1u);
  EXPECT_EQ(tape.bytes_kept(), x.bytes());
}

TEST_P(SplitBatch, PassesErrorsOn) {
  const auto bad = [](std::span<const Tensor> in) { return linear(in[0], Tensor::ones({2, 4})); };
  EXPECT_THROW(split_batch(bad, {sample_rows(1)}), Error);
  EXPECT_THROW(split_batch([](std::span<const Tensor> in) { return in[0]; }, {sample_rows(1), Tensor::ones({4})}),
               Error);
  EXPECT_EQ(Tape::current(), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Threads, SplitBatch, testing::Values(1, 2, 3, 7));

}  // namespace
}  // namespace flame
