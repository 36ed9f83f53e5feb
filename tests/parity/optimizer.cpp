#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "flame/optim/adamw.h"
#include "kinds.h"

namespace eri::parity {
namespace {

const std::string kInit = "init.", kGradient = "grad.", kMoved = "moved.";

std::unique_ptr<flame::Optimizer> make_optimizer(const nlohmann::json& params, flame::ParameterPack pack) {
  const std::string name = params.at("optimizer");
  if (name == "adamw") {
    const auto& betas = params.at("betas");
    return std::make_unique<flame::AdamW>(
        std::move(pack), flame::AdamW::Options{betas.at(0), betas.at(1), params.at("eps"), params.at("weight_decay")});
  }
  flame::fail("the optimiser ", name, " is not built yet");
}

}  // namespace

Tensors optimizer(const Case& c) {
  flame::NamedTensors start;
  for (const auto& [name, tensor] : c.inputs) {
    if (name.starts_with(kInit)) start.emplace_back(name.substr(kInit.size()), tensor);
  }
  const auto optimizer = make_optimizer(c.params, flame::ParameterPack(start));
  const flame::ParameterPack& pack = optimizer->pack();
  std::map<std::string, std::vector<Tensor>> moved;
  for (int64_t step = 0; step < c.input(kGradient + start[0].first).dim(0); ++step) {
    for (const auto& parameter : pack.parameters())
      parameter.gradient.copy_from(c.input(kGradient + parameter.name).rows(step, 1).view(parameter.value.shape()));
    optimizer->step(c.params.at("lr"));
    for (const auto& [name, value] : start) moved[kMoved + name].push_back(pack[name].value.detach() - value);
  }
  Tensors results;
  for (const auto& [name, steps] : moved) results[name] = flame::stack(steps, 0);
  return results;
}

}  // namespace eri::parity
