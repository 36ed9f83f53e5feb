#include "flame/device/launch_cuda.h"
#include "flame/ops/as_f32.h"
#include "flame/ops/attention_kernels.h"
#include "flame/ops/cross_attention_cuda.h"
#include "flame/ops/cudnn_attention_cuda.h"
#include "flame/ops/gemm_cuda.h"
#include "flame/ops/rows_cuda.h"

// Attention of any dtype and width as matrix products and softmax: what cuDNN does not take, and all of f32. Scores are
// f32 and made in blocks; probabilities are stored as the inputs are, for the products that they are factors of.
namespace flame::cuda {
namespace {

constexpr size_t scratch_bytes = size_t{256} << 20;

// The scores of `rows` queries, from number `first` on, of some heads, one head after the other.
struct Block {
  int64_t heads, first, rows;
  int64_t width;  // keys that any of the queries sees
  int64_t pitch;  // of rows of scores
  int64_t queries;
  bool causal;

  __device__ int64_t head() const { return blockIdx.x / rows; }
  __device__ int64_t row() const { return blockIdx.x % rows; }
  __device__ int64_t seen() const { return causal ? min(first + row() + 1, width) : width; }
  // Where the row of this block of threads begins among the scores, and its number among [heads, queries].
  __device__ int64_t begin() const { return blockIdx.x * pitch; }
  __device__ int64_t query() const { return head() * queries + first + row(); }

  Matrix matrix(std::byte* data, DType dtype) const { return {data, dtype, rows, width, pitch, heads, rows * pitch}; }
};

// The largest score so far, and the sum of all exponentiated less that.
struct Running {
  float most = -INFINITY, sum = 0;

