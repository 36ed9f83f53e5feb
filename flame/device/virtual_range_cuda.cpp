#include "flame/device/virtual_range_cuda.h"

#include <cudaTypedefs.h>

#include <algorithm>
#include <utility>

#include "flame/device/cuda.h"
#include "flame/device/out_of_memory.h"

namespace flame::cuda {
namespace {

constexpr double GiB = 1 << 30;

// The driver's functions, found through the runtime, so that the program starts without a driver.
template <class F>
F driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  check(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result));
  require(result == cudaDriverEntryPointSuccess && found, "CUDA", "the driver has no ", name, "; it is too old");
  return reinterpret_cast<F>(found);
}

void check_driver(CUresult result, const char* what) {
  require(result == CUDA_SUCCESS, "CUDA", what, " failed with error ", static_cast<int>(result));
}

CUmemAllocationProp properties_of(int device) {
  CUmemAllocationProp properties = {};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, {device}};
  return properties;
}

}  // namespace

PhysicalMemory::PhysicalMemory(int device, std::function<bool()> spare) : device_(device), spare_(std::move(spare)) {}

bool PhysicalMemory::create(CUmemGenericAllocationHandle& handle) const {
  static const auto create = driver_function<PFN_cuMemCreate_v10020>("cuMemCreate");
  if (limit_ && held_ + piece > limit_) return false;
  const CUmemAllocationProp properties = properties_of(device_);
  const CUresult result = create(&handle, piece, &properties, 0);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) return false;
  check_driver(result, "cuMemCreate");
  return true;
}

CUmemGenericAllocationHandle PhysicalMemory::take() {
  CUmemGenericAllocationHandle handle;
  if (!create(handle) && !(spare_() && create(handle))) {
    if (limit_ && held_ + piece > limit_)
      throw OutOfMemory(text("out of memory: cuda:", device_, " may use ", static_cast<double>(limit_) / GiB, " GiB"));
    throw OutOfMemory(text("out of memory: cuda:", device_, " has no more than the ", static_cast<double>(held_) / GiB,
                           " GiB in use here"));
  }
  held_ += piece;
  return handle;
}

void PhysicalMemory::release(CUmemGenericAllocationHandle handle) {
  static const auto release = driver_function<PFN_cuMemRelease_v10020>("cuMemRelease");
  check_driver(release(handle), "cuMemRelease");
  held_ -= piece;
}

VirtualRange::VirtualRange(PhysicalMemory& memory) : memory_(memory) {
  static const auto reserve = driver_function<PFN_cuMemAddressReserve_v10020>("cuMemAddressReserve");
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total));
  size_ = (2 * total + PhysicalMemory::piece - 1) / PhysicalMemory::piece * PhysicalMemory::piece;
  CUdeviceptr base = 0;
  check_driver(reserve(&base, size_, 0, 0, 0), "cuMemAddressReserve");
  base_ = reinterpret_cast<std::byte*>(base);
  gaps_[0] = size_;
  pieces_.resize(size_ / PhysicalMemory::piece);
}

std::byte* VirtualRange::get(size_t bytes) {
  auto gap = gaps_.begin();
  while (gap != gaps_.end() && gap->second < bytes) ++gap;
  require(gap != gaps_.end(), "VirtualRange", "no addresses left for ", bytes, " bytes");
  const auto [offset, length] = *gap;
  gaps_.erase(gap);
  if (length > bytes) gaps_[offset + bytes] = length - bytes;
  used_ += bytes;
  std::byte* const block = base_ + offset;
  try {
    back(offset, offset + bytes);
  } catch (...) {
    put(block, bytes);
    throw;
  }
  return block;
}

void VirtualRange::set_aside(size_t bytes) {
  require(empty(), "VirtualRange", used_, " bytes are in use");
  back(0, bytes);
  aside_ = bytes;
  gaps_ = {{aside_, size_ - aside_}};
}

std::byte* VirtualRange::get_at(size_t offset, size_t bytes) {
  require(offset + bytes <= aside_, "VirtualRange", "no ", bytes, " bytes are set aside at ", offset);
  used_ += bytes;
  return base_ + offset;
}

void VirtualRange::put(std::byte* block, size_t bytes) {
  used_ -= bytes;
  auto offset = offset_of(block);
  if (offset < aside_) return;
  auto next = gaps_.lower_bound(offset);
  if (next != gaps_.end() && next->first == offset + bytes) {
    bytes += next->second;
    next = gaps_.erase(next);
  }
  if (next != gaps_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += bytes;
      return;
    }
  }
  gaps_[offset] = bytes;
}

CUdeviceptr VirtualRange::address_of(size_t piece) const {
  return reinterpret_cast<CUdeviceptr>(base_) + piece * PhysicalMemory::piece;
}

void VirtualRange::back(size_t begin, size_t end) {
  const size_t last = (end + PhysicalMemory::piece - 1) / PhysicalMemory::piece;
  for (size_t i = begin / PhysicalMemory::piece, until; i < last; i = until + 1) {
    for (until = i; until < last && !pieces_[until];) ++until;
    if (until > i) back_pieces(i, until);
  }
}

void VirtualRange::back_pieces(size_t first, size_t last) {
  static const auto map = driver_function<PFN_cuMemMap_v10020>("cuMemMap");
  static const auto allow = driver_function<PFN_cuMemSetAccess_v10020>("cuMemSetAccess");
  const CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, {memory_.device()}},
                                  CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  size_t mapped = first;
  try {
    for (; mapped < last; ++mapped) {
      const CUmemGenericAllocationHandle handle = memory_.take();
      const CUresult result = map(address_of(mapped), PhysicalMemory::piece, 0, handle, 0);
      if (result != CUDA_SUCCESS) memory_.release(handle);
      check_driver(result, "cuMemMap");
      pieces_[mapped] = handle;
    }
    check_driver(allow(address_of(first), (last - first) * PhysicalMemory::piece, &access, 1), "cuMemSetAccess");
  } catch (...) {
    while (mapped > first) drop(--mapped);
    throw;
  }
}

void VirtualRange::drop(size_t piece) {
  static const auto unmap = driver_function<PFN_cuMemUnmap_v10020>("cuMemUnmap");
  check_driver(unmap(address_of(piece), PhysicalMemory::piece), "cuMemUnmap");
  memory_.release(std::exchange(pieces_[piece], 0));
}

void VirtualRange::release(size_t kept) {
  for (const auto& [offset, bytes] : gaps_) {
    const size_t first = (std::max(offset, kept) + PhysicalMemory::piece - 1) / PhysicalMemory::piece;
    for (size_t i = first; (i + 1) * PhysicalMemory::piece <= offset + bytes; ++i)
      if (pieces_[i]) drop(i);
  }
}

}  // namespace flame::cuda
