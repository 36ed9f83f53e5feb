#pragma once

#include <algorithm>

#include "flame/device/arena_plan.h"
#include "flame/device/virtual_range_cuda.h"

namespace flame::cuda {

// The memory of steps: a region that begins and ends each of them empty. Blocks are placed as they come, or by a plan.
class Arena {
 public:
  explicit Arena(PhysicalMemory& memory) : range_(memory) {}
  void begin(ArenaPlan* plan);  // throws if something of the last step is still there
  void end() { plan_ = nullptr; }
  std::byte* get(size_t bytes);
  void put(std::byte* block, size_t bytes);
  // A graph was captured in this step; it is the `only` one that there is, or one more.
  void keep(bool only) { kept_ = only ? reached_ : std::max(kept_, reached_); }
  void release(bool graphs) { range_.release(graphs ? kept_ : 0); }  // as VirtualRange's, but what `graphs` may need

 private:
  VirtualRange range_;
  ArenaPlan* plan_ = nullptr;
  size_t reached_ = 0, kept_ = 0;  // by this step, by captured graphs
};

}  // namespace flame::cuda