  __device__ void add(float score) {
    if (score > most) {
      sum *= fast_exp(most - score);
      most = score;
    }
    sum += fast_exp(score - most);
  }
  __device__ void add(float other_most, float other_sum) {
    if (other_sum == 0) return;  // of no score
    if (other_most > most) {
      sum *= fast_exp(most - other_most);
      most = other_most;
    }
    sum += other_sum * fast_exp(other_most - most);
  }
};

// The sum over a block's threads, in a fixed order, for all of them.
__device__ Running together(Running mine) {
  __shared__ float most[32], sum[32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2)
    mine.add(__shfl_down_sync(~0u, mine.most, step), __shfl_down_sync(~0u, mine.sum, step));
  if (threadIdx.x % 32 == 0) {
    most[threadIdx.x / 32] = mine.most;
    sum[threadIdx.x / 32] = mine.sum;
  }
  __syncthreads();
  Running all;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) all.add(most[warp], sum[warp]);
  return all;
}

// e^x; of what is stored in 16 bits the card's own, which cannot be told from a better one.
template <class T>
__device__ float exponential(float x) {
  if constexpr (sizeof(T) == sizeof(float))
    return fast_exp(x);
  else
    return __expf(x);
}

// One row of scores for each block of threads; p may be where the scores are.
template <class T>
__global__ void softmax_kernel(Block block, const float* scores, T* p, float* log_sum) {
  take_turn();
  scores += block.begin();
  p += block.begin();
  const int64_t seen = block.seen();
  Running mine;
  for (int64_t j = threadIdx.x; j < seen; j += blockDim.x) mine.add(scores[j]);
  const Running all = together(mine);
  const float factor = 1 / all.sum;
  for (int64_t j = threadIdx.x; j < block.width; j += blockDim.x)
    p[j] = j < seen ? T(fast_exp(scores[j] - all.most) * factor) : T(0.0f);
  if (threadIdx.x == 0) log_sum[block.query()] = all.most + logf(all.sum);
}

constexpr int long_row_threads = 512, long_row_packs = 8;
constexpr int64_t longest_row = int64_t{4} * long_row_threads * long_row_packs;

// As softmax_kernel, for rows of whole packs of 4 that the block's registers hold: each score is read once.
template <class T>
__global__ void __launch_bounds__(long_row_threads)
    softmax_long_kernel(Block block, const float* scores, T* p, float* log_sum) {
  take_turn();
  __shared__ float most_of[long_row_threads / 32], sum_of[long_row_threads / 32];
  scores += block.begin();
  p += block.begin();
  const int width = static_cast<int>(block.width), thread = static_cast<int>(threadIdx.x);
  float values[long_row_packs][4];
  float most = -INFINITY, sum = 0;
#pragma unroll
  for (int i = 0; i < long_row_packs; ++i) {
    const int j = (i * long_row_threads + thread) * 4;
    const float4 pack = j < width ? *reinterpret_cast<const float4*>(scores + j)
                                  : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    values[i][0] = pack.x, values[i][1] = pack.y, values[i][2] = pack.z, values[i][3] = pack.w;
    most = fmaxf(most, fmaxf(fmaxf(pack.x, pack.y), fmaxf(pack.z, pack.w)));
  }
  most = warp_max(most);
  if (thread % 32 == 0) most_of[thread / 32] = most;
  __syncthreads();
  for (const float other : most_of) most = fmaxf(most, other);
#pragma unroll
  for (auto& pack : values) {
#pragma unroll
    for (float& value : pack) {
      value = exponential<T>(value - most);
      sum += value;
    }
  }
  sum = warp_sum(sum);
  if (thread % 32 == 0) sum_of[thread / 32] = sum;
  __syncthreads();
  sum = 0;
  for (const float other : sum_of) sum += other;
  const float factor = 1 / sum;
#pragma unroll
  for (int i = 0; i < long_row_packs; ++i) {
    const int j = (i * long_row_threads + thread) * 4;
    if (j >= width) continue;
    struct alignas(4 * sizeof(T)) Four {
      T value[4];
    } four;
#pragma unroll
    for (int k = 0; k < 4; ++k) four.value[k] = T(values[i][k] * factor);
    *reinterpret_cast<Four*>(p + j) = four;
  }
  if (thread == 0) log_sum[block.query()] = most + logf(sum);
}

// The probabilities again and, if wanted, the gradient of the scores from that of the probabilities: p may be where the
// scores are, ds where dp is.
template <class T>
__global__ void softmax_gradient_kernel(Block block, float scale, const float* scores, const float* log_sum,
                                        const float* dp, const float* means, T* p, T* ds) {
  take_turn();
  const int64_t begin = block.begin(), seen = block.seen();
  const float shift = log_sum[block.query()], mean = dp ? means[block.query()] : 0;
  for (int64_t j = threadIdx.x; j < block.width; j += blockDim.x) {
    const float probability = j < seen ? fast_exp(scores[begin + j] - shift) : 0.0f;
    if (dp) ds[begin + j] = T(j < seen ? scale * probability * (dp[begin + j] - mean) : 0.0f);
    p[begin + j] = T(probability);
  }
}

// means [N, heads, T] = sum of dy * out over the width of a head, both [N, T, heads, width]: a warp for each.
template <class T>
__global__ void mean_kernel(const T* dy, const T* out, float* means, int64_t tokens, int64_t heads, int64_t width,
                            int64_t count) {
  take_turn();
  const int64_t i = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / 32;
  if (i >= count) return;
  float sum = 0;
  for (int64_t d = threadIdx.x % 32; d < width; d += 32)
    sum += static_cast<float>(dy[i * width + d]) * static_cast<float>(out[i * width + d]);
  sum = warp_sum(sum);
  const int64_t head = i % heads, token = i / heads % tokens, sample = i / heads / tokens;
  if (threadIdx.x % 32 == 0) means[(sample * heads + head) * tokens + token] = sum;
}

unsigned threads_for(int64_t width) { return width <= 64 ? 32 : width <= 1024 ? 128 : 512; }

unsigned grid(const Block& block) { return static_cast<unsigned>(block.heads * block.rows); }

template <class T>
void softmax(const Block& block, const float* scores, T* p, float* log_sum, cudaStream_t stream) {
  constexpr int64_t worth_it = 2048;
  if (!block.causal && block.width % 4 == 0 && block.width >= worth_it && block.width <= longest_row)
    launch(softmax_long_kernel<T>, {grid(block), long_row_threads, 0, stream}, block, scores, p, log_sum);
  else
    launch(softmax_kernel<T>, {grid(block), threads_for(block.width), 0, stream}, block, scores, p, log_sum);
}

struct Problem {
  Device device;
  int64_t samples, queries, keys, heads, depth;
  bool causal;
  float scale;

