#include "flame/device/virtual_range_cuda.h"

#include <cudaTypedefs.h>

#include "flame/core/error.h"
#include "flame/device/cuda.h"

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

PhysicalMemory::PhysicalMemory(int device) : device_(device) {}

CUmemGenericAllocationHandle PhysicalMemory::take() {
  static const auto create = driver_function<PFN_cuMemCreate_v10020>("cuMemCreate");
  if (limit_ && held_ + piece > limit_)
    fail("out of memory: cuda:", device_, " may use ", static_cast<double>(limit_) / GiB,
         " GiB; allow more, or choose a smaller batch, a smaller resolution or a memory policy that keeps less");
  const CUmemAllocationProp properties = properties_of(device_);
  CUmemGenericAllocationHandle handle;
  const CUresult result = create(&handle, piece, &properties, 0);
  if (result == CUDA_ERROR_OUT_OF_MEMORY)
    fail("out of memory: cuda:", device_, " has no more than the ", static_cast<double>(held_) / GiB,
         " GiB in use here; close other programs on it, or choose a smaller batch, a smaller resolution or a memory "
         "policy that keeps less");
  check_driver(result, "cuMemCreate");
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
  back(offset, offset + bytes);
  gaps_.erase(gap);
  if (length > bytes) gaps_[offset + bytes] = length - bytes;
  used_ += bytes;
  return base_ + offset;
}

void VirtualRange::put(std::byte* block, size_t bytes) {
  used_ -= bytes;
  auto offset = static_cast<size_t>(block - base_);
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

void VirtualRange::back(size_t begin, size_t end) {
  static const auto map = driver_function<PFN_cuMemMap_v10020>("cuMemMap");
  static const auto allow = driver_function<PFN_cuMemSetAccess_v10020>("cuMemSetAccess");
  const CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, {memory_.device()}},
                                  CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  size_t bare = 0;  // where the pieces begin that are mapped and not yet accessible
  const auto open_until = [&](size_t i) {
    if (i > bare)
      check_driver(allow(reinterpret_cast<CUdeviceptr>(base_) + bare * PhysicalMemory::piece,
                         (i - bare) * PhysicalMemory::piece, &access, 1),
                   "cuMemSetAccess");
    bare = i + 1;
  };
  const size_t first = begin / PhysicalMemory::piece;
  const size_t last = (end + PhysicalMemory::piece - 1) / PhysicalMemory::piece;
  bare = first;
  for (size_t i = first; i < last; ++i) {
    if (pieces_[i]) {
      open_until(i);
      continue;
    }
    const CUmemGenericAllocationHandle handle = memory_.take();
    const auto address = reinterpret_cast<CUdeviceptr>(base_) + i * PhysicalMemory::piece;
    check_driver(map(address, PhysicalMemory::piece, 0, handle, 0), "cuMemMap");
    pieces_[i] = handle;
  }
  open_until(last);
}

void VirtualRange::release() {
  static const auto unmap = driver_function<PFN_cuMemUnmap_v10020>("cuMemUnmap");
  for (const auto& [offset, bytes] : gaps_) {
    const size_t first = (offset + PhysicalMemory::piece - 1) / PhysicalMemory::piece;
    for (size_t i = first; (i + 1) * PhysicalMemory::piece <= offset + bytes; ++i) {
      if (!pieces_[i]) continue;
      check_driver(unmap(reinterpret_cast<CUdeviceptr>(base_) + i * PhysicalMemory::piece, PhysicalMemory::piece),
                   "cuMemUnmap");
      memory_.release(pieces_[i]);
      pieces_[i] = 0;
    }
  }
}

}  // namespace flame::cuda
