#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "attention_noise.h"
#include "flame/device/graph.h"
#include "flame/device/plan_cache.h"
#include "flame/ops/attention_kernels.h"
#include "flame/ops/conv_gemm_cuda.h"
#include "flame/ops/cudnn_attention_cuda.h"
#include "flame/ops/cudnn_graphs_cuda.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

// Convolutions and attention on a GPU against the CPU's in f32 of the same numbers.
namespace flame {
namespace {

namespace fs = std::filesystem;

// Plans of this test's runs go where they disturb nobody, unless a test that started this one says where.
struct PlansFolder {
  const fs::path path = fs::path(testing::TempDir()) / "flame-cudnn-plans";
  PlansFolder() {
    if (std::getenv("ERI_PLAN_CACHE")) return;
    fs::remove_all(path);
    ::setenv("ERI_PLAN_CACHE", path.c_str(), 1);
  }
} plans_folder;

constexpr DType dtypes[] = {DType::f32, DType::f16, DType::bf16};

class Cudnn : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
    set_deterministic(true);
  }
  void TearDown() override {
    set_deterministic(false);
    set_tf32(false);
  }
};
class CudnnConvolution : public Cudnn {};
class CudnnAttention : public Cudnn {};

Tensor random(const Shape& shape, DType dtype) { return cast(Tensor::randn(shape), dtype); }
Tensor in_f32(const Tensor& x) { return cast(x, DType::f32); }
Tensor on_gpu(const Tensor& x) { return x.defined() ? x.to(Device::cuda()) : x; }
Tensor room(const Shape& shape, DType dtype, Device device = Device::cuda()) {
  const Tensor x = Tensor::empty(shape, dtype, device);
  x.fill(NAN);
  return x;
}

constexpr double half_ulp(DType dtype) { return dtype == DType::f32 ? 0 : dtype == DType::f16 ? 0x1p-11 : 0x1p-8; }

// The largest |got - expected| as a part of relative * |expected| + absolute * (their root mean square) + noise.
double excess(const Tensor& got, const Tensor& expected, double relative, double absolute, const Tensor& noise = {}) {
  EXPECT_EQ(got.shape(), expected.shape());
  const auto a = in_f32(got.to(Device::cpu())).to_host<float>(), b = expected.to_host<float>();
  const auto more = noise.defined() ? noise.to_host<float>() : std::vector<float>(b.size());
  double squares = 0, most = 0;
  for (const float value : b) squares += double{value} * value;
  const double rms = std::sqrt(squares / static_cast<double>(b.size()));
  for (size_t i = 0; i < a.size(); ++i) {
    const double bound = relative * std::abs(b[i]) + absolute * rms + more[i] + 1e-30;
    const double part = std::abs(double{a[i]} - b[i]) / bound;
    if (!(part <= most)) most = part;  // NaN, too
  }
  return most;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(Device::cpu()), y = b.to(Device::cpu());
  return x.bytes() == y.bytes() && std::equal(x.raw(), x.raw() + x.bytes(), y.raw());
}

// --- convolutions ---

struct ConvolutionResults {
  Tensor y, plain, dx, dw;  // plain: without the bias
};

struct ConvolutionCase {
  Convolution conv;
  Tensor x, weight, bias, dy;

  ConvolutionCase(const Convolution& conv, DType dtype)
      : conv(conv),
        x(random(conv.x, dtype)),
        weight(random(conv.weight, dtype)),
        bias(random({conv.weight[0]}, dtype)),
        dy(random(conv.result(), dtype)) {}

  ConvolutionResults expected() const {
    const ConvolutionResults r = {
        room(conv.result(), DType::f32, Device::cpu()), room(conv.result(), DType::f32, Device::cpu()),
        room(conv.x, DType::f32, Device::cpu()), room(conv.weight, DType::f32, Device::cpu())};
    cpu::conv2d(conv, in_f32(x), in_f32(weight), in_f32(bias), r.y);
    cpu::conv2d(conv, in_f32(x), in_f32(weight), {}, r.plain);
    cpu::conv2d_input_gradient(conv, in_f32(dy), in_f32(weight), r.dx);
    cpu::conv2d_weight_gradient(conv, in_f32(x), in_f32(dy), r.dw);
    return r;
  }

