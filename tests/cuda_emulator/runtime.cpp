#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "cudaTypedefs.h"
#include "cuda_runtime.h"
#include "emulator.h"

namespace cuda_emulator {

using Work = std::function<void()>;

// Work that was given and has not been done. Some of it waits: for so much of another queue to be over.
struct Queue {
  std::deque<Work> left;
  uint64_t given = 0, done = 0;

  void give(Work work) {
    left.push_back(std::move(work));
    ++given;
  }
  void run_to(uint64_t end) {
    while (done < end && !left.empty()) {
      const Work work = std::move(left.front());
      left.pop_front();
      work();  // which may wait for another queue, but never for this one
      ++done;
    }
  }
};

struct Stream {
  int device;
  std::shared_ptr<Queue> queue = std::make_shared<Queue>();
  Graph* captured_by = nullptr;
};

// A place in a stream's work, or in what was captured from it.
struct Event {
  int device;
  Stream* stream = nullptr;      // of a capture; only compared
  std::shared_ptr<Queue> queue;  // otherwise
  uint64_t at = 0, capture = 0;
};

// Work by stream, the first the one that the capture began on.
struct Graph {
  struct Lane {
    Stream* stream;
    std::vector<Work> work;
    size_t joined = 0;  // so much of it does the first lane wait for
  };
  uint64_t capture;
  std::vector<Lane> lanes;
  std::shared_ptr<std::vector<Queue>> queues = std::make_shared<std::vector<Queue>>();  // where the lanes are replayed
  bool invalid = false;                                                                 // by a call that waits

  size_t lane_of(Stream* stream) {
    for (size_t i = 0; i < lanes.size(); ++i)
      if (lanes[i].stream == stream) return i;
    lanes.push_back({stream, {}});
    queues->resize(lanes.size());
    return lanes.size() - 1;
  }
};

namespace {

constexpr int devices = 2;
constexpr size_t memory_bytes = size_t{16} << 30;  // of each
struct Allocation {
  int device;
  size_t bytes;
};

thread_local int current_device = 0;
thread_local Graph* capturing = nullptr;  // what this thread began
thread_local cudaError_t last_error = cudaSuccess;
std::recursive_mutex mutex;  // of all that follows, and of whatever runs
std::vector<Stream*> streams;
std::map<uint64_t, Graph*> captures;  // that have not ended
uint64_t captures_begun = 0;
std::array<size_t, devices> memory_used = {};
std::map<void*, Allocation> allocations;
std::map<const void*, size_t> shared_memory_of;  // that a kernel may ask for

cudaError_t said(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// Whether a call that waits comes while work is captured, of which nothing will come then.
bool ends_capture(Graph* graph) {
  if (graph) graph->invalid = true;
  return graph != nullptr;
}

void finish_all() {
  for (Stream* stream : streams) stream->queue->run_to(stream->queue->given);
}

bool take_memory(int device, size_t bytes) {
  if (memory_used[device] + bytes > memory_bytes) return false;
  memory_used[device] += bytes;
  return true;
}

}  // namespace

cudaError_t give(Stream* stream, Work work) {
  const std::lock_guard lock(mutex);
  if (Graph* const graph = stream->captured_by) {
    graph->lanes[graph->lane_of(stream)].work.push_back(std::move(work));
    return cudaSuccess;
  }
  stream->queue->give(std::move(work));
  if (!late()) stream->queue->run_to(stream->queue->given);
  return cudaSuccess;
}

cudaError_t allow_shared_memory(const void* kernel, size_t bytes) {
  const std::lock_guard lock(mutex);
  if (bytes > most_shared_bytes) return said(cudaErrorInvalidValue);
  shared_memory_of[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread) {
  const std::lock_guard lock(mutex);
  const dim3 blocks = config.gridDim, threads = config.blockDim;
  const uint64_t count = uint64_t{threads.x} * threads.y * threads.z;
  if (config.stream->device != current_device) return said(cudaErrorInvalidResourceHandle);
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || blocks.x > 0x7fffffff || blocks.y > 65535 ||
      blocks.z > 65535 || count == 0 || count > 1024 || threads.z > 64)
    return said(cudaErrorInvalidConfiguration);
  const auto allowed = shared_memory_of.find(kernel);
  if (config.dynamicSmemBytes > (allowed == shared_memory_of.end() ? size_t{48} << 10 : allowed->second))
    return said(cudaErrorInvalidValue);
  return give(config.stream, [blocks, threads, bytes = config.dynamicSmemBytes, body = std::move(thread)] {
    run_grid(blocks, threads, bytes, body);
  });
}

}  // namespace cuda_emulator

using namespace cuda_emulator;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnjoined:
      return "capturing stream has unjoined work";
    case cudaErrorCapturedEvent:
      return "operation not permitted on an event last recorded in a capturing stream";
  }
  return "unrecognized error code";
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

