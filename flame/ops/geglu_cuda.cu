#include "flame/ops/fused_cuda.h"
#include "flame/ops/norm_kernels.h"
#include "flame/ops/rows_cuda.h"

// GEGLU on rows at a pitch.
namespace flame::cuda {
namespace {

constexpr int threads = 256;

// The normal distribution at x: gelu(x) = x cdf(x).
struct Normal {
  float cdf, density;
};

template <class T>
__device__ Normal normal(float x) {
  if constexpr (sizeof(T) == 4) {
    return {0.5f * (1 + fast_erf(x * 0.70710678f)), 0.39894228f * fast_exp(-0.5f * x * x)};
  } else {
    // Arithmetic would take longer than memory. Abramowitz and Stegun 7.1.26 needs one exponential for both, and its
    // absolute error of 1e-7 is fast_erf's.
    const float e = __expf(-0.5f * x * x), t = __fdividef(1.0f, fmaf(0.23164190f, fabsf(x), 1.0f));
    float tail = fmaf(0.53070271f, t, -0.72657601f);
    tail = fmaf(tail, t, 0.71070687f);
    tail = fmaf(tail, t, -0.14224837f);
    tail = fmaf(tail, t, 0.12741480f) * t * e;
    return {x > 0 ? 1 - tail : tail, 0.39894228f * e};
  }
}

template <class T, int V>
struct Geglu {
  const T* x;
  T* y;
  int64_t x_pitch, y_pitch, columns;

  __device__ void operator()(int64_t r, int64_t c) const {
    const T* from = x + r * x_pitch + c;
    const Pack<T, V> h = load<V>(from), gate = load<V>(from + columns);
    float out[V];
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = h[i] * (gate[i] * normal<T>(gate[i]).cdf);
    store(y + r * y_pitch + c, out);
  }
};

template <class T, int V>
struct GegluBackward {
  const T *dy, *x;
  T *dx, *again;  // the last or null
  int64_t dy_pitch, x_pitch, dx_pitch, again_pitch, columns;

  __device__ void operator()(int64_t r, int64_t c) const {
    const T* from = x + r * x_pitch + c;
    const Pack<T, V> slope = load<V>(dy + r * dy_pitch + c), h = load<V>(from), gate = load<V>(from + columns);
    float dh[V], dgate[V], out[V];
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float z = gate[i];
      const auto [cdf, density] = normal<T>(z);
      dh[i] = slope[i] * (z * cdf);
      dgate[i] = slope[i] * h[i] * (cdf + z * density);
      out[i] = h[i] * (z * cdf);
    }
    T* to = dx + r * dx_pitch + c;
    store(to, dh);
    store(to + columns, dgate);
    if (again) store(again + r * again_pitch + c, out);
  }
};

// rule(row, column) for every pack of V columns of every row.
template <int V, class Index, class Rule>
__global__ void __launch_bounds__(threads) for_each_pack(const Rule rule, Index packs, Index count) {
  take_turn();
  const Index step = Index{gridDim.x} * threads;
  for (Index i = Index{blockIdx.x} * threads + threadIdx.x; i < count; i += step)
    rule(static_cast<int64_t>(i / packs), static_cast<int64_t>(i % packs) * V);
}

template <int V, class Rule>
void for_all_packs(Device device, const Rule& rule, int64_t rows, int64_t columns) {
  const int64_t packs = columns / V, count = rows * packs;
  const unsigned blocks = blocks_for(device, count, threads);
  if (count < int64_t{1} << 31)
    launch(for_each_pack<V, uint32_t, Rule>, {blocks, threads, 0, stream(device)}, rule, uint32_t(packs),
           uint32_t(count));
  else
    launch(for_each_pack<V, uint64_t, Rule>, {blocks, threads, 0, stream(device)}, rule, uint64_t(packs),
           uint64_t(count));
}

// Calls f with the C++ type and the elements of a pack, one where not all rows are `packed`.
template <class F>
void visit_packs(DType dtype, bool packed, const F& f) {
  visit(dtype, [&]<class T>() {
    if (packed)
      f.template operator()<T, pack_size<T>>();
    else
      f.template operator()<T, 1>();
  });
}

// The two halves of x begin at whole packs if the half does.
bool halves_in_packs(const Matrix& x) { return in_packs(x) && in_packs(x.part(0, x.columns / 2)); }

}  // namespace

void geglu_rows(Device device, const Matrix& x, const Matrix& y) {
  const int64_t columns = x.columns / 2;
  require_rows("geglu_rows", "y", y, x.dtype, x.rows, columns);
  if (x.rows * columns == 0) return;
  visit_packs(x.dtype, halves_in_packs(x) && in_packs(y), [&]<class T, int V>() {
    for_all_packs<V>(device, Geglu<T, V>{data<T>(x), data<T>(y), x.pitch, y.pitch, columns}, x.rows, columns);
  });
}

void geglu_backward_rows(Device device, const Matrix& dy, const Matrix& x, const Matrix& dx, const Matrix& again) {
  const int64_t columns = x.columns / 2;
  require_rows("geglu_backward_rows", "dy", dy, x.dtype, x.rows, columns);
  require_rows("geglu_backward_rows", "dx", dx, x.dtype, x.rows, x.columns);
  require_rows("geglu_backward_rows", "again", again, x.dtype, x.rows, columns, true);
  if (x.rows * columns == 0) return;
  const bool packed = halves_in_packs(x) && halves_in_packs(dx) && in_packs(dy) && in_packs(again);
  visit_packs(x.dtype, packed, [&]<class T, int V>() {
    const GegluBackward<T, V> rule = {data<T>(dy), data<T>(x), data<T>(dx), data<T>(again), dy.pitch,
                                      x.pitch,     dx.pitch,   again.pitch, columns};
    for_all_packs<V>(device, rule, x.rows, columns);
  });
}

void geglu(const Tensor& x, const Tensor& y) { geglu_rows(x.device(), rows_of(x), rows_of(y)); }

void geglu_dx(const Tensor& dy, const Tensor& x, const Tensor& dx) {
  geglu_backward_rows(x.device(), rows_of(dy), rows_of(x), rows_of(dx));
}

}  // namespace flame::cuda
