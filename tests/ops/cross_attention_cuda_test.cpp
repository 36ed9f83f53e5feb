#include "flame/ops/cross_attention_cuda.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "flame/device/graph.h"
#include "flame/ops/attention_kernels.h"
#include "flame/ops/layout.h"

namespace flame::cuda {
namespace {

struct Sizes {
  int64_t batch, queries, keys, heads;
};
std::ostream& operator<<(std::ostream& out, const Sizes& s) {
  return out << s.batch << " x " << s.queries << " queries, " << s.keys << " keys, " << s.heads << " heads";
}

struct Inputs {
  Tensor q, k, v, dy;
};
struct Results {
  Tensor out, log_sum, dq, dk, dv;
};

Inputs draw(const Sizes& s, DType dtype, float size = 1) {
  const auto normal = [&](int64_t tokens) {
    const Tensor x = Tensor::randn({s.batch, tokens, s.heads, 64});
    for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] *= size;
    return cast(x, dtype);
  };
  return {normal(s.queries), normal(s.keys), normal(s.keys), normal(s.queries)};
}

template <class F>
Inputs each(const Inputs& in, F&& f) {
  return {f(in.q), f(in.k), f(in.v), f(in.dy)};
}
Inputs on_gpu(const Inputs& in) {
  return each(in, [](const Tensor& x) { return x.to(Device::cuda()); });
}

Results room_for(const Inputs& in) {
  const auto like = [](const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); };
  const Tensor log_sum = Tensor::empty({in.q.dim(0), in.q.dim(2), in.q.dim(1)}, DType::f32, in.q.device());
  return {like(in.q), log_sum, like(in.q), like(in.k), like(in.k)};
}

void compute(const Inputs& in, const Results& to) {
  cross_attention(in.q, in.k, in.v, to.out, to.log_sum);
  cross_attention_gradient(in.q, in.k, in.v, to.log_sum, in.dy, to.dq, to.dk, to.dv);
}
Results computed(const Inputs& in) {
  const Results results = room_for(in);
  compute(in, results);
  return results;
}

HeadRows rows_of(const Tensor& x) { return {x.raw(), x.dim(1) * x.dim(2) * 64, x.dim(2) * 64}; }
CrossAttention problem_of(const Inputs& in) {
  return {in.q.device(), in.q.dtype(), in.q.dim(0),   in.q.dim(2),   in.q.dim(1),
          in.k.dim(1),   0.125f,       rows_of(in.q), rows_of(in.k), rows_of(in.v)};
}
Results computed(const Inputs& in, CrossAttentionCut forward, CrossAttentionCut backward) {
  const Results r = room_for(in);
  const CrossAttention problem = problem_of(in);
  cross_attention(problem, rows_of(r.out), r.log_sum.data<float>(), forward);
  const Tensor workspace = Tensor::empty({gradient_workspace(problem, backward)}, DType::f32, in.q.device());
  cross_attention_gradient(problem, r.log_sum.data<float>(), rows_of(in.dy), rows_of(r.dq), rows_of(r.dk),
                           rows_of(r.dv), workspace.data<float>(), backward);
  return r;
}

// The CPU's, of the same numbers in f32.
Results expected(const Inputs& stored) {
  const Inputs in = each(stored, [](const Tensor& x) { return cast(x, DType::f32); });
  const Results r = room_for(in);
  cpu::attention(in.q, in.k, in.v, false, r.out, r.log_sum);
  cpu::attention_gradient(in.q, in.k, in.v, false, r.out, r.log_sum, in.dy, r.dq, r.dk, r.dv);
  return r;
}

// The root mean square of the difference, as a part of that of what was expected or of `least`.
double error(const Tensor& got, const Tensor& expected, double least) {
  const auto a = cast(got.to(Device::cpu()), DType::f32).to_host<float>(), b = expected.to_host<float>();
  double difference = 0, size = least * least * static_cast<double>(b.size());
  for (size_t i = 0; i < b.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / size);
}

