#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flame/core/dtype.h"
#include "flame/device/device.h"

// What the programs of `make bench-gpu` have in common: how they time, and the head of the log that tools/gpu_report.py
// reads. A log is one JSON object: the head, what was run, and "rows".
namespace bench {

flame::DType parse_dtype(const std::string& name);  // "f32", "f16" or "bf16"

// "benchmark": its name; date and time (UTC), card, driver and commit.
nlohmann::json log_header(const std::string& benchmark, flame::Device device, const std::string& commit);
void write_log(const std::string& path, const nlohmann::json& log);  // nothing where the path is empty

// Milliseconds of each of `calls` calls of `work`, on the device's clock and without waiting in between.
std::vector<float> call_times(flame::Device device, int64_t calls, const std::function<void()>& work);
float median(std::vector<float> values);
// {"median_ms", "min_ms", "max_ms"}
nlohmann::json spread(const std::vector<float>& milliseconds);

// What this card reaches, measured now: a bf16 product of 8192 x 8192 x 8192, and a copy, counting what is read and
// what is written. {"gemm_tflops", "copy_tb_s"}
nlohmann::json measure_ceilings(flame::Device device);

// GiB of the card that this process holds, as nvidia-smi says; null where it does not say.
nlohmann::json nvidia_smi_gib();

}  // namespace bench
