#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace eri {

// The order of an epoch: a permutation of [0, count) drawn from (seed, epoch).
std::vector<size_t> epoch_order(size_t count, uint64_t seed, uint64_t epoch);

// Which samples make batch `step`, as a function of nothing but the seed and the step: a run that is resumed goes on
// with the batches it would have had. Epochs follow each other without a gap, so that every batch is full.
class BatchOrder {
 public:
  BatchOrder() = default;
  // Sample i occurs repeats[i] times in an epoch.
  BatchOrder(const std::vector<int64_t>& repeats, int64_t batch_size, uint64_t seed, bool shuffle = true);

  std::vector<size_t> batch(uint64_t step) const;        // indices of samples; steps count from 0
  size_t epoch_size() const { return samples_.size(); }  // in samples, repeats counted

 private:
  std::vector<size_t> samples_;
  uint64_t batch_size_ = 1;
  uint64_t seed_ = 0;
  bool shuffle_ = true;
};

}  // namespace eri
