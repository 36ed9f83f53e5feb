#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>

#include "flame/device/arena_plan.h"
#include "flame/device/device.h"

namespace flame {

// GPU work recorded once and run again by one call. It reads and writes the memory that it had when it was recorded:
// allocate inside an ArenaScope what lives only within it, and before it what goes in and comes out.
class CapturedGraph {
 public:
  // Runs `work`, which launches nothing yet. It must have run before, so that plans are chosen and libraries are warm;
  // it may not read from the GPU or copy from the CPU.
  CapturedGraph(Device device, const std::function<void()>& work);
  void operator()() const;  // launches all of it, in the order of the device's work
  size_t nodes() const;     // kernels, copies and fills

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Work that is done again and again, in an ArenaScope. On a GPU it runs plainly twice, which chooses plans, warms
// libraries up and shows what memory is asked for when, is then captured, and from then on only launched; on the CPU,
// and without `captures`, it runs plainly.
class RepeatedWork {
 public:
  RepeatedWork(Device device, bool captures) : device_(device), captures_(captures && device.is_cuda()) {}
  void operator()(const std::function<void()>& work);  // the same each time
  size_t nodes() const { return graph_ ? graph_->nodes() : 0; }

 private:
  Device device_;
  bool captures_;
  int runs_ = 0;
  ArenaPlan plan_;
  std::optional<CapturedGraph> graph_;
};

size_t captured_graphs(Device device);  // that exist now

// A moment in a GPU's work. On the CPU it is always over.
class Event {
 public:
  explicit Event(Device device);
  void record();      // the moment is after all work given so far
  bool over() const;  // without waiting
  void wait() const;  // until it is over

 private:
  Device device_;
  std::shared_ptr<void> event_;
};

// Memory of the CPU that the GPU writes to while the CPU goes on: bytes that arrive once an Event is over.
class PinnedBytes {
 public:
  PinnedBytes(Device device, size_t bytes);
  void fetch(const std::byte* from, size_t offset, size_t bytes);  // from the device's memory, in the order of its work
  const std::byte* data() const { return bytes_.get(); }

 private:
  Device device_;
  std::shared_ptr<std::byte> bytes_;
};

}  // namespace flame
