#pragma once

#include <string>
#include <vector>

#include "case.h"

namespace eri::parity {

// How far one tensor, or a group of them, is from what was expected.
struct Finding {
  std::string tensor;
  double error;  // |actual - expected| / |expected|; infinity for a NaN and a missing or misshapen tensor
  double limit;
  bool ok() const { return error <= limit; }
};

// One finding for each expected tensor, then one for each group; their errors are the means over the draws.
std::vector<Finding> compare(const std::vector<Tensors>& draws, const Tensors& expected,
                             const std::vector<Tolerance>& tolerances, const std::vector<Tolerance>& groups);

}  // namespace eri::parity
