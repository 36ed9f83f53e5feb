#include "flame/ops/adapter_gradients_cuda.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "flame/device/graph.h"
#include "flame/ops/layout.h"

// Gradients of adapters' factors against the same sums in f64.
namespace flame::cuda {
namespace {

class AdapterGradients : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
  }
};

struct Case {
  DType dtype;
  int64_t rows, columns, ranks;
  int64_t before = 0;  // columns before the right side's
  bool ranks_first = false, gain = false, shift = false;
  int64_t first = 4;  // where the gradient begins in its buffer
  float scale = 1;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.dtype << ", " << c.rows << " rows, " << c.columns << " columns, " << c.ranks << " ranks from "
             << c.before << (c.ranks_first ? ", ranks first" : "") << (c.gain ? ", gain" : "")
             << (c.shift ? ", shift" : "");
}

int64_t in_eights(int64_t count) { return (count + 7) / 8 * 8; }

// [rows, columns] inside a buffer that is not a number elsewhere.
struct Inside {
  Tensor buffer;
  int64_t before, columns;

  Inside(int64_t rows, int64_t before, int64_t columns, DType dtype) : before(before), columns(columns) {
    const Tensor values = Tensor::randn({rows, columns});
    const Tensor all = Tensor::full({rows, in_eights(before + columns + 1)}, std::numeric_limits<double>::quiet_NaN());
    for (int64_t i = 0; i < rows; ++i)
      std::memcpy(all.data<float>() + i * all.dim(1) + before, values.data<float>() + i * columns,
                  static_cast<size_t>(columns) * sizeof(float));
    buffer = cast(all, dtype).to(Device::cuda());
  }
  Matrix matrix() const {
    return {buffer.raw() + static_cast<size_t>(before) * size_of(buffer.dtype()), buffer.dtype(), buffer.dim(0),
            columns, buffer.dim(1)};
  }
  std::vector<float> values() const {
    return cast(buffer.to(Device::cpu()), DType::f32).narrow(1, before, columns).to_host<float>();
  }
};

struct Problem {
  Case sizes;
  Inside left, right;
  Tensor gain, shift, start, to;

  explicit Problem(const Case& c)
      : sizes(c), left(c.rows, 8, c.columns, c.dtype), right(c.rows, c.before, c.ranks, c.dtype) {
    const auto row = [&](bool wanted) { return wanted ? Tensor::randn({c.columns}).to(Device::cuda()) : Tensor(); };
    gain = row(c.gain), shift = row(c.shift);
    start = Tensor::randn({c.first + c.columns * c.ranks + 4});
    to = start.to(Device::cuda()).clone();
  }
  AdapterGradient gradient() const {
    const auto data = [](const Tensor& x) { return x.defined() ? x.data<float>() : nullptr; };
    return {left.matrix(), right.matrix(), to.data<float>() + sizes.first, sizes.ranks_first, sizes.scale,
            data(gain),    data(shift)};
  }
  void begin_again() const { to.copy_from(start); }
};

// Each sum may be off by this part of the sum of its terms' sizes: tensor cores cut off what they add.
constexpr double part = 0x1p-20;

void expect_right(const Problem& problem) {
  SCOPED_TRACE(text(problem.sizes));
  const auto [dtype, rows, columns, ranks, before, ranks_first, has_gain, has_shift, first, scale] = problem.sizes;
  const std::vector<float> left = problem.left.values(), right = problem.right.values();
  const std::vector<float> got = problem.to.to_host<float>(), start = problem.start.to_host<float>();
  const auto host = [](const Tensor& x) { return x.defined() ? x.to_host<float>() : std::vector<float>(); };
  const std::vector<float> gain = host(problem.gain), shift = host(problem.shift);
  const auto at = [](const std::vector<float>& x, int64_t i) { return double{x[static_cast<size_t>(i)]}; };
  int64_t wrong = 0;
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < ranks; ++r) {
      const double weight = has_gain ? at(gain, c) : 1, constant = has_shift ? at(shift, c) : 0;
      double sum = 0, size = 0;
      for (int64_t i = 0; i < rows; ++i) {
        const double l = at(left, i * columns + c), t = at(right, i * ranks + r);
        sum += t * (l * weight + constant);
        size += std::abs(t * l * weight) + std::abs(t * constant);
      }
      const int64_t place = first + (ranks_first ? r * columns + c : c * ranks + r);
      const double expected = at(start, place) + double{scale} * sum;
      const double bound = part * (std::abs(double{scale}) * size + std::abs(at(start, place)));
      wrong += !(std::abs(at(got, place) - expected) <= bound);
    }
  }
  EXPECT_EQ(wrong, 0) << "of " << columns * ranks;
  for (int64_t i = 0; i < std::ssize(got); ++i) {
    if (i < first || i >= first + columns * ranks) {
      EXPECT_EQ(at(got, i), at(start, i)) << "beside the gradient, at " << i;
    }
  }
}

