#include "flame/ops/gemm_cuda.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include "flame/autograd/tape.h"
#include "flame/device/graph.h"
#include "flame/device/plan_cache.h"
#include "flame/ops/attention_kernels.h"
#include "flame/ops/gemm.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"

// Products on a GPU against the CPU's in f32 of the same numbers.
namespace flame {
namespace {

namespace fs = std::filesystem;

// Plans of this test's runs go where they disturb nobody, unless a test that started this one says where.
struct PlansFolder {
  const fs::path path = fs::path(testing::TempDir()) / "flame-gemm-plans";
  PlansFolder() {
    if (std::getenv("ERI_PLAN_CACHE")) return;
    fs::remove_all(path);
    ::setenv("ERI_PLAN_CACHE", path.c_str(), 1);
  }
} plans_folder;

class CudaGemm : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
  }
};
class CudaAttention : public CudaGemm {};

// Normal values, rounded to `dtype`.
Tensor random(const Shape& shape, DType dtype) { return cast(Tensor::randn(shape), dtype); }
Tensor in_f32(const Tensor& x) { return x.defined() ? cast(x, DType::f32) : x; }
Tensor on_gpu(const Tensor& x) { return x.defined() ? x.to(Device::cuda()) : x; }

constexpr double half_ulp(DType dtype) { return dtype == DType::f32 ? 0 : dtype == DType::f16 ? 0x1p-11 : 0x1p-8; }

// The largest |got - expected|, as a part of what sums in another order and roundings to storage may take. The steps
// are what a kernel may store on its way, each made from the one before it; the last is expected.
double excess(const Tensor& got, const std::vector<Tensor>& steps) {
  EXPECT_EQ(got.shape(), steps.back().shape());
  const double unit = half_ulp(got.dtype());
  const auto a = in_f32(got).to_host<float>(), b = steps.back().to_host<float>();
  double squares = 0, most = 0;
  for (const float value : b) squares += double{value} * value;
  const double rms = std::sqrt(squares / static_cast<double>(std::max<size_t>(b.size(), 1)));
  std::vector<double> rounding(b.size());
  for (const Tensor& step : steps) {
    const auto values = step.to_host<float>();
    for (size_t i = 0; i < b.size(); ++i) rounding[i] += unit * (std::abs(double{values[i]}) + rounding[i]);
  }
  for (size_t i = 0; i < a.size(); ++i) {
    const double bound = rounding[i] + 1e-5 * (std::abs(b[i]) + rms) + 1e-30;
    const double part = std::abs(double{a[i]} - b[i]) / bound;
    if (!(part <= most)) most = part;  // NaN, too
  }
  return most;
}

// The same of f32 sums of so many terms, one after the other: each addition may be off by 2^-24 of the sum so far,
// which all in all is a random walk, and a million results see 5 of its deviations. A sum so far is as large as its
// row's results, or, if those are differences of larger ones, as any, or as `least_size` says of a row.
double excess_of_long_sums(
    const Tensor& got, const Tensor& expected, int64_t terms,
    const std::function<double(size_t row)>& least_size = [](size_t) { return 0.0; }) {
  EXPECT_EQ(got.shape(), expected.shape());
  const auto a = got.to_host<float>(), b = expected.to_host<float>();
  const auto rms = [&](size_t begin, size_t end) {
    double squares = 0;
    for (size_t i = begin; i < end; ++i) squares += double{b[i]} * b[i];
    return std::sqrt(squares / static_cast<double>(end - begin));
  };
  const double part = std::max(1e-5, 5 * 0x1p-24 * std::sqrt(static_cast<double>(terms))), all = rms(0, b.size());
  const auto row = static_cast<size_t>(expected.dim(-1));
  double most = 0;
  for (size_t begin = 0; begin < b.size(); begin += row) {
    const double size = std::max({all, rms(begin, begin + row), least_size(begin / row)});
    for (size_t i = begin; i < begin + row; ++i) {
      const double now = std::abs(double{a[i]} - b[i]) / (part * (std::abs(b[i]) + size));
      if (!(now <= most)) most = now;  // NaN, too
    }
  }
  return most;
}

