#pragma once

#include <limits>

#include "flame/core/dtype.h"

namespace flame {

// A value as one of another dtype: floating ones round to nearest even, floats become integers toward zero, to the
// nearest that fits, and NaN 0.
template <class U, class T>
FLAME_SCALAR U converted(T value) {
  if constexpr (std::is_same_v<T, U>) {
    return value;
  } else if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, bf16>) {
    return converted<U>(static_cast<float>(value));
  } else if constexpr (std::is_same_v<U, f16> || std::is_same_v<U, bf16>) {
    return U(static_cast<float>(value));
  } else if constexpr (std::is_same_v<U, bool>) {
    return value != T{};
  } else if constexpr (std::is_same_v<T, float> && std::is_integral_v<U>) {
    constexpr double low = static_cast<double>(std::numeric_limits<U>::min());
    constexpr double high = static_cast<double>(std::numeric_limits<U>::max());
    if (!(value > low)) return value != value ? U{0} : std::numeric_limits<U>::min();
    return value >= high ? std::numeric_limits<U>::max() : static_cast<U>(value);
  } else {
    return static_cast<U>(value);
  }
}

}  // namespace flame
