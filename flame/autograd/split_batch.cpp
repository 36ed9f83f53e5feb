#include <exception>

#include "flame/autograd/tape.h"
#include "flame/device/parallel.h"

namespace flame {
namespace {

// Some samples, from the inputs to the gradients.
struct Piece {
  int64_t begin, count;
  std::vector<Tensor> inputs;
  Tensor y;
  Tape::Recording recording;
  size_t bytes_kept = 0;
  GradientMap gradients;

  Piece(const std::vector<Tensor>& whole, int64_t first, int64_t last) : begin(first), count(last - first) {
    for (const Tensor& x : whole) {
      const Tensor rows = x.rows(begin, count);
      const SlotPtr wanted = wants(x);
      inputs.push_back(wanted ? rows.requires_grad(wanted->dtype) : rows);
    }
  }

  void forward(const BatchFunction& f, bool recorded) {
    if (!recorded) {
      y = f(inputs);
      return;
    }
    Tape tape;
    y = f(inputs);
    bytes_kept = tape.bytes_kept();
    recording = tape.take();
  }

  void backward(const Tensor& dy, GradientMap& into) {
    if (!y.wants_grad()) return;
    Tape tape(std::move(recording));
    tape.backward(y, dy.rows(begin, count), into);
  }
};

// f(0), f(1), ..., each in a thread of its own; then throws what the first of them threw, if one did.
template <class F>
void in_threads(size_t count, const F& f) {
  std::vector<std::exception_ptr> errors(count);
#pragma omp parallel for schedule(static, 1) num_threads(static_cast <int>(count))
  for (size_t i = 0; i < count; ++i) {
    try {
      f(i);
    } catch (...) {
      errors[i] = std::current_exception();
    }
  }
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

Tensor joined(const std::vector<Piece>& pieces, int64_t batch) {
  const Tensor& first = pieces.front().y;
  const Tensor y = Tensor::empty(first.shape().with(0, batch), first.dtype(), first.device());
  for (const Piece& piece : pieces) {
    require(piece.y.rank() > 0 && piece.y.dim(0) == piece.count, "split_batch", "expected a result of ", piece.count,
            " samples, got shape ", piece.y.shape());
    y.rows(piece.begin, piece.count).copy_from(piece.y);
  }
  return y;
}

// The gradient of an input, from those of its rows.
void add_input_gradient(const SlotPtr& to, const std::vector<Piece>& pieces, size_t input,
                        const std::vector<GradientMap*>& gradients, GradientMap& into) {
  const Tensor dx = Tensor::zeros(to->shape, to->dtype, to->device);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Tensor rows = gradients[i]->take(pieces[i].inputs[input].slot());
    if (rows.defined()) dx.rows(pieces[i].begin, pieces[i].count).copy_from(rows);
  }
  into.add(to, dx);
}

}  // namespace

Tensor split_batch(const BatchFunction& f, const std::vector<Tensor>& inputs) {
  require(!inputs.empty() && inputs[0].defined() && inputs[0].rank() > 0, "split_batch", "expected inputs [N, ...]");
  const int64_t batch = inputs[0].dim(0);
  for (const Tensor& x : inputs)
    require(x.defined() && x.rank() > 0 && x.dim(0) == batch, "split_batch", "expected inputs of ", batch,
            " samples, got ", x);
  const int64_t count = omp_in_parallel() || !inputs[0].device().is_cpu() ? 1 : threads();
  if (count == 1 || batch < count) return f(inputs);

  Tape* const tape = Tape::current();
  const auto pieces = std::make_shared<std::vector<Piece>>();
  for (int64_t i = 0; i < count; ++i) pieces->emplace_back(inputs, batch * i / count, batch * (i + 1) / count);
  in_threads(pieces->size(), [&](size_t i) { (*pieces)[i].forward(f, tape); });
  const Tensor y = joined(*pieces, batch);
  bool wanted = false;
  for (const Piece& piece : *pieces) {
    wanted |= piece.y.wants_grad();
    if (tape) tape->count(piece.bytes_kept);
  }
  if (!wanted) return y;

  std::vector<SlotPtr> dx_to;
  for (const Tensor& x : inputs) dx_to.push_back(wants(x));
  return record_always("split_batch", y, inputs, [pieces, dx_to](const Tensor& dy, GradientMap& gradients) {
    // The first piece's gradients are added to what is there already, those of the others after it, in order.
    std::vector<GradientMap*> maps;
    for (Piece& piece : *pieces) maps.push_back(maps.empty() ? &gradients : &piece.gradients);
    in_threads(pieces->size(), [&](size_t i) { (*pieces)[i].backward(dy, *maps[i]); });
    for (size_t k = 0; k < dx_to.size(); ++k)
      if (dx_to[k]) add_input_gradient(dx_to[k], *pieces, k, maps, gradients);
    for (size_t i = 1; i < maps.size(); ++i) gradients.add(*maps[i]);
  });
}

}  // namespace flame