// alpha a b, that + c, that + bias, as far as there are such, on the CPU. Some of cuBLASLt's kernels store each in 16
// bits, if that is what the result is stored in.
std::vector<Tensor> steps_of(const Tensor& a, const Tensor& b, const Shape& shape, GemmOptions options, const Tensor& c,
                             const Tensor& bias) {
  options.accumulate = true;
  const auto sum = [&](const Tensor& to, const Tensor& row) {
    const Tensor result = to.defined() ? in_f32(to).clone() : Tensor::zeros(shape);
    gemm(in_f32(a), in_f32(b), result, options, in_f32(row));
    return result;
  };
  std::vector<Tensor> steps = {sum({}, {})};
  if (c.defined()) steps.push_back(sum(c, {}));
  if (bias.defined()) steps.push_back(sum(c, bias));
  return steps;
}

// The root of the mean squared difference, as a part of the expected values'.
double mean_error(const Tensor& got, const Tensor& expected) {
  const auto a = in_f32(got).to_host<float>(), b = expected.to_host<float>();
  double wrong = 0, squares = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    wrong += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    squares += double{b[i]} * b[i];
  }
  return std::sqrt(wrong / squares);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(Device::cpu()), y = b.to(Device::cpu());
  return x.bytes() == y.bytes() && std::equal(x.raw(), x.raw() + x.bytes(), y.raw());
}

struct Case {
  Shape a, b, c;
};

void expect_like_the_cpu(const Case& shapes, DType from, DType to, const GemmOptions& options, bool biased) {
  SCOPED_TRACE(text(shapes.a, options.transpose_a ? "'" : "", " x ", shapes.b, options.transpose_b ? "'" : "", " ",
                    from, " -> ", to, options.accumulate ? ", accumulated" : "", biased ? ", bias" : ""));
  const Tensor a = random(shapes.a, from), b = random(shapes.b, from), c = random(shapes.c, to);
  const Tensor bias = biased ? random({shapes.c.dim(-1)}, from) : Tensor();
  const Tensor got = on_gpu(c).clone();
  gemm(on_gpu(a), on_gpu(b), got, options, on_gpu(bias));
  EXPECT_LE(excess(got, steps_of(a, b, shapes.c, options, options.accumulate ? c : Tensor(), bias)), 1);
}

Shape transposed(const Shape& shape) { return shape.with(-1, shape.dim(-2)).with(-2, shape.dim(-1)); }

TEST_F(CudaGemm, AgreesWithTheCpu) {
  const std::vector<Case> cases = {{{64, 32}, {32, 48}, {64, 48}},     {{5, 7}, {7, 3}, {5, 3}},
                                   {{129, 65}, {65, 127}, {129, 127}}, {{1, 9}, {9, 1}, {1, 1}},
                                   {{1, 640}, {640, 1280}, {1, 1280}}, {{77, 640}, {640, 1}, {77, 1}},
                                   {{257, 16}, {16, 320}, {257, 320}}, {{6, 0}, {0, 5}, {6, 5}},
                                   {{0, 4}, {4, 5}, {0, 5}},           {{2, 3, 17, 9}, {2, 3, 9, 12}, {2, 3, 17, 12}},
                                   {{33, 1501}, {1501, 24}, {33, 24}}};
  for (const Case& shapes : cases) {
    for (const DType from : {DType::f32, DType::f16, DType::bf16}) {
      for (int flags = 0; flags < 16; ++flags) {
        Case turned = shapes;
        const GemmOptions options = {bool(flags & 1), bool(flags & 2), flags & 4 ? 0.37f : 1.0f, bool(flags & 4)};
        if (options.transpose_a) turned.a = transposed(turned.a);
        if (options.transpose_b) turned.b = transposed(turned.b);
        expect_like_the_cpu(turned, from, from, options, flags & 8);
        if (from != DType::f32) expect_like_the_cpu(turned, from, DType::f32, options, flags & 8);
      }
    }
  }
}

