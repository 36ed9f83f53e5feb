#pragma once

#include <algorithm>
#include <vector>

#include "flame/device/cuda.h"
#include "flame/device/graph.h"

namespace bench {

// The median of seven replays of a graph of about a hundred calls, in microseconds a call.
template <class Buffers, class F>
double microseconds(const std::vector<Buffers>& buffers, F&& call) {
  using namespace flame;
  using cuda::check;
  const Device gpu = Device::cuda();
  const cudaStream_t stream = cuda::stream(gpu);
  const size_t rounds = std::max<size_t>(1, 100 / buffers.size());
  const ArenaScope arena(gpu);
  call(buffers[0]);
  const CapturedGraph graph(gpu, [&] {
    for (size_t round = 0; round < rounds; ++round)
      for (const Buffers& b : buffers) call(b);
  });
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<double> times;
  for (int replay = 0; replay < 8; ++replay) {
    check(cudaEventRecord(begin, stream));
    graph();
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float ms;
    check(cudaEventElapsedTime(&ms, begin, end));
    if (replay > 0) times.push_back(ms * 1e3 / static_cast<double>(rounds * buffers.size()));
  }
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace bench
