#include <omp.h>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "flame/core/error.h"
#include "flame/device/device.h"
#include "flame/device/out_of_memory.h"
#include "flame/device/parallel.h"
#ifdef FLAME_CUDA
#include "flame/device/device_state_cuda.h"
#endif

namespace flame {
namespace {

thread_local Purpose current_purpose = Purpose::activations;

// Sizes rounded up to an eighth of their power of two, so that similar requests share blocks.
size_t size_class(size_t bytes) {
  if (bytes <= 512) return (bytes + 63) / 64 * 64 + (bytes == 0) * 64;
  const size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

// Under AddressSanitizer nothing is kept for reuse: a use after free must stay visible.
#ifdef __SANITIZE_ADDRESS__
constexpr bool reuse = false;
#else
constexpr bool reuse = true;
#endif

// Keeps freed blocks by size: a step asks for the same sizes again, and fresh pages cost more than the kernels.
class CpuAllocator {
 public:
  std::byte* get(size_t bytes, Purpose purpose) {
    const size_t size = size_class(bytes);
    std::lock_guard lock(mutex_);
    use_.current += size;
    use_.peak = std::max(use_.peak, use_.current);
    use_.by_purpose[static_cast<size_t>(purpose)] += size;
    if (std::byte* block = take(free_[size])) {
      use_.cached -= size;
      return block;
    }
    if (auto* block = static_cast<std::byte*>(std::aligned_alloc(64, size))) return block;
    forget(size, purpose);
    throw OutOfMemory(text("out of memory: ", size, " bytes asked for on the cpu, ", use_.current, " in use"));
  }

  void put(std::byte* block, size_t bytes, Purpose purpose) {
    const size_t size = size_class(bytes);
    std::lock_guard lock(mutex_);
    forget(size, purpose);
    if (!reuse) return std::free(block);
    free_[size][thread()].push_back(block);
    use_.cached += size;
  }

  MemoryUse use() {
    std::lock_guard lock(mutex_);
    return use_;
  }

  void reset_peak() {
    std::lock_guard lock(mutex_);
    use_.peak = use_.current;
  }

  void release() {
    std::lock_guard lock(mutex_);
    for (auto& [size, bin] : free_) {
      for (auto& blocks : bin) {
        for (auto* block : blocks) std::free(block);
      }
    }
    free_.clear();
    use_.cached = 0;
  }

 private:
  // Freed blocks of one size, by the thread that freed them: it is the one that has them in its cache.
  using Bin = std::array<std::vector<std::byte*>, 16>;
  static size_t thread() { return static_cast<size_t>(omp_get_thread_num()) % std::tuple_size_v<Bin>; }

  static std::byte* take(Bin& bin) {
    const size_t own = thread();
    for (size_t i = 0; i < bin.size(); ++i) {
      auto& blocks = bin[(own + i) % bin.size()];
      if (blocks.empty()) continue;
      std::byte* block = blocks.back();
      blocks.pop_back();
      return block;
    }
    return nullptr;
  }

  void forget(size_t size, Purpose purpose) {
    use_.current -= size;
    use_.by_purpose[static_cast<size_t>(purpose)] -= size;
  }

  std::mutex mutex_;
  std::map<size_t, Bin> free_;
  MemoryUse use_;
};

// Never destroyed: tensors in static storage may be freed after any static of ours.
CpuAllocator& allocator() {
  static auto* instance = new CpuAllocator;
  return *instance;
}

}  // namespace

const char* name(Purpose purpose) {
  constexpr std::array names = {"weights", "adapters", "optimizer", "gradients", "activations", "data"};
  return names[static_cast<size_t>(purpose)];
}

PurposeScope::PurposeScope(Purpose purpose) : before_(current_purpose) { current_purpose = purpose; }
PurposeScope::~PurposeScope() { current_purpose = before_; }

constexpr int no_device = -2;
std::atomic<int> watched_device = no_device;
std::atomic<int64_t> watched_calls = 0, watched_nanoseconds = 0;

// Calls f for `device`, and notes for an AllocationWatch how long that took.
template <class F>
auto watched(Device device, const F& f) {
  if (watched_device.load(std::memory_order_relaxed) != device.index()) return f();
  using Clock = std::chrono::steady_clock;
  struct Note {
    Clock::time_point begin = Clock::now();
    ~Note() {
      ++watched_calls;
      watched_nanoseconds += std::chrono::nanoseconds(Clock::now() - begin).count();
    }
  } note;
  return f();
}

AllocationWatch::AllocationWatch(Device device) {
  require(watched_device == no_device, "AllocationWatch", "there is one already");
  watched_calls = watched_nanoseconds = 0;
  watched_device = device.index();
}
AllocationWatch::~AllocationWatch() { watched_device = no_device; }
int64_t AllocationWatch::calls() const { return watched_calls; }
double AllocationWatch::seconds() const { return 1e-9 * static_cast<double>(watched_nanoseconds); }

// The allocator of a device: with(device, [](auto& allocator) { ... }).
template <class F>
auto with([[maybe_unused]] Device device, const F& f) {
#ifdef FLAME_CUDA
  if (device.is_cuda()) return f(cuda::state(device).allocator);
#endif
  return f(allocator());
}

std::shared_ptr<Buffer> allocate(size_t bytes, Device device) {
  const Purpose purpose = current_purpose;
  std::byte* const data =
      watched(device, [&] { return with(device, [&](auto& from) { return from.get(bytes, purpose); }); });
  return std::shared_ptr<Buffer>(new Buffer(data, bytes, device, purpose));
}

std::shared_ptr<Buffer> borrow(const void* data, size_t bytes, std::shared_ptr<const void> owner,
                               const ByteSource* source) {
  auto* start = static_cast<std::byte*>(const_cast<void*>(data));
  auto buffer = std::shared_ptr<Buffer>(new Buffer(start, bytes, Device::cpu(), Purpose::data));
  buffer->owner_ = std::move(owner);
  buffer->source_ = source;
  return buffer;
}

Buffer::~Buffer() {
  if (!owner_) watched(device_, [&] { with(device_, [&](auto& to) { to.put(data_, bytes_, purpose_); }); });
}

MemoryUse memory_use(Device device) {
  return with(device, [](auto& of) { return of.use(); });
}
void reset_peak(Device device) {
  with(device, [](auto& of) { of.reset_peak(); });
}
void release_cache([[maybe_unused]] Device device) {
#ifdef FLAME_CUDA
  if (device.is_cuda()) return cuda::state(device).allocator.release();
#endif
  allocator().release();
}

#ifdef FLAME_CUDA
namespace cuda {
void copy(std::byte* to, Device to_device, const std::byte* from, Device from_device, size_t bytes,
          const ByteSource* source);
}
#endif

void copy_bytes(std::byte* to, Device to_device, const std::byte* from, Device from_device, size_t bytes,
                [[maybe_unused]] const ByteSource* source) {
#ifdef FLAME_CUDA
  if (to_device.is_cuda() || from_device.is_cuda()) return cuda::copy(to, to_device, from, from_device, bytes, source);
#endif
  require(to_device.is_cpu() && from_device.is_cpu(), "copy", "no transfer from ", from_device.name(), " to ",
          to_device.name());
  parallel_for(static_cast<int64_t>(bytes), 1 << 18, [=](int64_t begin, int64_t end) {
    std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
  });
}

}  // namespace flame
