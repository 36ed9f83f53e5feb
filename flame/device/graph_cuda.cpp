#include "flame/core/error.h"
#include "flame/device/device_state_cuda.h"
#include "flame/device/graph.h"

namespace flame {

using cuda::check;

struct CapturedGraph::State {
  Device device;
  size_t nodes = 0;
  cudaGraphExec_t executable = nullptr;
  explicit State(Device where) : device(where) { ++cuda::state(device).graphs; }
  ~State() {
    if (executable) cudaGraphExecDestroy(executable);
    --cuda::state(device).graphs;
  }
};

CapturedGraph::CapturedGraph(Device device, const std::function<void()>& work)
    : state_(std::make_shared<State>(device)) {
  const cudaStream_t stream = cuda::stream(device);
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphGetNodes(graph, nullptr, &state_->nodes));
  const cudaError_t status = cudaGraphInstantiate(&state_->executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status);
  check(cudaGraphUpload(state_->executable, stream));
  auto& of = cuda::state(device);
  of.allocator.keep_step(of.graphs == 1);
}

void CapturedGraph::operator()() const { check(cudaGraphLaunch(state_->executable, cuda::stream(state_->device))); }

size_t CapturedGraph::nodes() const { return state_->nodes; }

size_t captured_graphs(Device device) {
  return device.is_cuda() ? static_cast<size_t>(cuda::state(device).graphs.load()) : 0;
}

Event::Event(Device device) : device_(device) {
  if (device.is_cpu()) return;
  cuda::stream(device);  // makes the device current
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  event_ = std::shared_ptr<void>(event, [](void* made) { cudaEventDestroy(static_cast<cudaEvent_t>(made)); });
}

void Event::record() {
  if (event_) check(cudaEventRecord(static_cast<cudaEvent_t>(event_.get()), cuda::stream(device_)));
}

bool Event::over() const {
  if (!event_) return true;
  const cudaError_t status = cudaEventQuery(static_cast<cudaEvent_t>(event_.get()));
  if (status == cudaErrorNotReady) return false;
  check(status);
  return true;
}

void Event::wait() const {
  if (event_) check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_.get())));
}

PinnedBytes::PinnedBytes(Device device, size_t bytes) : device_(device) {
  if (device.is_cpu()) {
    bytes_ = std::shared_ptr<std::byte>(new std::byte[bytes], std::default_delete<std::byte[]>());
    return;
  }
  cuda::stream(device);
  std::byte* memory = nullptr;
  check(cudaHostAlloc(reinterpret_cast<void**>(&memory), bytes, cudaHostAllocPortable));
  bytes_ = std::shared_ptr<std::byte>(memory, [](std::byte* made) { cudaFreeHost(made); });
}

void PinnedBytes::fetch(const std::byte* from, size_t offset, size_t bytes) {
  if (device_.is_cpu()) return copy_bytes(bytes_.get() + offset, device_, from, device_, bytes);
  check(cudaMemcpyAsync(bytes_.get() + offset, from, bytes, cudaMemcpyDeviceToHost, cuda::stream(device_)));
}

}  // namespace flame