// As long as a convolution's of 3x3 over 1280 channels. An addition rounds to within 2^-24 of the sum so far, in the
// mean 0.41 of that: a walk of n steps ends 0.41 * 2^-24 * sqrt(n / 2) off.
TEST_F(CudaGemm, RoundsLongSumsAsLittleAsShortOnes) {
  constexpr int64_t rows = 2048, depth = 11520, columns = 640, seen = 8;
  const Tensor a = Tensor::randn({rows, depth}), b = Tensor::randn({depth, columns});
  const Tensor c = Tensor::empty({rows, columns}, DType::f32, Device::cuda());
  gemm(on_gpu(a), on_gpu(b), c);
  const auto x = a.to_host<float>(), y = b.to_host<float>(), got = c.to_host<float>();
  double wrong = 0, squares = 0;
  for (size_t i = 0; i < seen; ++i) {
    for (size_t j = 0; j < columns; ++j) {
      double sum = 0;
      for (size_t k = 0; k < depth; ++k) sum += double{x[i * depth + k]} * y[k * columns + j];
      wrong += (got[i * columns + j] - sum) * (got[i * columns + j] - sum);
      squares += sum * sum;
    }
  }
  EXPECT_LT(std::sqrt(wrong / squares), 1.5 * 0.41 * 0x1p-24 * std::sqrt(640 / 2));
}

TEST_F(CudaGemm, BroadcastsLeadingExtents) {
  const std::vector<Case> cases = {
      {{4, 1, 6, 5}, {3, 5, 8}, {4, 3, 6, 8}},
      {{2, 1, 3, 1, 6, 5}, {2, 1, 2, 5, 8}, {2, 2, 3, 2, 6, 8}},
      {{6, 5}, {3, 5, 8}, {3, 6, 8}},
      {{3, 6, 5}, {5, 8}, {3, 6, 8}},
      {{40000, 2, 3}, {40000, 3, 2}, {40000, 2, 2}},
  };
  for (const Case& shapes : cases) {
    for (const DType dtype : {DType::f32, DType::bf16}) expect_like_the_cpu(shapes, dtype, dtype, {}, false);
  }
}

TEST_F(CudaGemm, RefusesWhatDoesNotFit) {
  const Tensor a = on_gpu(Tensor::zeros({4, 5})), b = on_gpu(Tensor::zeros({6, 7})), c = on_gpu(Tensor::zeros({4, 7}));
  EXPECT_THROW(gemm(a, b, c), Error);
  EXPECT_THROW(gemm(a, on_gpu(Tensor::zeros({5, 7}, DType::bf16)), c), Error);
  EXPECT_THROW(gemm(a, on_gpu(Tensor::zeros({5, 7})), on_gpu(Tensor::zeros({4, 7}, DType::bf16))), Error);
}

// A batch of matrices inside a larger tensor [batch, rows + 2, pitch], beginning at row 1 and column `column`.
struct Inside {
  Tensor whole;
  int64_t column;
  int64_t batch, rows, columns;

  cuda::Matrix matrix() const {
    const int64_t pitch = whole.dim(2), stride = whole.dim(1) * pitch;
    std::byte* const begin = whole.raw() + static_cast<size_t>(pitch + column) * size_of(whole.dtype());
    return {begin, whole.dtype(), rows, columns, pitch, batch, stride};
  }
  Tensor cut() const { return whole.to(Device::cpu()).narrow(1, 1, rows).narrow(2, column, columns); }
  bool same_around(const Tensor& before) const {
    const auto a = in_f32(whole).to_host<float>(), b = in_f32(before).to_host<float>();
    const int64_t height = whole.dim(1), pitch = whole.dim(2);
    for (int64_t i = 0; i < whole.numel(); ++i) {
      const int64_t y = i / pitch % height - 1, x = i % pitch - column;
      const bool is_inside = y >= 0 && y < rows && x >= 0 && x < columns;
      if (!is_inside && a[static_cast<size_t>(i)] != b[static_cast<size_t>(i)]) return false;
    }
    return true;
  }
};

