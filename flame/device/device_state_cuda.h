#pragma once

#include <array>
#include <atomic>
#include <map>
#include <mutex>

#include "flame/device/arena_cuda.h"
#include "flame/device/cuda.h"
#include "flame/device/virtual_range_cuda.h"

// What the process holds of one GPU. Only the device's own files include this.
namespace flame::cuda {

// Regions over one pool of memory: two for what stays, one (the arena) for what lives within a step. Small blocks have
// a region of their own: a bias that outlives the weights around it would cut their place into pieces.
class Allocator {
 public:
  explicit Allocator(int device);
  std::byte* get(size_t bytes, Purpose purpose);
  void put(std::byte* block, size_t bytes, Purpose purpose);
  void begin_step(ArenaPlan* plan);
  void end_step();
  void keep_step(bool only);  // see Arena; gives back what it held beyond
  MemoryUse use();
  void reset_peak();
  void release();
  void set_limit(size_t bytes);

 private:
  static constexpr size_t small_limit = size_t{1} << 20;
  void release_pieces();
  bool spare();  // where no more memory is to be had: whether some was free but held

  std::mutex mutex_;
  PhysicalMemory memory_;
  VirtualRange small_, large_;
  Arena arena_;
  MemoryUse use_;
};

// Pinned memory through which bytes reach the card while the next ones are being read, by several threads. The copies
// are in the order of the stream; who asks for one waits only for the reading, and for a slot that was used long ago.
class Uploads {
 public:
  void copy(Device device, std::byte* to, const std::byte* from, size_t bytes, const ByteSource* source);
  void close();

 private:
  struct Slot {
    std::byte* data = nullptr;
    cudaEvent_t sent = nullptr;
  };
  static constexpr size_t small_bytes = size_t{64} << 10, large_bytes = size_t{2} << 20;
  static void send(Device device, Slot& slot, size_t slot_bytes, std::byte* to, const std::byte* from, size_t bytes,
                   const ByteSource* source);
  void copy_in_pieces(Device device, std::byte* to, const std::byte* from, size_t bytes, const ByteSource* source);

  std::mutex mutex_;
  std::array<Slot, 64> small_;
  std::array<Slot, 32> large_;
  size_t next_small_ = 0, next_large_ = 0;
};

struct DeviceState {
  explicit DeviceState(int index);
  void close();  // gives back all but what the allocator holds
  cudaDeviceProp properties;
  bool kernels_wait;
  cudaStream_t main, side;
  cudaEvent_t forked;
  std::array<cudaEvent_t, 8> marks;  // in turn: more than are ever waited for at a time
  size_t next_mark = 0;
  Allocator allocator;
  Uploads uploads;
  std::atomic<int> graphs = 0;  // captured, and reading and writing the arena whenever they are launched
};

DeviceState& state(Device device);   // made at the first call and never destroyed; makes the device current
const DeviceState* current_state();  // of the device that is current on this thread; null before the first

bool in_arena(int device);  // whether this thread's allocations come from the arena

}  // namespace flame::cuda
