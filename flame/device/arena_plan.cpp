#include "flame/device/arena_plan.h"

#include <algorithm>
#include <numeric>

#include "flame/core/error.h"

namespace flame {

Placement place(const std::vector<Lifetime>& blocks) {
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return blocks[a].bytes > blocks[b].bytes; });

  Placement placement{std::vector<size_t>(blocks.size())};
  std::vector<size_t> placed;  // by offset
  for (const size_t i : order) {
    size_t offset = 0;
    for (const size_t other : placed) {
      if (blocks[other].begin >= blocks[i].end || blocks[i].begin >= blocks[other].end) continue;
      if (placement.offsets[other] >= offset + blocks[i].bytes) break;
      offset = std::max(offset, placement.offsets[other] + blocks[other].bytes);
    }
    placement.offsets[i] = offset;
    placement.bytes = std::max(placement.bytes, offset + blocks[i].bytes);
    const auto by_offset = [&](size_t a, size_t b) { return placement.offsets[a] < placement.offsets[b]; };
    placed.insert(std::upper_bound(placed.begin(), placed.end(), i, by_offset), i);
  }
  return placement;
}

void ArenaPlan::note_get(size_t offset, size_t bytes) {
  live_[offset] = blocks_.size();
  events_.push_back({blocks_.size(), false});
  blocks_.push_back({bytes, events_.size(), 0});
}

void ArenaPlan::note_put(size_t offset) {
  const auto found = live_.find(offset);
  require(found != live_.end(), "ArenaPlan", "no block was noted at ", offset);
  events_.push_back({found->second, true});
  blocks_[found->second].end = events_.size();
  live_.erase(found);
}

void ArenaPlan::settle() {
  for (const auto& [offset, block] : live_) blocks_[block].end = events_.size() + 1;
  live_.clear();
  Placement placement = place(blocks_);
  offsets_ = std::move(placement.offsets);
  bytes_ = placement.bytes;
  settled_ = true;
}

void ArenaPlan::begin() {
  next_ = 0;
  if (!settled_) blocks_.clear(), events_.clear(), live_.clear();
}

std::optional<size_t> ArenaPlan::get(size_t bytes) {
  if (!comes(false) || blocks_[events_[next_].block].bytes != bytes) {
    next_ = events_.size();
    return std::nullopt;
  }
  return offsets_[events_[next_++].block];
}

void ArenaPlan::put(size_t offset) {
  if (!settled_) return note_put(offset);
  const bool expected = comes(true) && offsets_[events_[next_].block] == offset;
  next_ = expected ? next_ + 1 : events_.size();
}

}  // namespace flame
