#pragma once

#include <array>
#include <string_view>

#include "flame/core/dtype.h"

namespace flame {

// One row per dtype that we read, in the canonical order of tensors in a file: that of the Rust crate, which sorts by
// the rank of its own list, highest first. What we have no dtype for is converted while it is read: F8 to f16, which
// holds each of their values, F64 to the nearest f32.
struct SafetensorsDType {
  std::string_view name;
  DType dtype;   // of a tensor that was read
  size_t bytes;  // of an element in the file
};
inline constexpr std::array safetensors_dtypes = {
    SafetensorsDType{"I64", DType::i64, 8},     SafetensorsDType{"F64", DType::f32, 8},
    SafetensorsDType{"F32", DType::f32, 4},     SafetensorsDType{"I32", DType::i32, 4},
    SafetensorsDType{"BF16", DType::bf16, 2},   SafetensorsDType{"F16", DType::f16, 2},
    SafetensorsDType{"F8_E4M3", DType::f16, 1}, SafetensorsDType{"F8_E5M2", DType::f16, 1},
    SafetensorsDType{"U8", DType::u8, 1},       SafetensorsDType{"BOOL", DType::boolean, 1}};

// Dtypes of the format that have no counterpart here.
inline constexpr std::array<std::string_view, 12> safetensors_unsupported = {
    "C64", "U64", "U32", "U16", "I16", "I8", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F6_E2M3", "F6_E3M2", "F4"};

}  // namespace flame
