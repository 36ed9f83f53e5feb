#include "flame/device/graph.h"

namespace flame {

void RepeatedWork::operator()(const std::function<void()>& work) {
  constexpr int plain_runs = 2;
  if (graph_) return (*graph_)();
  const ArenaScope arena(device_, captures_ ? &plan_ : nullptr);
  if (!captures_) return work();
  if (++runs_ <= plain_runs) {
    work();
    if (runs_ == plain_runs) plan_.settle();
    return;
  }
  graph_.emplace(device_, work);
  (*graph_)();
}

}  // namespace flame
