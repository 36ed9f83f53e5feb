#include <cmath>

#include "eri/diffusion/noise_schedule.h"
#include "kinds.h"

namespace eri::parity {
namespace {

const std::string kRescaled = "ztsnr.", kWeight = "weight.", kMinSnr = "min_snr_";

Tensor column(const std::vector<double>& values) {
  return Tensor::from(std::vector<float>(values.begin(), values.end()), {static_cast<int64_t>(values.size())});
}

Tensor logarithms(std::vector<double> values) {
  for (double& value : values) value = std::log(value);
  return column(values);
}

// The weights called "debiased.v", "min_snr_5.epsilon" and so on.
std::vector<double> weights(const std::string& name, const NoiseSchedule& schedule) {
  const Prediction prediction = name.ends_with(".v") ? Prediction::v : Prediction::epsilon;
  if (name == "v_like_noise") return v_like_noise_weights(schedule);
  if (name.starts_with("debiased")) return debiased_weights(schedule, prediction);
  if (name.starts_with(kMinSnr)) return min_snr_weights(schedule, std::stod(name.substr(kMinSnr.size())), prediction);
  flame::fail("unknown weights ", name);
}

}  // namespace

Tensors schedule(const Case& c) {
  const NoiseSchedule plain(false, c.device), rescaled(true, c.device);
  Tensors results;
  for (const bool zero_terminal_snr : {false, true}) {
    const NoiseSchedule& schedule = zero_terminal_snr ? rescaled : plain;
    const std::string prefix = zero_terminal_snr ? kRescaled : "";
    results[prefix + "betas"] = column(schedule.betas());
    results[prefix + "alphas_cumprod"] = column(schedule.alphas_cumprod());
    results[prefix + "snr"] = column(schedule.snr());
    results[prefix + "sigmas"] = column(schedule.sigmas());
    results[prefix + "log_sigmas"] = logarithms(schedule.sigmas());
    results[prefix + "noisy"] = schedule.add_noise(c.input("x0"), c.input("noise"), c.input("t"));
    results[prefix + "velocity"] = schedule.velocity(c.input("x0"), c.input("noise"), c.input("t"));
  }
  // A case names the weights that it wants, and their parameter.
  for (const auto& [name, expected] : read_tensors(c.folder / "expected.safetensors")) {
    const size_t at = name.find(kWeight);
    if (at == name.npos) continue;
    results[name] = column(weights(name.substr(at + kWeight.size()), name.starts_with(kRescaled) ? rescaled : plain));
  }
  return results;
}

}  // namespace eri::parity