// --- devices ---
cudaError_t cudaGetDeviceCount(int* count) {
  *count = std::getenv("CUDA_EMULATOR") ? devices : 0;
  return said(*count ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= devices) return said(cudaErrorInvalidDevice);
  *properties = {"CUDA emulator", 8, 0, 2, 2048, most_shared_bytes};
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= devices) return said(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard lock(mutex);
  if (ends_capture(capturing)) return said(cudaErrorStreamCaptureUnsupported);
  for (Stream* stream : streams)
    if (stream->device == current_device) stream->queue->run_to(stream->queue->given);
  return cudaSuccess;
}

// --- streams and events ---
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard lock(mutex);
  streams.push_back(*stream = new Stream{.device = current_device});
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  stream->queue->run_to(stream->queue->given);
  std::erase(streams, stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (ends_capture(stream->captured_by) || ends_capture(capturing)) return said(cudaErrorStreamCaptureUnsupported);
  stream->queue->run_to(stream->queue->given);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new Event{.device = current_device, .queue = nullptr};
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (event->device != stream->device) return said(cudaErrorInvalidResourceHandle);
  if (Graph* const graph = stream->captured_by)
    *event = {event->device, stream, nullptr, graph->lanes[graph->lane_of(stream)].work.size(), graph->capture};
  else
    *event = {event->device, nullptr, stream->queue, stream->queue->given, 0};
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::lock_guard lock(mutex);
  if (!event->capture) {
    if (!event->queue || event->queue == stream->queue) return cudaSuccess;
    if (ends_capture(stream->captured_by)) return said(cudaErrorStreamCaptureUnsupported);
    return give(stream, [queue = event->queue, at = event->at] { queue->run_to(at); });
  }
  const auto captured = captures.find(event->capture);
  if (captured == captures.end()) return said(cudaErrorCapturedEvent);
  Graph* const graph = stream->captured_by = captured->second;
  const size_t awaited = graph->lane_of(event->stream), by = graph->lane_of(stream);
  if (awaited == by) return cudaSuccess;
  if (by == 0) graph->lanes[awaited].joined = std::max<size_t>(graph->lanes[awaited].joined, event->at);
  return give(stream, [queues = graph->queues, awaited, at = event->at] { (*queues)[awaited].run_to(at); });
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(mutex);
  if (event->capture) return said(cudaErrorCapturedEvent);
  if (!event->queue) return cudaSuccess;
  if (late()) event->queue->run_to(std::min(event->at, event->queue->done + 1));  // who asks again and again waits
  return event->queue->done >= event->at ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::lock_guard lock(mutex);
  if (event->capture) return said(cudaErrorCapturedEvent);
  if (ends_capture(capturing)) return said(cudaErrorStreamCaptureUnsupported);
  if (event->queue) event->queue->run_to(event->at);
  return cudaSuccess;
}

