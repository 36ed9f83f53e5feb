#pragma once

#include <functional>
#include <unordered_map>
#include <vector>

#include "flame/core/tensor.h"

namespace flame {

// The gradients that a backward pass returns. Nothing hides inside a tensor.
class GradientMap {
 public:
  // Adds `gradient` to what is already there for `to`; a null `to` is ignored. Used by the rules of ops.
  void add(const SlotPtr& to, const Tensor& gradient);

  // From now on the gradient of `leaf` is added to `destination` in place (a view of a flat buffer, for instance).
  void bind(const Tensor& leaf, const Tensor& destination);

  bool contains(const Tensor& x) const { return x.slot() && gradients_.contains(x.slot()); }
  const Tensor& operator[](const Tensor& x) const;   // throws if there is no gradient for x
  Tensor take(const SlotPtr& slot);                  // removes it; no tensor if there is none
  size_t size() const { return gradients_.size(); }

 private:
  std::unordered_map<SlotPtr, Tensor> gradients_;
  std::unordered_map<SlotPtr, Tensor> bound_;
};

using Backward = std::function<void(const Tensor& dy, GradientMap& gradients)>;

// While a Tape exists on this thread, ops on tensors that want gradients note their rules in it.
class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;
  static Tape* current();   // null where none exists or a PauseTape is in force

  // Gradients of a scalar, or of sum(y * dy), for every leaf that it depends on; then the tape is empty.
  GradientMap backward(const Tensor& loss);
  void backward(const Tensor& loss, GradientMap& gradients);
  void backward(const Tensor& y, const Tensor& dy, GradientMap& gradients);

  size_t size() const { return nodes_.size(); }
  size_t bytes_kept() const { return bytes_kept_; }   // bytes that rules keep for the backward pass
  uint64_t epoch() const { return epoch_; }           // changes with every backward pass
  void note(const char* op, SlotPtr slot, Backward rule) { nodes_.push_back({op, std::move(slot), std::move(rule)}); }
  void count(const Tensor& kept) { bytes_kept_ += kept.bytes(); }

 private:
  friend class PauseTape;
  struct Node {
    const char* op;
    SlotPtr slot;
    Backward rule;
  };
  std::vector<Node> nodes_;
  Tape* outer_;
  uint64_t epoch_;
  size_t bytes_kept_ = 0;
};

// No tape in this scope: what runs in it leaves no trace.
class PauseTape {
 public:
  PauseTape();
  ~PauseTape();
  PauseTape(const PauseTape&) = delete;
  PauseTape& operator=(const PauseTape&) = delete;

 private:
  Tape* outer_;
};

// --- for the rules of ops ---

// x's slot if a gradient has to reach it, else null.
SlotPtr wants(const Tensor& x);

// x itself, without its slot, if one of `reasons` wants a gradient; else no tensor, so that nothing is held.
template <class... Reasons>
Tensor keep(const Tensor& x, const Reasons&... reasons) {
  if (!x.defined() || !(wants(reasons) || ...)) return {};
  Tape::current()->count(x);
  return x.detach();
}

// y as the result of `op`: if a gradient has to reach an input, `rule` is noted and y gets a slot.
Tensor record(const char* op, const Tensor& y, std::initializer_list<Tensor> inputs, Backward rule);
Tensor record(const char* op, const Tensor& y, std::span<const Tensor> inputs, Backward rule);

// y as the result of an op without a gradient: throws if an input wants one, so that none stops silently.
Tensor no_gradient(const char* op, const Tensor& y, std::initializer_list<Tensor> inputs);

// f(x), keeping only x: f runs again in the backward pass. Parameters inside f get their gradients, also if x is frozen.
Tensor checkpoint(const std::function<Tensor(const Tensor&)>& f, const Tensor& x);

}  // namespace flame
