#include "flame/ops/attention_rows_cuda.h"

#include "flame/device/cuda.h"
#include "flame/ops/attention_kernels.h"
#include "flame/ops/cudnn_graphs_cuda.h"
#include "flame/ops/extended_kernels_cuda.h"

namespace flame::cuda {
namespace {

constexpr int64_t width = CrossAttention::width, fewest_for_cudnn = 16;

bool few_keys(const AttentionRows& problem) { return cross_attention_fits(problem.device, problem.keys); }

bool for_cudnn(const AttentionRows& problem) {
  return problem.queries >= fewest_for_cudnn && problem.keys >= fewest_for_cudnn;
}

CrossAttention cross_attention_of(const AttentionRows& problem) {
  return {.device = problem.device,
          .dtype = problem.dtype,
          .batch = problem.batch,
          .heads = problem.heads,
          .queries = problem.queries,
          .keys = problem.keys,
          .scale = 0.125f,  // 1 / sqrt(64)
          .q = problem.q,
          .k = problem.k,
          .v = problem.v};
}

cudnn::Attention shape_of(const AttentionRows& problem) {
  return {problem.dtype, problem.batch, problem.heads, problem.queries, problem.keys, width, false};
}

cudnn::Heads heads_of(const HeadRows& x) { return {x.data, x.sample, x.token, width}; }

// Copies of rows as dense tensors [batch, tokens, heads, 64], and back.
class Dense {
 public:
  explicit Dense(const AttentionRows& problem) : problem_(problem) {}

  Tensor empty(int64_t tokens) const {
    return Tensor::empty({problem_.batch, tokens, problem_.heads, width}, problem_.dtype, problem_.device);
  }
  Tensor copy(const HeadRows& from, int64_t tokens) const {
    const Tensor to = empty(tokens);
    for (int64_t i = 0; i < problem_.batch; ++i)
      copy_rows(stream(problem_.device), rows(from, i, tokens), sample(to, i));
    return to;
  }
  void copy_back(const Tensor& from, const HeadRows& to) const {
    if (!from.defined()) return;
    for (int64_t i = 0; i < problem_.batch; ++i)
      copy_rows(stream(problem_.device), sample(from, i), rows(to, i, from.dim(1)));
  }

 private:
  int64_t columns() const { return problem_.heads * width; }
  Matrix rows(const HeadRows& x, int64_t i, int64_t tokens) const {
    const int64_t begin = i * x.sample * static_cast<int64_t>(size_of(problem_.dtype));
    return {static_cast<std::byte*>(x.data) + begin, problem_.dtype, tokens, columns(), x.token};
  }
  Matrix sample(const Tensor& x, int64_t i) const { return matrix(x.rows(i, 1), x.dim(1), columns()); }

  const AttentionRows& problem_;
};

}  // namespace

void attention_rows(const AttentionRows& problem, const HeadRows& out, const Tensor& log_sum) {
  if (few_keys(problem)) {
    const CrossAttention task = cross_attention_of(problem);
    return cross_attention(task, out, log_sum.data<float>(), forward_cut(task));
  }
  if (for_cudnn(problem) && cudnn::attention(problem.device, shape_of(problem), heads_of(problem.q),
                                             heads_of(problem.k), heads_of(problem.v), heads_of(out), log_sum.raw())
                                .empty())
    return;
  const Dense dense(problem);
  const Tensor y = dense.empty(problem.queries);
  attention(dense.copy(problem.q, problem.queries), dense.copy(problem.k, problem.keys),
            dense.copy(problem.v, problem.keys), false, y, log_sum);
  dense.copy_back(y, out);
}

void attention_rows_gradient(const AttentionRows& problem, const HeadRows& out, const Tensor& log_sum,
                             const HeadRows& dout, const AttentionRowsGradients& gradients) {
  const auto& [dq, dk, dv] = gradients;
  const bool keys_too = dk.data && dv.data;
  if (few_keys(problem)) {
    const CrossAttention task = cross_attention_of(problem);
    const CrossAttentionCut cut = gradient_cut(task);
    const Tensor workspace = Tensor::empty({keys_too ? gradient_workspace(task, cut) : 0}, DType::f32, problem.device);
    return cross_attention_gradient(task, log_sum.data<float>(), dout, dq, dk, dv, workspace.data<float>(), cut);
  }
  // cuDNN reads keys and values while it writes their gradients.
  const bool apart = dk.data != problem.k.data && dv.data != problem.v.data;
  if (for_cudnn(problem) && keys_too && apart &&
      cudnn::attention_gradient(problem.device, shape_of(problem), heads_of(problem.q), heads_of(problem.k),
                                heads_of(problem.v), heads_of(out), heads_of(dout), log_sum.raw(), heads_of(dq),
                                heads_of(dk), heads_of(dv))
          .empty())
    return;
  const Dense dense(problem);
  const Tensor to_q = dense.empty(problem.queries);
  const Tensor to_k = keys_too ? dense.empty(problem.keys) : Tensor(),
               to_v = keys_too ? dense.empty(problem.keys) : Tensor();
  attention_gradient(dense.copy(problem.q, problem.queries), dense.copy(problem.k, problem.keys),
                     dense.copy(problem.v, problem.keys), false, dense.copy(out, problem.queries), log_sum,
                     dense.copy(dout, problem.queries), to_q, to_k, to_v);
  dense.copy_back(to_q, dq);
  dense.copy_back(to_k, dk);
  dense.copy_back(to_v, dv);
}

}  // namespace flame::cuda