// --- graphs ---
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const std::lock_guard lock(mutex);
  *status = stream->captured_by ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard lock(mutex);
  if (capturing || stream->captured_by) return said(cudaErrorStreamCaptureUnsupported);
  capturing = stream->captured_by = new Graph{++captures_begun, {}};
  captures[capturing->capture] = capturing;
  capturing->lane_of(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(mutex);
  *graph = nullptr;
  if (!capturing || stream->captured_by != capturing) return said(cudaErrorInvalidValue);
  std::unique_ptr<Graph> made(std::exchange(capturing, nullptr));
  captures.erase(made->capture);
  bool unjoined = false;
  for (const Graph::Lane& lane : made->lanes) {
    lane.stream->captured_by = nullptr;
    unjoined |= lane.stream != stream && lane.joined < lane.work.size();
  }
  if (made->invalid) return said(cudaErrorStreamCaptureInvalidated);
  if (unjoined) return said(cudaErrorStreamCaptureUnjoined);
  *graph = made.release();
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = 0;
  for (const Graph::Lane& lane : graph->lanes) *count += lane.work.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new Graph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (ends_capture(stream->captured_by)) return said(cudaErrorStreamCaptureUnsupported);
  return give(stream, [executable] {
    auto& queues = *executable->queues;
    for (size_t i = 0; i < queues.size(); ++i) {
      queues[i] = {};
      for (const Work& work : executable->lanes[i].work) queues[i].give(work);
    }
    // The other streams' work first, but for what waits for the first's; or last, but for what that waits for.
    if (!late()) std::for_each(queues.rbegin(), queues.rend(), [](Queue& queue) { queue.run_to(queue.given); });
    for (Queue& queue : queues) queue.run_to(queue.given);
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const std::lock_guard lock(mutex);
  finish_all();
  delete executable;
  return cudaSuccess;
}

// --- memory ---
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const std::lock_guard lock(mutex);
  if (ends_capture(capturing)) return said(cudaErrorStreamCaptureUnsupported);
  if (!take_memory(current_device, bytes)) return said(cudaErrorMemoryAllocation);
  if (posix_memalign(memory, 256, bytes) != 0) std::abort();
  allocations[*memory] = {current_device, bytes};
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  const std::lock_guard lock(mutex);
  if (ends_capture(capturing)) return said(cudaErrorStreamCaptureUnsupported);
  if (!memory) return cudaSuccess;
  finish_all();  // as CUDA does
  const auto found = allocations.find(memory);
  if (found == allocations.end()) return said(cudaErrorInvalidValue);
  memory_used[found->second.device] -= found->second.bytes;
  allocations.erase(found);
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = std::malloc(bytes);
  return said(*memory ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* memory) {
  const std::lock_guard lock(mutex);
  if (ends_capture(capturing)) return said(cudaErrorStreamCaptureUnsupported);
  finish_all();
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard lock(mutex);
  *total = memory_bytes;
  *free = memory_bytes - memory_used[current_device];
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return bytes ? give(stream, [=] { std::memcpy(to, from, bytes); }) : cudaSuccess;
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t stream) {
  return bytes ? give(stream, [=] { std::memcpy(to, from, bytes); }) : cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return said(cudaErrorInvalidValue);
  return give(stream, [=] {
    for (size_t i = 0; i < height; ++i)
      std::memcpy(static_cast<std::byte*>(to) + i * to_pitch, static_cast<const std::byte*>(from) + i * from_pitch,
                  width);
  });
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  return bytes ? give(stream, [=] { std::memset(memory, value, bytes); }) : cudaSuccess;
}

// --- the driver: addresses, and memory behind them ---
namespace {

// Its handle says how large a piece of memory is, and whose.
CUresult create(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp* properties,
                unsigned long long) {
  const std::lock_guard lock(mutex);
  const int device = properties->location.where.id;
  if (!take_memory(device, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = bytes * devices + static_cast<size_t>(device);
  return CUDA_SUCCESS;
}
CUresult release(CUmemGenericAllocationHandle handle) {
  const std::lock_guard lock(mutex);
  memory_used[handle % devices] -= handle / devices;
  return CUDA_SUCCESS;
}
CUresult reserve(CUdeviceptr* base, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  void* const found = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  *base = reinterpret_cast<CUdeviceptr>(found);
  return CUDA_SUCCESS;
}
CUresult map(CUdeviceptr, size_t bytes, size_t, CUmemGenericAllocationHandle handle, unsigned long long) {
  return bytes == handle / devices ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult allow(CUdeviceptr base, size_t bytes, const CUmemAccessDesc*, size_t) {
  const int status = mprotect(reinterpret_cast<void*>(base), bytes, PROT_READ | PROT_WRITE);
  return status == 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult unmap(CUdeviceptr base, size_t bytes) {
  void* const found = mmap(reinterpret_cast<void*>(base), bytes, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  return found != MAP_FAILED ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  static const std::map<std::string_view, void*> known = {
      {"cuMemCreate", reinterpret_cast<void*>(&create)},          {"cuMemRelease", reinterpret_cast<void*>(&release)},
      {"cuMemAddressReserve", reinterpret_cast<void*>(&reserve)}, {"cuMemMap", reinterpret_cast<void*>(&map)},
      {"cuMemSetAccess", reinterpret_cast<void*>(&allow)},        {"cuMemUnmap", reinterpret_cast<void*>(&unmap)},
  };
  const auto found = known.find(name);
  *function = found == known.end() ? nullptr : found->second;
  *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
