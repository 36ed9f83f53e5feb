#pragma once

#include "catalogue.h"

// The plain definitions of ops that are longer than a line: from other ops, for clarity, not for speed.
namespace flame::test {

Tensor plain_upsample(const Tensors& x);
Tensor plain_embedding(const Tensors& x);  // as a product with the ids' indicator matrix
// In two groups.
Tensor plain_grouped_conv3x3(const Tensor& x, const Tensor& weight, int padding);
Tensor plain_conv3x3(const Tensor& x, const Tensor& weight, int padding);
Tensor plain_attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal);
Tensor plain_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps);
Tensor plain_group_norm(const Tensor& x, int groups, const Tensor& weight, const Tensor& bias, float eps);

}  // namespace flame::test
