#pragma once

#include <cstddef>
#include <string_view>

#include "flame/core/tensor.h"

namespace flame {

// Numbers of a dtype that files have and tensors do not, by the format's name for it: F8_E4M3 and F8_E5M2 (Micikevicius
// et al., arXiv:2209.05433) exactly as f16, F64 as the nearest f32.
Tensor converted_from(std::string_view stored, const std::byte* bytes, const Shape& shape);

}  // namespace flame
