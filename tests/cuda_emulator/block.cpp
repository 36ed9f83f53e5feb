#include <algorithm>
#include <array>
#include <boost/context/fiber.hpp>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "emulator.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulator {
namespace {

constexpr unsigned warp_size = 32;

// To AddressSanitizer, which has to know the stack: `mine` is what it keeps of the one that is left.
#if defined(__SANITIZE_ADDRESS__)
void leave_stack(void** mine, const void* bottom, size_t bytes) { __sanitizer_start_switch_fiber(mine, bottom, bytes); }
void enter_stack(void* mine, const void** from, size_t* bytes) { __sanitizer_finish_switch_fiber(mine, from, bytes); }
#else
void leave_stack(void**, const void*, size_t) {}
void enter_stack(void*, const void**, size_t*) {}
#endif

// A stack that threads of a block run on, one after the other.
class Fiber {
 public:
  explicit Fiber(void (*work)(Fiber&))
      : memory_(new std::byte[stack_bytes]),
        inside_(std::allocator_arg, Stack{memory_.get()}, [this, work](auto&& outside) {
          outside_ = std::move(outside);
          enter_stack(nullptr, &outer_bottom_, &outer_bytes_);
          work(*this);
          return std::move(outside_);
        }) {}

  void enter() {  // until leave() is called on it
    void* mine = nullptr;
    leave_stack(&mine, memory_.get(), stack_bytes);
    inside_ = std::move(inside_).resume();
    enter_stack(mine, nullptr, nullptr);
  }
  void leave() {  // until it is entered again
    void* mine = nullptr;
    leave_stack(&mine, outer_bottom_, outer_bytes_);
    outside_ = std::move(outside_).resume();
    enter_stack(mine, &outer_bottom_, &outer_bytes_);
  }

 private:
  static constexpr size_t stack_bytes = size_t{256} << 10;
  struct Stack {  // as Boost.Context wants it
    std::byte* bottom;
    boost::context::stack_context allocate() const {
      boost::context::stack_context context;
      context.size = stack_bytes;
      context.sp = bottom + stack_bytes;
      return context;
    }
    void deallocate(boost::context::stack_context&) const {}
  };

  std::unique_ptr<std::byte[]> memory_;
  boost::context::fiber inside_, outside_;
  const void* outer_bottom_ = nullptr;
  size_t outer_bytes_ = 0;
};

struct Thread {
  uint3 index;
  enum { unborn, ready, waiting, ended } state = unborn;
  Fiber* fiber = nullptr;
  unsigned barriers = 0;                      // of its warp, passed
  std::vector<std::function<void()>> copies;  // begun, not done
};

struct Warp {
  unsigned living = 0, arrived = 0;
  Site site;  // of the barrier that the first has come to
  alignas(64) std::array<std::array<std::byte, warp_size * most_shown>, 2> shown;
};

struct Block {
  const std::function<void()>* body = nullptr;
  std::vector<Thread> threads;
  std::vector<std::unique_ptr<Warp>> warps;
  std::unique_ptr<std::byte[]> shared;
  unsigned living = 0, arrived = 0, unborn = 0;
  Site site;  // as a warp's
  bool said = false, any_said = false;
  Thread* now = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;
};

Block& block() {
  static auto* made = new Block;
  return *made;
}

unsigned number_of(const Thread& thread) { return static_cast<unsigned>(&thread - block().threads.data()); }
Warp& warp_of(const Thread& thread) { return *block().warps[number_of(thread) / warp_size]; }

void set_now(Thread& thread) {
  block().now = &thread;
  threadIdx = thread.index;
}

// Until it is this thread's turn again; `state` says whether it may have one.
void leave(decltype(Thread::state) state) {
  Thread& self = *block().now;
  self.state = state;
  self.fiber->leave();
}

void wake(unsigned first, unsigned last) {
  for (unsigned i = first; i < last && i < block().threads.size(); ++i)
    if (block().threads[i].state == Thread::waiting) block().threads[i].state = Thread::ready;
}

void open_block() {
  Block& b = block();
  b.arrived = 0;
  b.any_said = b.said;
  b.said = false;
  wake(0, static_cast<unsigned>(b.threads.size()));
}

void open_warp(const Thread& thread) {
  warp_of(thread).arrived = 0;
  const unsigned first = number_of(thread) / warp_size * warp_size;
  wake(first, first + warp_size);
}

void end(Thread& thread) {
  Block& b = block();
  thread.copies.clear();  // what nobody waits for is not done
  thread.state = Thread::ended;
  if (--b.living > 0 && b.arrived == b.living) open_block();
  Warp& warp = warp_of(thread);
  if (--warp.living > 0 && warp.arrived == warp.living) open_warp(thread);
}

[[noreturn]] void give_up(const char* what, const Site& one, const Site& other) {
  std::fprintf(stderr, "CUDA emulator: %s: %s:%u and %s:%u, block (%u, %u, %u)\n", what, one.file_name(), one.line(),
               other.file_name(), other.line(), blockIdx.x, blockIdx.y, blockIdx.z);
  std::abort();
}

// The first to come says where the others have to.
void meet(unsigned arrived, Site& met, const Site& site) {
  if (arrived == 0)
    met = site;
  else if (met.line() != site.line() || met.column() != site.column() || met.file_name() != site.file_name())
    give_up("threads meet at different barriers", met, site);
}

Thread& in_turn(unsigned i) {
  auto& threads = block().threads;
  return threads[late() ? threads.size() - 1 - i : i];
}

// What every fiber does: threads that have not begun, until one of them waits, which keeps the fiber.
void work(Fiber& self) {
  for (Block& b = block();;) {
    b.idle.pop_back();
    while (b.unborn > 0) {
      Thread& thread = in_turn(static_cast<unsigned>(b.threads.size()) - b.unborn--);
      thread.fiber = &self;
      thread.state = Thread::ready;
      set_now(thread);
      (*b.body)();
      end(thread);
    }
    b.idle.push_back(&self);
    self.leave();
  }
}

void run_block() {
  Block& b = block();
  const auto count = static_cast<unsigned>(b.threads.size());
  b.living = b.unborn = count;
  for (unsigned i = 0; i < count; ++i) {
    b.threads[i].state = Thread::unborn;
    b.threads[i].barriers = 0;
  }
  for (size_t i = 0; i < b.warps.size(); ++i)
    b.warps[i]->living = std::min<unsigned>(warp_size, count - static_cast<unsigned>(i) * warp_size);
  while (b.unborn > 0) {
    if (b.idle.empty()) {
      b.fibers.push_back(std::make_unique<Fiber>(&work));
      b.idle.push_back(b.fibers.back().get());
    }
    b.idle.back()->enter();
  }
  while (b.living > 0) {
    bool moved = false;
    for (unsigned i = 0; i < count; ++i) {
      Thread& thread = in_turn(i);
      if (thread.state != Thread::ready) continue;
      moved = true;
      set_now(thread);
      thread.fiber->enter();
    }
    if (moved) continue;
    give_up("threads wait for others that wait elsewhere", b.site, b.warps[0]->site);
  }
}

}  // namespace

