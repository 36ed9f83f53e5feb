// How long attention to the few tokens of a text takes on a GPU at SDXL's sizes, next to its bytes and to cuDNN.
//   bench_attention_cuda          as it is used
//   bench_attention_cuda cuts     with every cut of the work, to choose by
// Microseconds are those of a call among many in one captured graph, which go round buffers larger than the cache
// ("cold") or stay with the same ones ("warm").
#include <cstdio>
#include <string_view>
#include <vector>

#include "bench/graph_time_cuda.h"
#include "flame/device/cuda.h"
#include "flame/device/graph.h"
#include "flame/ops/cross_attention_cuda.h"
#include "flame/ops/cudnn_attention_cuda.h"
#include "flame/ops/layout.h"

using namespace flame;
using cuda::check, cuda::CrossAttention, cuda::CrossAttentionCut, cuda::HeadRows;

namespace {

constexpr double bytes_per_us = 3.02e6;  // what pointwise kernels reach on an H100
constexpr size_t cache = size_t{160} << 20;

struct Sizes {
  int64_t batch, queries, heads, keys = 77;
};

struct Buffers {
  Tensor q, k, v, out, log_sum, dout, dq, dk, dv, workspace;

  explicit Buffers(const Sizes& s) {
    const Device gpu = Device::cuda();
    const auto normal = [&](int64_t tokens) {
      return cast(Tensor::randn({s.batch, tokens, s.heads, 64}, gpu), DType::bf16);
    };
    q = normal(s.queries), k = normal(s.keys), v = normal(s.keys), dout = normal(s.queries);
    out = q.clone(), dq = q.clone(), dk = k.clone(), dv = k.clone();
    log_sum = Tensor::empty({s.batch, s.heads, s.queries}, DType::f32, gpu);
    const int64_t most_chunks = (s.queries + 63) / 64;
    workspace = Tensor::empty({most_chunks, s.batch * s.heads, 2, s.keys, 64}, DType::f32, gpu);
  }
  size_t bytes() const { return 4 * q.bytes() + 4 * k.bytes() + log_sum.bytes(); }
};

HeadRows rows_of(const Tensor& x) { return {x.raw(), x.dim(1) * x.dim(2) * 64, x.dim(2) * 64}; }
CrossAttention problem_of(const Buffers& b) {
  return {b.q.device(), b.q.dtype(), b.q.dim(0),   b.q.dim(2),   b.q.dim(1),
          b.k.dim(1),   0.125f,      rows_of(b.q), rows_of(b.k), rows_of(b.v)};
}

void forward(const Buffers& b, CrossAttentionCut cut) {
  cross_attention(problem_of(b), rows_of(b.out), b.log_sum.data<float>(), cut);
}
void gradient(const Buffers& b, CrossAttentionCut cut, bool keys_too) {
  cross_attention_gradient(problem_of(b), b.log_sum.data<float>(), rows_of(b.dout), rows_of(b.dq),
                           keys_too ? rows_of(b.dk) : HeadRows(), keys_too ? rows_of(b.dv) : HeadRows(),
                           b.workspace.data<float>(), cut);
}

struct Time {
  double cold, warm;
};
template <class F>
Time times(const std::vector<Buffers>& buffers, F&& call) {
  return {bench::microseconds(buffers, call), bench::microseconds(std::vector<Buffers>{buffers[0]}, call)};
}

void report(const char* what, double floor, const Time& ours, const Time& cudnn) {
  std::printf("  %-22s %6.1f    %6.1f %6.1f    %6.1f %6.1f\n", what, floor, ours.cold, ours.warm, cudnn.cold,
              cudnn.warm);
}

void as_used(const std::vector<Buffers>& all) {
  const Buffers& first = all[0];
  const CrossAttention problem = problem_of(first);
  const CrossAttentionCut ahead = forward_cut(problem), back = gradient_cut(problem);
  std::printf("  rows of a block: %d forward, %d backward\n", static_cast<int>(ahead.rows),
              static_cast<int>(back.rows));
  const double queries = static_cast<double>(first.q.bytes()), keys = static_cast<double>(first.k.bytes());
  const auto cudnn_gradient = [&](const Buffers& b, bool keys_too) {
    cuda::cudnn_attention_gradient(b.q, b.k, b.v, false, b.out, b.log_sum, b.dout, b.dq, keys_too ? b.dk : Tensor(),
                                   keys_too ? b.dv : Tensor());
  };
  report("forward", 2 * (queries + keys) / bytes_per_us, times(all, [&](const Buffers& b) { forward(b, ahead); }),
         times(all, [](const Buffers& b) { cuda::cudnn_attention(b.q, b.k, b.v, false, b.out, b.log_sum); }));
  report("gradients", (3 * queries + 4 * keys) / bytes_per_us,
         times(all, [&](const Buffers& b) { gradient(b, back, true); }),
         times(all, [&](const Buffers& b) { cudnn_gradient(b, true); }));
  report("of the queries alone", (3 * queries + 2 * keys) / bytes_per_us,
         times(all, [&](const Buffers& b) { gradient(b, back, false); }),
         times(all, [&](const Buffers& b) { cudnn_gradient(b, false); }));
}

void every_cut(const std::vector<Buffers>& all) {
  const int64_t queries = all[0].q.dim(1);
  std::printf("  warps   rows     forward       gradients     of the queries alone\n");
  for (int warps : {4, 8}) {
    for (int64_t tiles = 1; tiles * 16 * warps <= queries; tiles += tiles < 8 ? 1 : tiles) {
      const CrossAttentionCut cut = {warps, tiles * 16 * warps};
      const Time ahead = times(all, [&](const Buffers& b) { forward(b, cut); });
      const Time back = times(all, [&](const Buffers& b) { gradient(b, cut, true); });
      const Time alone = times(all, [&](const Buffers& b) { gradient(b, cut, false); });
      std::printf("  %5d %6d   %5.1f %5.1f    %6.1f %6.1f    %6.1f %6.1f\n", warps, static_cast<int>(cut.rows),
                  ahead.cold, ahead.warm, back.cold, back.warm, alone.cold, alone.warm);
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (cuda_device_count() == 0) {
    std::printf("there is no GPU on this machine\n");
    return 0;
  }
  const bool cuts = count > 1 && std::string_view(arguments[1]) == "cuts";
  std::printf("%s, bf16\n", cuda::properties(Device::cuda()).name);
  if (!cuts) std::printf("  microseconds            bytes    cold   warm    cuDNN: cold   warm\n");
  for (const Sizes& sizes : {Sizes{1, 1024, 20}, {1, 4096, 10}, {4, 1024, 20}, {4, 4096, 10}}) {
    std::printf("%d x %d queries, %d heads, %d keys\n", static_cast<int>(sizes.batch), static_cast<int>(sizes.queries),
                static_cast<int>(sizes.heads), static_cast<int>(sizes.keys));
    std::vector<Buffers> all;
    do all.emplace_back(sizes);
    while (all.size() * all[0].bytes() < cache);
    cuts ? every_cut(all) : as_used(all);
  }
}
