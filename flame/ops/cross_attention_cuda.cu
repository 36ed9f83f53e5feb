#include "flame/device/launch_cuda.h"
#include "flame/ops/cross_attention_kernels.cuh"

namespace flame::cuda {
namespace {

constexpr Op op = "cross attention";
constexpr int few_keys = 80;  // the narrower of the two tiles of keys
constexpr int most_shared_bytes = GradientPlaces<8, 8, 1, true>::bytes;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

void require_aligned(const HeadRows& x) {
  require(reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.sample % 8 == 0 && x.token % 8 == 0, op,
          "expected rows aligned to 16 bytes, got ", x.data, " with distances ", x.sample, " and ", x.token);
}

Extents extents(const CrossAttention& problem, CrossAttentionCut cut) {
  const auto [device, dtype, batch, heads, queries, keys, scale, q, k, v] = problem;
  require(dtype == DType::f16 || dtype == DType::bf16, op, "expected f16 or bf16, got ", dtype);
  require(keys >= 1 && keys <= CrossAttention::most_keys, op, "expected 1 to ", CrossAttention::most_keys,
          " keys, got ", keys);
  require(queries < 1 << 30 && batch * heads * 2 * keys * CrossAttention::width < int64_t{1} << 32, op,
          "too large: ", batch, " x ", heads, " heads of ", queries);
  require(scale > 0, op, "expected a positive scale, got ", scale);
  require(cut.rows > 0 && cut.rows % (16 * cut.warps) == 0, op, "expected rows in multiples of ", 16 * cut.warps,
          ", got ", cut.rows);
  for (const HeadRows& x : {q, k, v}) require_aligned(x);
  return {static_cast<int>(batch * heads),
          static_cast<int>(heads),
          static_cast<int>(queries),
          static_cast<int>(keys),
          static_cast<int>(cut.rows),
          static_cast<int>(divide_up(queries, cut.rows)),
          scale};
}

unsigned blocks(int64_t count) {
  require(count < int64_t{1} << 31, op, "too many blocks: ", count);
  return static_cast<unsigned>(count);
}

template <class Task>
void run(void (*kernel)(Task), const Task& task, int warps, int shared_bytes, Device device) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  const auto threads = static_cast<unsigned>(32 * warps),
             all = blocks(int64_t{task.extents.items} * task.extents.chunks);
  launch(kernel, {all, threads, static_cast<size_t>(shared_bytes), stream(device)}, task);
}

// f.operator()<T>() with the dtype's type.
template <class F>
void visit_halves(DType dtype, F&& f) {
  dtype == DType::f16 ? f.template operator()<f16>() : f.template operator()<bf16>();
}

template <class T, int key_steps, int warps>
void launch_forward(const ForwardTask& task, Device device) {
  run(forward_kernel<T, key_steps, warps>, task, warps, forward_shared_bytes<key_steps>, device);
}

template <class T, int key_steps, int warps, int stages, bool keys_too>
void launch_gradient(const GradientTask& task, Device device) {
  run(gradient_kernel<T, key_steps, warps, stages, keys_too>, task, warps,
      GradientPlaces<key_steps, warps, stages, keys_too>::bytes, device);
}

template <class T, bool keys_too>
void launch_gradient(const GradientTask& task, int warps, Device device) {
  if (task.extents.keys > few_keys) return launch_gradient<T, 8, 8, 1, keys_too>(task, device);
  if (warps == 8) return launch_gradient<T, 5, 8, 2, keys_too>(task, device);
  launch_gradient<T, 5, 4, 2, keys_too>(task, device);
}

// What a block costs, in tiles of 16 * warps queries: to begin and end, and for the others of its card.
struct Costs {
  int resident;  // blocks that run together on a multiprocessor
  double own, shared;
};

// Few blocks leave multiprocessors idle, many read the keys and write partial sums too often.
CrossAttentionCut best_cut(const CrossAttention& problem, int warps, const Costs& costs) {
  const int64_t tiles = std::max<int64_t>(1, divide_up(problem.queries, 16 * warps));
  const int64_t processors = properties(problem.device).multiProcessorCount;
  int64_t best = 1;
  double least = INFINITY;
  for (int64_t size = 1; size <= tiles; ++size) {
    const int64_t count = problem.batch * problem.heads * divide_up(tiles, size);
    const int64_t each = divide_up(count, processors);
    const double alone = each == 1 ? 1.3 : 1;  // a block with nothing beside it waits for its own loads
    const double time = static_cast<double>(divide_up(each, costs.resident)) * costs.own +
                        static_cast<double>(each * size) * alone + static_cast<double>(count) * costs.shared;
    if (time < least) least = time, best = size;
  }
  return {warps, best * 16 * warps};
}

bool is_aligned(const Tensor& x) { return reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0; }

// Itself, or a copy where vector loads would not be aligned.
Tensor aligned(const Tensor& x) { return x.defined() && !is_aligned(x) ? x.clone() : x; }

HeadRows head_rows(const Tensor& x) {
  if (!x.defined()) return {};
  return {x.raw(), x.dim(1) * x.dim(2) * x.dim(3), x.dim(2) * x.dim(3)};
}

CrossAttention problem_of(const Tensor& q, const Tensor& k, const Tensor& v) {
  return {q.device(),
          q.dtype(),
          q.dim(0),
          q.dim(2),
          q.dim(1),
          k.dim(1),
          1 / std::sqrt(static_cast<float>(CrossAttention::width)),
          head_rows(q),
          head_rows(k),
          head_rows(v)};
}

}  // namespace