// Weights and their gradients are rounded to the dtype before they are factors, and results once more.
void expect_near(const Results& got, const Results& expected, DType dtype) {
  const double bound = dtype == DType::f16 ? 4.5e-4 : 3.6e-3, least = 1e-2;
  EXPECT_LT(error(got.out, expected.out, least), bound);
  EXPECT_LT(error(got.log_sum, expected.log_sum, least), 4e-6);  // tensor cores cut off what they add
  EXPECT_LT(error(got.dq, expected.dq, least), bound);
  EXPECT_LT(error(got.dk, expected.dk, least), bound);
  EXPECT_LT(error(got.dv, expected.dv, least), bound);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(Device::cpu()), y = b.to(Device::cpu());
  return x.bytes() == y.bytes() && std::memcmp(x.raw(), y.raw(), x.bytes()) == 0;
}
void expect_same_bits(const Results& a, const Results& b) {
  EXPECT_TRUE(same_bits(a.out, b.out));
  EXPECT_TRUE(same_bits(a.log_sum, b.log_sum));
  EXPECT_TRUE(same_bits(a.dq, b.dq));
  EXPECT_TRUE(same_bits(a.dk, b.dk));
  EXPECT_TRUE(same_bits(a.dv, b.dv));
}

class CrossAttentionTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
  }
};

TEST_F(CrossAttentionTest, AgreesWithTheCpu) {
  std::vector<Sizes> all = {{1, 1024, 77, 20}, {4, 1024, 77, 5}, {1, 4096, 77, 10}, {2, 77, 77, 3},
                            {3, 333, 77, 5},   {1, 1, 77, 1},    {2, 65, 100, 10},  {4, 300, 128, 5}};
  for (int64_t keys : {1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 79, 80, 81, 96, 127, 128})
    all.push_back({1, 16 * keys % 211 + 1, keys, 2});
  for (const Sizes& sizes : all) {
    for (DType dtype : {DType::f16, DType::bf16}) {
      SCOPED_TRACE(text(sizes, ", ", dtype));
      const Inputs in = draw(sizes, dtype), there = on_gpu(in);
      EXPECT_TRUE(cross_attention_fits(there.q, there.k, false));
      expect_near(computed(there), expected(in), dtype);
    }
  }
}

TEST_F(CrossAttentionTest, BearsLargeScores) {
  for (DType dtype : {DType::f16, DType::bf16}) {
    const Inputs in = draw({1, 100, 77, 2}, dtype, 10);
    expect_near(computed(on_gpu(in)), expected(in), dtype);
  }
}

// However the work is cut, a query's results have the same bits; the keys' are sums in another order.
TEST_F(CrossAttentionTest, MayBeCutAnyWay) {
  for (const Sizes& sizes : {Sizes{2, 333, 77, 3}, {1, 700, 128, 2}}) {
    const Inputs in = draw(sizes, DType::bf16), there = on_gpu(in);
    const Results cpu = expected(in), usual = computed(there);
    for (int warps : {4, 8}) {
      for (int64_t tiles : {1, 2, 3, 20}) {
        SCOPED_TRACE(text(sizes, ", ", warps, " warps, ", tiles, " tiles"));
        const CrossAttentionCut cut = {warps, tiles * 16 * warps};
        const Results got = computed(there, cut, sizes.keys > 80 ? CrossAttentionCut{8, tiles * 128} : cut);
        EXPECT_TRUE(same_bits(got.out, usual.out));
        EXPECT_TRUE(same_bits(got.log_sum, usual.log_sum));
        EXPECT_TRUE(same_bits(got.dq, usual.dq));
        expect_near(got, cpu, DType::bf16);
      }
    }
  }
}

