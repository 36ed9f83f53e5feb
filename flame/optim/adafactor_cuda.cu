#include <algorithm>

#include "flame/device/launch_cuda.h"
#include "flame/ops/pointwise_kernels.h"
#include "flame/ops/reduce_cuda.h"
#include "flame/optim/adafactor_kernels.h"

namespace flame::cuda {
namespace {

constexpr int block = 512, warps = block / 32;

struct Pointers {
  const float* gradients;
  float *values, *directions, *rows, *columns, *exp_avg;
};

// What the threads of a block share of one matrix.
struct Shared {
  AdafactorRule rule;
  double partial[block];
};

__device__ void take_in_vector(const AdafactorRule& rule, int64_t count, const float* gradients, float* moments,
                               float* directions) {
  for (int64_t i = threadIdx.x; i < count; i += block) {
    const float gradient = rule.scale * gradients[i];
    moments[i] = rule.blend(moments[i], rule.square(gradient));
    directions[i] = gradient / sqrtf(moments[i]);
  }
}

// A warp sums a row; then neighbours sum columns, several threads a column where there are few of them.
__device__ void take_in_matrix(Shared& shared, int64_t height, int64_t width, const float* gradients, float* rows,
                               float* columns, float* directions) {
  const AdafactorRule rule = shared.rule;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  for (int64_t y = thread / 32; y < height; y += warps) {
    double sum = 0;
    for (int64_t x = lane; x < width; x += 32) sum += rule.square(rule.scale * gradients[y * width + x]);
    sum = sum_lanes(sum);
    if (lane == 0) rows[y] = rule.blend(rows[y], sum / static_cast<double>(width));
  }
  const int64_t slices = width < block ? block / width : 1, slice = thread / width;
  for (int64_t first = 0; first < width; first += block) {
    const int64_t x = slices > 1 ? thread - slice * width : first + thread;
    double sum = 0;
    if (slice < slices && x < width)
      for (int64_t y = slice; y < height; y += slices) sum += rule.square(rule.scale * gradients[y * width + x]);
    shared.partial[thread] = sum;
    __syncthreads();
    if (x < width && slice == 0) {
      for (int64_t s = 1; s < slices; ++s) sum += shared.partial[s * width + x];
      columns[x] = rule.blend(columns[x], sum / static_cast<double>(height));
    }
    __syncthreads();
  }
  double mean = 0;  // of the rows' moments
  for (int64_t y = thread; y < height; y += block) mean += rows[y];
  shared.partial[thread] = mean;
  __syncthreads();
  for (int distance = block / 2; distance > 0; distance /= 2) {
    if (thread < distance) shared.partial[thread] += shared.partial[thread + distance];
    __syncthreads();
  }
  const auto mean_row = static_cast<float>(shared.partial[0] / static_cast<double>(height));
  for (int64_t i = thread; i < height * width; i += block) {
    const int64_t y = i / width, x = i - y * width;
    const float of_row = 1 / sqrtf(rows[y] / mean_row);
    directions[i] = of_row / sqrtf(columns[x]) * (rule.scale * gradients[i]);
  }
  __syncthreads();  // the next matrix writes to shared.partial
}

// A block for each parameter (x) and some of its matrices (y).
__global__ void __launch_bounds__(block) take_in_kernel(const AdafactorOptions options, const StepState* state,
                                                        const AdafactorShape* shapes, const Pointers p) {
  take_turn();
  if (state->skip) return;
  const AdafactorShape shape = shapes[blockIdx.x];
  if (blockIdx.y >= shape.matrices) return;
  __shared__ Shared shared;
  if (threadIdx.x == 0) shared.rule = AdafactorRule::of(options, shape, *state);
  __syncthreads();
  if (shape.height == 0)
    return take_in_vector(shared.rule, shape.width, p.gradients + shape.begin, p.rows + shape.rows,
                          p.directions + shape.begin);
  for (int64_t i = blockIdx.y; i < shape.matrices; i += gridDim.y) {
    const int64_t begin = shape.begin + i * shape.height * shape.width;
    take_in_matrix(shared, shape.height, shape.width, p.gradients + begin, p.rows + shape.rows + i * shape.height,
                   p.columns + shape.columns + i * shape.width, p.directions + begin);
  }
}

// A block for each parameter. `copy` may be null.
template <class T>
__global__ void __launch_bounds__(block) move_kernel(const AdafactorOptions options, const StepState* state,
                                                     const AdafactorShape* shapes, const Pointers p, T* copy) {
  take_turn();
  if (state->skip) return;
  const AdafactorShape shape = shapes[blockIdx.x];
  const int64_t count = shape.numel(), end = shape.begin + count;
  double values = 0, directions = 0;
  for (int64_t i = shape.begin + threadIdx.x; i < end; i += block) {
    values += static_cast<double>(p.values[i]) * p.values[i];
    directions += static_cast<double>(p.directions[i]) * p.directions[i];
  }
  sum_block_pair(values, directions);
  __shared__ AdafactorMove shared;
  if (threadIdx.x == 0) {
    const auto rms = [&](double sum) { return sqrt(sum / static_cast<double>(count)); };
    shared = AdafactorMove::of(options, AdafactorRule::of(options, shape, *state), rms(values), rms(directions));
  }
  __syncthreads();
  const AdafactorMove move = shared;
  for (int64_t i = shape.begin + threadIdx.x; i < end; i += block) {
    p.values[i] = move(p.values[i], p.directions[i], p.exp_avg ? p.exp_avg + i : nullptr);
    if (copy) copy[i] = T(p.values[i]);
  }
}

}  // namespace

void adafactor(const AdafactorBuffers& b, const AdafactorOptions& options, const Tensor& state) {
  const auto parameters = static_cast<unsigned>(b.shapes.dim(0));
  const auto* shapes = reinterpret_cast<const AdafactorShape*>(b.shapes.raw());
  const StepState* step = StepState::in(state);
  const Pointers pointers = {b.gradients.data<float>(),  b.values.data<float>(),
                             b.directions.data<float>(), b.rows.data<float>(),
                             b.columns.data<float>(),    b.exp_avg.defined() ? b.exp_avg.data<float>() : nullptr};
  const auto most = static_cast<unsigned>(std::clamp<int64_t>(b.most_matrices, 1, 64));
  launch(take_in_kernel, {dim3(parameters, most), block, 0, stream(state.device())}, options, step, shapes, pointers);
  const auto move = [&]<class T>(T* copy) {
    launch(move_kernel<T>, {parameters, block, 0, stream(state.device())}, options, step, shapes, pointers, copy);
  };
  if (b.copy.defined())
    visit(b.copy.dtype(), [&]<class T>() { move(b.copy.data<T>()); });
  else
    move(static_cast<bf16*>(nullptr));
}

}  // namespace flame::cuda
