#include "flame/io/foreign_dtypes.h"

#include <array>
#include <cstring>

#include "flame/device/parallel.h"

namespace flame {
namespace {

constexpr int64_t grain = 1 << 16;
using Codes = std::array<f16, 256>;

// Sign, 4 bits of exponent with a bias of 7, 3 of mantissa: in f16's place it is 2^8 too small. The highest code is
// NaN, there is no infinity.
Codes e4m3_codes() {
  Codes codes;
  for (unsigned code = 0; code < codes.size(); ++code) {
    f16& value = codes[code];
    value.bits = static_cast<uint16_t>((code & 0x80) << 8 | (code & 0x7F) << 7);
    value = f16(static_cast<float>(value) * 256);
    if ((code & 0x7F) == 0x7F) value.bits = static_cast<uint16_t>((code & 0x80) << 8 | 0x7E00);
  }
  return codes;
}

// The upper half of an f16.
Codes e5m2_codes() {
  Codes codes;
  for (unsigned code = 0; code < codes.size(); ++code) codes[code].bits = static_cast<uint16_t>(code << 8);
  return codes;
}

Tensor from_codes(const Codes& codes, const std::byte* bytes, const Shape& shape) {
  const Tensor result = Tensor::empty(shape, DType::f16);
  f16* values = result.data<f16>();
  parallel_for(shape.numel(), grain, [=, &codes](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) values[i] = codes[static_cast<uint8_t>(bytes[i])];
  });
  return result;
}

Tensor from_f64(const std::byte* bytes, const Shape& shape) {
  const Tensor result = Tensor::empty(shape);
  float* values = result.data<float>();
  parallel_for(shape.numel(), grain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double value;  // the file may not align it
      std::memcpy(&value, bytes + i * static_cast<int64_t>(sizeof value), sizeof value);
      values[i] = static_cast<float>(value);
    }
  });
  return result;
}

}  // namespace

Tensor converted_from(std::string_view stored, const std::byte* bytes, const Shape& shape) {
  static const Codes e4m3 = e4m3_codes(), e5m2 = e5m2_codes();
  if (stored == "F8_E4M3") return from_codes(e4m3, bytes, shape);
  if (stored == "F8_E5M2") return from_codes(e5m2, bytes, shape);
  require(stored == "F64", "converted_from", "expected F8_E4M3, F8_E5M2 or F64, got ", stored);
  return from_f64(bytes, shape);
}

}  // namespace flame