  ConvolutionCase moved() const {
    ConvolutionCase there = *this;
    for (Tensor* each : {&there.x, &there.weight, &there.bias, &there.dy}) *each = on_gpu(*each);
    return there;
  }
  ConvolutionResults rooms() const {
    const DType dtype = x.dtype();
    return {room(conv.result(), dtype), room(conv.result(), dtype), room(conv.x, dtype), room(conv.weight, dtype)};
  }
  void compute(const ConvolutionResults& to) const {
    cuda::conv2d(conv, x, weight, bias, to.y);
    cuda::conv2d(conv, x, weight, {}, to.plain);
    cuda::conv2d_input_gradient(conv, dy, weight, to.dx);
    cuda::conv2d_weight_gradient(conv, x, dy, to.dw);
  }
  void compute_by_gemm(const ConvolutionResults& to) const {
    cuda::conv2d_by_gemm(conv, x, weight, bias, to.y);
    cuda::conv2d_by_gemm(conv, x, weight, {}, to.plain);
    cuda::conv2d_input_gradient_by_gemm(conv, dy, weight, to.dx);
    cuda::conv2d_weight_gradient_by_gemm(conv, x, dy, to.dw);
  }
};

void expect_near(const ConvolutionResults& got, const ConvolutionResults& expected, double relative, double absolute) {
  const double unit = half_ulp(got.y.dtype());
  const Tensor stored =
      static_cast<float>(unit * (1 + unit)) * abs(expected.plain);  // by some kernels, before the bias
  EXPECT_LE(excess(got.y, expected.y, relative, absolute, stored), 1) << "forward with bias";
  EXPECT_LE(excess(got.plain, expected.plain, relative, absolute), 1) << "forward";
  EXPECT_LE(excess(got.dx, expected.dx, relative, absolute), 1) << "gradient of the input";
  EXPECT_LE(excess(got.dw, expected.dw, relative, absolute), 1) << "gradient of the weight";
}

void expect_same_bits(const ConvolutionResults& a, const ConvolutionResults& b) {
  EXPECT_TRUE(same_bits(a.y, b.y));
  EXPECT_TRUE(same_bits(a.plain, b.plain));
  EXPECT_TRUE(same_bits(a.dx, b.dx));
  EXPECT_TRUE(same_bits(a.dw, b.dw));
}

// One rounding to storage, and sums in another order.
void expect_like_the_cpu(const Convolution& conv, DType dtype) {
  SCOPED_TRACE(text(dtype, ", ", conv.x, " * ", conv.weight, " stride ", conv.stride, " padding ", conv.padding));
  const ConvolutionCase here(conv, dtype), there = here.moved();
  const ConvolutionResults expected = here.expected();
  for (const auto way : {&ConvolutionCase::compute, &ConvolutionCase::compute_by_gemm}) {
    const ConvolutionResults got = there.rooms();
    (there.*way)(got);
    expect_near(got, expected, half_ulp(dtype) + 1e-5, 1e-5);
  }
}

const std::vector<Convolution> small = {{{1, 7, 5, 8}, {8, 3, 3, 8}, 1, 1},
                                        {{2, 6, 7, 3}, {5, 3, 3, 3}, 1, 1},
                                        {{2, 7, 5, 8}, {16, 5, 3, 8}, 3, 2},
                                        {{1, 9, 8, 4}, {32, 3, 3, 4}, 1, 1},
                                        {{1, 8, 8, 32}, {4, 3, 3, 32}, 1, 1},
                                        {{2, 9, 9, 32}, {16, 3, 3, 32}, 1, 1},
                                        {{2, 9, 7, 24}, {40, 3, 3, 24}, 2, 1},
                                        {{2, 8, 8, 16}, {24, 3, 3, 16}, 2, 1},
                                        {{2, 5, 5, 8}, {8, 1, 1, 8}, 2, 0},
                                        {{1, 1, 1, 8}, {8, 3, 3, 8}, 1, 1},
                                        {{2, 9, 9, 24}, {40, 2, 2, 24}, 2, 0},
                                        {{1, 5, 6, 1}, {1, 3, 3, 1}, 1, 0},
                                        {{1, 6, 6, 12}, {7, 4, 4, 12}, 4, 0},
                                        {{2, 8, 6, 16}, {24, 3, 3, 16}, 2, {0, 0, 1, 1}},
                                        {{1, 7, 5, 16}, {24, 2, 2, 16}, 1, {1, 0, 0, 1}},
                                        {{1, 6, 9, 8}, {8, 2, 2, 8}, 1, {0, 1, 1, 0}}};

