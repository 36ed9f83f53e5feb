#include "flame/ops/onednn.h"

#include <omp.h>

namespace flame::onednn {

dnnl::engine& engine() {
  static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

int threads_for(double operations) {
  constexpr double worth_waking = 2e6;  // about the 10 us that waking a sleeping thread takes
  return omp_in_parallel() || operations < worth_waking ? 1 : omp_get_max_threads();
}

ThreadLimit::ThreadLimit(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
ThreadLimit::~ThreadLimit() { omp_set_num_threads(before_); }

Call::Call(dnnl::primitive primitive, int threads, const std::vector<std::pair<int, dnnl::memory::desc>>& operands)
    : primitive_(std::move(primitive)), threads_(threads) {
  for (const auto& [argument, layout] : operands) {
    memories_.push_back(dnnl::memory(layout, engine(), DNNL_MEMORY_NONE));
    arguments_.push_back({argument, memories_.back().get()});
  }
}

void Call::operator()(std::initializer_list<const void*> data) {
  static thread_local dnnl::stream stream(engine());
  const ThreadLimit limit(threads_);
  auto memory = memories_.begin();
  for (const void* operand : data) (memory++)->set_data_handle(const_cast<void*>(operand));
  dnnl::error::wrap_c_api(
      dnnl_primitive_execute(primitive_.get(), stream.get(), static_cast<int>(arguments_.size()), arguments_.data()),
      "could not run a primitive");
}

size_t KeyHash::operator()(const Key& key) const {
  uint64_t hash = 0;
  const auto mix = [&](int64_t value) {
    hash = (hash ^ static_cast<uint64_t>(value)) * 0x9E3779B97F4A7C15 ^ hash >> 29;
  };
  for (int64_t extent : key.a) mix(extent);
  for (int64_t extent : key.b) mix(extent);
  for (int option : key.options) mix(option);
  return hash;
}

}  // namespace flame::onednn
