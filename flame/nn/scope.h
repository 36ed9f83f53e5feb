#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flame/core/tensor.h"

namespace flame {

// Where a model's weights come from: a checkpoint, a formula, another source under other names.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual std::string describe() const = 0;  // for messages: the file's path
  virtual std::vector<std::string> names() const = 0;
  virtual std::optional<Shape> find(const std::string& name) const = 0;          // its shape, if there is one
  virtual Tensor read(const std::string& name) const = 0;                        // as stored; CPU; the name exists
  virtual std::string full_name(const std::string& name) const { return name; }  // for messages: as in the file
};

class Linear;
class Conv2d;

// What a model has asked for while it was built. Its layers are handles: a copy is the same layer.
struct Registry {
  std::vector<std::pair<std::string, Linear>> linears;
  std::vector<std::pair<std::string, Conv2d>> convs;
  std::vector<std::pair<std::string, Tensor>> weights;  // every tensor, as the model holds it
};

// A path into a WeightSource: `scope / "attn1" / "to_q"`. A weight's name is written once, where it is asked for. The
// source must outlive the scopes; what they loaded lives on its own.
class Scope {
 public:
  Scope(const WeightSource& source, DType dtype, Device device);
  Scope operator/(std::string_view child) const;
  Scope operator/(int64_t child) const { return *this / std::to_string(child); }
  Scope in(DType dtype) const;                       // the same place, with weights of another dtype
  const std::string& path() const { return path_; }  // "" at the root
  std::string full(std::string_view name) const;     // path and name joined by a dot
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

  bool has(std::string_view name) const;          // a tensor of this name, or tensors below it
  Shape shape(std::string_view name) const;       // throws if there is none: names it and the closest match
  int count(std::string_view prefix = "") const;  // n if children prefix/0 .. prefix/n-1 exist; throws at a gap

  // The tensor, cast to the scope's dtype and moved to its device; borrowed from the source where nothing is to be
  // done. Throws naming it, the file and what was expected.
  Tensor weight(std::string_view name, const Shape& expected) const;
  // A convolution's [out, in, kh, kw], turned to [out, kh, kw, in].
  Tensor conv_weight(std::string_view name, const Shape& expected) const;

  // Throws, naming one, if weights that were loaded so far hold values that are not finite.
  void require_finite() const;

  // Throws "checkpoint FILE: tensor NAME has shape .., expected .." if a shape is not what a layer can use.
  [[noreturn]] void misshapen(std::string_view name, std::string_view expected) const;
  Registry& registry() const { return *registry_; }
  std::shared_ptr<Registry> shared_registry() const { return registry_; }

 private:
  Tensor load(std::string_view name, const Shape& expected) const;
  Tensor hold(std::string_view name, const Tensor& loaded) const;

  const WeightSource* source_;
  DType dtype_;
  Device device_;
  std::string path_;
  std::shared_ptr<const std::vector<std::string>> names_;  // sorted
  std::shared_ptr<Registry> registry_;
};

}  // namespace flame
