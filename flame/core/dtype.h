#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <iosfwd>
#include <string_view>
#include <type_traits>

#include "flame/core/error.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

// Marks a scalar function that runs on both devices.
#ifdef __CUDACC__
#define FLAME_SCALAR __host__ __device__ inline
#else
#define FLAME_SCALAR inline
#endif

namespace flame {

enum class DType : uint8_t { f32, f16, bf16, i64, i32, u8, boolean };

// IEEE half precision: storage only, arithmetic is float's. Rounds to nearest even.
struct f16 {
  uint16_t bits = 0;
  f16() = default;
  FLAME_SCALAR explicit f16(float value) {
#if defined(__CUDA_ARCH__)
    bits = __half_as_ushort(__float2half_rn(value));
#elif defined(__F16C__)
    bits = std::bit_cast<uint16_t>(static_cast<_Float16>(value));
#else
    const uint32_t u = std::bit_cast<uint32_t>(value), sign = u >> 16 & 0x8000, magnitude = u & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) {
      bits = static_cast<uint16_t>(sign | 0x7E00 | (magnitude >> 13 & 0x3FF));
    } else if (magnitude >= 0x47800000) {
      bits = static_cast<uint16_t>(sign | 0x7C00);
    } else if (magnitude < 0x38800000) {  // subnormal in f16: let float addition round at 2^-24
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      bits = static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000));
    } else {
      bits = static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13));
    }
#endif
  }
  FLAME_SCALAR explicit operator float() const {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(bits));
#elif defined(__F16C__)
    return static_cast<float>(std::bit_cast<_Float16>(bits));
#else
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, magnitude = bits & 0x7FFF;
    if (magnitude >= 0x7C00) return std::bit_cast<float>(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);
    const float value = std::bit_cast<float>(magnitude << 13) * 0x1p112f;  // exact, subnormals too
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
#endif
  }
};

// bfloat16: the upper half of a float. Rounds to nearest even.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  FLAME_SCALAR explicit bf16(float value) {
#if defined(__CUDA_ARCH__)
    bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
#else
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const bool nan = (u & 0x7FFFFFFF) > 0x7F800000;
    bits = static_cast<uint16_t>(nan ? u >> 16 | 0x40 : (u + 0x7FFF + (u >> 16 & 1)) >> 16);
#endif
  }
  FLAME_SCALAR explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

size_t size_of(DType dtype);
const char* name(DType dtype);
std::ostream& operator<<(std::ostream& out, DType dtype);
constexpr bool is_floating(DType dtype) { return dtype <= DType::bf16; }

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, f16>) return DType::f16;
  if constexpr (std::is_same_v<T, bf16>) return DType::bf16;
  if constexpr (std::is_same_v<T, int64_t>) return DType::i64;
  if constexpr (std::is_same_v<T, int32_t>) return DType::i32;
  if constexpr (std::is_same_v<T, uint8_t>) return DType::u8;
  if constexpr (std::is_same_v<T, bool>) return DType::boolean;
}

// Calls f.template operator()<T>() with the C++ type of a floating dtype.
template <class F>
decltype(auto) visit(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f.template operator()<float>();
    case DType::f16:
      return f.template operator()<f16>();
    case DType::bf16:
      return f.template operator()<bf16>();
    default:
      fail("expected a floating dtype, got ", name(dtype));
  }
}

// The same for every dtype.
template <class F>
decltype(auto) visit_all(DType dtype, F&& f) {
  switch (dtype) {
    case DType::i64:
      return f.template operator()<int64_t>();
    case DType::i32:
      return f.template operator()<int32_t>();
    case DType::u8:
      return f.template operator()<uint8_t>();
    case DType::boolean:
      return f.template operator()<bool>();
    default:
      return visit(dtype, static_cast<F&&>(f));
  }
}

}  // namespace flame
