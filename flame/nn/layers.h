#pragma once

#include <functional>

#include "flame/nn/scope.h"
#include "flame/ops/conv.h"

namespace flame {

// What a layer expects of its weights; "any" is read from the source. A tensor of another shape is an error.
constexpr int64_t any_size = -1;
enum class Bias { if_there, required, none };

// A trainable low-rank addition to a frozen layer: y += scale * up(down(x)). In the layer's dtype, or in f32 and cast
// to it.
struct Adapter {
  Tensor down;      // Linear: [rank, in]; Conv2d: [rank, kh, kw, in], with the layer's stride and padding
  Tensor up;        // Linear: [out, rank]; Conv2d: [out, 1, 1, rank]
  float scale = 1;  // alpha / rank
};

struct LinearSizes {
  int64_t in = any_size, out = any_size;
  Bias bias = Bias::required;
};

class Linear {
 public:
  // weight [out, in], or a 1x1 convolution's [out, in, 1, 1]; bias [out].
  explicit Linear(const Scope& scope, const LinearSizes& sizes = {.bias = Bias::if_there});
  Tensor operator()(const Tensor& x) const;
  int64_t in() const { return state_->in; }
  int64_t out() const { return state_->out; }
  std::optional<Adapter>& adapter() const { return state_->adapter; }
  Tensor& weight() const { return state_->weight; }
  const Tensor& bias() const { return state_->bias; }
  // Gives the weight to a layer that takes this one's place, which from then on cannot be called.
  Tensor release_weight() const;

 private:
  struct State {
    Tensor weight, bias;
    int64_t in, out;
    std::optional<Adapter> adapter;
  };
  std::shared_ptr<State> state_;
};

struct ConvSizes {
  int64_t in = any_size, out = any_size, kernel = any_size;
  int stride = 1;
  Padding padding = 0;
  Bias bias = Bias::required;
};

// Channels last; the source's [out, in, kh, kw] is turned once, at load.
class Conv2d {
 public:
  Conv2d(const Scope& scope, const ConvSizes& sizes);
  explicit Conv2d(const Scope& scope, int stride = 1, Padding padding = 0)
      : Conv2d(scope, {.stride = stride, .padding = padding, .bias = Bias::if_there}) {}
  Tensor operator()(const Tensor& x) const;
  int64_t in() const { return state_->weight.dim(3); }
  int64_t out() const { return state_->weight.dim(0); }
  int kernel() const { return static_cast<int>(state_->weight.dim(1)); }
  std::optional<Adapter>& adapter() const { return state_->adapter; }
  Tensor& weight() const { return state_->weight; }  // [out, kh, kw, in]
  const Tensor& bias() const { return state_->bias; }
  int stride() const { return state_->stride; }
  Padding padding() const { return state_->padding; }

 private:
  struct State {
    Tensor weight, bias;
    int stride;
    Padding padding;
    std::optional<Adapter> adapter;
  };
  std::shared_ptr<State> state_;
};

class LayerNorm {
 public:
  explicit LayerNorm(const Scope& scope, float eps = 1e-5f, int64_t width = any_size);
  Tensor operator()(const Tensor& x) const;
  const Tensor& weight() const { return weight_; }
  const Tensor& bias() const { return bias_; }
  float eps() const { return eps_; }

 private:
  Tensor weight_, bias_;
  float eps_;
};

class RmsNorm {
 public:
  explicit RmsNorm(const Scope& scope, float eps = 1e-6f, int64_t width = any_size);
  Tensor operator()(const Tensor& x) const;

 private:
  Tensor weight_;
  float eps_;
};

class GroupNorm {
 public:
  GroupNorm(const Scope& scope, float eps, int64_t channels = any_size, int groups = 32);
  Tensor operator()(const Tensor& x) const;
  Tensor silu(const Tensor& x) const;  // silu(norm(x)) in one pass
  const Tensor& weight() const { return weight_; }
  const Tensor& bias() const { return bias_; }
  int groups() const { return groups_; }
  float eps() const { return eps_; }

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
  const Tensor& table() const { return table_; }  // [count, width]

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
  // Takes tensors out of state_dict() whose layers give them away.
  void forget(const std::function<bool(const std::string& name)>& given_away);

 private:
  std::shared_ptr<Registry> registry_;
};

}  // namespace flame
