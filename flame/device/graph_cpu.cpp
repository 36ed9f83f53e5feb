#include "flame/core/error.h"
#include "flame/device/graph.h"

// A build without CUDA captures nothing, and everything is over at once.
namespace flame {

struct CapturedGraph::State {};

CapturedGraph::CapturedGraph(Device device, const std::function<void()>&) {
  fail("a graph is captured on a GPU, not on ", device.name());
}
void CapturedGraph::operator()() const {}
size_t CapturedGraph::nodes() const { return 0; }
size_t captured_graphs(Device) { return 0; }

Event::Event(Device device) : device_(device) {}
void Event::record() {}
bool Event::over() const { return true; }
void Event::wait() const {}

PinnedBytes::PinnedBytes(Device device, size_t bytes)
    : device_(device), bytes_(new std::byte[bytes], std::default_delete<std::byte[]>()) {}
void PinnedBytes::fetch(const std::byte* from, size_t offset, size_t bytes) {
  copy_bytes(bytes_.get() + offset, device_, from, device_, bytes);
}

}  // namespace flame
