#include "eri/data/epoch_order.h"

#include <numeric>
#include <utility>

#include "flame/core/generator.h"

namespace eri {

using flame::require;

std::vector<size_t> epoch_order(size_t count, uint64_t seed, uint64_t epoch) {
  constexpr uint64_t own_stream = 0x6f7264657273;  // other numbers than noise drawn from the same seed
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t left = count; left > 1; --left) {
    const auto words = flame::philox({static_cast<uint32_t>(left), static_cast<uint32_t>(uint64_t{left} >> 32),
                                      static_cast<uint32_t>(epoch), static_cast<uint32_t>(epoch >> 32)},
                                     seed ^ own_stream);
    const uint64_t word = uint64_t{words[1]} << 32 | words[0];
    const auto pick = static_cast<size_t>(static_cast<unsigned __int128>(word) * left >> 64);
    std::swap(order[left - 1], order[pick]);
  }
  return order;
}

BatchOrder::BatchOrder(const std::vector<int64_t>& repeats, int64_t batch_size, uint64_t seed, bool shuffle)
    : batch_size_(static_cast<uint64_t>(batch_size)), seed_(seed), shuffle_(shuffle) {
  require(batch_size > 0, "BatchOrder", "expected a batch size above 0, got ", batch_size);
  for (size_t i = 0; i < repeats.size(); ++i) {
    require(repeats[i] > 0, "BatchOrder", "expected repeats above 0, got ", repeats[i], " for sample ", i);
    samples_.insert(samples_.end(), static_cast<size_t>(repeats[i]), i);
  }
  require(!samples_.empty(), "BatchOrder", "expected at least one sample");
}

std::vector<size_t> BatchOrder::batch(uint64_t step) const {
  std::vector<size_t> indices, order;
  for (uint64_t position = step * batch_size_; indices.size() < batch_size_; ++position) {
    const uint64_t place = position % samples_.size();
    if (shuffle_ && (order.empty() || place == 0)) {
      order = epoch_order(samples_.size(), seed_, position / samples_.size());
    }
    indices.push_back(samples_[shuffle_ ? order[place] : place]);
  }
  return indices;
}

}  // namespace eri
