#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "flame/core/dtype.h"
#include "flame/device/device.h"

namespace flame {

// Four random words from a counter and a key: Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011).
FLAME_SCALAR std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * counter[0], p1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return counter;
}

// Random numbers as a function of (seed, step, call, sample, element), so that they are the same after a resume, on
// every device and however a batch is split. Each tensor drawn is one call; a sample is a row of its first axis.
class Generator {
 public:
  explicit Generator(uint64_t seed) : seed_(seed) {}

  uint64_t seed() const { return seed_; }
  uint32_t step() const { return step_; }
  void set_step(uint32_t step) { step_ = step, call_ = 0; }  // begin the numbers of a training step
  uint32_t next_call() { return call_++; }

  // From now on numbers drawn on a GPU take {step, first sample} (two u32) from its memory at the time that they are
  // drawn, so that a captured step draws new ones each time it runs.
  void follow(std::shared_ptr<Buffer> counters) { following_ = std::move(counters); }
  const std::shared_ptr<Buffer>& following() const { return following_; }

 private:
  uint64_t seed_;
  uint32_t step_ = 0;
  uint32_t call_ = 0;
  std::shared_ptr<Buffer> following_;
};

Generator& default_generator();   // for tensors made without naming one; seed 0 at start
void manual_seed(uint64_t seed);  // starts the default generator anew

}  // namespace flame
