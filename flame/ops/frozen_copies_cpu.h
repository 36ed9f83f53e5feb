#pragma once

#include <dnnl.hpp>
#include <functional>

#include "flame/core/tensor.h"

namespace flame::cpu {

// What a weight may be turned into for a kernel; transposed is blocked, too.
enum class Form : int { transposed, blocked, winograd, winograd_gradient };

// make(), made once for a frozen weight and kept as long as its bytes; `layout` tells blocked forms apart.
Tensor copy_of(const Tensor& weight, Form form, const dnnl::memory::desc& layout, const std::function<Tensor()>& make);

}  // namespace flame::cpu
