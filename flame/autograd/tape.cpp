#include "flame/autograd/tape.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "flame/autograd/profile.h"

namespace flame {

void accumulate(const Tensor& into, const Tensor& x);  // into += x, in flame/ops

namespace {

thread_local Tape* current_tape = nullptr;
thread_local std::vector<uint64_t> running;  // the epochs whose backward passes are under way
thread_local bool* meets_wanted = nullptr;   // set when an op that is not recorded meets a tensor that wants a gradient

uint64_t new_epoch() {
  static std::atomic<uint64_t> epochs = 0;
  return ++epochs;
}

// The tensors of a pass under way are leaves to a rule that records on a tape of its own, as checkpoint's does.
void require_live(Op op, const Tensor& x) {
  const uint64_t epoch = x.slot()->epoch;
  const bool is_running = std::find(running.begin(), running.end(), epoch) != running.end();
  require(epoch == 0 || epoch == current_tape->epoch() || is_running, op, "an input of shape ", x.shape(),
          " was recorded on another tape, or on this one before its last backward pass, which freed it");
}

struct RunningPass {
  explicit RunningPass(uint64_t epoch) { running.push_back(epoch); }
  ~RunningPass() { running.pop_back(); }
};

struct Witness {
  bool seen = false;
  bool* outer = std::exchange(meets_wanted, &seen);
  ~Witness() { meets_wanted = outer; }
};

}  // namespace

void GradientMap::add(const SlotPtr& to, const Tensor& gradient) {
  if (!to) return;
  require(gradient.shape() == to->shape && (gradient.dtype() == to->dtype || gradient.dtype() == to->value), "gradient",
          "expected ", to->shape, " ", to->dtype, ", got ", gradient.shape(), " ", gradient.dtype());
  if (auto bound = bound_.find(to); bound != bound_.end()) return accumulate(bound->second, gradient);
  const auto entry = gradients_.find(to);
  if (entry == gradients_.end()) {
    gradients_.emplace(to, gradient.to(to->dtype));
    return;
  }
  if (!entry->second.sole_owner()) entry->second = entry->second.clone();
  accumulate(entry->second, gradient);
}

Tensor GradientMap::accumulator(const SlotPtr& to) {
  Tensor& sum = gradients_[to];
  if (!sum.defined()) sum = Tensor::zeros(to->shape, to->dtype, to->device);
  if (!bound_.contains(to) && !sum.sole_owner()) sum = sum.clone();
  return sum;
}

void GradientMap::add(const GradientMap& others) {
  for (const auto& [slot, gradient] : others.gradients_) add(slot, gradient);
}

void GradientMap::bind(const Tensor& leaf, const Tensor& destination) {
  require(leaf.wants_grad() && leaf.slot()->epoch == 0, "bind", "expected a leaf that requires a gradient");
  require(leaf.shape() == destination.shape() && leaf.slot()->dtype == destination.dtype(), "bind", "expected ",
          leaf.shape(), " ", leaf.slot()->dtype, ", got ", destination.shape(), " ", destination.dtype());
  bound_[leaf.slot()] = destination;
  gradients_[leaf.slot()] = destination;
}

const Tensor& GradientMap::operator[](const Tensor& x) const {
  auto entry = gradients_.find(x.slot());
  require(x.slot() && entry != gradients_.end(), "gradient", "there is none for this tensor of shape ", x.shape(),
          x.slot() ? ": the loss does not depend on it, or it is no leaf" : ": it does not require one");
  return entry->second;
}

Tensor GradientMap::take(const SlotPtr& slot) {
  auto node = gradients_.extract(slot);
  return node ? node.mapped() : Tensor();
}

Tape::Tape() : outer_(current_tape), epoch_(new_epoch()) { current_tape = this; }
Tape::Tape(Recording recording) : nodes_(std::move(recording.nodes)), outer_(current_tape), epoch_(recording.epoch) {
  current_tape = this;
}
Tape::~Tape() { current_tape = outer_; }
Tape* Tape::current() { return current_tape; }

PauseTape::PauseTape() : outer_(current_tape) { current_tape = nullptr; }
PauseTape::~PauseTape() { current_tape = outer_; }

Tape::Recording Tape::take() {
  Recording recording;
  recording.nodes = std::exchange(nodes_, {});
  recording.epoch = std::exchange(epoch_, new_epoch());
  bytes_kept_ = 0;
  return recording;
}

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
  const RunningPass pass(epoch_);
  std::vector<Node> nodes = take().nodes;
  PauseTape pause;  // rules are not recorded themselves
  gradients.add(y.slot(), dy);
  while (!nodes.empty()) {
    Node node = std::move(nodes.back());
    nodes.pop_back();
    if (const Tensor gradient = gradients.take(node.slot); gradient.defined()) {
      node.rule(gradient, gradients);
      Profile::note(node.op, " backward");
    }
  }
}

SlotPtr wants(const Tensor& x) {
  if (meets_wanted && x.slot()) *meets_wanted = true;
  return current_tape ? x.slot() : nullptr;
}

Tensor record(const char* op, const Tensor& y, std::span<const Tensor> inputs, Backward rule) {
  Profile::note(op);
  const bool wanted = std::any_of(inputs.begin(), inputs.end(), [](const Tensor& input) { return wants(input); });
  return wanted ? record_always(op, y, inputs, std::move(rule)) : y;
}

Tensor record_always(const char* op, const Tensor& y, std::span<const Tensor> inputs, Backward rule) {
  for (const Tensor& input : inputs)
    if (input.slot()) require_live(op, input);
  auto slot = std::make_shared<Slot>(Slot{y.shape(), y.dtype(), y.device(), current_tape->epoch(), y.dtype()});
  current_tape->note(op, slot, std::move(rule));
  return y.with_slot(std::move(slot));
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
    const PauseTape pause;
    const Witness witness;
    y = f(x.detach());
    if (!x.wants_grad() && !y.wants_grad() && !witness.seen) return y;
  }
  tape->count(x.bytes());
  const auto rule = [f, dx_to = wants(x), x = x.detach()](const Tensor& dy, GradientMap& gradients) {
    Tape inner;
    const Tensor again = dx_to ? x.requires_grad(dx_to->dtype) : x;
    const Tensor y = f(again);
    if (!y.wants_grad()) return;
    inner.backward(y, dy, gradients);
    if (dx_to) gradients.add(dx_to, gradients.take(again.slot()));
  };
  return record_always("checkpoint", y, std::span(&x, 1), rule);
}

Tensor Tensor::requires_grad() const { return requires_grad(dtype_); }

Tensor Tensor::requires_grad(DType gradient) const {
  require(defined() && is_floating(dtype_), "requires_grad", "expected a floating tensor, got ", dtype_);
  require(gradient == dtype_ || gradient == DType::f32, "requires_grad", "expected a gradient in ", dtype_,
          " or f32, got ", gradient);
  return with_slot(std::make_shared<Slot>(Slot{shape_, gradient, device(), 0, dtype_}));
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