Inside inside(int64_t batch, int64_t rows, int64_t columns, int64_t column, DType dtype) {
  return {on_gpu(random({batch, rows + 2, columns + column + 3}, dtype)), column, batch, rows, columns};
}

TEST_F(CudaGemm, MultipliesPartsOfLargerMatrices) {
  const Device gpu = Device::cuda();
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const int64_t column : {0, 1, 5, 8}) {
      for (int flags = 0; flags < 8; ++flags) {
        SCOPED_TRACE(text(dtype, " from column ", column, ", flags ", flags));
        const bool has_bias = flags & 1, has_residual = flags & 2, wide = flags & 4;
        const DType to = wide ? DType::f32 : dtype;
        const Inside a = inside(3, 33, 21, column, dtype), b = inside(1, 40, 21, column, dtype),
                     residual = inside(3, 33, 40, column, to), out = inside(3, 33, 40, column, to);
        const Tensor bias = on_gpu(random({41}, to)).rows(column % 2, 40);
        const Tensor before = out.whole.clone();
        const cuda::Matrix added = residual.matrix();
        cuda::product(
            gpu, cuda::stream(gpu), a.matrix(), false, b.matrix(), true, out.matrix(),
            {.alpha = 0.7f, .residual = has_residual ? &added : nullptr, .bias = has_bias ? bias.raw() : nullptr});

        const auto steps =
            steps_of(a.cut(), b.cut(), {3, 33, 40}, {.transpose_b = true, .alpha = 0.7f},
                     has_residual ? residual.cut() : Tensor(), has_bias ? bias.to(Device::cpu()) : Tensor());
        EXPECT_LE(excess(out.cut(), steps), 1);
        EXPECT_TRUE(out.same_around(before));
      }
    }
  }
}

TEST_F(CudaGemm, RepeatsToTheBitInGraphsToo) {
  const Device gpu = Device::cuda();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t depth : {64, 8192}) {  // 8192: worth splitting the sums
      SCOPED_TRACE(text(dtype, " ", depth));
      const Tensor a = on_gpu(random({64, depth}, dtype)), b = on_gpu(random({96, depth}, dtype));
      const Tensor first = Tensor::empty({64, 96}, dtype, gpu), second = Tensor::empty({64, 96}, dtype, gpu),
                   replayed = Tensor::zeros({64, 96}, dtype, gpu);
      gemm(a, b, first, {.transpose_b = true});
      gemm(a, b, second, {.transpose_b = true});
      const CapturedGraph graph(gpu, [&] { gemm(a, b, replayed, {.transpose_b = true}); });
      graph();
      EXPECT_TRUE(same_bits(first, second));
      EXPECT_TRUE(same_bits(first, replayed));
    }
  }
}

TEST_F(CudaGemm, MayBeFirstMetWhileCapturing) {
  const Device gpu = Device::cuda();
  const Tensor a = on_gpu(random({48, 72}, DType::bf16)), b = on_gpu(random({72, 24}, DType::bf16));
  // Another one, which opens the library.
  gemm(b, a, on_gpu(Tensor::zeros({24, 48}, DType::bf16)), {.transpose_a = true, .transpose_b = true});
  const Tensor captured = Tensor::zeros({48, 24}, DType::bf16, gpu), after = Tensor::empty({48, 24}, DType::bf16, gpu);
  const CapturedGraph graph(gpu, [&] { gemm(a, b, captured); });
  graph();
  gemm(a, b, after);
  EXPECT_TRUE(same_bits(captured, after));
}

