#include <cstdlib>
#include <utility>

#include "flame/core/error.h"
#include "flame/device/at_end_cuda.h"
#include "flame/device/capture_cuda.h"
#include "flame/device/device_state_cuda.h"
#include "flame/device/out_of_memory.h"

namespace flame {
namespace cuda {
namespace {

size_t rounded(size_t bytes) {
  return (std::max<size_t>(bytes, 1) + VirtualRange::alignment - 1) / VirtualRange::alignment * VirtualRange::alignment;
}

// With FLAME_CUDA_POISON in the environment every buffer begins as NaN (-1 in integers), also in each run of a captured
// graph: what reads memory that nobody has written shows in its results.
bool poisoned() {
  static const bool wanted = std::getenv("FLAME_CUDA_POISON") != nullptr;
  return wanted;
}

thread_local int arena_of = -1;

}  // namespace

bool in_arena(int device) { return arena_of == device; }

Allocator::Allocator(int device)
    : memory_(device, [this] { return spare(); }), small_(memory_), large_(memory_), arena_(memory_) {}

std::byte* Allocator::get(size_t bytes, Purpose purpose) {
  const size_t size = rounded(bytes);
  const std::lock_guard lock(mutex_);
  std::byte* block = nullptr;
  if (leaves_nothing()) {
    const cudaError_t status = cudaMalloc(reinterpret_cast<void**>(&block), bytes + (bytes == 0));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // or the next launch would be taken for what failed
      throw OutOfMemory(text("out of memory: no ", bytes, " bytes are free"));
    }
    check(status);
  } else {
    block = in_arena(memory_.device()) ? arena_.get(size) : (size < small_limit ? small_ : large_).get(size);
  }
  use_.current += size;
  use_.peak = std::max(use_.peak, use_.current);
  use_.by_purpose[static_cast<size_t>(purpose)] += size;
  if (poisoned()) check(cudaMemsetAsync(block, 0xff, bytes, stream(Device::cuda(memory_.device()))));
  return block;
}

void Allocator::put(std::byte* block, size_t bytes, Purpose purpose) {
  const size_t size = rounded(bytes);
  const std::lock_guard lock(mutex_);
  if (leaves_nothing()) {
    cudaFree(block);
  } else if (small_.contains(block) || large_.contains(block)) {
    (small_.contains(block) ? small_ : large_).put(block, size);
  } else {
    arena_.put(block, size);
  }
  use_.current -= size;
  use_.by_purpose[static_cast<size_t>(purpose)] -= size;
}

void Allocator::begin_step(ArenaPlan* plan) {
  const std::lock_guard lock(mutex_);
  arena_.begin(plan);
}

void Allocator::end_step() {
  const std::lock_guard lock(mutex_);
  arena_.end();
}

void Allocator::keep_step(bool only) {
  const std::lock_guard lock(mutex_);
  check(cudaDeviceSynchronize());
  arena_.keep(only);
  arena_.release(true);
}

MemoryUse Allocator::use() {
  const std::lock_guard lock(mutex_);
  MemoryUse use = use_;
  use.reserved = memory_.held();
  use.cached = use.reserved - std::min(use.reserved, use.current);
  return use;
}

void Allocator::reset_peak() {
  const std::lock_guard lock(mutex_);
  use_.peak = use_.current;
}

void Allocator::release() {
  const std::lock_guard lock(mutex_);
  release_pieces();
}

// Captured graphs read and write the arena whenever they are launched. All that the GPU was given may still use what
// has been freed since.
void Allocator::release_pieces() {
  check(cudaDeviceSynchronize());
  small_.release();
  large_.release();
  arena_.release(state(Device::cuda(memory_.device())).graphs > 0);
}

bool Allocator::spare() {
  if (is_capturing(stream(Device::cuda(memory_.device())))) return false;
  const size_t before = memory_.held();
  release_pieces();
  return memory_.held() < before;
}

void Allocator::set_limit(size_t bytes) {
  const std::lock_guard lock(mutex_);
  memory_.set_limit(bytes);
}

}  // namespace cuda

ArenaScope::ArenaScope(Device device, ArenaPlan* plan)
    : device_(device), outer_(device.is_cuda() && cuda::arena_of < 0) {
  if (!outer_) return;
  cuda::state(device).allocator.begin_step(plan);
  cuda::arena_of = device.index();
}

ArenaScope::~ArenaScope() {
  if (!outer_) return;
  cuda::arena_of = -1;
  cuda::state(device_).allocator.end_step();
}

LastingScope::LastingScope() : before_(std::exchange(cuda::arena_of, -1)) {}
LastingScope::~LastingScope() { cuda::arena_of = before_; }

void set_memory_limit(Device device, size_t bytes) {
  if (device.is_cuda()) cuda::state(device).allocator.set_limit(bytes);
}

}  // namespace flame
