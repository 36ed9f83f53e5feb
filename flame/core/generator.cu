#include <cmath>
#include <numbers>

#include "flame/core/generator.h"
#include "flame/core/tensor.h"
#include "flame/device/parallel.h"
#ifdef __CUDACC__
#include "flame/device/launch_cuda.h"
#endif

namespace flame {
namespace {

// Which row of which sample an index of a block of four values means, and the words that they are made from.
struct Counters {
  int64_t blocks;  // of four values, a row
  uint32_t first_sample, step, call;
  uint64_t seed;
  FLAME_SCALAR std::array<uint32_t, 4> words(int64_t i) const {
    return philox({static_cast<uint32_t>(i % blocks), first_sample + static_cast<uint32_t>(i / blocks), step, call},
                  seed);
  }
};

// Four values from the block i of a tensor whose rows have `width` of them.
template <class T, class Rule>
FLAME_SCALAR void fill_block(const Rule& rule, const Counters& counters, int64_t i, int64_t width, T* data) {
  T values[4];
  rule(counters.words(i), values);
  const int64_t begin = i % counters.blocks * 4, count = width - begin < 4 ? width - begin : 4;
  T* to = data + i / counters.blocks * width + begin;
  for (int64_t k = 0; k < count; ++k) to[k] = values[k];
}

#ifdef __CUDACC__
// `following` is {step, first sample} in the device's memory, or null: what is in `counters` then counts.
template <class T, class Rule>
__global__ void fill_kernel(Rule rule, Counters counters, const uint32_t* following, int64_t rows, int64_t width,
                            T* data) {
  cuda::take_turn();
  if (following) counters.step = following[0], counters.first_sample += following[1];
  const int64_t count = rows * counters.blocks;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x)
    fill_block(rule, counters, i, width, data);
}
#endif

// Fills each row of `out` from its own Philox counters; rule(words, values) turns four words into four values.
template <class T, class Rule>
void fill_rows(const Tensor& out, Generator& generator, int64_t first_sample, const Rule& rule) {
  const int64_t rows = out.rank() ? out.dim(0) : 1, width = rows ? out.numel() / rows : 0;
  const Counters counters = {(width + 3) / 4, static_cast<uint32_t>(first_sample), generator.step(),
                             generator.next_call(), generator.seed()};
  T* data = out.data<T>();
  if (out.numel() == 0) return;
#ifdef __CUDACC__
  if (out.device().is_cuda()) {
    const auto* following =
        generator.following() ? reinterpret_cast<const uint32_t*>(generator.following()->data()) : nullptr;
    return cuda::launch(
        fill_kernel<T, Rule>,
        {cuda::blocks_for(out.device(), rows * counters.blocks, 256), 256, 0, cuda::stream(out.device())}, rule,
        counters, following, rows, width, data);
  }
#endif
  parallel_for(rows * counters.blocks, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fill_block(rule, counters, i, width, data);
  });
}

// Two normal deviates from two words: Box and Muller (1958).
FLAME_SCALAR void box_muller(uint32_t a, uint32_t b, float* out) {
  const float radius = std::sqrt(-2 * std::log((static_cast<float>(a >> 8) + 0.5f) * 0x1p-24f));
  const float angle = 2 * std::numbers::pi_v<float> * (static_cast<float>(b >> 8) * 0x1p-24f);
  out[0] = radius * std::cos(angle);
  out[1] = radius * std::sin(angle);
}

using Words = std::array<uint32_t, 4>;

struct Normal {
  FLAME_SCALAR void operator()(const Words& words, float* values) const {
    box_muller(words[0], words[1], values);
    box_muller(words[2], words[3], values + 2);
  }
};

struct Uniform {
  FLAME_SCALAR void operator()(const Words& words, float* values) const {
    for (int k = 0; k < 4; ++k) values[k] = static_cast<float>(words[k] >> 8) * 0x1p-24f;
  }
};

struct Integers {
  int64_t low;
  uint64_t range;
  FLAME_SCALAR void operator()(const Words& words, int64_t* values) const {
    for (int k = 0; k < 4; ++k) values[k] = low + static_cast<int64_t>(words[k] * range >> 32);
  }
};

}  // namespace

Generator& default_generator() {
  thread_local Generator generator(0);
  return generator;
}

void manual_seed(uint64_t seed) { default_generator() = Generator(seed); }

Tensor Tensor::randn(const Shape& shape, Generator& generator, Device device, int64_t first_sample) {
  Tensor out = empty(shape, DType::f32, device);
  fill_rows<float>(out, generator, first_sample, Normal{});
  return out;
}

Tensor Tensor::rand(const Shape& shape, Generator& generator, Device device, int64_t first_sample) {
  Tensor out = empty(shape, DType::f32, device);
  fill_rows<float>(out, generator, first_sample, Uniform{});
  return out;
}

Tensor Tensor::randint(int64_t low, int64_t high, const Shape& shape, Generator& generator, Device device,
                       int64_t first_sample) {
  require(low < high && high - low <= int64_t{1} << 32, "randint", "expected low < high within 2^32, got ", low,
          " and ", high);
  Tensor out = empty(shape, DType::i64, device);
  fill_rows<int64_t>(out, generator, first_sample, Integers{low, static_cast<uint64_t>(high - low)});
  return out;
}

Tensor Tensor::randn(const Shape& shape, Device device) { return randn(shape, default_generator(), device); }

Tensor Tensor::randint(int64_t low, int64_t high, const Shape& shape, Device device) {
  return randint(low, high, shape, default_generator(), device);
}

}  // namespace flame
