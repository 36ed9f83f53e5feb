// How long the adapters' gradients of an SDXL transformer block take on a GPU, for each of its three parts, next to
// their bytes and to cuBLASLt with a product for each gradient.
//   bench_adapter_gradients_cuda [RANK]     16 where nothing is said
// Microseconds are those of a part among many in one captured graph, which go round buffers larger than the cache
// ("cold") or stay with the same ones ("warm").
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "bench/graph_time_cuda.h"
#include "flame/device/cuda.h"
#include "flame/device/graph.h"
#include "flame/nn/extended_linear_cuda.h"
#include "flame/ops/layout.h"

using namespace flame;
using cuda::AdapterGradient, cuda::check, cuda::Extended, cuda::Matrix;

namespace {

constexpr double bytes_per_us = 3.02e6;  // what pointwise kernels reach on an H100
constexpr size_t cache = size_t{160} << 20;

// A layer, or several that share their input.
struct Layer {
  int64_t in, out, count = 1;
  bool after_norm = false;
};

struct Buffers {
  std::vector<Extended> all;
  std::vector<Tensor> sums;
  Tensor gain, shift;
  std::vector<AdapterGradient> gradients;
  double bytes = 0;  // that have to be read, or read and written

  Buffers(int64_t rows, const std::vector<Layer>& layers, int64_t rank) {
    const Device gpu = Device::cuda();
    gain = Tensor::ones({layers.front().in}, DType::f32, gpu), shift = gain.clone();
    for (const Layer& layer : layers) add(rows, layer, rank);
  }
  size_t size() const {
    size_t total = 0;
    for (const Extended& each : all) total += each.buffer.bytes();
    return total;
  }

 private:
  Extended normal(int64_t rows, int64_t columns, int64_t extra) {
    const Extended result(rows, columns, extra, DType::bf16, Device::cuda());
    result.buffer.copy_from(cast(Tensor::randn(result.buffer.shape(), Device::cuda()), DType::bf16));
    bytes += 2 * static_cast<double>(rows * columns);
    all.push_back(result);
    return result;
  }
  float* sum(const Shape& shape) {
    sums.push_back(Tensor::zeros(shape, DType::f32, Device::cuda()));
    bytes += 8 * static_cast<double>(shape.numel());
    return sums.back().data<float>();
  }
  void add(int64_t rows, const Layer& layer, int64_t rank) {
    const int64_t extra = (layer.count * rank + 64) / 64 * 64;
    const Extended x = normal(rows, layer.in, extra), dy = normal(rows, layer.out * layer.count, extra);
    for (int64_t i = 0; i < layer.count; ++i) {
      gradients.push_back({.left = dy.part(i * layer.out, layer.out),
                           .right = x.part(layer.in + i * rank, rank),
                           .to = sum({layer.out, rank}),
                           .scale = 0.5f});
      gradients.push_back({.left = x.main(),
                           .right = dy.part(dy.columns + i * rank, rank),
                           .to = sum({rank, layer.in}),
                           .ranks_first = true,
                           .gain = layer.after_norm ? gain.data<float>() : nullptr,
                           .shift = layer.after_norm ? shift.data<float>() : nullptr});
    }
  }
};

void ours(const Buffers& b) { cuda::add_adapter_gradients(cuda::stream(Device::cuda()), b.gradients); }

// Without what gain and shift do.
void cublaslt(const Buffers& b) {
  const Device gpu = Device::cuda();
  for (const AdapterGradient& g : b.gradients) {
    const Matrix &first = g.ranks_first ? g.right : g.left, &second = g.ranks_first ? g.left : g.right;
    const Matrix to = {reinterpret_cast<std::byte*>(g.to), DType::f32, first.columns, second.columns, second.columns};
    cuda::product(gpu, cuda::stream(gpu), first, true, second, false, to, {.alpha = g.scale, .beta = 1});
  }
}

void report(const char* part, int64_t rows, const std::vector<Layer>& layers, int64_t rank) {
  std::vector<Buffers> cold;
  do cold.emplace_back(rows, layers, rank);
  while (cold.size() * cold[0].size() < cache);
  const std::vector<Buffers> warm = {cold[0]};
  std::printf("  %-16s %6.1f    %6.1f %6.1f    %6.1f %6.1f\n", part, cold[0].bytes / bytes_per_us,
              bench::microseconds(cold, ours), bench::microseconds(warm, ours), bench::microseconds(cold, cublaslt),
              bench::microseconds(warm, cublaslt));
}

}  // namespace

int main(int count, char** arguments) {
  if (cuda_device_count() == 0) {
    std::printf("there is no GPU on this machine\n");
    return 0;
  }
  const int64_t rank = count > 1 ? std::atoi(arguments[1]) : 16;
  std::printf("%s, bf16, rank %d\n  microseconds        bytes    cold   warm    cuBLASLt: cold   warm\n",
              cuda::properties(Device::cuda()).name, static_cast<int>(rank));
  for (const auto& [rows, width] : {std::pair{1024, 1280}, {4096, 640}, {4096, 1280}, {16384, 640}}) {
    const int64_t c = width;
    std::printf("%d rows, %d columns\n", rows, width);
    report("feed-forward", rows, {{4 * c, c}, {c, 8 * c, 1, true}}, rank);
    report("cross attention", rows, {{c, c}, {c, c, 1, true}}, rank);
    report("self attention", rows, {{c, c}, {c, c, 3, true}}, rank);
  }
}
