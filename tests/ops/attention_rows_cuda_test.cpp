// Attention in rows of wider buffers, whichever way it is computed, next to f32 on the CPU. Skipped where there is no
// GPU.
#include "flame/ops/attention_rows_cuda.h"

#include <gtest/gtest.h>

#include "flame/ops/attention_kernels.h"
#include "flame/ops/layout.h"
#include "tests/distance.h"

namespace flame {
namespace {

constexpr int64_t batch = 2, heads = 3, width = 64;

// What belongs to others around rows of `heads * width` columns.
constexpr int64_t before = 8, behind = 16, pitch = before + heads * width + behind;

struct Operand {
  Tensor values;  // [batch, tokens, heads, 64] f32, on the CPU, that the rows hold exactly
  Tensor rows;    // [batch, tokens, pitch]

  Operand(int64_t tokens, DType dtype, Generator& generator) {
    const Tensor all = Tensor::randn({batch, tokens, pitch}, generator).to(dtype);
    rows = all.to(Device::cuda(0));
    values = inner(all);
  }
  // The columns that belong to an attention, as a tensor of their own.
  static Tensor inner(const Tensor& rows) {
    return narrow(rows.to(DType::f32).to(Device::cpu()), 2, before, heads * width)
        .reshape({batch, rows.dim(1), heads, width});
  }
  cuda::HeadRows view() const { return {rows.raw() + before * size_of(rows.dtype()), rows.dim(1) * pitch, pitch}; }
};

// Few keys, many, and those that neither our kernel nor cuDNN takes.
TEST(AttentionRows, IsAttention) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU here";
  Generator generator(2);
  for (DType dtype : {DType::bf16, DType::f16}) {
    for (const auto& [queries, keys] : std::vector<std::pair<int64_t, int64_t>>{
             {4, 4}, {1, 77}, {300, 77}, {100, 128}, {200, 200}, {64, 150}, {4, 150}, {15, 231}}) {
      SCOPED_TRACE(text(queries, " queries, ", keys, " keys"));
      const Operand q(queries, dtype, generator), k(keys, dtype, generator), v(keys, dtype, generator);
      const Operand out(queries, dtype, generator), dout(queries, dtype, generator);
      const Operand dq(queries, dtype, generator), dk(keys, dtype, generator), dv(keys, dtype, generator);
      const Tensor edge = narrow(out.rows.to(Device::cpu()), 2, 0, before);
      const Tensor log_sum = Tensor::empty({batch, heads, queries}, DType::f32, Device::cuda(0));
      const cuda::AttentionRows problem = {Device::cuda(0), dtype,    batch,   heads, queries, keys,
                                           q.view(),        k.view(), v.view()};
      cuda::attention_rows(problem, out.view(), log_sum);
      cuda::attention_rows_gradient(problem, out.view(), log_sum, dout.view(), {dq.view(), dk.view(), dv.view()});

      const auto room = [](const Tensor& like) { return Tensor::empty(like.shape()); };
      const Tensor y = room(q.values), sums = Tensor::empty({batch, heads, queries});
      const Tensor to_q = room(q.values), to_k = room(k.values), to_v = room(v.values);
      cpu::attention(q.values, k.values, v.values, false, y, sums);
      cpu::attention_gradient(q.values, k.values, v.values, false, y, sums, dout.values, to_q, to_k, to_v);
      constexpr double most = 0.012;  // some roundings to bf16, of 0.0023 each
      EXPECT_LT(distance(log_sum.to(Device::cpu()), sums), 1e-3);
      EXPECT_LT(distance(Operand::inner(out.rows), y), most);
      EXPECT_LT(distance(Operand::inner(dq.rows), to_q), most);
      EXPECT_LT(distance(Operand::inner(dk.rows), to_k), most);
      EXPECT_LT(distance(Operand::inner(dv.rows), to_v), most);
      EXPECT_EQ(narrow(out.rows.to(Device::cpu()), 2, 0, before).to(DType::f32).to_host<float>(),
                edge.to(DType::f32).to_host<float>())
          << "what lies beside the rows is others'";

      // The gradients of keys and values may take their place.
      cuda::attention_rows_gradient(problem, out.view(), log_sum, dout.view(), {dq.view(), k.view(), v.view()});
      EXPECT_LT(distance(Operand::inner(k.rows), to_k), most);
      EXPECT_LT(distance(Operand::inner(v.rows), to_v), most);
      EXPECT_LT(distance(Operand::inner(dq.rows), to_q), most);
    }
  }
}

}  // namespace
}  // namespace flame
