#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

namespace eri {

// The normal deviates that torch.randn draws on a CPU after torch.manual_seed(seed): the Mersenne twister, and Box and
// Muller's method in two forms, which depend on how many are drawn at once.
class TorchGenerator {
 public:
  explicit TorchGenerator(uint64_t seed) : words_(static_cast<uint32_t>(seed)) {}
  std::vector<float> randn(int64_t count);

 private:
  float uniform();  // 24 bits
  double uniform_double();
  void fill_16(float* values);
  float one();

  std::mt19937 words_;
  std::optional<double> spare_;
};

}  // namespace eri
