// How fast the heavy ops run at the sizes of a training step of eri-tiny: batch 4, latents 16 x 16.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>

#include "flame/autograd/tape.h"
#include "flame/ops/attention.h"
#include "flame/ops/conv.h"
#include "flame/ops/matmul.h"

using namespace flame;

namespace {

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown CPU";
}

// The shortest time of a call in seconds, once caches are warm: what it costs when nobody else uses the machine.
double seconds(const std::function<void()>& f) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  const auto end = Clock::now() + std::chrono::milliseconds(100);
  for (int i = 0; i < 5 || Clock::now() < end; ++i) {
    const auto start = Clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

void report(const char* what, const std::string& shape, double operations, double time) {
  std::printf("  %-12s %-34s %9.4f ms %8.1f GFLOP/s\n", what, shape.c_str(), time * 1e3, operations / time * 1e-9);
}

// Times y = f() and its backward pass, which does `backward` operations.
void measure(const std::string& shape, const std::function<Tensor()>& f, double forward, double backward) {
  const double alone = seconds([&] { f(); });
  report("forward", shape, forward, alone);
  const Tensor dy = Tensor::randn(f().shape());
  const double both = seconds([&] {
    Tape tape;
    GradientMap gradients;
    tape.backward(f(), dy, gradients);
  });
  report("both", shape, forward + backward, both);
}

void linear_layer(int64_t rows, int64_t in, int64_t out, int64_t rank) {
  const Tensor x = Tensor::randn({rows, in}).requires_grad(), weight = Tensor::randn({out, in}),
               bias = Tensor::randn({out});
  const Tensor down = Tensor::randn({rank, in}).requires_grad(), up = Tensor::randn({out, rank}).requires_grad();
  weight.freeze();
  const double dense = 2.0 * static_cast<double>(rows * in * out),
               low = 2.0 * static_cast<double>(rows * rank * (in + out));
  measure(
      text(rows, " x ", in, " -> ", out), [&] { return linear(x, weight, bias); }, dense, dense);
  measure(
      text(rows, " x ", in, " -> ", out, " LoRA ", rank), [&] { return lora_linear(x, weight, bias, down, up, 1); },
      dense + low, dense + 2 * low);
}

void convolution(int64_t batch, int64_t side, int64_t in, int64_t out, int stride) {
  const Tensor x = Tensor::randn({batch, side, side, in}).requires_grad();
  const Tensor weight = Tensor::randn({out, 3, 3, in}), bias = Tensor::randn({out});
  weight.freeze();
  const double operations = 18.0 * static_cast<double>(batch * side * side * in * out / stride / stride);
  measure(
      text(batch, " x ", side, "^2 x ", in, " -> ", out, stride == 2 ? " stride 2" : ""),
      [&] { return conv2d(x, weight, bias, stride, 1); }, operations, operations);
}

void attention(int64_t batch, int64_t queries, int64_t keys, int64_t heads, int64_t depth) {
  const Tensor q = Tensor::randn({batch, queries, heads, depth}).requires_grad();
  const Tensor k = Tensor::randn({batch, keys, heads, depth}).requires_grad();
  const Tensor v = Tensor::randn({batch, keys, heads, depth}).requires_grad();
  const double product = 2.0 * static_cast<double>(batch * heads * queries * keys * depth);
  measure(
      text(batch, " x ", queries, " over ", keys, ", ", heads, " heads of ", depth),
      [&] { return scaled_dot_product_attention(q, k, v); }, 2 * product, 5 * product);
}

}  // namespace

int main() {
  std::printf("%s, %d threads\nlinear\n", cpu_name().c_str(), threads());
  for (const auto& [rows, in, out] : {std::array<int64_t, 3>{256, 64, 64},
                                      {256, 64, 512},
                                      {256, 256, 64},
                                      {64, 128, 128},
                                      {64, 128, 1024},
                                      {64, 512, 128},
                                      {308, 192, 64},
                                      {1024, 128, 128},
                                      {4096, 640, 640}})
    linear_layer(rows, in, out, 8);
  std::printf("conv2d, 3x3\n");
  for (const auto& [batch, side, in, out, stride] : {std::array<int64_t, 5>{4, 16, 4, 64, 1},
                                                     {4, 16, 64, 64, 1},
                                                     {4, 16, 128, 64, 1},
                                                     {4, 16, 64, 64, 2},
                                                     {4, 8, 64, 64, 1},
                                                     {4, 8, 192, 64, 1},
                                                     {4, 4, 64, 128, 1},
                                                     {4, 4, 128, 128, 1},
                                                     {4, 4, 256, 128, 1},
                                                     {4, 16, 64, 4, 1},
                                                     {1, 128, 32, 32, 1},
                                                     {1, 64, 64, 64, 1},
                                                     {1, 32, 640, 640, 1}})
    convolution(batch, side, in, out, static_cast<int>(stride));
  std::printf("attention\n");
  for (const auto& [batch, queries, keys, heads, depth] : {std::array<int64_t, 5>{4, 64, 64, 1, 64},
                                                           {4, 64, 77, 1, 64},
                                                           {4, 16, 16, 2, 64},
                                                           {4, 16, 77, 2, 64},
                                                           {1, 256, 256, 1, 64},
                                                           {4, 256, 256, 2, 64},
                                                           {1, 1024, 1024, 10, 64},
                                                           {1, 4096, 4096, 1, 512}})
    attention(batch, queries, keys, heads, depth);
}
