#include "flame/ops/gemm.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "flame/ops/as_f32.h"
#include "flame/ops/frozen_copies_cpu.h"
#include "flame/ops/on.h"
#include "flame/ops/onednn.h"

namespace flame {
namespace cpu {
namespace {

using dnnl::memory;
constexpr auto f32 = memory::data_type::f32;

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
  return {extents, f32, strides};
}

// A product's primitive, and the way from b to the layout that it wants where it may choose one.
struct Plan {
  onednn::Call run;
  memory::desc b;
  std::optional<onednn::Call> reorder;
};

// Of a desc's matrices only `depth` along an axis; the strides stay.
memory::desc cut(const memory::desc& whole, int axis, int64_t depth) {
  memory::dims extents = whole.dims();
  extents[axis] = depth;
  return {
      extents, f32,
      memory::dims(whole.data.format_desc.blocking.strides, whole.data.format_desc.blocking.strides + extents.size())};
}

Plan make_plan(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options, int64_t depth, bool bias,
               bool choose, int threads) {
  const onednn::ThreadLimit limit(threads);
  const int rank = c.rank();
  const memory::desc to = layout(c.shape(), false, rank);
  const memory::desc from_a = cut(layout(a.shape(), options.transpose_a, rank), rank - 1, depth);
  const memory::desc plain_b = cut(layout(b.shape(), options.transpose_b, rank), rank - 2, depth);
  const memory::desc from_b = choose ? memory::desc(plain_b.dims(), f32, memory::format_tag::any) : plain_b;
  const memory::desc row = bias ? layout({c.dim(-1)}, false, rank) : memory::desc();
  dnnl::primitive_attr attributes;
  if (options.alpha != 1) attributes.set_output_scales(0, {options.alpha});
  if (options.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1);
    attributes.set_post_ops(sum);
  }
  dnnl::engine& engine = onednn::engine();
  const dnnl::matmul::primitive_desc product(
      bias ? dnnl::matmul::desc(from_a, from_b, row, to) : dnnl::matmul::desc(from_a, from_b, to), attributes, engine);
  const memory::desc chosen = product.weights_desc();
  std::vector<std::pair<int, memory::desc>> operands = {
      {DNNL_ARG_SRC, from_a}, {DNNL_ARG_WEIGHTS, chosen}, {DNNL_ARG_DST, to}};
  if (bias) operands.emplace_back(DNNL_ARG_BIAS, row);
  Plan plan = {{dnnl::matmul(product), threads, operands}, chosen, {}};
  if (chosen != plain_b)
    plan.reorder.emplace(dnnl::reorder({engine, plain_b, engine, chosen}), threads,
                         std::vector<std::pair<int, memory::desc>>{{DNNL_ARG_FROM, plain_b}, {DNNL_ARG_TO, chosen}});
  return plan;
}

// oneDNN copies many a factor into a layout of its own before each product, which for few rows takes as long as the
// product. Copies that are kept are for weights that are small, or they would double the largest models.
bool keep_copy(const Tensor& b, const Tensor& c) {
  constexpr int64_t few_rows = 256, small = 1 << 20;
  return b.frozen() && b.rank() == 2 && c.rank() == 2 && c.dim(0) <= few_rows && b.numel() <= small;
}

// The products [begin, begin + depth) of each sum.
void gemm_part(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options, const Tensor& bias,
               int64_t begin, int64_t depth, bool whole) {
  const int threads = onednn::threads_for(2.0 * static_cast<double>(depth) * static_cast<double>(c.numel()));
  const bool choose = whole && keep_copy(b, c);
  const int flags =
      options.transpose_a | options.transpose_b << 1 | options.accumulate << 2 | bias.defined() << 3 | choose << 4;
  const onednn::Key key = {
      a.shape(), b.shape(), {flags, std::bit_cast<int>(options.alpha), threads, c.rank(), static_cast<int>(depth)}};
  static thread_local onednn::Cache<Plan> plans;
  auto found = plans.find(key);
  if (found == plans.end())
    found = plans.emplace(key, make_plan(a, b, c, options, depth, bias.defined(), choose, threads)).first;
  Plan& plan = found->second;
  const Tensor factor =
      !plan.reorder ? b : copy_of(b, options.transpose_b ? Form::transposed : Form::blocked, plan.b, [&] {
        const Tensor copy = Tensor::empty({static_cast<int64_t>(plan.b.get_size() / sizeof(float))});
        (*plan.reorder)({b.raw(), copy.raw()});
        return copy;
      });
  const float* const from_a = a.data<float>() + begin * (options.transpose_a ? a.dim(-1) : 1);
  const float* const from_b = factor.data<float>() + begin * (options.transpose_b ? 1 : b.dim(-1));
  if (bias.defined())
    plan.run({from_a, from_b, c.raw(), bias.raw()});
  else
    plan.run({from_a, from_b, c.raw()});
}

// c (accumulate; else 0) + bias: as sums of one zero.
void add_bias(const Tensor& c, bool accumulate, const Tensor& bias) {
  const Tensor column = Tensor::zeros(c.shape().with(-1, 1)), row = Tensor::zeros({1, c.dim(-1)});
  gemm_part(column, row, c, {.accumulate = accumulate}, bias, 0, 1, true);
}

// oneDNN adds up the products of a sum one after the other, and rounding errors grow with their number; in parts they
// are half as large, for a few percent of the time. Where there would be many parts, their sum has the errors.
void gemm_f32(const Tensor& a, const Tensor& b, const Tensor& c, GemmOptions options, const Tensor& bias) {
  constexpr int64_t part = 256, shortest = 512, longest = 8192;
  const int64_t depth = a.dim(options.transpose_a ? -2 : -1);
  if (depth == 0) return add_bias(c, options.accumulate, bias);  // oneDNN fails
  if (bias.defined() && options.alpha != 1) {                    // oneDNN would scale the bias too
    gemm_f32(a, b, c, options, {});
    return add_bias(c, true, bias);
  }
  if (depth <= shortest || depth > longest) return gemm_part(a, b, c, options, bias, 0, depth, true);
  for (int64_t begin = 0; begin < depth; begin += part) {
    gemm_part(a, b, c, options, begin ? Tensor() : bias, begin, std::min(part, depth - begin), false);
    options.accumulate = true;
  }
}

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options, const Tensor& bias) {
  if (c.dtype() == DType::f32) return gemm_f32(as_f32(a), as_f32(b), c, options, as_f32(bias));
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
