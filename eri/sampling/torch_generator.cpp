#include "eri/sampling/torch_generator.h"

#include <cmath>
#include <numbers>
#include <utility>

namespace eri {

constexpr int64_t at_once = 16;

std::vector<float> TorchGenerator::randn(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  if (count < at_once) {
    for (float& value : values) value = one();
    return values;
  }
  for (float& value : values) value = uniform();
  for (int64_t i = 0; i + at_once <= count; i += at_once) fill_16(values.data() + i);
  if (count % at_once != 0) {  // the last sixteen anew, though some are done
    float* last = values.data() + count - at_once;
    for (int64_t i = 0; i < at_once; ++i) last[i] = uniform();
    fill_16(last);
  }
  return values;
}

float TorchGenerator::uniform() { return static_cast<float>(words_() & 0xFFFFFF) * 0x1p-24f; }

double TorchGenerator::uniform_double() {
  const uint64_t high = words_(), low = words_();
  return static_cast<double>((high << 32 | low) & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
}

void TorchGenerator::fill_16(float* values) {
  for (int64_t i = 0; i < at_once / 2; ++i) {
    const float radius = std::sqrt(-2 * std::log(1 - values[i]));
    const float angle = 2 * std::numbers::pi_v<float> * values[i + at_once / 2];
    values[i] = radius * std::cos(angle);
    values[i + at_once / 2] = radius * std::sin(angle);
  }
}

float TorchGenerator::one() {
  if (spare_) return static_cast<float>(*std::exchange(spare_, {}));
  const double angle = 2 * std::numbers::pi * uniform_double();
  const double radius = std::sqrt(-2 * std::log1p(-uniform_double()));
  spare_ = radius * std::sin(angle);
  return static_cast<float>(radius * std::cos(angle));
}

}  // namespace eri
