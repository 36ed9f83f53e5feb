#pragma once

#include "flame/nn/scope.h"

namespace flame {

// A trainable low-rank addition to a frozen layer: y += scale * up(down(x)).
struct Adapter {
  Tensor down;       // Linear: [rank, in]; Conv2d: [rank, kh, kw, in], with the layer's stride and padding
  Tensor up;         // Linear: [out, rank]; Conv2d: [out, 1, 1, rank]
  float scale = 1;   // alpha / rank
};

class Linear {
 public:
  explicit Linear(const Scope& scope);   // weight [out, in]; bias [out] if the source has one
  Tensor operator()(const Tensor& x) const;
  int64_t in() const { return state_->weight.dim(1); }
  int64_t out() const { return state_->weight.dim(0); }
  std::optional<Adapter>& adapter() const { return state_->adapter; }
  Tensor& weight() const { return state_->weight; }

 private:
  struct State {
    Tensor weight, bias;
    std::optional<Adapter> adapter;
  };
  std::shared_ptr<State> state_;
};

// Channels last; the source's [out, in, kh, kw] is turned once, at load.
class Conv2d {
 public:
  explicit Conv2d(const Scope& scope, int stride = 1, int padding = 0);
  Tensor operator()(const Tensor& x) const;
  int64_t in() const { return state_->weight.dim(3); }
  int64_t out() const { return state_->weight.dim(0); }
  int kernel() const { return static_cast<int>(state_->weight.dim(1)); }
  std::optional<Adapter>& adapter() const { return state_->adapter; }
  Tensor& weight() const { return state_->weight; }   // [out, kh, kw, in]

 private:
  struct State {
    Tensor weight, bias;
    int stride, padding;
    std::optional<Adapter> adapter;
  };
  std::shared_ptr<State> state_;
};

class LayerNorm {
 public:
  explicit LayerNorm(const Scope& scope, float eps = 1e-5f);
  Tensor operator()(const Tensor& x) const;

 private:
  Tensor weight_, bias_;
  float eps_;
};

class GroupNorm {
 public:
  GroupNorm(const Scope& scope, float eps, int groups = 32);
  Tensor operator()(const Tensor& x) const;
  Tensor silu(const Tensor& x) const;   // silu(norm(x)) in one pass

 private:
  Tensor weight_, bias_;
  int groups_;
  float eps_;
};

class Embedding {
 public:
  explicit Embedding(const Scope& scope, std::string_view name = "weight");
  Tensor operator()(const Tensor& ids) const;
  int64_t count() const { return table_.dim(0); }
  int64_t width() const { return table_.dim(1); }

 private:
  Tensor table_;
};

// What a model is to the code around it: named layers and tensors.
class Module {
 public:
  const std::vector<std::pair<std::string, Linear>>& linears() const { return registry_->linears; }
  const std::vector<std::pair<std::string, Conv2d>>& convs() const { return registry_->convs; }
  const std::vector<std::pair<std::string, Tensor>>& state_dict() const { return registry_->weights; }
  int64_t parameter_count() const;

 protected:
  explicit Module(const Scope& scope) : registry_(scope.shared_registry()) {}

 private:
  std::shared_ptr<Registry> registry_;
};

}  // namespace flame
