#pragma once

#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "flame/core/tensor.h"

namespace flame {

// The gradients that a backward pass returns. Nothing hides inside a tensor.
class GradientMap {
 public:
  // Adds `gradient` to what is already there for `to`; a null `to` is ignored. Used by the rules of ops. It may be in
  // the tensor's own dtype where the gradient is wanted in a wider one.
  void add(const SlotPtr& to, const Tensor& gradient);

  // From now on the gradient of `leaf` is added to `destination` in place (a view of a flat buffer, for instance).
  void bind(const Tensor& leaf, const Tensor& destination);

  // Where the gradient of `to` is added up, for rules that add to it in place: what it is bound to, or zeros made now.
  Tensor accumulator(const SlotPtr& to);

  bool contains(const Tensor& x) const { return contains(x.slot()); }
  bool contains(const SlotPtr& to) const { return to && gradients_.contains(to); }
  const Tensor& operator[](const Tensor& x) const;  // throws if there is no gradient for x
  Tensor take(const SlotPtr& slot);                 // removes it; no tensor if there is none
  void add(const GradientMap& others);              // all of them
  size_t size() const { return gradients_.size(); }

 private:
  std::unordered_map<SlotPtr, Tensor> gradients_;
  std::unordered_map<SlotPtr, Tensor> bound_;
};

using Backward = std::function<void(const Tensor& dy, GradientMap& gradients)>;

// While a Tape exists on this thread, ops on tensors that want gradients note their rules in it.
class Tape {
  struct Node {
    const char* op;
    SlotPtr slot;
    Backward rule;
  };

 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;
  static Tape* current();  // null where none exists or a PauseTape is in force

  // Gradients of a scalar, or of sum(y * dy), for every leaf that it depends on; then the tape is empty.
  GradientMap backward(const Tensor& loss);
  void backward(const Tensor& loss, GradientMap& gradients);
  void backward(const Tensor& y, const Tensor& dy, GradientMap& gradients);

  size_t size() const { return nodes_.size(); }
  size_t bytes_kept() const { return bytes_kept_; }  // bytes that rules keep for the backward pass
  uint64_t epoch() const { return epoch_; }          // changes with every backward pass

  // What was recorded, taken off the tape to be run later: in another thread, for instance.
  class Recording {
    friend class Tape;
    std::vector<Node> nodes;
    uint64_t epoch = 0;
  };
  Recording take();
  explicit Tape(Recording recording);

  void note(const char* op, SlotPtr slot, Backward rule) { nodes_.push_back({op, std::move(slot), std::move(rule)}); }
  void count(size_t bytes_kept) { bytes_kept_ += bytes_kept; }

 private:
  friend class PauseTape;
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
  Tape::current()->count(x.bytes());
  return x.detach();
}

// y as the result of `op`: if a gradient has to reach an input, `rule` is noted and y gets a slot.
Tensor record(const char* op, const Tensor& y, std::initializer_list<Tensor> inputs, Backward rule);
Tensor record(const char* op, const Tensor& y, std::span<const Tensor> inputs, Backward rule);

// The same without asking whether an input wants one: there is a tape, and gradients have to reach something else.
Tensor record_always(const char* op, const Tensor& y, std::span<const Tensor> inputs, Backward rule);

// y as the result of an op without a gradient: throws if an input wants one, so that none stops silently.
Tensor no_gradient(const char* op, const Tensor& y, std::initializer_list<Tensor> inputs);

// f(x), keeping only x: f runs again in the backward pass. Parameters and other tensors that f reads get their
// gradients, also if x is frozen.
Tensor checkpoint(const std::function<Tensor(const Tensor&)>& f, const Tensor& x);

// f(inputs), whose samples (rows of the first axis, of the inputs and of the result) do not depend on each other. On
// the CPU each thread takes some of them, forward and backward, if there are enough: threads that work side by side
// need not wait for each other after every op. It knows of leaves inside f, but not of other tensors that want
// gradients: those must be inputs.
using BatchFunction = std::function<Tensor(std::span<const Tensor> inputs)>;
Tensor split_batch(const BatchFunction& f, const std::vector<Tensor>& inputs);

}  // namespace flame