TEST_F(CudnnConvolution, AgreesWithTheCpu) {
  for (const DType dtype : dtypes)
    for (const Convolution& conv : small) expect_like_the_cpu(conv, dtype);
}

TEST_F(CudnnConvolution, AgreesWithTheCpuAtTheNetworksSizes) {
  for (const DType dtype : dtypes) {
    expect_like_the_cpu({{2, 32, 32, 320}, {320, 3, 3, 320}, 1, 1}, dtype);
    expect_like_the_cpu({{1, 33, 32, 320}, {320, 3, 3, 320}, 2, 1}, dtype);
    expect_like_the_cpu({{1, 64, 64, 4}, {320, 3, 3, 4}, 1, 1}, dtype);
    expect_like_the_cpu({{1, 64, 64, 320}, {4, 3, 3, 320}, 1, 1}, dtype);
    expect_like_the_cpu({{1, 16, 16, 640}, {16, 3, 3, 640}, 1, 1}, dtype);
  }
}

TEST_F(CudnnConvolution, MayRoundF32ToTf32) {
  set_tf32(true);
  for (const Convolution& conv : small) {
    SCOPED_TRACE(text(conv.x, " * ", conv.weight));
    const ConvolutionCase here(conv, DType::f32), there = here.moved();
    const ConvolutionResults got = there.rooms();
    there.compute(got);
    expect_near(got, here.expected(), 0x1p-10, 4 * 0x1p-10);
  }
}

TEST_F(CudnnConvolution, TakesAddressesOfAnyAlignment) {
  const auto shifted = [](const Tensor& x) {
    const Tensor y = Tensor::empty({x.numel() + 1}, x.dtype(), Device::cuda()).rows(1, x.numel()).view(x.shape());
    y.copy_from(x);
    return y;
  };
  for (const DType dtype : dtypes) {
    for (const Convolution& conv : small) {
      SCOPED_TRACE(text(dtype, ", ", conv.x, " * ", conv.weight));
      const ConvolutionCase here(conv, dtype);
      ConvolutionCase there = here;
      for (Tensor* each : {&there.x, &there.weight, &there.bias, &there.dy}) *each = shifted(*each);
      const ConvolutionResults r = there.rooms();
      const ConvolutionResults got = {shifted(r.y), shifted(r.plain), shifted(r.dx), shifted(r.dw)};
      there.compute(got);
      expect_near(got, here.expected(), half_ulp(dtype) + 1e-5, 1e-5);
    }
  }
}

TEST_F(CudnnConvolution, RepeatsAndReplaysToTheBit) {
  for (const bool measured : {false, true}) {
    set_deterministic(!measured);
    for (const DType dtype : dtypes) {
      for (const Convolution& conv : small) {
        SCOPED_TRACE(text(dtype, ", ", conv.x, " * ", conv.weight, measured ? ", the fastest plan" : ""));
        const ConvolutionCase there = ConvolutionCase(conv, dtype).moved();
        const ConvolutionResults first = there.rooms(), again = there.rooms(), replayed = there.rooms();
        there.compute(first);
        there.compute(again);
        const CapturedGraph graph(Device::cuda(), [&] { there.compute(replayed); });
        graph();
        expect_same_bits(again, first);
        expect_same_bits(replayed, first);
      }
    }
  }
}

