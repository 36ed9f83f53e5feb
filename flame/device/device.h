#pragma once

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace flame {

#ifdef FLAME_CUDA
inline constexpr bool cuda_build = true;
#else
inline constexpr bool cuda_build = false;
#endif

// The CPU or one GPU: a name that is cheap to copy. Streams, allocators and libraries are found through it.
class Device {
 public:
  static Device cpu() { return Device(-1); }
  static Device cuda(int index = 0);           // throws where there is no such GPU, or one that is too old
  static Device parse(std::string_view name);  // "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1"

  bool is_cpu() const { return index_ < 0; }
  bool is_cuda() const { return index_ >= 0; }
  int index() const { return index_; }
  std::string name() const;
  friend bool operator==(Device, Device) = default;

 private:
  explicit Device(int index) : index_(index) {}
  int index_;
};

std::ostream& operator<<(std::ostream& out, Device device);

// What bytes are held for; a run prints memory by purpose.
enum class Purpose : uint8_t { weights, adapters, optimizer, gradients, activations, data, count };
const char* name(Purpose purpose);

// Allocations made in this scope, on this thread, carry `purpose` (activations where nothing is said).
class PurposeScope {
 public:
  explicit PurposeScope(Purpose purpose);
  ~PurposeScope();
  PurposeScope(const PurposeScope&) = delete;
  PurposeScope& operator=(const PurposeScope&) = delete;

 private:
  Purpose before_;
};

// Where borrowed bytes can be copied from by several threads, without a page fault for each page of a mapping.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Copies the bytes that are mapped at `from`; any thread. Throws naming the file if they cannot be read.
  virtual void read(std::byte* to, const std::byte* from, size_t bytes) const = 0;
};

// Bytes on a device, aligned to 64, given back to the device's allocator with the last owner.
class Buffer {
 public:
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  const ByteSource* source() const { return source_; }  // of borrowed bytes, or null

  // Derived data that lives and dies with these bytes, such as a library's own copy of a frozen weight.
  std::shared_ptr<void>& attachment() { return attachment_; }

  // A promise that the bytes never change again, without which nothing may be derived from them and kept.
  void freeze() { frozen_ = true; }
  bool frozen() const { return frozen_; }

 private:
  friend std::shared_ptr<Buffer> allocate(size_t bytes, Device device);
  friend std::shared_ptr<Buffer> borrow(const void* data, size_t bytes, std::shared_ptr<const void> owner,
                                        const ByteSource* source);
  Buffer(std::byte* data, size_t bytes, Device device, Purpose purpose)
      : data_(data), bytes_(bytes), device_(device), purpose_(purpose) {}
  std::byte* data_;
  size_t bytes_;
  Device device_;
  Purpose purpose_;
  bool frozen_ = false;
  std::shared_ptr<const void> owner_;  // set where the bytes belong to somebody else, a mapped file for instance
  std::shared_ptr<void> attachment_;
  const ByteSource* source_ = nullptr;
};

std::shared_ptr<Buffer> allocate(size_t bytes, Device device);  // not initialised
// CPU, read only; `owner` keeps the bytes and their source.
std::shared_ptr<Buffer> borrow(const void* data, size_t bytes, std::shared_ptr<const void> owner,
                               const ByteSource* source = nullptr);

struct MemoryUse {
  size_t current = 0;   // bytes in live buffers
  size_t peak = 0;      // the most since the last reset_peak
  size_t cached = 0;    // bytes kept for reuse
  size_t reserved = 0;  // GPU: the card's memory that is held, live or kept
  size_t by_purpose[static_cast<size_t>(Purpose::count)] = {};
};
MemoryUse memory_use(Device device);
void reset_peak(Device device);
void release_cache(Device device);  // gives memory that is kept for reuse back to the system, but for captured graphs'

// While one exists, how often buffers of a device are made and freed, by any thread, and what that takes of the CPU's
// time. One at a time.
class AllocationWatch {
 public:
  explicit AllocationWatch(Device device);
  ~AllocationWatch();
  AllocationWatch(const AllocationWatch&) = delete;
  AllocationWatch& operator=(const AllocationWatch&) = delete;
  int64_t calls() const;
  double seconds() const;
};

class ArenaPlan;

// Memory of one step: what is allocated on `device` in this scope, on this thread, comes from a region of its own. The
// region begins empty and must be empty again at the end, so that every step and every captured graph has the same
// memory and all of them share it. A plan is noted, or followed once it is settled. On the CPU it changes nothing.
class ArenaScope {
 public:
  explicit ArenaScope(Device device, ArenaPlan* plan = nullptr);
  ~ArenaScope();
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Device device_;
  bool outer_;
};

// Within an ArenaScope: what is allocated in this scope stays, such as a library's workspace that is made when it is
// first needed.
class LastingScope {
 public:
  LastingScope();
  ~LastingScope();
  LastingScope(const LastingScope&) = delete;
  LastingScope& operator=(const LastingScope&) = delete;

 private:
  int before_;
};

// The most memory of the GPU that may be held, in bytes; beyond it an allocation fails instead of going on slowly.
// 0: all that the card has free.
void set_memory_limit(Device device, size_t bytes);

// Copies bytes between devices, in the order of the GPU's work; a copy to the CPU has arrived when this returns. A GPU
// is sent them through pinned memory, which several threads fill (from `source`, if there is one), and `from` may
// change when this returns.
void copy_bytes(std::byte* to, Device to_device, const std::byte* from, Device from_device, size_t bytes,
                const ByteSource* source = nullptr);
// Waits until a GPU has done all that it was given.
void synchronize(Device device);

int cuda_device_count();      // 0 where there is no driver, no GPU or no CUDA in this build
void set_tf32(bool allowed);  // see cuda.h
void set_deterministic(bool wanted);

// CPU threads used by our kernels and by oneDNN. The default is OpenMP's (OMP_NUM_THREADS, else all cores).
int threads();
void set_threads(int count);

// An empty string if this CPU can run the instructions that the build uses, else a sentence saying what it lacks.
std::string cpu_complaint();

}  // namespace flame