// Adapters' copies for the products are bf16, their gradients f32: rounded nowhere on the way.
TEST_F(CudaGemm, GivesAdaptersGradientsInF32) {
  const auto gradients = [](Device device, DType dtype) {
    Generator generator(7);
    const auto draw = [&](const Shape& shape) {
      return cast(cast(Tensor::randn(shape, generator), DType::bf16), dtype).to(device);
    };
    const Tensor x = draw({33, 48}), weight = draw({40, 48}), down = draw({8, 48}).requires_grad(DType::f32),
                 up = draw({40, 8}).requires_grad(DType::f32);
    Tape tape;
    GradientMap gradients;
    tape.backward(lora_linear(x, weight, {}, down, up, 0.5f), draw({33, 40}), gradients);
    return std::vector<Tensor>{gradients[down], gradients[up]};
  };
  const auto got = gradients(Device::cuda(), DType::bf16), expected = gradients(Device::cpu(), DType::f32);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].dtype(), DType::f32);
    EXPECT_LT(mean_error(got[i], expected[i]), 0x1p-8);  // t and dt, which they are made from, are stored in bf16
    EXPECT_FALSE(same_bits(got[i], in_f32(cast(got[i], DType::bf16))));
  }
}

// A product with many algorithms to choose from, whose plan is kept.
Tensor searched_product() {
  const Tensor a = on_gpu(Tensor::ones({1024, 768}, DType::bf16)), b = on_gpu(Tensor::ones({768, 1280}, DType::bf16));
  const Tensor c = Tensor::empty({1024, 1280}, DType::bf16, Device::cuda());
  gemm(a, b, c);
  save_plans();
  return c;
}

// Run by the next test in a process of its own.
TEST_F(CudaGemm, SavesPlans) { EXPECT_EQ(searched_product().to(DType::f32).to_host<float>().front(), 768); }

TEST_F(CudaGemm, TakesPlansThatAnotherRunSaved) {
  const fs::path folder = fs::path(testing::TempDir()) / "flame-gemm-saved-plans";
  fs::remove_all(folder);
  const std::string run = "ERI_PLAN_CACHE=" + folder.string() + " " + fs::read_symlink("/proc/self/exe").string() +
                          " --gtest_filter=CudaGemm.SavesPlans --gtest_brief=1";
  ASSERT_EQ(std::system(run.c_str()), 0);
  ASSERT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 1);
  const fs::path file = fs::directory_iterator(folder)->path();
  EXPECT_TRUE(file.filename().string().starts_with("plans-cublaslt-")) << file;
  const auto written = fs::last_write_time(file);
  ASSERT_EQ(std::system(run.c_str()), 0);
  EXPECT_EQ(fs::last_write_time(file), written) << "the second run searched again";
  fs::remove_all(folder);
}

