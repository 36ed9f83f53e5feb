#include <omp.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <vector>

#include "flame/core/error.h"
#include "flame/device/at_end_cuda.h"
#include "flame/device/capture_cuda.h"
#include "flame/device/device_state_cuda.h"
#include "flame/device/launch_cuda.h"
#include "flame/device/parallel.h"

namespace flame {
namespace cuda {
namespace {

constexpr int oldest = 80;  // compute capability 8.0: bf16 and asynchronous copies

std::atomic<bool> tf32_allowed = false, deterministic_wanted = false;
thread_local DeviceState* current = nullptr;
thread_local int current_index = -1;

void require_new_enough(int index, const cudaDeviceProp& properties) {
  if (properties.major * 10 + properties.minor < oldest)
    fail("cuda:", index, " (", properties.name, ") is too old: it has compute capability ", properties.major, ".",
         properties.minor, ", and 8.0 is needed (GeForce RTX 30, A100 and later); use --device cpu");
}

}  // namespace

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  check(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

void check(cudaError_t status, std::source_location where) {
  if (status == cudaSuccess) return;
  const std::string file = where.file_name();
  fail("CUDA: ", cudaGetErrorString(status), " (", file.substr(file.rfind('/') + 1), ":", where.line(), ")");
}

DeviceState::DeviceState(int index) : allocator((check(cudaSetDevice(index)), index)) {
  check(cudaGetDeviceProperties(&properties, index));
  kernels_wait = cuda::kernels_wait();
  check(cudaStreamCreateWithFlags(&main, cudaStreamNonBlocking));
  check(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
  check(cudaEventCreateWithFlags(&forked, cudaEventDisableTiming));
  for (cudaEvent_t& event : marks) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

void DeviceState::close() {
  cudaDeviceSynchronize();
  uploads.close();
  for (cudaEvent_t event : marks) cudaEventDestroy(event);
  cudaEventDestroy(forked);
  cudaStreamDestroy(side);
  cudaStreamDestroy(main);
}

DeviceState& state(Device device) {
  static std::mutex mutex;
  static auto* states = new std::map<int, DeviceState*>;
  if (current_index == device.index()) return *current;
  const std::lock_guard lock(mutex);
  check(cudaSetDevice(device.index()));
  DeviceState*& made = (*states)[device.index()];
  if (!made) {
    made = new DeviceState(device.index());
    at_end([closed = made] { closed->close(); });
  }
  current_index = device.index();
  return *(current = made);
}

const DeviceState* current_state() { return current; }

cudaStream_t stream(Device device) { return state(device).main; }

cudaStream_t fork(Device device) {
  DeviceState& on = state(device);
  check(cudaEventRecord(on.forked, on.main));
  check(cudaStreamWaitEvent(on.side, on.forked));
  return on.side;
}

cudaEvent_t mark(Device device) {
  DeviceState& on = state(device);
  const cudaEvent_t event = on.marks[on.next_mark++ % on.marks.size()];
  check(cudaEventRecord(event, on.side));
  return event;
}

void wait_for(Device device, cudaEvent_t mark) { check(cudaStreamWaitEvent(stream(device), mark)); }

const cudaDeviceProp& properties(Device device) { return state(device).properties; }

unsigned blocks_for(Device device, int64_t n, int threads_per_block) {
  const cudaDeviceProp& card = properties(device);
  const int64_t most = static_cast<int64_t>(card.multiProcessorCount) * card.maxThreadsPerMultiProcessor;
  const int64_t wanted = (n + threads_per_block - 1) / threads_per_block;
  return static_cast<unsigned>(std::max<int64_t>(1, std::min(wanted, 4 * most / threads_per_block)));
}

bool leaves_nothing() {
  static const bool wanted = std::getenv("FLAME_CUDA_MALLOC") != nullptr;
  return wanted;
}

void at_end(std::function<void()> close) {
  static std::mutex mutex;
  static auto* given = new std::vector<std::function<void()>>;
  if (!leaves_nothing()) return;
  const std::lock_guard lock(mutex);
  if (given->empty()) {
    std::atexit([] {
      for (; !given->empty(); given->pop_back()) given->back()();
    });
  }
  given->push_back(std::move(close));
}

bool tf32() { return tf32_allowed; }
bool deterministic() { return deterministic_wanted; }

void Uploads::send(Device device, Slot& slot, size_t slot_bytes, std::byte* to, const std::byte* from, size_t bytes,
                   const ByteSource* source) {
  const cudaStream_t on = stream(device);  // makes the device current on this thread, too
  if (!slot.data) {
    check(cudaEventCreateWithFlags(&slot.sent, cudaEventDisableTiming));
    check(cudaHostAlloc(reinterpret_cast<void**>(&slot.data), slot_bytes, cudaHostAllocPortable));
  } else {
    check(cudaEventSynchronize(slot.sent));
  }
  if (source) {
    source->read(slot.data, from, bytes);
  } else {
    std::memcpy(slot.data, from, bytes);
  }
  check(cudaMemcpyAsync(to, slot.data, bytes, cudaMemcpyHostToDevice, on));
  check(cudaEventRecord(slot.sent, on));
}

// Each piece has two slots of its own, or one if it fits.
void Uploads::copy_in_pieces(Device device, std::byte* to, const std::byte* from, size_t bytes,
                             const ByteSource* source) {
  constexpr size_t worth_a_thread = size_t{512} << 10, page = 4096;
  const size_t pieces =
      std::clamp<size_t>(bytes / worth_a_thread, 1, std::min(static_cast<size_t>(threads()), large_.size() / 2));
  const size_t slots = bytes > pieces * large_bytes ? 2 : 1, first = next_large_;
  next_large_ += pieces * slots;
  const auto begin_of = [&](size_t piece) { return piece == pieces ? bytes : bytes * piece / pieces / page * page; };
  std::vector<std::exception_ptr> errors(pieces);
  const auto send_piece = [&](size_t piece) {
    const size_t end = begin_of(piece + 1);
    for (size_t done = begin_of(piece), turn = 0; done < end; done += large_bytes, ++turn) {
      Slot& slot = large_[(first + piece * slots + turn % slots) % large_.size()];
      send(device, slot, large_bytes, to + done, from + done, std::min(large_bytes, end - done), source);
    }
  };
  parallel_for(static_cast<int64_t>(pieces), 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      try {
        send_piece(static_cast<size_t>(piece));
      } catch (...) {
        errors[piece] = std::current_exception();
      }
    }
  });
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

void Uploads::copy(Device device, std::byte* to, const std::byte* from, size_t bytes, const ByteSource* source) {
  require(!is_capturing(stream(device)), "copy", "a captured step may not read from the CPU");
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  if (bytes > small_bytes) return copy_in_pieces(device, to, from, bytes, source);
  send(device, small_[next_small_++ % small_.size()], small_bytes, to, from, bytes, source);
}

void Uploads::close() {
  const auto free_all = [](auto& slots) {
    for (Slot& slot : slots) {
      if (!slot.data) continue;
      cudaEventDestroy(slot.sent);
      cudaFreeHost(slot.data);
    }
  };
  free_all(small_);
  free_all(large_);
}

// Between the GPU and another device; the CPU to itself is not its business.
void copy(std::byte* to, Device to_device, const std::byte* from, Device from_device, size_t bytes,
          const ByteSource* source) {
  if (from_device.is_cpu()) return state(to_device).uploads.copy(to_device, to, from, bytes, source);
  const cudaStream_t here = stream(from_device);
  if (to_device.is_cpu()) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, here));
    return check(cudaStreamSynchronize(here));
  }
  if (to_device == from_device) return check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, here));
  check(cudaStreamSynchronize(here));
  const cudaStream_t target = stream(to_device);
  check(cudaMemcpyPeerAsync(to, to_device.index(), from, from_device.index(), bytes, target));
  check(cudaStreamSynchronize(target));
}

}  // namespace cuda

Device Device::cuda(int index) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0)
    fail("device cuda:", index, ": no NVIDIA GPU is to be seen here (", cudaGetErrorString(status),
         "); install or repair NVIDIA's driver, or use --device cpu");
  if (index >= count) fail("device cuda:", index, ": this machine has ", count, " GPUs, cuda:0 is the first");
  const Device device(index);
  cuda::require_new_enough(index, cuda::properties(device));
  return device;
}

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void synchronize(Device device) {
  if (device.is_cuda()) cuda::check(cudaStreamSynchronize(cuda::stream(device)));
}

void set_tf32(bool allowed) { cuda::tf32_allowed = allowed; }
void set_deterministic(bool wanted) { cuda::deterministic_wanted = wanted; }

}  // namespace flame
