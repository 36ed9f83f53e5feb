#include "flame/device/arena_cuda.h"

#include "flame/core/error.h"

namespace flame::cuda {

void Arena::begin(ArenaPlan* plan) {
  require(range_.empty(), "ArenaScope", "the last step left ", range_.used(), " bytes in the arena");
  plan_ = plan;
  reached_ = plan ? plan->bytes() : 0;
  if (plan) plan->begin();
  range_.set_aside(reached_);
}

std::byte* Arena::get(size_t bytes) {
  const bool settled = plan_ && plan_->settled();
  if (settled) {
    if (const auto offset = plan_->get(bytes)) return range_.get_at(*offset, bytes);
  }
  std::byte* const block = range_.get(bytes);
  const size_t offset = range_.offset_of(block);
  reached_ = std::max(reached_, offset + bytes);
  if (plan_ && !settled) plan_->note_get(offset, bytes);
  return block;
}

void Arena::put(std::byte* block, size_t bytes) {
  range_.put(block, bytes);
  if (plan_) plan_->put(range_.offset_of(block));
}

}  // namespace flame::cuda