// Heads so wide, or so many tokens, that scores are made in several blocks.
TEST_F(CudaAttention, AgreesWithTheCpuInBlocks) {
  struct Sizes {
    int64_t queries, keys, heads, width;
  };
  for (const Sizes& sizes : {Sizes{8300, 8300, 1, 12}, Sizes{3000, 4100, 5, 20}, Sizes{33, 57, 3, 520}}) {
    for (const bool causal : {false, true}) {
      SCOPED_TRACE(text(sizes.queries, " x ", sizes.keys, causal ? ", causal" : ""));
      const Shape of_queries = {2, sizes.queries, sizes.heads, sizes.width}, of_keys = of_queries.with(1, sizes.keys);
      const Tensor q = Tensor::randn(of_queries), k = Tensor::randn(of_keys), v = Tensor::randn(of_keys),
                   dy = Tensor::randn(of_queries);
      const auto run = [&](Device device) {
        const auto here = [&](const Tensor& x) { return x.to(device); };
        const auto empty = [&](const Shape& shape) { return Tensor::empty(shape, DType::f32, device); };
        const Tensor out = empty(of_queries), log_sum = empty({2, sizes.heads, sizes.queries});
        const Tensor dq = empty(of_queries), dk = empty(of_keys), dv = empty(of_keys);
        if (device.is_cpu()) {
          cpu::attention(q, k, v, causal, out, log_sum);
          cpu::attention_gradient(q, k, v, causal, out, log_sum, dy, dq, dk, dv);
        } else {
          cuda::attention(here(q), here(k), here(v), causal, out, log_sum);
          cuda::attention_gradient(here(q), here(k), here(v), causal, out, log_sum, here(dy), dq, dk, dv);
        }
        return std::vector<Tensor>{out, log_sum, dq, dk, dv};
      };
      const auto expected = run(Device::cpu()), got = run(Device::cuda());
      const int64_t terms = std::max(sizes.queries, sizes.keys);
      // A query that sees n keys subtracts sums of `width` products, sqrt(width) large, that nearly cancel if n is
      // small; over sqrt(width), times q or k and n probabilities they are as large as 1 / sqrt(n).
      const auto least_size = [&](int64_t tokens) {
        return [=](size_t row) {
          const int64_t token = static_cast<int64_t>(row) / sizes.heads % tokens;
          return causal ? 1 / std::sqrt(static_cast<double>(token + 1)) : 0;
        };
      };
      EXPECT_LE(excess_of_long_sums(got[0], expected[0], terms), 1) << "out";
      EXPECT_LE(excess_of_long_sums(got[1], expected[1], terms), 1) << "log_sum";
      EXPECT_LE(excess_of_long_sums(got[2], expected[2], terms, least_size(sizes.queries)), 1) << "dq";
      EXPECT_LE(excess_of_long_sums(got[3], expected[3], terms, least_size(sizes.keys)), 1) << "dk";
      EXPECT_LE(excess_of_long_sums(got[4], expected[4], terms), 1) << "dv";
    }
  }
}

// The VAE's attention in 16 bits: one head of 512.
TEST_F(CudaAttention, RoundsWideHeadsToStorage) {
  const Shape shape = {1, 1000, 1, 512};
  const Tensor q = random(shape, DType::bf16), k = random(shape, DType::bf16), v = random(shape, DType::bf16);
  const Tensor out = Tensor::empty(shape, DType::bf16, Device::cuda()), expected = Tensor::empty(shape);
  const Tensor log_sum = Tensor::empty({1, 1, 1000}, DType::f32, Device::cuda()),
               expected_sum = Tensor::empty({1, 1, 1000});
  cuda::attention(on_gpu(q), on_gpu(k), on_gpu(v), false, out, log_sum);
  cpu::attention(in_f32(q), in_f32(k), in_f32(v), false, expected, expected_sum);
  EXPECT_LE(excess(log_sum, {expected_sum}), 1);
  EXPECT_LT(mean_error(out, expected), 0x1p-8);  // probabilities and results are rounded, each to within 2^-9
}

// Rows that a block's registers hold, to the last pack and one less; beyond them; and of no whole packs.
TEST_F(CudaAttention, TakesLongRows) {
  for (const int64_t keys : {2048, 4100, 16380, 16384, 16388, 4099}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(text(keys, " keys, ", dtype));
      const Shape few = {1, 3, 1, 160}, many = few.with(1, keys);
      const Tensor q = random(few, dtype), k = random(many, dtype), v = random(many, dtype);
      const Tensor out = Tensor::empty(few, dtype, Device::cuda()), expected = Tensor::empty(few);
      const Tensor log_sum = Tensor::empty({1, 1, 3}, DType::f32, Device::cuda()),
                   expected_sum = Tensor::empty({1, 1, 3});
      cuda::attention(on_gpu(q), on_gpu(k), on_gpu(v), false, out, log_sum);
      cpu::attention(in_f32(q), in_f32(k), in_f32(v), false, expected, expected_sum);
      EXPECT_LE(excess_of_long_sums(log_sum, expected_sum, keys), 1);
      if (dtype == DType::f32)
        EXPECT_LE(excess_of_long_sums(out, expected, keys), 1);
      else
        EXPECT_LT(mean_error(out, expected), 0x1p-8);
    }
  }
}

}  // namespace
}  // namespace flame
