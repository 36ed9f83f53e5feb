#pragma once

#include <numeric>

#include "flame/core/scalar_math.h"
#include "flame/device/cuda.h"
#include "flame/ops/fused_cuda.h"

// What kernels over rows share. Only .cu files of the CUDA build include it.
namespace flame::cuda {

// V neighbouring elements as they are stored: one load or store.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T values[V];
  __device__ float operator[](int i) const { return float(values[i]); }
};

template <int V, class T>
__device__ Pack<T, V> load(const T* from) {
  return *reinterpret_cast<const Pack<T, V>*>(from);
}

template <class T, int V>
__device__ void store(T* to, const float (&values)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int i = 0; i < V; ++i) pack.values[i] = T(values[i]);
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

// The sum over a warp's lanes, the same bits in each.
template <class Sum>
__device__ Sum warp_sum(Sum value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
  return value;
}

// 1 / (1 + e^-x). For storage of 16 bits the card's own exponential and quotient, good to 1e-6, cannot be told from
// better ones.
template <class T>
__device__ float sigmoid(float x) {
  if constexpr (sizeof(T) == 4)
    return fast_sigmoid(x);
  else
    return __fdividef(1.0f, 1.0f + __expf(-x));
}

// Elements of T in a pack of 16 bytes.
template <class T>
constexpr int pack_size = 16 / sizeof(T);

// Whether every row begins at a multiple of 16 bytes and holds whole packs.
inline bool in_packs(const Rows& rows) {
  const int64_t size = 16 / static_cast<int64_t>(size_of(rows.dtype));
  return !rows.defined() || (reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.columns % size == 0 &&
                             (rows.rows <= 1 || rows.pitch % size == 0));
}

template <class T>
T* data(const Rows& rows) {
  return reinterpret_cast<T*>(rows.data);
}

template <class T>
T* data_or_null(const Tensor& x) {
  return x.defined() ? x.data<T>() : nullptr;
}

// Throws unless `got` is optional and absent or has this dtype and size.
inline void require_rows(Op op, const char* name, const Rows& got, DType dtype, int64_t rows, int64_t columns,
                         bool optional = false) {
  if (optional && !got.defined()) return;
  require(got.defined() && got.dtype == dtype && got.rows == rows && got.columns == columns && got.pitch >= columns, op,
          name, ": expected ", rows, " rows of ", columns, " ", dtype, ", got ", got.rows, " rows of ", got.columns,
          " ", got.dtype, " at a pitch of ", got.pitch);
}

}  // namespace flame::cuda
