#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <memory>
#include <regex>

#include "flame/core/error.h"
#include "flame/core/tensor.h"
#include "flame/device/cuda.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "log.h"

namespace bench {
namespace {

using flame::DType;
using flame::Tensor;
using nlohmann::json;

std::string utc_now(const char* format) {
  const std::time_t now = std::time(nullptr);
  std::tm utc = {};
  gmtime_r(&now, &utc);
  char text[16];
  std::strftime(text, sizeof(text), format, &utc);
  return text;
}

json driver_version() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string line;
  std::getline(file, line);
  std::smatch found;
  return std::regex_search(line, found, std::regex(R"(\d+\.\d+(\.\d+)*)")) ? json(found.str()) : json();
}

std::string output_of(const char* command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command, "r"), pclose);
  std::string text;
  char part[256];
  while (pipe && std::fgets(part, sizeof part, pipe.get())) text += part;
  return text;
}

}  // namespace

flame::DType parse_dtype(const std::string& name) {
  for (flame::DType dtype : {flame::DType::f32, flame::DType::f16, flame::DType::bf16})
    if (name == flame::name(dtype)) return dtype;
  flame::fail("unknown dtype ", name);
}

json log_header(const std::string& benchmark, flame::Device device, const std::string& commit) {
  return {{"benchmark", benchmark},     {"date", utc_now("%Y-%m-%d")},
          {"time", utc_now("%H:%M")},   {"card", flame::cuda::properties(device).name},
          {"driver", driver_version()}, {"commit", commit},
          {"rows", json::array()}};
}

void write_log(const std::string& path, const json& log) {
  if (path.empty()) return;
  std::ofstream file(path);
  file << log.dump(1) << "\n";
  flame::require(file.good(), "benchmark", "cannot write ", path);
}

std::vector<float> call_times(flame::Device device, int64_t calls, const std::function<void()>& work) {
  std::vector<cudaEvent_t> events(static_cast<size_t>(calls + 1));
  for (cudaEvent_t& event : events) flame::cuda::check(cudaEventCreate(&event));
  const cudaStream_t stream = flame::cuda::stream(device);
  flame::cuda::check(cudaEventRecord(events[0], stream));
  for (size_t i = 1; i < events.size(); ++i) {
    work();
    flame::cuda::check(cudaEventRecord(events[i], stream));
  }
  flame::synchronize(device);
  std::vector<float> times(static_cast<size_t>(calls));
  for (size_t i = 0; i < times.size(); ++i)
    flame::cuda::check(cudaEventElapsedTime(&times[i], events[i], events[i + 1]));
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  return times;
}

float median(std::vector<float> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

json spread(const std::vector<float>& milliseconds) {
  const auto [least, most] = std::minmax_element(milliseconds.begin(), milliseconds.end());
  return {{"median_ms", median(milliseconds)}, {"min_ms", *least}, {"max_ms", *most}};
}

json measure_ceilings(flame::Device device) {
  constexpr int64_t n = 8192, bytes = int64_t{1} << 30;
  double product = 0;
  {
    const Tensor a = Tensor::randn({n, n}, device).to(DType::bf16), b = Tensor::randn({n, n}, device).to(DType::bf16);
    call_times(device, 3, [&] { a.matmul(b); });
    product = median(call_times(device, 10, [&] { a.matmul(b); }));
  }
  const Tensor from = Tensor::zeros({bytes}, DType::u8, device), to = Tensor::zeros({bytes}, DType::u8, device);
  to.copy_from(from);
  const double copy = median(call_times(device, 5, [&] { to.copy_from(from); }));
  return {{"gemm_tflops", 2e-9 * n * n * n / product}, {"copy_tb_s", 2e-9 * static_cast<double>(bytes) / copy}};
}

json nvidia_smi_gib() {
  // Inside a container it may not know the program's number; then all that is held of the card must do.
  const std::string all =
      output_of("nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits 2>/dev/null");
  const std::regex own("(^|\\n)" + std::to_string(getpid()) + ", *([0-9]+)");
  std::smatch found;
  if (std::regex_search(all, found, own)) return std::stod(found[2]) / 1024;
  const std::string card =
      output_of("nvidia-smi --id=0 --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null");
  return std::regex_search(card, found, std::regex("^([0-9]+)")) ? json(std::stod(found[1]) / 1024) : json();
}

}  // namespace bench