TEST_F(CudnnConvolution, HasPlansForTheUnetAndTheAutoencoder) {
  set_deterministic(false);
  const std::vector<Convolution> convolutions = {{{1, 128, 128, 320}, {320, 3, 3, 320}, 1, 1},
                                                 {{1, 64, 64, 640}, {640, 3, 3, 640}, 1, 1},
                                                 {{1, 32, 32, 1280}, {1280, 3, 3, 1280}, 1, 1},
                                                 {{1, 32, 32, 2560}, {1280, 3, 3, 2560}, 1, 1},
                                                 {{1, 128, 128, 960}, {320, 3, 3, 960}, 1, 1},
                                                 {{4, 64, 64, 320}, {640, 3, 3, 320}, 1, 1},
                                                 {{1, 128, 128, 320}, {320, 3, 3, 320}, 2, 1},
                                                 {{1, 64, 64, 640}, {640, 3, 3, 640}, 2, 1},
                                                 {{1, 128, 128, 8}, {320, 3, 3, 8}, 1, 1},
                                                 {{1, 128, 128, 320}, {8, 3, 3, 320}, 1, 1},
                                                 {{1, 32, 32, 1280}, {16, 3, 3, 1280}, 1, 1},
                                                 {{1, 512, 512, 256}, {256, 3, 3, 256}, 1, 1},
                                                 {{1, 256, 256, 128}, {128, 3, 3, 128}, 2, {0, 0, 1, 1}},
                                                 {{1, 256, 256, 256}, {256, 2, 2, 256}, 1, {1, 1, 0, 0}},
                                                 {{1, 256, 256, 256}, {256, 2, 2, 256}, 1, {0, 1, 1, 0}}};
  for (const DType dtype : {DType::f16, DType::bf16}) {
    for (const Convolution& conv : convolutions) {
      const ConvolutionCase there = ConvolutionCase(conv, dtype).moved();
      const ConvolutionResults r = there.rooms();
      const auto refusal = [&](cuda::cudnn::Pass pass, void* bias) {
        return cuda::cudnn::convolution(Device::cuda(), pass, conv, dtype, there.x.raw(), there.weight.raw(), bias,
                                        r.y.raw());
      };
      EXPECT_EQ(refusal(cuda::cudnn::Pass::forward, nullptr), "") << conv.x << " * " << conv.weight;
      EXPECT_EQ(refusal(cuda::cudnn::Pass::forward, there.bias.raw()), "") << conv.x << " * " << conv.weight;
      EXPECT_EQ(refusal(cuda::cudnn::Pass::input_gradient, nullptr), "") << conv.x << " * " << conv.weight;
      EXPECT_EQ(refusal(cuda::cudnn::Pass::weight_gradient, nullptr), "") << conv.x << " * " << conv.weight;
    }
  }
}

TEST_F(CudnnConvolution, ByGemmWorksInBlocksOfPixels) {
  expect_like_the_cpu({{1, 300, 300, 96}, {3, 3, 3, 96}, 1, 1}, DType::f32);  // 311 MB of neighbourhoods
}

// --- attention ---

struct Sizes {
  int64_t batch, heads, queries, keys, width;
  bool causal;
};
std::ostream& operator<<(std::ostream& out, const Sizes& s) {
  return out << s.batch << " x " << s.heads << " heads of " << s.width << ", " << s.queries << " queries, " << s.keys
             << " keys" << (s.causal ? ", causal" : "");
}

struct AttentionResults {
  Tensor out, log_sum, dq, dk, dv;
};

struct AttentionCase {
  Sizes sizes;
  Tensor q, k, v, dy;

  AttentionCase(const Sizes& s, DType dtype)
      : sizes(s),
        q(random({s.batch, s.queries, s.heads, s.width}, dtype)),
        k(random({s.batch, s.keys, s.heads, s.width}, dtype)),
        v(random(k.shape(), dtype)),
        dy(random(q.shape(), dtype)) {}