bool late() {
  static const std::string_view said = [] {
    const char* const value = std::getenv("CUDA_EMULATOR");
    if (value && (value == std::string_view("early") || value == std::string_view("late"))) return value;
    std::fprintf(stderr, "CUDA_EMULATOR: expected early or late, got '%s'\n", value ? value : "");
    std::abort();
  }();
  return said == "late";
}

void begin_copy(std::function<void()> copy) {
  if (!late()) return copy();
  block().now->copies.push_back(std::move(copy));
}

void finish_copies() {
  for (const auto& copy : std::exchange(block().now->copies, {})) copy();
}

std::byte* shared_memory() { return block().shared.get(); }

unsigned lane() { return number_of(*block().now) % warp_size; }

// Whoever opens a barrier waits, too, so that all go on in order.
bool wait_for_block(bool said, const Site& site) {
  Block& b = block();
  meet(b.arrived, b.site, site);
  b.said |= said;
  const bool last = ++b.arrived == b.living;
  if (last) open_block();
  leave(last ? Thread::ready : Thread::waiting);
  return b.any_said;
}

const std::byte* wait_for_warp(const void* shown, size_t bytes, const Site& site) {
  Thread& self = *block().now;
  Warp& warp = warp_of(self);
  meet(warp.arrived, warp.site, site);
  auto& place = warp.shown[self.barriers++ % 2];
  if (warp.arrived == 0) place.fill(std::byte{0xff});
  std::memcpy(place.data() + lane() * most_shown, shown, bytes);
  const bool last = ++warp.arrived == warp.living;
  if (last) open_warp(self);
  leave(last ? Thread::ready : Thread::waiting);
  return place.data();
}

void run_grid(dim3 blocks, dim3 threads, size_t shared_bytes, const std::function<void()>& body) {
  Block& b = block();
  b.body = &body;
  blockDim = threads;
  gridDim = blocks;
  b.threads.resize(size_t{threads.x} * threads.y * threads.z);
  for (size_t i = 0; i < b.threads.size(); ++i)
    b.threads[i].index = {static_cast<unsigned>(i % threads.x), static_cast<unsigned>(i / threads.x % threads.y),
                          static_cast<unsigned>(i / threads.x / threads.y)};
  while (b.warps.size() * warp_size < b.threads.size()) b.warps.push_back(std::make_unique<Warp>());
  b.warps.resize((b.threads.size() + warp_size - 1) / warp_size);
  b.shared = std::make_unique<std::byte[]>(shared_bytes);
  const uint64_t count = uint64_t{blocks.x} * blocks.y * blocks.z;
  for (uint64_t turn = 0; turn < count; ++turn) {
    const uint64_t i = late() ? count - 1 - turn : turn;
    blockIdx = {static_cast<unsigned>(i % blocks.x), static_cast<unsigned>(i / blocks.x % blocks.y),
                static_cast<unsigned>(i / blocks.x / blocks.y)};
    std::fill_n(b.shared.get(), shared_bytes, std::byte{0xff});
    run_block();
  }
}

}  // namespace cuda_emulator
