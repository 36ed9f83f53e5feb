#pragma once

#include <array>
#include <string_view>

#include "flame/core/dtype.h"

namespace flame {

// One row per dtype that we read and write, in the canonical order of tensors in a file: that of the Rust crate, which
// sorts by the rank of its own list, highest first. A new dtype is a new row.
struct SafetensorsDType {
  std::string_view name;
  DType dtype;
};
inline constexpr std::array safetensors_dtypes = {
    SafetensorsDType{"I64", DType::i64},     SafetensorsDType{"F32", DType::f32}, SafetensorsDType{"I32", DType::i32},
    SafetensorsDType{"BF16", DType::bf16},   SafetensorsDType{"F16", DType::f16}, SafetensorsDType{"U8", DType::u8},
    SafetensorsDType{"BOOL", DType::boolean}};

// Dtypes of the format that have no counterpart here.
inline constexpr std::array<std::string_view, 14> safetensors_unsupported = {
    "F64",     "C64",     "U64",     "U32",         "U16",         "I16",     "I8",
    "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F6_E2M3", "F4"};

}  // namespace flame
