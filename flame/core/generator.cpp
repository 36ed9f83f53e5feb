#include "flame/core/generator.h"

#include <cmath>
#include <numbers>

#include "flame/core/tensor.h"
#include "flame/device/parallel.h"

namespace flame {
namespace {

// Fills each row of `out` from its own Philox counters; rule(words, values) turns four words into four values.
template <class T, class Rule>
void fill_rows(const Tensor& out, Generator& generator, int64_t first_sample, const Rule& rule) {
  const int64_t rows = out.rank() ? out.dim(0) : 1, width = rows ? out.numel() / rows : 0;
  const uint32_t step = generator.step(), call = generator.next_call();
  T* data = out.data<T>();
  const int64_t blocks = (width + 3) / 4;
  parallel_for(rows * blocks, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / blocks, block = i % blocks;
      T values[4];
      rule(philox({static_cast<uint32_t>(block), static_cast<uint32_t>(first_sample + row), step, call},
                  generator.seed()),
           values);
      T* to = data + row * width + block * 4;
      for (int64_t k = 0; k < std::min<int64_t>(4, width - block * 4); ++k) to[k] = values[k];
    }
  });
}

// Two normal deviates from two words: Box and Muller (1958).
void box_muller(uint32_t a, uint32_t b, float* out) {
  const float radius = std::sqrt(-2 * std::log((static_cast<float>(a >> 8) + 0.5f) * 0x1p-24f));
  const float angle = 2 * std::numbers::pi_v<float> * (static_cast<float>(b >> 8) * 0x1p-24f);
  out[0] = radius * std::cos(angle);
  out[1] = radius * std::sin(angle);
}

}  // namespace

Generator& default_generator() {
  thread_local Generator generator(0);
  return generator;
}

void manual_seed(uint64_t seed) { default_generator() = Generator(seed); }

Tensor Tensor::randn(const Shape& shape, Generator& generator, Device device, int64_t first_sample) {
  Tensor out = empty(shape, DType::f32, device);
  fill_rows<float>(out, generator, first_sample, [](const std::array<uint32_t, 4>& words, float* values) {
    box_muller(words[0], words[1], values);
    box_muller(words[2], words[3], values + 2);
  });
  return out;
}

Tensor Tensor::rand(const Shape& shape, Generator& generator, Device device, int64_t first_sample) {
  Tensor out = empty(shape, DType::f32, device);
  fill_rows<float>(out, generator, first_sample, [](const std::array<uint32_t, 4>& words, float* values) {
    for (int k = 0; k < 4; ++k) values[k] = static_cast<float>(words[k] >> 8) * 0x1p-24f;
  });
  return out;
}

Tensor Tensor::randint(int64_t low, int64_t high, const Shape& shape, Generator& generator, Device device,
                       int64_t first_sample) {
  require(low < high && high - low <= int64_t{1} << 32, "randint", "expected low < high within 2^32, got ", low,
          " and ", high);
  Tensor out = empty(shape, DType::i64, device);
  const uint64_t range = static_cast<uint64_t>(high - low);
  fill_rows<int64_t>(out, generator, first_sample, [=](const std::array<uint32_t, 4>& words, int64_t* values) {
    for (int k = 0; k < 4; ++k) values[k] = low + static_cast<int64_t>(words[k] * range >> 32);
  });
  return out;
}

Tensor Tensor::randn(const Shape& shape, Device device) { return randn(shape, default_generator(), device); }

Tensor Tensor::randint(int64_t low, int64_t high, const Shape& shape, Device device) {
  return randint(low, high, shape, default_generator(), device);
}

}  // namespace flame
