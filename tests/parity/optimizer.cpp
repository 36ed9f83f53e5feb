#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "flame/optim/adafactor.h"
#include "flame/optim/adamw.h"
#include "flame/optim/adamw8bit.h"
#include "flame/optim/lion.h"
#include "flame/optim/prodigy.h"
#include "flame/optim/schedule_free.h"
#include "kinds.h"

namespace eri::parity {
namespace {

const std::string kInit = "init.", kGradient = "grad.", kMoved = "moved.";

// The reference's arguments, under its names; one that is not there or null has its default.
class Arguments {
 public:
  explicit Arguments(const nlohmann::json& params) : params_(params) {}

  template <class T>
  T get(const char* name, T otherwise) const {
    const auto found = params_.find(name);
    return found == params_.end() || found->is_null() ? otherwise : found->get<T>();
  }
  double of_pair(const char* name, size_t i, double otherwise) const {
    const auto found = params_.find(name);
    return found == params_.end() || found->is_null() ? otherwise : found->at(i).get<double>();
  }

 private:
  const nlohmann::json& params_;
};

template <class O>
O with_adam(const Arguments& given) {
  O options;
  options.beta1 = given.of_pair("betas", 0, options.beta1);
  options.beta2 = given.of_pair("betas", 1, options.beta2);
  options.weight_decay = given.get("weight_decay", options.weight_decay);
  if constexpr (requires { options.eps; }) options.eps = given.get("eps", options.eps);
  return options;
}

flame::AdafactorOptions adafactor(const Arguments& given) {
  flame::AdafactorOptions options;
  options.eps = given.of_pair("eps", 0, options.eps);
  options.eps_scale = given.of_pair("eps", 1, options.eps_scale);
  options.clip_threshold = given.get("clip_threshold", options.clip_threshold);
  options.decay_rate = given.get("decay_rate", options.decay_rate);
  options.beta1 = given.get("beta1", options.beta1);
  options.weight_decay = given.get("weight_decay", options.weight_decay);
  options.scale_parameter = given.get("scale_parameter", options.scale_parameter);
  options.relative_step = given.get("relative_step", options.relative_step);
  options.warmup_init = given.get("warmup_init", options.warmup_init);
  return options;
}

flame::ProdigyOptions prodigy(const Arguments& given) {
  auto options = with_adam<flame::ProdigyOptions>(given);
  options.beta3 = given.get("beta3", options.beta3);
  options.decouple = given.get("decouple", options.decouple);
  options.use_bias_correction = given.get("use_bias_correction", options.use_bias_correction);
  options.safeguard_warmup = given.get("safeguard_warmup", options.safeguard_warmup);
  options.d0 = given.get("d0", options.d0);
  options.d_coef = given.get("d_coef", options.d_coef);
  options.growth_rate = given.get("growth_rate", options.growth_rate);
  return options;
}

flame::ScheduleFreeOptions schedule_free(const Arguments& given) {
  auto options = with_adam<flame::ScheduleFreeOptions>(given);
  options.warmup_steps = given.get("warmup_steps", options.warmup_steps);
  options.r = given.get("r", options.r);
  options.weight_lr_power = given.get("weight_lr_power", options.weight_lr_power);
  return options;
}

std::unique_ptr<flame::Optimizer> make_optimizer(const nlohmann::json& params, const flame::ParameterPack& pack) {
  const std::string name = params.at("optimizer");
  const Arguments given(params);
  if (name == "adamw") return std::make_unique<flame::AdamW>(pack, with_adam<flame::AdamWOptions>(given));
  if (name == "adamw8bit") return std::make_unique<flame::AdamW8bit>(pack, with_adam<flame::AdamWOptions>(given));
  if (name == "lion") return std::make_unique<flame::Lion>(pack, with_adam<flame::LionOptions>(given));
  if (name == "adafactor") return std::make_unique<flame::Adafactor>(pack, adafactor(given));
  if (name == "prodigy") return std::make_unique<flame::Prodigy>(pack, prodigy(given));
  if (name == "schedule_free") return std::make_unique<flame::AdamWScheduleFree>(pack, schedule_free(given));
  flame::fail("there is no optimiser ", name);
}

double default_rate(const std::string& optimizer) { return optimizer == "prodigy" ? 1 : 1e-3; }

}  // namespace

Tensors optimizer(const Case& c) {
  flame::NamedTensors start;
  for (const auto& [name, tensor] : c.inputs) {
    if (name.starts_with(kInit)) start.emplace_back(name.substr(kInit.size()), tensor);
  }
  const auto optimizer = make_optimizer(c.params, flame::ParameterPack(start));
  const flame::ParameterPack& pack = optimizer->pack();
  const double rate = Arguments(c.params).get("lr", default_rate(c.params.at("optimizer")));
  std::map<std::string, std::vector<Tensor>> moved, averaged;
  std::vector<float> estimates;
  const auto note = [&](std::map<std::string, std::vector<Tensor>>& where) {
    for (const auto& [name, value] : start) where[name].push_back(pack[name].master.detach() - value);
  };
  for (int64_t step = 0; step < c.input(kGradient + start[0].first).dim(0); ++step) {
    for (const auto& parameter : pack.parameters())
      parameter.gradient.copy_from(c.input(kGradient + parameter.name).rows(step, 1).view(parameter.value.shape()));
    optimizer->step(rate);
    if (const auto* prodigy = dynamic_cast<const flame::Prodigy*>(optimizer.get()))
      estimates.push_back(static_cast<float>(prodigy->d()));
    note(moved);
    optimizer->eval();
    note(averaged);
    optimizer->train();
  }
  Tensors results;
  for (const auto& [name, steps] : moved) results[kMoved + name] = flame::stack(steps, 0);
  for (const auto& [name, steps] : averaged) results["averaged." + name] = flame::stack(steps, 0);
  if (!estimates.empty()) results["d"] = Tensor::from(estimates, {std::ssize(estimates)}, c.device);
  return results;
}

}  // namespace eri::parity
