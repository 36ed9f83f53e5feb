#include "flame/ops/gemm.h"

#include <bit>

#include "flame/ops/as_f32.h"
#include "flame/ops/on.h"
#include "flame/ops/onednn.h"

namespace flame {
namespace cpu {
namespace {

using dnnl::memory;

// The layout of a batch of row-major matrices, named as its transpose if `transposed`, with leading ones up to `rank`.
memory::desc layout(const Shape& shape, bool transposed, int rank) {
  memory::dims extents(rank, 1), strides(rank, shape.numel());
  int64_t stride = 1;
  for (int i = shape.rank() - 1, at = rank - 1; i >= 0; --i, --at) {
    extents[at] = shape[i];
    strides[at] = stride;
    stride *= shape[i];
  }
  if (transposed) {
    std::swap(extents[rank - 1], extents[rank - 2]);
    std::swap(strides[rank - 1], strides[rank - 2]);
  }
  return {extents, memory::data_type::f32, strides};
}

onednn::Call make(const Shape& a, const Shape& b, const Shape& c, const GemmOptions& options, bool bias, int threads) {
  const onednn::ThreadLimit limit(threads);
  const int rank = c.rank();
  const memory::desc from_a = layout(a, options.transpose_a, rank), from_b = layout(b, options.transpose_b, rank);
  const memory::desc to = layout(c, false, rank);
  const memory::desc row = bias ? layout({c[rank - 1]}, false, rank) : memory::desc();
  dnnl::primitive_attr attributes;
  if (options.alpha != 1) attributes.set_output_scales(0, {options.alpha});
  if (options.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1);
    attributes.set_post_ops(sum);
  }
  const dnnl::matmul::desc operation =
      bias ? dnnl::matmul::desc(from_a, from_b, row, to) : dnnl::matmul::desc(from_a, from_b, to);
  std::vector<std::pair<int, memory::desc>> operands = {
      {DNNL_ARG_SRC, from_a}, {DNNL_ARG_WEIGHTS, from_b}, {DNNL_ARG_DST, to}};
  if (bias) operands.emplace_back(DNNL_ARG_BIAS, row);
  return {dnnl::matmul({operation, attributes, onednn::engine()}), threads, operands};
}

void gemm_f32(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options, const Tensor& bias) {
  const double depth = static_cast<double>(a.dim(options.transpose_a ? -2 : -1));
  const int threads = onednn::threads_for(2.0 * depth * static_cast<double>(c.numel()));
  const int flags = options.transpose_a | options.transpose_b << 1 | options.accumulate << 2 | bias.defined() << 3;
  const onednn::Key key = {a.shape(), b.shape(), {flags, std::bit_cast<int>(options.alpha), threads, c.rank()}};
  static thread_local onednn::Cache<onednn::Call> calls;
  auto found = calls.find(key);
  if (found == calls.end())
    found = calls.emplace(key, make(a.shape(), b.shape(), c.shape(), options, bias.defined(), threads)).first;
  if (bias.defined())
    found->second({a.raw(), b.raw(), c.raw(), bias.raw()});
  else
    found->second({a.raw(), b.raw(), c.raw()});
}

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options, const Tensor& bias) {
  if (c.dtype() == DType::f32) return gemm_f32(a, b, c, options, bias);
  const Tensor wide = options.accumulate ? as_f32(c) : Tensor::empty(c.shape());
  gemm_f32(as_f32(a), as_f32(b), wide, options, as_f32(bias));
  c.copy_from(cast(wide, c.dtype()));
}

}  // namespace
}  // namespace cpu

namespace cuda {
void gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options, const Tensor& bias);
}

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options, const Tensor& bias) {
  if (c.numel() == 0) return;
  on<cpu::gemm, cuda::gemm>(c.device(), a, b, c, options, bias);
}

}  // namespace flame