  AttentionCase moved() const {
    AttentionCase there = *this;
    for (Tensor* each : {&there.q, &there.k, &there.v, &there.dy}) *each = on_gpu(*each);
    return there;
  }
  AttentionResults rooms(DType dtype) const {
    const Device device = q.device();
    return {room(q.shape(), dtype, device), room({sizes.batch, sizes.heads, sizes.queries}, DType::f32, device),
            room(q.shape(), dtype, device), room(k.shape(), dtype, device), room(k.shape(), dtype, device)};
  }
  AttentionResults expected() const {
    const AttentionResults r = rooms(DType::f32);
    const Tensor a = in_f32(q), b = in_f32(k), c = in_f32(v);
    cpu::attention(a, b, c, sizes.causal, r.out, r.log_sum);
    cpu::attention_gradient(a, b, c, sizes.causal, r.out, r.log_sum, in_f32(dy), r.dq, r.dk, r.dv);
    return r;
  }
  bool compute(const AttentionResults& to) const {
    return cuda::cudnn_attention_fits(q, k) && cuda::cudnn_attention(q, k, v, sizes.causal, to.out, to.log_sum) &&
           cuda::cudnn_attention_gradient(q, k, v, sizes.causal, to.out, to.log_sum, dy, to.dq, to.dk, to.dv);
  }
};

// Results are rounded to storage, and what attention_noise() counts.
void expect_near(const AttentionResults& got, const AttentionCase& from, DType dtype) {
  const AttentionResults expected = from.expected();
  const double unit = half_ulp(dtype);
  const test::AttentionNoise noise =
      test::attention_noise(in_f32(from.q), in_f32(from.k), in_f32(from.v), in_f32(from.dy), from.sizes.causal, unit);
  EXPECT_LE(excess(got.log_sum, expected.log_sum, 1e-5, 1e-5), 1);
  EXPECT_LE(excess(got.out, expected.out, unit + 1e-5, 1e-5, noise.out), 1);
  EXPECT_LE(excess(got.dq, expected.dq, unit + 1e-5, 1e-5, noise.dq), 1) << "dq";
  EXPECT_LE(excess(got.dk, expected.dk, unit + 1e-5, 1e-5, noise.dk), 1) << "dk";
  EXPECT_LE(excess(got.dv, expected.dv, unit + 1e-5, 1e-5, noise.dv), 1) << "dv";
}

void expect_same_bits(const AttentionResults& a, const AttentionResults& b) {
  EXPECT_TRUE(same_bits(a.out, b.out));
  EXPECT_TRUE(same_bits(a.log_sum, b.log_sum));
  EXPECT_TRUE(same_bits(a.dq, b.dq));
  EXPECT_TRUE(same_bits(a.dk, b.dk));
  EXPECT_TRUE(same_bits(a.dv, b.dv));
}

constexpr Sizes attentions[] = {{2, 10, 256, 256, 64, false}, {2, 10, 256, 77, 64, false}, {1, 20, 99, 77, 64, false},
                                {2, 12, 77, 77, 64, true},    {2, 20, 77, 77, 64, true},   {1, 3, 33, 47, 32, false},
                                {2, 3, 33, 47, 40, true},     {1, 2, 47, 17, 128, true},   {1, 8, 231, 231, 80, false},
                                {1, 1, 16, 16, 128, false}};

TEST_F(CudnnAttention, AgreesWithTheCpu) {
  for (const bool measured : {false, true}) {
    set_deterministic(!measured);
    for (const DType dtype : {DType::f16, DType::bf16}) {
      for (const Sizes& sizes : attentions) {
        SCOPED_TRACE(text(dtype, ", ", sizes, measured ? ", the fastest plan" : ""));
        const AttentionCase here(sizes, dtype), there = here.moved();
        const AttentionResults got = there.rooms(dtype);
        ASSERT_TRUE(there.compute(got));
        expect_near(got, here, dtype);
      }
    }
  }
}

TEST_F(CudnnAttention, RepeatsAndReplaysToTheBit) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    for (const Sizes& sizes : attentions) {
      SCOPED_TRACE(text(dtype, ", ", sizes));
      const AttentionCase there = AttentionCase(sizes, dtype).moved();
      const AttentionResults first = there.rooms(dtype), again = there.rooms(dtype), replayed = there.rooms(dtype);
      there.compute(first);
      there.compute(again);
      const CapturedGraph graph(Device::cuda(), [&] { there.compute(replayed); });
      graph();
      expect_same_bits(again, first);
      expect_same_bits(replayed, first);
    }
  }
}

