#pragma once

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace flame {

// The CPU or one GPU: a name that is cheap to copy. Streams, allocators and libraries are found through it.
class Device {
 public:
  static Device cpu() { return Device(-1); }
  static Device cuda(int index = 0);           // throws where there is no such GPU
  static Device parse(std::string_view name);  // "auto", "cpu", "cuda", "cuda:1"

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

// Bytes on a device, aligned to 64, given back to the device's allocator with the last owner.
class Buffer {
 public:
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  // Derived data that lives and dies with these bytes, such as a library's own copy of a frozen weight.
  std::shared_ptr<void>& attachment() { return attachment_; }

  // A promise that the bytes never change again, without which nothing may be derived from them and kept.
  void freeze() { frozen_ = true; }
  bool frozen() const { return frozen_; }

 private:
  friend std::shared_ptr<Buffer> allocate(size_t bytes, Device device);
  friend std::shared_ptr<Buffer> borrow(const void* data, size_t bytes, std::shared_ptr<const void> owner);
  Buffer(std::byte* data, size_t bytes, Device device, Purpose purpose)
      : data_(data), bytes_(bytes), device_(device), purpose_(purpose) {}
  std::byte* data_;
  size_t bytes_;
  Device device_;
  Purpose purpose_;
  bool frozen_ = false;
  std::shared_ptr<const void> owner_;  // set where the bytes belong to somebody else, a mapped file for instance
  std::shared_ptr<void> attachment_;
};

std::shared_ptr<Buffer> allocate(size_t bytes, Device device);                                      // not initialised
std::shared_ptr<Buffer> borrow(const void* data, size_t bytes, std::shared_ptr<const void> owner);  // CPU, read only

struct MemoryUse {
  size_t current = 0;  // bytes in live buffers
  size_t peak = 0;     // the most since the last reset_peak
  size_t cached = 0;   // bytes kept for reuse
  size_t by_purpose[static_cast<size_t>(Purpose::count)] = {};
};
MemoryUse memory_use(Device device);
void reset_peak(Device device);
void release_cache(Device device);

// CPU threads used by our kernels and by oneDNN. The default is OpenMP's (OMP_NUM_THREADS, else all cores).
int threads();
void set_threads(int count);

// An empty string if this CPU can run the instructions that the build uses, else a sentence saying what it lacks.
std::string cpu_complaint();

}  // namespace flame