// x [N, T, heads, 64] as the first columns of longer rows, with more behind each sample. Around it is a pattern.
struct Pitched {
  static constexpr int64_t more_columns = 24, more = 40;
  Tensor buffer;
  HeadRows rows;

  explicit Pitched(const Tensor& x)
      : buffer(Tensor::empty({x.dim(0) * sample(x)}, x.dtype(), Device::cpu())), rows{nullptr, sample(x), token(x)} {
    std::memset(buffer.raw(), 0x3A, buffer.bytes());
    each_row(x.to(Device::cpu()), buffer,
             [](std::byte* row, std::byte* ours, size_t bytes) { std::memcpy(ours, row, bytes); });
    buffer = buffer.to(Device::cuda());
    rows.data = buffer.raw();
  }

  static int64_t token(const Tensor& x) { return x.dim(2) * 64 + more_columns; }
  static int64_t sample(const Tensor& x) { return x.dim(1) * token(x) + more; }

  template <class F>
  static void each_row(const Tensor& x, const Tensor& buffer, F&& f) {
    const size_t bytes = static_cast<size_t>(x.dim(2)) * 128;
    for (int64_t n = 0; n < x.dim(0); ++n)
      for (int64_t t = 0; t < x.dim(1); ++t)
        f(x.raw() + static_cast<size_t>(n * x.dim(1) + t) * bytes, buffer.raw() + 2 * (n * sample(x) + t * token(x)),
          bytes);
  }

  // Holds x and, around it, what was there.
  bool is(const Tensor& x) const { return same_bits(buffer, Pitched(x).buffer); }
};

TEST_F(CrossAttentionTest, TakesRowsAtADistance) {
  const Inputs in = on_gpu(draw({3, 150, 77, 5}, DType::bf16));
  const Results usual = computed(in);
  const Pitched q(in.q), k(in.k), v(in.v), dy(in.dy), out(in.dy), dq(in.dy), dk(in.v), dv(in.k);
  const Tensor log_sum = Tensor::empty(usual.log_sum.shape(), DType::f32, Device::cuda());
  CrossAttention problem = problem_of(in);
  problem.q = q.rows, problem.k = k.rows, problem.v = v.rows;
  cross_attention(problem, out.rows, log_sum.data<float>(), forward_cut(problem));
  const CrossAttentionCut cut = gradient_cut(problem);
  const Tensor workspace = Tensor::empty({gradient_workspace(problem, cut)}, DType::f32, Device::cuda());
  cross_attention_gradient(problem, log_sum.data<float>(), dy.rows, dq.rows, dk.rows, dv.rows, workspace.data<float>(),
                           cut);
  EXPECT_TRUE(same_bits(log_sum, usual.log_sum));
  EXPECT_TRUE(out.is(usual.out));
  EXPECT_TRUE(dq.is(usual.dq));
  EXPECT_TRUE(dk.is(usual.dk));
  EXPECT_TRUE(dv.is(usual.dv));
}

TEST_F(CrossAttentionTest, ComputesOnlyWhatIsWanted) {
  for (int64_t keys : {77, 128}) {
    const Inputs in = on_gpu(draw({2, 200, keys, 3}, DType::f16));
    const Results all = computed(in), alone = room_for(in);
    cross_attention_gradient(in.q, in.k, in.v, all.log_sum, in.dy, alone.dq, {}, {});
    cross_attention_gradient(in.q, in.k, in.v, all.log_sum, in.dy, {}, alone.dk, {});
    cross_attention_gradient(in.q, in.k, {}, all.log_sum, in.dy, {}, {}, alone.dv);
    EXPECT_TRUE(same_bits(alone.dq, all.dq));
    EXPECT_TRUE(same_bits(alone.dk, all.dk));
    EXPECT_TRUE(same_bits(alone.dv, all.dv));
  }
}