  Problem(const Tensor& q, const Tensor& k, bool causal)
      : device(q.device()),
        samples(q.dim(0)),
        queries(q.dim(1)),
        keys(k.dim(1)),
        heads(q.dim(2)),
        depth(q.dim(3)),
        causal(causal),
        scale(1 / std::sqrt(static_cast<float>(depth))) {}

  int64_t pitch() const { return (keys + 7) / 8 * 8; }  // whole packs of 16 bytes for the products
  // Scores that `bytes` of scratch for each leave room for.
  int64_t most_scores(size_t bytes) const { return std::max(pitch(), static_cast<int64_t>(scratch_bytes / bytes)); }

  // Calls f(sample, first head, block) until all scores have had their turn: whole heads where they fit in, else a part
  // of the queries of one.
  template <class F>
  void for_blocks(size_t bytes, const F& f) const {
    const int64_t fit = most_scores(bytes) / pitch();
    const int64_t rows = fit >= queries ? queries : fit > 128 ? fit / 128 * 128 : fit;
    const int64_t group = std::clamp<int64_t>(fit / rows, 1, heads);
    for (int64_t sample = 0; sample < samples; ++sample)
      for (int64_t head = 0; head < heads; head += group)
        for (int64_t first = 0; first < queries; first += rows) {
          const int64_t now = std::min(rows, queries - first);
          const int64_t width = causal ? std::min(first + now, keys) : keys;
          f(sample, head, Block{std::min(group, heads - head), first, now, width, pitch(), queries, causal});
        }
  }
  // Of f32, or of T, for a block.
  Tensor scratch(size_t bytes, DType dtype) const {
    const int64_t all = heads * queries * pitch();
    return Tensor::empty({std::min(all, most_scores(bytes))}, dtype, device);
  }

