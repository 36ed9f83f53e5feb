#pragma once

#include <map>

#include "flame/nn/scope.h"

namespace flame {

// Weights from memory, for tests.
struct WeightMap : WeightSource {
  std::map<std::string, Tensor> tensors;

  explicit WeightMap(std::map<std::string, Tensor> weights) : tensors(std::move(weights)) {}
  std::string describe() const override { return "small.safetensors"; }
  std::vector<std::string> names() const override {
    std::vector<std::string> result;
    for (const auto& [name, tensor] : tensors) result.push_back(name);
    return result;
  }
  std::optional<Shape> find(const std::string& name) const override {
    const auto found = tensors.find(name);
    return found == tensors.end() ? std::nullopt : std::optional(found->second.shape());
  }
  Tensor read(const std::string& name) const override { return tensors.at(name); }
  std::string full_name(const std::string& name) const override { return "model." + name; }
};

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace flame
