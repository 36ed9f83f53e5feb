#include "flame/autograd/tape.h"

#include <atomic>

namespace flame {

void accumulate(const Tensor& into, const Tensor& x);   // into += x, in flame/ops

namespace {

thread_local Tape* current_tape = nullptr;

uint64_t new_epoch() {
  static std::atomic<uint64_t> epochs = 0;
  return ++epochs;
}

}  // namespace

void GradientMap::add(const SlotPtr& to, const Tensor& gradient) {
  if (!to) return;
  require(gradient.shape() == to->shape && gradient.dtype() == to->dtype, "gradient", "expected ", to->shape, " ",
          to->dtype, ", got ", gradient.shape(), " ", gradient.dtype());
  if (auto bound = bound_.find(to); bound != bound_.end()) return accumulate(bound->second, gradient);
  auto [entry, is_new] = gradients_.try_emplace(to, gradient);
  if (is_new) return;
  if (!entry->second.sole_owner()) entry->second = entry->second.clone();
  accumulate(entry->second, gradient);
}

void GradientMap::bind(const Tensor& leaf, const Tensor& destination) {
  require(leaf.wants_grad(), "bind", "expected a tensor that requires a gradient");
  require(leaf.shape() == destination.shape() && leaf.dtype() == destination.dtype(), "bind", "expected ",
          leaf.shape(), " ", leaf.dtype(), ", got ", destination.shape(), " ", destination.dtype());
  bound_[leaf.slot()] = destination;
  gradients_[leaf.slot()] = destination;
}

const Tensor& GradientMap::operator[](const Tensor& x) const {
  auto entry = gradients_.find(x.slot());
  require(x.slot() && entry != gradients_.end(), "gradient", "there is none for this tensor of shape ", x.shape(),
          x.slot() ? ": the loss does not depend on it" : ": it does not require one");
  return entry->second;
}

Tensor GradientMap::take(const SlotPtr& slot) {
  auto node = gradients_.extract(slot);
  return node ? node.mapped() : Tensor();
}

Tape::Tape() : outer_(current_tape), epoch_(new_epoch()) { current_tape = this; }
Tape::~Tape() { current_tape = outer_; }
Tape* Tape::current() { return current_tape; }

PauseTape::PauseTape() : outer_(current_tape) { current_tape = nullptr; }
PauseTape::~PauseTape() { current_tape = outer_; }

GradientMap Tape::backward(const Tensor& loss) {
  GradientMap gradients;
  backward(loss, gradients);
  return gradients;
}

void Tape::backward(const Tensor& loss, GradientMap& gradients) {
  require(loss.defined() && loss.numel() == 1, "backward", "expected a scalar, got shape ", loss.shape());
  backward(loss, Tensor::ones(loss.shape(), loss.dtype(), loss.device()), gradients);
}

void Tape::backward(const Tensor& y, const Tensor& dy, GradientMap& gradients) {
  require(y.wants_grad(), "backward", "this tensor of shape ", y.shape(),
          " depends on nothing that requires a gradient");
  require(y.slot()->epoch == 0 || y.slot()->epoch == epoch_, "backward",
          "this tensor was recorded on another tape, or on this one before its last backward pass, which freed it");
  std::vector<Node> nodes = std::move(nodes_);
  nodes_.clear();
  epoch_ = new_epoch();
  bytes_kept_ = 0;
  PauseTape pause;   // rules are not recorded themselves
  gradients.add(y.slot(), dy);
  while (!nodes.empty()) {
    Node node = std::move(nodes.back());
    nodes.pop_back();
    if (const Tensor gradient = gradients.take(node.slot); gradient.defined()) node.rule(gradient, gradients);
  }
}

SlotPtr wants(const Tensor& x) { return current_tape ? x.slot() : nullptr; }

Tensor record(const char* op, const Tensor& y, std::span<const Tensor> inputs, Backward rule) {
  for (const Tensor& input : inputs) {
    if (!wants(input)) continue;
    require(input.slot()->epoch == 0 || input.slot()->epoch == current_tape->epoch(), op,
            "an input was recorded on a tape that has been freed by its backward pass");
    auto slot = std::make_shared<Slot>(Slot{y.shape(), y.dtype(), y.device(), current_tape->epoch()});
    current_tape->note(op, slot, std::move(rule));
    return y.with_slot(std::move(slot));
  }
  return y;
}

Tensor record(const char* op, const Tensor& y, std::initializer_list<Tensor> inputs, Backward rule) {
  return record(op, y, std::span(inputs.begin(), inputs.size()), std::move(rule));
}

Tensor no_gradient(const char* op, const Tensor& y, std::initializer_list<Tensor> inputs) {
  for (const Tensor& input : inputs)
    require(!wants(input), op, "has no gradient, but an input of shape ", input.shape(), " wants one; detach() it");
  return y;
}

Tensor checkpoint(const std::function<Tensor(const Tensor&)>& f, const Tensor& x) {
  Tape* tape = Tape::current();
  if (!tape) return f(x);
  Tensor y;
  {
    PauseTape pause;
    y = f(x.detach());
  }
  tape->count(x);
  auto slot = std::make_shared<Slot>(Slot{y.shape(), y.dtype(), y.device(), tape->epoch()});
  tape->note("checkpoint", slot, [f, dx_to = wants(x), x = x.detach()](const Tensor& dy, GradientMap& gradients) {
    Tape inner;
    const Tensor again = dx_to ? x.requires_grad() : x;
    const Tensor y = f(again);
    if (!y.wants_grad()) return;
    inner.backward(y, dy, gradients);
    if (dx_to) gradients.add(dx_to, gradients.take(again.slot()));
  });
  return y.with_slot(std::move(slot));
}

Tensor Tensor::requires_grad() const {
  require(defined() && is_floating(dtype_), "requires_grad", "expected a floating tensor, got ", dtype_);
  return with_slot(std::make_shared<Slot>(Slot{shape_, dtype_, device(), 0}));
}

Tensor Tensor::detach() const { return with_slot(nullptr); }

Tensor Tensor::with_slot(SlotPtr slot) const {
  Tensor result = *this;
  result.slot_ = std::move(slot);
  return result;
}

GradientMap Tensor::backward() const {
  require(Tape::current(), "backward", "there is no Tape in scope: write `Tape tape;` before the computation");
  return Tape::current()->backward(*this);
}

}  // namespace flame
