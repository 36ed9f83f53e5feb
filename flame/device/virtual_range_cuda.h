#pragma once

#include <cuda.h>

#include <cstddef>
#include <functional>
#include <map>
#include <vector>

namespace flame::cuda {

// The card's memory in pieces of one size, which any range of addresses can be given and can give back.
class PhysicalMemory {
 public:
  static constexpr size_t piece = size_t{4} << 20;

  // `spare` gives back pieces that nobody needs now, and says whether there were any.
  PhysicalMemory(int device, std::function<bool()> spare);
  CUmemGenericAllocationHandle take();  // throws OutOfMemory where the limit or the card's end is reached
  void release(CUmemGenericAllocationHandle handle);
  size_t held() const { return held_; }
  void set_limit(size_t bytes) { limit_ = bytes; }
  int device() const { return device_; }

 private:
  bool create(CUmemGenericAllocationHandle& handle) const;  // false where there is no more

  int device_;
  std::function<bool()> spare_;
  size_t held_ = 0, limit_ = 0;
};

// Addresses that never move, with memory behind those that are in use: blocks are placed in the lowest gap that they
// fit into, so that holes between long-lived blocks are filled and nothing is split into segments.
class VirtualRange {
 public:
  explicit VirtualRange(PhysicalMemory& memory);
  std::byte* get(size_t bytes);  // a multiple of `alignment`
  void put(std::byte* block, size_t bytes);
  // While the range is empty: what is below this is placed by the caller, through get_at(), and nothing else.
  void set_aside(size_t bytes);
  std::byte* get_at(size_t offset, size_t bytes);
  size_t offset_of(const std::byte* block) const { return static_cast<size_t>(block - base_); }
  bool contains(const std::byte* address) const { return address >= base_ && address < base_ + size_; }
  // Gives back the pieces above `kept` that no block lies in; the device must be idle.
  void release(size_t kept = 0);
  bool empty() const { return used_ == 0; }
  size_t used() const { return used_; }

  static constexpr size_t alignment = 512;

 private:
  CUdeviceptr address_of(size_t piece) const;
  void back(size_t begin, size_t end);          // puts memory behind these offsets
  void back_pieces(size_t first, size_t last);  // and these pieces, which have none
  void drop(size_t piece);                      // gives back what lies behind it

  PhysicalMemory& memory_;
  std::byte* base_;
  size_t size_, used_ = 0, aside_ = 0;
  std::map<size_t, size_t> gaps_;  // offset -> bytes
  std::vector<CUmemGenericAllocationHandle> pieces_;
};

}  // namespace flame::cuda
