#include "flame/ops/cudnn_attention_cuda.h"

#include "flame/device/cuda.h"
#include "flame/ops/cudnn_graphs_cuda.h"

namespace flame::cuda {
namespace {

cudnn::Attention shape_of(const Tensor& q, const Tensor& k, bool causal) {
  return {q.dtype(), q.dim(0), q.dim(2), q.dim(1), k.dim(1), q.dim(3), causal};
}

cudnn::Heads heads_of(const Tensor& x) {
  return {x.raw(), x.dim(1) * x.dim(2) * x.dim(3), x.dim(2) * x.dim(3), x.dim(3)};
}

bool aligned(std::initializer_list<Tensor> operands) {
  return std::all_of(operands.begin(), operands.end(),
                     [](const Tensor& x) { return reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0; });
}

// How many samples of a gradient are done together: where results must repeat, cuDNN writes all scores down.
int64_t samples_together(const cudnn::Attention& shape) {
  constexpr int64_t most_bytes = int64_t{1} << 29;
  if (!deterministic()) return shape.batch;
  const int64_t bytes = 2 * shape.heads * shape.queries * shape.keys;
  return std::clamp<int64_t>(most_bytes / bytes, 1, shape.batch);
}

}  // namespace

bool cudnn_attention_fits(const Tensor& q, const Tensor& k) {
  const int64_t width = q.dim(3), fewest = 16;
  return q.dtype() != DType::f32 && width % 8 == 0 && width >= 32 && width <= 128 && q.dim(1) >= fewest &&
         k.dim(1) >= fewest && q.numel() > 0;
}

bool cudnn_attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
                     const Tensor& log_sum) {
  if (!aligned({q, k, v, out})) return false;
  return cudnn::attention(q.device(), shape_of(q, k, causal), heads_of(q), heads_of(k), heads_of(v), heads_of(out),
                          log_sum.raw())
      .empty();
}

bool cudnn_attention_gradient(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
                              const Tensor& log_sum, const Tensor& dy, const Tensor& dq, const Tensor& dk,
                              const Tensor& dv) {
  if (!v.defined() || !out.defined()) return false;
  const auto or_scratch = [](const Tensor& wanted, const Tensor& like) {
    return wanted.defined() ? wanted : Tensor::empty(like.shape(), like.dtype(), like.device());
  };
  const Tensor to_q = or_scratch(dq, q), to_k = or_scratch(dk, k), to_v = or_scratch(dv, v);
  if (!aligned({q, k, v, out, dy, to_q, to_k, to_v})) return false;
  cudnn::Attention shape = shape_of(q, k, causal);
  const int64_t batch = shape.batch, together = samples_together(shape);
  for (int64_t first = 0; first < batch; first += together) {
    shape.batch = std::min(together, batch - first);
    const auto part = [&](const Tensor& x) { return heads_of(x.rows(first, shape.batch)); };
    const std::string& refusal =
        cudnn::attention_gradient(q.device(), shape, part(q), part(k), part(v), part(out), part(dy),
                                  log_sum.rows(first, shape.batch).raw(), part(to_q), part(to_k), part(to_v));
    if (!refusal.empty()) return false;
  }
  return true;
}

}  // namespace flame::cuda