CrossAttentionCut forward_cut(const CrossAttention& problem) { return best_cut(problem, 4, {4, 0.5, 0}); }

CrossAttentionCut gradient_cut(const CrossAttention& problem) {
  if (problem.keys > few_keys) return best_cut(problem, 8, {1, 1, 0.015});
  return best_cut(problem, 4, {2, 1, 0.015});
}

void cross_attention(const CrossAttention& problem, const HeadRows& out, float* log_sum, CrossAttentionCut cut) {
  const ForwardTask task = {extents(problem, cut), problem.q, problem.k, problem.v, out, log_sum};
  require_aligned(out);
  require(cut.warps == 4 || cut.warps == 8, op, "expected 4 or 8 warps, got ", cut.warps);
  if (task.extents.items == 0 || task.extents.queries == 0) return;
  visit_halves(problem.dtype, [&]<class T>() {
    const bool few = problem.keys <= few_keys;
    if (cut.warps == 4) {
      few ? launch_forward<T, 5, 4>(task, problem.device) : launch_forward<T, 8, 4>(task, problem.device);
    } else {
      few ? launch_forward<T, 5, 8>(task, problem.device) : launch_forward<T, 8, 8>(task, problem.device);
    }
  });
}

int64_t gradient_workspace(const CrossAttention& problem, CrossAttentionCut cut) {
  return divide_up(problem.queries, cut.rows) * problem.batch * problem.heads * 2 * problem.keys *
         CrossAttention::width;
}

void cross_attention_gradient(const CrossAttention& problem, const float* log_sum, const HeadRows& dout,
                              const HeadRows& dq, const HeadRows& dk, const HeadRows& dv, float* workspace,
                              CrossAttentionCut cut) {
  const GradientTask task = {extents(problem, cut), problem.q, problem.k, problem.v, dout, dq, log_sum, workspace};
  for (const HeadRows& x : {dout, dq, dk, dv}) require_aligned(x);
  require(cut.warps == 8 || (cut.warps == 4 && problem.keys <= few_keys), op, "expected 8 warps, or 4 for up to ",
          few_keys, " keys, got ", cut.warps);
  if (task.extents.items == 0) return;
  const bool keys_too = dk.data || dv.data;
  visit_halves(problem.dtype, [&]<class T>() {
    if (task.extents.queries > 0 && (keys_too || dq.data))
      keys_too ? launch_gradient<T, true>(task, cut.warps, problem.device)
               : launch_gradient<T, false>(task, cut.warps, problem.device);
    if (!keys_too) return;
    const int64_t threads = int64_t{task.extents.items} * 2 * problem.keys * (CrossAttention::width / 4);
    launch(sum_kernel<T>, {blocks(divide_up(threads, 256)), 256, 0, stream(problem.device)},
           {task.extents, dk, dv, workspace});
  });
}

bool cross_attention_fits(Device device, int64_t keys) {
  return keys <= CrossAttention::most_keys && properties(device).sharedMemPerBlockOptin >= most_shared_bytes;
}

bool cross_attention_fits(const Tensor& q, const Tensor& k, bool causal) {
  const bool half = q.dtype() == DType::f16 || q.dtype() == DType::bf16;
  return half && !causal && q.device().is_cuda() && q.dim(3) == CrossAttention::width &&
         cross_attention_fits(q.device(), k.dim(1));
}

void cross_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& log_sum) {
  const Tensor queries = aligned(q), keys = aligned(k), values = aligned(v);
  const CrossAttention problem = problem_of(queries, keys, values);
  cross_attention(problem, head_rows(out), log_sum.data<float>(), forward_cut(problem));
}

void cross_attention_gradient(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_sum,
                              const Tensor& dy, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const Tensor queries = aligned(q), keys = aligned(k), dout = aligned(dy);
  const Tensor values = v.defined() ? aligned(v) : keys;  // none where dv alone is wanted, which does not need them
  const CrossAttention problem = problem_of(queries, keys, values);
  const CrossAttentionCut cut = gradient_cut(problem);
  const bool keys_too = dk.defined() || dv.defined();
  const Tensor workspace =
      keys_too ? Tensor::empty({gradient_workspace(problem, cut)}, DType::f32, q.device()) : Tensor();
  cross_attention_gradient(problem, log_sum.data<float>(), head_rows(dout), head_rows(dq), head_rows(dk), head_rows(dv),
                           keys_too ? workspace.data<float>() : nullptr, cut);
}

}  // namespace flame::cuda
