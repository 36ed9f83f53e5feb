#pragma once

#include "catalogue.h"

// The parts of the catalogue.
namespace flame::test {

using In = const Tensors&;

std::vector<Line> arithmetic_lines();
std::vector<Line> function_lines();
std::vector<Line> sum_lines();
std::vector<Line> layout_lines();
std::vector<Line> product_lines();
std::vector<Line> norm_lines();
std::vector<Line> loss_lines();

}  // namespace flame::test
