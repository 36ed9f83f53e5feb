#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "flame/autograd/tape.h"
#include "flame/core/tensor.h"

namespace flame {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

// Parameters that are trained alike. A step's learning rate and the optimiser's weight decay are multiplied by these.
struct ParameterGroup {
  NamedTensors parameters;
  double lr = 1, weight_decay = 1;
};

// All trainable tensors as views of one flat f32 buffer, and their gradients as views of another, so that clipping and
// an optimiser's step are one pass each. A model that computes in f16 or bf16 gets views of a copy in that dtype.
class ParameterPack {
 public:
  struct Parameter {
    std::string name;
    Tensor value;     // a leaf in the compute dtype: hand it to the model
    Tensor master;    // what is trained and saved: f32
    Tensor gradient;  // where its gradient is added: f32
    int64_t offset;   // in the flat buffers, in elements
  };

  // A ParameterGroup's place in the flat buffers.
  struct Group {
    int64_t begin, numel;
    double lr, weight_decay;
  };

  ParameterPack() = default;
  // Copies the values, which are f32 on one device and have unique names.
  explicit ParameterPack(const NamedTensors& initial, DType compute = DType::f32);
  explicit ParameterPack(const std::vector<ParameterGroup>& groups, DType compute = DType::f32);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const Parameter& operator[](const std::string& name) const;  // throws if there is none
  bool contains(const std::string& name) const { return index_.contains(name); }
  const std::vector<Group>& groups() const { return groups_; }
  int64_t numel() const { return values_.defined() ? values_.numel() : 0; }
  const Tensor& values() const { return values_; }        // [numel]
  const Tensor& gradients() const { return gradients_; }  // [numel]

  // The values in the compute dtype, or no tensor if that is f32. Who writes values() then refreshes it.
  const Tensor& compute_copy() const { return compute_copy_; }
  void refresh() const;

  void bind(GradientMap& gradients) const;  // backward passes into `gradients` then add to gradients()
  void zero_grad() const;

  // The part of `flat`, shaped like values(), that belongs to a parameter, in the parameter's shape.
  static Tensor view(const Tensor& flat, const Parameter& parameter);

 private:
  Tensor values_, gradients_, compute_copy_;
  std::vector<Parameter> parameters_;  // in the order of the groups
  std::vector<Group> groups_;          // none of them empty
  std::map<std::string, size_t> index_;
};

}  // namespace flame
