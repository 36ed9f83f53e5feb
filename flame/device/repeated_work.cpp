#include "flame/device/graph.h"

namespace flame {

void RepeatedWork::operator()(const std::function<void()>& work) {
  constexpr int plain_runs = 2;
  if (graph_) return (*graph_)();
  const ArenaScope arena(device_);
  if (!captures_ || ++runs_ <= plain_runs) return work();
  graph_.emplace(device_, work);
  (*graph_)();
}

}  // namespace flame
