#pragma once

#include <vector>

#include "flame/core/tensor.h"

namespace flame {

Tensor reshape(const Tensor& x, const Shape& shape);                     // a view
Tensor permute(const Tensor& x, const std::vector<int>& axes);           // axis i of the result is axes[i] of x
Tensor narrow(const Tensor& x, int axis, int64_t begin, int64_t count);  // a view if axis is 0
Tensor concat(const std::vector<Tensor>& parts, int axis);
Tensor stack(const std::vector<Tensor>& parts, int axis);  // along a new axis
Tensor repeat(const Tensor& x, int axis, int64_t times);   // x, x, ... along the axis
Tensor upsample_nearest2x(const Tensor& x);                // [N, H, W, C] -> [N, 2H, 2W, C]
Tensor pad(const Tensor& x, int axis, int64_t before, int64_t after, float value = 0);
Tensor cast(const Tensor& x, DType dtype);

// Public edges are PyTorch's [N, C, H, W]; inside the networks channels are last.
Tensor channels_last(const Tensor& x);   // [N, C, H, W] -> [N, H, W, C]
Tensor channels_first(const Tensor& x);  // and back

// Rows of table [count, width] by ids (i32 or i64, any shape) -> [..., width].
Tensor embedding(const Tensor& table, const Tensor& ids);

}  // namespace flame
