#include "eri/lora/lora.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

using flame::fail;
using flame::Shape;
using flame::Tensor;

Shape file_shape(const Shape& shape) {
  return shape.rank() == 4 ? Shape{shape[0], shape[3], shape[1], shape[2]} : shape;
}

// Linear layers and 1x1 convolutions are the same to files: some write [r, in], some [r, in, 1, 1].
Tensor shaped(const std::string& name, const char* factor, const Tensor& value, const Shape& expected) {
  const bool same_matrix =
      value.numel() == expected.numel() && value.dim(0) == expected[0] && value.dim(-1) == expected.dim(-1);
  if (!same_matrix)
    fail("LoRA module ", name, ": ", factor, " has shape ", file_shape(value.shape()), ", the layer needs ",
         file_shape(expected), ": it was trained on another model, take one for this model's family");
  return value.view(expected);
}

// The module with factors in the layer's own shapes, where the layer is.
LoRA::Module fitted(const LoraTarget& target, const LoRA::Module& module) {
  const int64_t rank = module.rank(), kernel = target.kernel();
  const Shape down = kernel ? Shape{rank, kernel, kernel, target.in()} : Shape{rank, target.in()};
  const Shape up = kernel ? Shape{target.out(), 1, 1, rank} : Shape{target.out(), rank};
  const flame::Device device = target.weight().device();
  return {shaped(target.name, "lora_down", module.down, down).to(device),
          shaped(target.name, "lora_up", module.up, up).to(device), module.alpha};
}

std::set<std::string> names_of(const LoraTargets& targets) {
  std::set<std::string> names;
  for (const LoraTarget& target : targets) names.insert(target.name);
  return names;
}

void require_targets(const LoRA& lora, const LoraTargets& targets) {
  const std::set<std::string> known = names_of(targets);
  std::vector<std::string> unknown;
  for (const auto& [name, module] : lora.modules()) {
    if (!known.contains(name)) unknown.push_back(name);
  }
  if (!unknown.empty()) fail("the model has no layers for these modules of the LoRA: ", listed(unknown));
}

}  // namespace

std::string listed(const std::vector<std::string>& names) {
  constexpr size_t shown = 5;
  std::string list;
  for (size_t i = 0; i < std::min(shown, names.size()); ++i) list += (i ? ", " : "") + names[i];
  if (names.size() > shown) list += flame::text(" and ", names.size() - shown, " more");
  return list;
}

LoRA LoRA::attached(const LoraTargets& targets) {
  Modules modules;
  for (const LoraTarget& target : targets) {
    if (const auto& adapter = target.adapter())
      modules[target.name] = {adapter->down, adapter->up,
                              static_cast<double>(adapter->scale) * static_cast<double>(adapter->down.dim(0))};
  }
  return LoRA(std::move(modules));
}

std::string LoRA::ranks() const {
  std::set<int64_t> ranks;
  for (const auto& [name, module] : modules_) ranks.insert(module.rank());
  if (ranks.empty()) return "0";
  const std::string least = std::to_string(*ranks.begin());
  return ranks.size() == 1 ? least : least + " to " + std::to_string(*ranks.rbegin());
}

LoRA new_lora(const LoraTargets& targets, const LoraOptions& options) {
  return new_lora(targets, plan_lora(sites_of(targets), options), options.seed);
}

LoRA new_lora(const LoraTargets& targets, const LoraPlan& plan, uint64_t seed) {
  flame::Generator generator(seed);
  LoRA::Modules modules;
  for (const LoraTarget& target : targets) {
    const auto share = plan.find(target.name);
    if (share == plan.end()) continue;
    const auto& [rank, alpha, lr] = share->second;
    const int64_t kernel = target.kernel();
    const Shape down = kernel ? Shape{rank, kernel, kernel, target.in()} : Shape{rank, target.in()};
    const Shape up = kernel ? Shape{target.out(), 1, 1, rank} : Shape{target.out(), rank};
    const float bound = 1 / std::sqrt(static_cast<float>(down.numel(1, down.rank())));
    const Tensor uniform = Tensor::rand(down, generator);
    modules[target.name] = {uniform * (2 * bound) - bound, Tensor::zeros(up), alpha};
  }
  return LoRA(std::move(modules));
}

LoraNetwork::LoraNetwork(const LoraTargets& targets, const LoRA& start, flame::DType compute, const LoraPlan& plan) {
  require_targets(start, targets);
  std::vector<flame::ParameterGroup> groups;
  const auto group_of = [&](double lr) -> flame::ParameterGroup& {
    const auto found = std::find_if(groups.begin(), groups.end(), [=](const auto& group) { return group.lr == lr; });
    return found != groups.end() ? *found : groups.emplace_back(flame::ParameterGroup{.parameters = {}, .lr = lr});
  };
  std::map<std::string, LoRA::Module> modules;
  for (const LoraTarget& target : targets) {
    const auto found = start.modules().find(target.name);
    if (found == start.modules().end()) continue;
    const LoRA::Module module = fitted(target, found->second);
    const auto share = plan.find(target.name);
    flame::NamedTensors& values = group_of(share == plan.end() ? 1 : share->second.lr).parameters;
    values.emplace_back(target.name + kLoraDown, module.down);
    values.emplace_back(target.name + kLoraUp, module.up);
    modules[target.name] = module;
  }
  pack_ = flame::ParameterPack(groups, compute);
  for (const LoraTarget& target : targets) {
    const auto found = modules.find(target.name);
    if (found == modules.end()) continue;
    LoRA::Module& module = found->second;
    const auto &down = pack_[target.name + kLoraDown], &up = pack_[target.name + kLoraUp];
    module.down = down.master;
    module.up = up.master;
    target.adapter() = flame::Adapter{down.value, up.value, module.scale()};
  }
  lora_ = LoRA(std::move(modules));
}

void apply_loras(std::span<const std::pair<LoRA, double>> loras, const LoraTargets& targets, const LoraTargets& fused) {
  for (const auto& [lora, strength] : loras) require_targets(lora, targets);
  const std::set<std::string> in_f32 = names_of(fused);
  for (const LoraTarget& target : targets) {
    std::vector<Tensor> downs, ups;
    for (const auto& [lora, strength] : loras) {
      const auto found = lora.modules().find(target.name);
      if (found == lora.modules().end()) continue;
      const LoRA::Module module = fitted(target, found->second);
      downs.push_back(module.down.detach());
      ups.push_back(module.up.detach() * (static_cast<float>(strength) * module.scale()));
    }
    target.adapter().reset();
    if (downs.empty()) continue;
    const flame::DType dtype = in_f32.contains(target.name) ? flame::DType::f32 : target.weight().dtype();
    target.adapter() = flame::Adapter{flame::concat(downs, 0).to(dtype).freeze(),
                                      flame::concat(ups, ups[0].rank() - 1).to(dtype).freeze()};
  }
}

}  // namespace eri