  // `rows` tokens of x [N, tokens, heads, depth], of a block's heads.
  Matrix tokens(const Tensor& x, int64_t sample, int64_t head, const Block& block, int64_t first, int64_t rows) const {
    const int64_t begin = ((sample * x.dim(1) + first) * heads + head) * depth;
    return {x.raw() + begin * static_cast<int64_t>(size_of(x.dtype())),
            x.dtype(),
            rows,
            depth,
            heads * depth,
            block.heads,
            depth};
  }
  float* rows(const Tensor& of_queries, int64_t sample, int64_t head) const {
    return of_queries.data<float>() + (sample * heads + head) * queries;
  }
};

template <class T>
void attention_by_products(const Problem& problem, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                           const Tensor& log_sum) {
  constexpr bool in_place = sizeof(T) == sizeof(float);
  constexpr size_t bytes = in_place ? sizeof(float) : sizeof(float) + sizeof(T);
  const Tensor scores = problem.scratch(bytes, DType::f32);
  const Tensor p = in_place ? scores : problem.scratch(bytes, dtype_of<T>());
  const cudaStream_t on = stream(problem.device);
  problem.for_blocks(bytes, [&](int64_t sample, int64_t head, const Block& block) {
    const auto queries = [&](const Tensor& x) {
      return problem.tokens(x, sample, head, block, block.first, block.rows);
    };
    const auto keys = [&](const Tensor& x) { return problem.tokens(x, sample, head, block, 0, block.width); };
    product(problem.device, on, queries(q), false, keys(k), true, block.matrix(scores.raw(), DType::f32),
            {.alpha = problem.scale});
    softmax(block, scores.data<float>(), p.data<T>(), problem.rows(log_sum, sample, head), on);
    product(problem.device, on, block.matrix(p.raw(), p.dtype()), false, keys(v), false, queries(out));
  });
}

template <class T>
Tensor means_of(const Problem& problem, const Tensor& dy, const Tensor& out) {
  const Tensor means = Tensor::empty({problem.samples, problem.heads, problem.queries}, DType::f32, problem.device);
  constexpr int64_t warps = 8;
  const auto blocks = static_cast<unsigned>((means.numel() + warps - 1) / warps);
  launch(mean_kernel<T>, {blocks, warps * 32, 0, stream(problem.device)}, dy.data<T>(), out.data<T>(),
         means.data<float>(), problem.queries, problem.heads, problem.depth, means.numel());
  return means;
}

// dk and dv in f32 hold zeros.
template <class T>
void attention_gradient_by_products(const Problem& problem, const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor& out, const Tensor& log_sum, const Tensor& dy, const Tensor& dq,
                                    const Tensor& dk, const Tensor& dv) {
  constexpr bool in_place = sizeof(T) == sizeof(float);
  const bool wants_scores = dq.defined() || dk.defined();
  const size_t copies = wants_scores ? 2 : 1, bytes = copies * (sizeof(float) + (in_place ? 0 : sizeof(T)));
  const auto scratch = [&](DType dtype, bool wanted) { return wanted ? problem.scratch(bytes, dtype) : Tensor(); };
  const Tensor scores = scratch(DType::f32, true), dp = scratch(DType::f32, wants_scores);
  const Tensor p = in_place ? scores : scratch(dtype_of<T>(), true);
  const Tensor ds = in_place ? dp : scratch(dtype_of<T>(), wants_scores);
  const Tensor means = wants_scores ? means_of<T>(problem, dy, out) : Tensor();
  const cudaStream_t on = stream(problem.device);
  problem.for_blocks(bytes, [&](int64_t sample, int64_t head, const Block& block) {
    const auto queries = [&](const Tensor& x) {
      return problem.tokens(x, sample, head, block, block.first, block.rows);
    };
    const auto keys = [&](const Tensor& x) { return problem.tokens(x, sample, head, block, 0, block.width); };
    const auto multiply = [&](const Matrix& a, bool ta, const Matrix& b, bool tb, const Matrix& to, float alpha,
                              float beta) {
      product(problem.device, on, a, ta, b, tb, to, {.alpha = alpha, .beta = beta});
    };
    multiply(queries(q), false, keys(k), true, block.matrix(scores.raw(), DType::f32), problem.scale, 0);
    if (wants_scores) multiply(queries(dy), false, keys(v), true, block.matrix(dp.raw(), DType::f32), 1, 0);
    launch(softmax_gradient_kernel<T>, {grid(block), threads_for(block.width), 0, on}, block, problem.scale,
           scores.data<float>(), problem.rows(log_sum, sample, head), wants_scores ? dp.data<float>() : nullptr,
           wants_scores ? problem.rows(means, sample, head) : nullptr, p.data<T>(),
           wants_scores ? ds.data<T>() : nullptr);
    if (dv.defined()) multiply(block.matrix(p.raw(), p.dtype()), true, queries(dy), false, keys(dv), 1, 1);
    if (dq.defined()) multiply(block.matrix(ds.raw(), ds.dtype()), false, keys(k), false, queries(dq), 1, 0);
    if (dk.defined()) multiply(block.matrix(ds.raw(), ds.dtype()), true, queries(q), false, keys(dk), 1, 1);
  });
}

}  // namespace

void attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
               const Tensor& log_sum) {
  if (log_sum.numel() == 0) return;
  if (cross_attention_fits(q, k, causal)) return cross_attention(q, k, v, out, log_sum);
  if (cudnn_attention_fits(q, k) && cudnn_attention(q, k, v, causal, out, log_sum)) return;
  visit(q.dtype(), [&]<class T>() { attention_by_products<T>(Problem(q, k, causal), q, k, v, out, log_sum); });
}

void attention_gradient(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
                        const Tensor& log_sum, const Tensor& dy, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const bool empty = log_sum.numel() == 0;
  if (!empty && cross_attention_fits(q, k, causal)) return cross_attention_gradient(q, k, v, log_sum, dy, dq, dk, dv);
  if (!empty && cudnn_attention_fits(q, k) && cudnn_attention_gradient(q, k, v, causal, out, log_sum, dy, dq, dk, dv))
    return;
  // Blocks of queries add to the gradients of all keys.
  write_as_f32(dk, [&](const Tensor& dk32) {
    write_as_f32(dv, [&](const Tensor& dv32) {
      if (dk32.defined()) dk32.fill(0);
      if (dv32.defined()) dv32.fill(0);
      if (empty) return;
      visit(q.dtype(), [&]<class T>() {
        attention_gradient_by_products<T>(Problem(q, k, causal), q, k, v, out, log_sum, dy, dq, dk32, dv32);
      });
    });
  });
}

}  // namespace flame::cuda
