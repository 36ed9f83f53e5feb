#include "flame/ops/fastest_cuda.h"

#include <limits>

namespace flame::cuda {
namespace {

constexpr float clearly = 0.98f;  // of the time of the best before it

class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) {
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  float milliseconds(cudaGraphExec_t work) {
    check(cudaEventRecord(begin_, stream_));
    check(cudaGraphLaunch(work, stream_));
    check(cudaEventRecord(end_, stream_));
    check(cudaEventSynchronize(end_));
    float time = 0;
    check(cudaEventElapsedTime(&time, begin_, end_));
    return time;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

// `repeats` launches as a graph; null where one cannot be launched or captured.
cudaGraphExec_t capture(cudaStream_t stream, int repeats, const std::function<bool()>& launch) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  bool good = launch();
  if (good) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < repeats && good; ++i) good = launch();
    good = cudaStreamEndCapture(stream, &graph) == cudaSuccess && good;
    good = good && cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess;
    if (graph) cudaGraphDestroy(graph);
  }
  cudaGetLastError();  // a failure here means only that this way is none
  return good ? executable : nullptr;
}

}  // namespace

std::optional<size_t> fastest(cudaStream_t stream, size_t count, int repeats,
                              const std::function<bool(size_t)>& launch) {
  constexpr int rounds = 4;  // the first warms up
  Stopwatch watch(stream);
  std::optional<size_t> best;
  float best_time = std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < count; ++i) {
    const cudaGraphExec_t work = capture(stream, repeats, [&] { return launch(i); });
    if (!work) continue;
    float time = std::numeric_limits<float>::infinity();
    for (int round = 0; round < rounds; ++round) {
      const float taken = watch.milliseconds(work);
      if (round > 0) time = std::min(time, taken);
    }
    check(cudaGraphExecDestroy(work));
    if (best && !(time < clearly * best_time)) continue;
    best = i;
    best_time = time;
  }
  return best;
}

}  // namespace flame::cuda
