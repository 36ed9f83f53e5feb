#pragma once

#include <numeric>

#include "flame/core/scalar_math.h"
#include "flame/device/launch_cuda.h"
#include "flame/ops/gemm_cuda.h"

// What kernels over rows share. Only .cu files of the CUDA build include it.
namespace flame::cuda {

// V neighbouring elements as they are stored: 16 bytes, or one element.
template <class T, int V>
struct Pack {
  static_assert(sizeof(T) * V == 16);
  uint32_t words[4];
  __device__ float operator[](int i) const {
    if constexpr (V == 4) {
      return std::bit_cast<float>(words[i]);
    } else {
      T value;
      value.bits = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
      return float(value);
    }
  }
};

template <class T>
struct Pack<T, 1> {
  T value;
  __device__ float operator[](int) const { return float(value); }
};

template <int V, class T>
__device__ Pack<T, V> load(const T* from) {
  __builtin_assume(__isGlobal(from));
  if constexpr (V == 1) {
    return {*from};
  } else {
    const uint4 raw = *reinterpret_cast<const uint4*>(from);
    return {{raw.x, raw.y, raw.z, raw.w}};
  }
}

// The words of a pack, two elements in each or one.
__device__ inline uint32_t word(const f16*, const float* values, int i) {
  const __half2 pair = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
  return reinterpret_cast<const uint32_t&>(pair);
}
__device__ inline uint32_t word(const bf16*, const float* values, int i) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
  return reinterpret_cast<const uint32_t&>(pair);
}
__device__ inline uint32_t word(const float*, const float* values, int i) { return std::bit_cast<uint32_t>(values[i]); }

template <class T, int V>
__device__ Pack<T, V> packed(const float (&values)[V]) {
  constexpr const T* as = nullptr;
  if constexpr (V == 1)
    return {T(values[0])};
  else
    return {{word(as, values, 0), word(as, values, 1), word(as, values, 2), word(as, values, 3)}};
}

// __stwb is a plain store, which the compiler would now and then cut into four.
template <class T, int V>
__device__ void store(T* to, const Pack<T, V>& pack) {
  if constexpr (V == 1)
    *to = pack.value;
  else
    __stwb(reinterpret_cast<uint4*>(to), make_uint4(pack.words[0], pack.words[1], pack.words[2], pack.words[3]));
}

template <class T, int V>
__device__ void store(T* to, const float (&values)[V]) {
  store(to, packed<T>(values));
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
inline bool in_packs(const Matrix& rows) {
  const int64_t size = 16 / static_cast<int64_t>(size_of(rows.dtype));
  return !rows.defined() || (reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.columns % size == 0 &&
                             (rows.rows <= 1 || rows.pitch % size == 0));
}

template <class T>
T* data(const Matrix& rows) {
  return reinterpret_cast<T*>(rows.data);
}

template <class T>
T* data_or_null(const Tensor& x) {
  return x.defined() ? x.data<T>() : nullptr;
}

// Throws unless `got` is optional and absent or has this dtype and size.
inline void require_rows(Op op, const char* name, const Matrix& got, DType dtype, int64_t rows, int64_t columns,
                         bool optional = false) {
  if (optional && !got.defined()) return;
  require(got.defined() && got.dtype == dtype && got.rows == rows && got.columns == columns && got.pitch >= columns, op,
          name, ": expected ", rows, " rows of ", columns, " ", dtype, ", got ", got.rows, " rows of ", got.columns,
          " ", got.dtype, " at a pitch of ", got.pitch);
}

}  // namespace flame::cuda
