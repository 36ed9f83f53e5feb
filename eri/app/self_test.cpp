#include "eri/app/self_test.h"

#include <chrono>
#include <cmath>
#include <functional>
#include <ostream>
#include <vector>

#include "flame/ops/attention.h"
#include "flame/ops/conv.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/norm.h"

namespace eri {
namespace {

using flame::Device;
using flame::DType;
using flame::Tensor;

double relative_error(const Tensor& got, const std::vector<double>& expected) {
  const std::vector<float> values = got.to(DType::f32).to_host<float>();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    difference += (values[i] - expected[i]) * (values[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

bool report(std::ostream& out, const std::string& what, double error, double limit) {
  const bool ok = error <= limit;  // false for NaN
  out << "  " << what << ": relative error " << error << (ok ? "" : flame::text(", WRONG: expected at most ", limit))
      << "\n";
  return ok;
}

struct Op {
  const char* name;
  std::vector<flame::Shape> inputs;
  std::function<Tensor(const std::vector<Tensor>&)> f;
};

// Sizes of a small UNet.
const std::vector<Op>& ops() {
  using In = const std::vector<Tensor>&;
  static const std::vector<Op> list = {
      {"product", {{512, 320}, {640, 320}, {640}}, [](In x) { return flame::linear(x[0], x[1], x[2]); }},
      {"convolution", {{2, 32, 32, 64}, {64, 3, 3, 64}}, [](In x) { return flame::conv2d(x[0], x[1], {}, 1, 1); }},
      {"attention",
       {{2, 256, 4, 64}, {2, 77, 4, 64}, {2, 77, 4, 64}},
       [](In x) { return flame::scaled_dot_product_attention(x[0], x[1], x[2]); }},
      {"norm", {{2, 32, 32, 64}, {64}, {64}}, [](In x) { return flame::group_norm_silu(x[0], 32, x[1], x[2], 1e-5f); }},
      {"gated unit", {{512, 640}}, [](In x) { return flame::geglu(x[0]); }},
  };
  return list;
}

// On the GPU in f32 and bf16 as on the CPU in f32.
bool gpu_numbers(Device device, std::ostream& out) {
  bool right = true;
  for (const Op& op : ops()) {
    for (const auto& [dtype, limit] : {std::pair{DType::f32, 1e-5}, {DType::bf16, 2e-2}}) {
      std::vector<Tensor> stored, wide;
      for (const flame::Shape& shape : op.inputs) {
        const Tensor x = Tensor::randn(shape).to(dtype);
        wide.push_back(x.to(DType::f32));
        stored.push_back(x.to(device));
      }
      const std::vector<float> expected = op.f(wide).to_host<float>();
      const double error = relative_error(op.f(stored), std::vector<double>(expected.begin(), expected.end()));
      right &= report(out, flame::text(op.name, " in ", dtype), error, limit);
    }
  }
  return right;
}

// A product in f32 as in double.
bool cpu_numbers(std::ostream& out) {
  constexpr int64_t n = 192;
  const Tensor a = Tensor::randn({n, n}), b = Tensor::randn({n, n});
  const float *x = a.data<float>(), *y = b.data<float>();
  std::vector<double> expected(n * n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < n; ++k) {
      for (int64_t j = 0; j < n; ++j) expected[i * n + j] += double{x[i * n + k]} * double{y[k * n + j]};
    }
  }
  return report(out, "product in f32", relative_error(a.matmul(b), expected), 1e-6);
}

// Seconds that one call of f takes, of `calls` after the first.
double seconds(Device device, int calls, const std::function<void()>& f) {
  using Clock = std::chrono::steady_clock;
  f();
  flame::synchronize(device);
  const auto start = Clock::now();
  for (int i = 0; i < calls; ++i) f();
  flame::synchronize(device);
  return std::chrono::duration<double>(Clock::now() - start).count() / calls;
}

void speed(Device device, std::ostream& out) {
  const bool gpu = device.is_cuda();
  const int64_t n = gpu ? 8192 : 512;
  const DType dtype = gpu ? DType::bf16 : DType::f32;
  const Tensor a = Tensor::randn({n, n}, device).to(dtype), b = Tensor::randn({n, n}, device).to(dtype);
  const double product = seconds(device, gpu ? 20 : 5, [&] { a.matmul(b); });
  const double operations = 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
  out << "  " << n << " x " << n << " product in " << dtype << ": " << operations / product / 1e12 << " TFLOP/s\n";

  const int64_t bytes = int64_t{1} << (gpu ? 30 : 26);
  const Tensor from = Tensor::zeros({bytes}, DType::u8, device), to = Tensor::zeros({bytes}, DType::u8, device);
  const double copy = seconds(device, 5, [&] { to.copy_from(from); });
  out << "  copy within its memory: " << 2e-9 * static_cast<double>(bytes) / copy << " GB/s\n";
  if (!gpu) return;
  const Tensor host = Tensor::zeros({bytes / 4}, DType::u8);
  const double upload = seconds(device, 3, [&] { to.rows(0, bytes / 4).copy_from(host); });
  out << "  upload to it: " << 1e-9 * static_cast<double>(bytes / 4) / upload << " GB/s\n";
}

}  // namespace

bool self_test(Device device, std::ostream& out) {
  const bool right = device.is_cuda() ? gpu_numbers(device, out) : cpu_numbers(out);
  speed(device, out);
  flame::release_cache(device);
  return right;
}

}  // namespace eri