std::vector<AdapterGradient> gradients_of(const std::vector<Problem>& problems) {
  std::vector<AdapterGradient> result;
  for (const Problem& problem : problems) result.push_back(problem.gradient());
  return result;
}

void compute(const std::vector<Problem>& problems) {
  add_adapter_gradients(stream(Device::cuda()), gradients_of(problems));
}

// Every way of storing a rank, from even and odd columns on, to aligned and other addresses.
std::vector<Problem> problems(DType dtype, int64_t rows, int64_t columns, int64_t ranks) {
  std::vector<Problem> result;
  for (int64_t before : {int64_t{0}, ranks, int64_t{3}}) {
    result.emplace_back(Case{dtype, rows, columns, ranks, before, false, false, false, 4 + before % 3, 0.37f});
    result.emplace_back(Case{dtype, rows, columns, ranks, before, true, false, false, 4 - before % 3});
    result.emplace_back(Case{dtype, rows, columns, ranks, before, true, true, true});
  }
  result.emplace_back(Case{dtype, rows, columns, ranks, 0, true, true, false});
  result.emplace_back(Case{dtype, rows, columns, ranks, 0, true, false, true, 4, -2});
  return result;
}

TEST_F(AdapterGradients, AgreeWithF64) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    for (const int64_t ranks : {1, 3, 16, 20, 48, 64, 100}) {
      for (const auto& [rows, columns] : {std::pair{1, 8}, {77, 64}, {130, 77}, {333, 200}, {520, 136}}) {
        const std::vector<Problem> all = problems(dtype, rows, columns, ranks);
        compute(all);
        for (const Problem& problem : all) expect_right(problem);
      }
    }
  }
}

// One list of more than a launch takes, of all sizes.
std::vector<Problem> mixed() {
  std::vector<Problem> all;
  for (const int64_t ranks : {16, 3, 40}) {
    for (const auto& [rows, columns] : {std::pair{1024, 640}, {0, 64}, {50, 136}})
      for (const bool ranks_first : {false, true})
        all.emplace_back(Case{DType::bf16, rows, columns, ranks, 2, ranks_first, ranks_first, ranks_first});
  }
  return all;
}

TEST_F(AdapterGradients, AgreeWithF64InALongList) {
  const std::vector<Problem> all = mixed();
  compute(all);
  for (const Problem& problem : all) expect_right(problem);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_F(AdapterGradients, RepeatToTheBitAloneAndInGraphsToo) {
  const Device gpu = Device::cuda();
  const std::vector<Problem> all = mixed();
  std::vector<std::vector<float>> expected;
  compute(all);
  for (const Problem& problem : all) expected.push_back(problem.to.to_host<float>());
  const auto expect_the_same = [&](const char* how) {
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_TRUE(same_bits(all[i].to.to_host<float>(), expected[i])) << how << ": " << all[i].sizes;
      all[i].begin_again();
    }
  };
  for (const Problem& problem : all) problem.begin_again();
  compute(all);
  expect_the_same("again");
  for (const Problem& problem : all) add_adapter_gradients(stream(gpu), std::vector{problem.gradient()});
  expect_the_same("alone");
  const CapturedGraph graph(gpu, [&] { compute(all); });
  graph();
  expect_the_same("captured");
}

TEST_F(AdapterGradients, RefuseWhatDoesNotFit) {
  const auto refused = [](const Problem& problem, auto&& change) {
    AdapterGradient gradient = problem.gradient();
    change(gradient);
    EXPECT_THROW(add_adapter_gradients(stream(Device::cuda()), std::vector{gradient}), Error);
  };
  const Problem problem(Case{DType::bf16, 16, 64, 4});
  refused(problem, [](AdapterGradient& g) { g.right.rows = 15; });
  refused(problem, [](AdapterGradient& g) { g.left.data += 2; });
  refused(problem, [](AdapterGradient& g) { g.left.pitch = 60; });
  refused(problem, [](AdapterGradient& g) { g.right.dtype = DType::f16; });
  refused(problem, [](AdapterGradient& g) { g.left.dtype = g.right.dtype = DType::f32; });
  refused(problem, [](AdapterGradient& g) { g.gain = g.to; });
  add_adapter_gradients(stream(Device::cuda()), {});
}

}  // namespace
}  // namespace flame::cuda
