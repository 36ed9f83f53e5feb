#include "flame/nn/scope.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "flame/core/closest.h"
#include "flame/nn/layers.h"
#include "flame/ops/layout.h"
#include "flame/ops/reduce.h"

namespace flame {
namespace {

std::shared_ptr<const std::vector<std::string>> sorted_names(const WeightSource& source) {
  auto names = std::make_shared<std::vector<std::string>>(source.names());
  std::sort(names->begin(), names->end());
  return names;
}

}  // namespace

Scope::Scope(const WeightSource& source, DType dtype, Device device)
    : source_(&source),
      dtype_(dtype),
      device_(device),
      names_(sorted_names(source)),
      registry_(std::make_shared<Registry>()) {}

Scope Scope::operator/(std::string_view child) const {
  Scope result = *this;
  result.path_ = full(child);
  return result;
}

Scope Scope::in(DType dtype) const {
  Scope result = *this;
  result.dtype_ = dtype;
  return result;
}

std::string Scope::full(std::string_view name) const {
  if (path_.empty() || name.empty()) return path_ + std::string(name);
  return path_ + "." + std::string(name);
}

bool Scope::has(std::string_view name) const {
  const std::string wanted = full(name), below = wanted + ".";
  if (std::binary_search(names_->begin(), names_->end(), wanted)) return true;
  const auto next = std::lower_bound(names_->begin(), names_->end(), below);
  return next != names_->end() && next->starts_with(below);
}

Shape Scope::shape(std::string_view name) const {
  const std::string wanted = full(name);
  if (const std::optional<Shape> found = source_->find(wanted)) return *found;
  std::vector<std::string> names;
  for (const std::string& known : *names_) names.push_back(source_->full_name(known));
  fail("checkpoint ", source_->describe(), ": there is no tensor ", source_->full_name(wanted),
       closest_or_any(source_->full_name(wanted), names));
}

int Scope::count(std::string_view prefix) const {
  const std::string above = full(prefix), start = above.empty() ? "" : above + ".";
  std::set<int> children;
  for (auto it = std::lower_bound(names_->begin(), names_->end(), start); it != names_->end() && it->starts_with(start);
       ++it) {
    int child = 0;
    const char* digits = it->data() + start.size();
    const auto [end, error] = std::from_chars(digits, it->data() + it->size(), child);
    if (error == std::errc() && child >= 0 && (end == it->data() + it->size() || *end == '.')) children.insert(child);
  }
  int next = 0;
  for (const int child : children) {
    if (child != next)
      fail("checkpoint ", source_->describe(), ": there is ", source_->full_name(start + std::to_string(child)),
           ", but no ", source_->full_name(start + std::to_string(next)));
    ++next;
  }
  return next;
}

Tensor Scope::weight(std::string_view name, const Shape& expected) const { return hold(name, load(name, expected)); }

Tensor Scope::conv_weight(std::string_view name, const Shape& expected) const {
  const Tensor loaded = load(name, expected);
  PurposeScope purpose(Purpose::weights);
  if (expected[2] == 1 && expected[3] == 1) return hold(name, loaded.view({expected[0], 1, 1, expected[1]}));
  return hold(name, channels_last(loaded));
}

// A mean is finite only if all values are.
void Scope::require_finite() const {
  std::vector<Tensor> means;
  for (const auto& [name, weight] : registry_->weights) means.push_back(weight.mean().reshape({1}));
  if (means.empty()) return;
  const std::vector<float> values = concat(means, 0).to(DType::f32).to_host<float>();
  const auto found = std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  if (found == values.end()) return;
  fail("checkpoint ", source_->describe(), ": tensor ",
       source_->full_name(registry_->weights[found - values.begin()].first), " has values that are not finite in ",
       dtype_, " (NaN or infinite): the file is damaged, or a merge that made it went wrong; download it again");
}

void Scope::misshapen(std::string_view name, std::string_view expected) const {
  fail("checkpoint ", source_->describe(), ": tensor ", source_->full_name(full(name)), " has shape ", shape(name),
       ", expected ", expected);
}

Tensor Scope::load(std::string_view name, const Shape& expected) const {
  if (shape(name) != expected) misshapen(name, text(expected));
  PurposeScope purpose(Purpose::weights);
  return source_->read(full(name)).to(device_);
}

Tensor Scope::hold(std::string_view name, const Tensor& loaded) const {
  PurposeScope purpose(Purpose::weights);
  const Tensor weight = loaded.dtype() == dtype_ ? loaded : cast(loaded, dtype_);
  weight.freeze();
  registry_->weights.emplace_back(full(name), weight);
  return weight;
}

}  // namespace flame