TEST_F(CrossAttentionTest, RepeatsToTheBitAndInAGraph) {
  for (const Sizes& sizes : {Sizes{1, 1024, 77, 20}, {2, 300, 100, 5}}) {
    const Inputs in = on_gpu(draw(sizes, DType::bf16));
    const Results first = computed(in), replayed = room_for(in);
    for (int i = 0; i < 5; ++i) expect_same_bits(computed(in), first);
    const ArenaScope arena(Device::cuda());
    const CapturedGraph graph(Device::cuda(), [&] { compute(in, replayed); });
    for (int i = 0; i < 3; ++i) {
      for (const Tensor& x : {replayed.out, replayed.log_sum, replayed.dq, replayed.dk, replayed.dv}) x.fill(7);
      graph();
      expect_same_bits(replayed, first);
    }
  }
}

// Where vector loads are not aligned, a copy is.
TEST_F(CrossAttentionTest, TakesUnalignedTensors) {
  const Inputs in = on_gpu(draw({2, 100, 77, 2}, DType::bf16));
  const Inputs shifted = each(in, [](const Tensor& x) {
    const Tensor y = Tensor::empty({x.numel() + 1}, x.dtype(), x.device()).rows(1, x.numel()).view(x.shape());
    y.copy_from(x);
    return y;
  });
  expect_same_bits(computed(shifted), computed(in));
}

TEST_F(CrossAttentionTest, GivesKeysNoGradientWithoutQueries) {
  const Inputs in = on_gpu(draw({2, 0, 77, 3}, DType::bf16));
  const Results r = room_for(in);
  r.dk.fill(7);
  r.dv.fill(7);
  compute(in, r);
  for (const Tensor& x : {r.dk, r.dv}) EXPECT_TRUE(same_bits(x, Tensor::zeros(x.shape(), x.dtype(), x.device())));
}

TEST_F(CrossAttentionTest, SaysWhatItDoesNotTake) {
  const Device gpu = Device::cuda();
  const auto fits = [&](const Shape& q, const Shape& k, DType dtype, bool causal) {
    return cross_attention_fits(Tensor::empty(q, dtype, gpu), Tensor::empty(k, dtype, gpu), causal);
  };
  EXPECT_TRUE(fits({1, 9, 2, 64}, {1, 128, 2, 64}, DType::f16, false));
  EXPECT_FALSE(fits({1, 9, 2, 64}, {1, 129, 2, 64}, DType::f16, false));
  EXPECT_FALSE(fits({1, 9, 2, 64}, {1, 128, 2, 64}, DType::f16, true));
  EXPECT_FALSE(fits({1, 9, 2, 64}, {1, 128, 2, 64}, DType::f32, false));
  EXPECT_FALSE(fits({1, 9, 2, 32}, {1, 128, 2, 32}, DType::f16, false));

  const Inputs in = on_gpu(draw({1, 9, 77, 2}, DType::f16));
  const auto run = [&](const auto& change, CrossAttentionCut cut = {4, 64}) {
    CrossAttention problem = problem_of(in);
    change(problem);
    const Results r = room_for(in);
    cross_attention(problem, rows_of(r.out), r.log_sum.data<float>(), cut);
  };
  EXPECT_NO_THROW(run([](CrossAttention&) {}));
  EXPECT_THROW(run([](CrossAttention& p) { p.keys = 129; }), Error);
  EXPECT_THROW(run([](CrossAttention& p) { p.keys = 0; }), Error);
  EXPECT_THROW(run([](CrossAttention& p) { p.dtype = DType::f32; }), Error);
  EXPECT_THROW(run([](CrossAttention& p) { p.q.token = 129; }), Error);
  EXPECT_THROW(run([](CrossAttention& p) { p.k.data = static_cast<std::byte*>(p.k.data) + 2; }), Error);
  EXPECT_THROW(run([](CrossAttention&) {}, {4, 100}), Error);
  EXPECT_THROW(run([](CrossAttention&) {}, {2, 64}), Error);
}

}  // namespace
}  // namespace flame::cuda