TEST_F(CudnnAttention, GivesTheGradientsThatAreWanted) {
  const AttentionCase there = AttentionCase({2, 4, 64, 77, 64, false}, DType::bf16).moved();
  const AttentionResults all = there.rooms(DType::bf16), some = there.rooms(DType::bf16);
  ASSERT_TRUE(there.compute(all));
  ASSERT_TRUE(cuda::cudnn_attention_gradient(there.q, there.k, there.v, false, all.out, all.log_sum, there.dy, some.dq,
                                             {}, {}));
  EXPECT_TRUE(same_bits(some.dq, all.dq));
  EXPECT_FALSE(cuda::cudnn_attention_gradient(there.q, there.k, {}, false, {}, all.log_sum, there.dy, {}, {}, some.dv));
}

// Queries, keys and values side by side in each token's row, and their gradients alike.
TEST_F(CudnnAttention, ReadsAndWritesPackedRows) {
  constexpr int64_t batch = 2, tokens = 99, heads = 5, width = 64, row = heads * width;
  const AttentionCase here({batch, heads, tokens, tokens, width, false}, DType::bf16);
  const auto flat = [&](const Tensor& x) { return x.view({batch, tokens, row}); };
  const Tensor packed = on_gpu(concat({flat(here.q), flat(here.k), flat(here.v)}, 2));
  const Tensor gradients = room(packed.shape(), DType::bf16), dy = on_gpu(here.dy);
  const AttentionResults got = here.moved().rooms(DType::bf16);

  const auto part = [&](const Tensor& x, int64_t index) {
    return cuda::cudnn::Heads{x.data<bf16>() + index * row, tokens * 3 * row, 3 * row, width};
  };
  const auto whole = [&](const Tensor& x) { return cuda::cudnn::Heads{x.raw(), tokens * row, row, width}; };
  const cuda::cudnn::Attention shape = {DType::bf16, batch, heads, tokens, tokens, width, false};
  ASSERT_EQ(cuda::cudnn::attention(Device::cuda(), shape, part(packed, 0), part(packed, 1), part(packed, 2),
                                   whole(got.out), got.log_sum.raw()),
            "");
  ASSERT_EQ(cuda::cudnn::attention_gradient(Device::cuda(), shape, part(packed, 0), part(packed, 1), part(packed, 2),
                                            whole(got.out), whole(dy), got.log_sum.raw(), part(gradients, 0),
                                            part(gradients, 1), part(gradients, 2)),
            "");

  const auto gradient = [&](int64_t index) {
    return narrow(gradients.to(Device::cpu()), 2, index * row, row).view(here.q.shape());
  };
  expect_near({got.out, got.log_sum, gradient(0), gradient(1), gradient(2)}, here, DType::bf16);
}

// --- plans ---

// Run by the next test in a process of its own.
TEST_F(Cudnn, SavesPlans) {
  set_deterministic(false);
  expect_like_the_cpu({{2, 9, 9, 32}, {16, 3, 3, 32}, 1, 1}, DType::bf16);
  const AttentionCase here({2, 10, 99, 77, 64, false}, DType::bf16), there = here.moved();
  const AttentionResults got = there.rooms(DType::bf16);
  ASSERT_TRUE(there.compute(got));
  expect_near(got, here, DType::bf16);
  save_plans();
}

TEST_F(Cudnn, TakesPlansThatAnotherRunSaved) {
  const fs::path folder = fs::path(testing::TempDir()) / "flame-cudnn-saved-plans";
  fs::remove_all(folder);
  const std::string run = "ERI_PLAN_CACHE=" + folder.string() + " " + fs::read_symlink("/proc/self/exe").string() +
                          " --gtest_filter=Cudnn.SavesPlans --gtest_brief=1";
  ASSERT_EQ(std::system(run.c_str()), 0);
  const auto written = [&] {
    for (const fs::path& file : fs::directory_iterator(folder))
      if (file.filename().string().starts_with("plans-cudnn-")) return fs::last_write_time(file);
    return fs::file_time_type::min();
  };
  const auto first = written();
  ASSERT_NE(first, fs::file_time_type::min());
  ASSERT_EQ(std::system(run.c_str()), 0);
  EXPECT_EQ(written(), first) << "the second run searched again";
  fs::remove_all(folder);
}

}  // namespace
}  // namespace flame
