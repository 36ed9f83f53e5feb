#include <array>
#include <cstring>
#include <utility>

#include "eri/models/fused_text_cuda.h"
#include "eri/models/fused_unet.h"
#include "eri/models/unet_blocks.h"
#include "flame/ops/attention_rows_cuda.h"
#include "flame/ops/fused_cuda.h"

namespace eri {

using namespace flame;
using cuda::Extended;
using cuda::ExtendedLinear;
using cuda::Matrix;

namespace {

constexpr int64_t kHeadWidth = 64;
constexpr float kEps = 1e-5f;

Tensor rows_of(int64_t rows, int64_t columns, const Tensor& like) {
  return Tensor::empty({rows, columns}, like.dtype(), like.device());
}

// Adapters' gradients, a turn's in one go on the second stream, and what they read, held until they are done. A turn is
// a block: with three in each, the streams' waiting for each other cost 1.5 % of a step.
class SideWork {
 public:
  SideWork(Device device, bool wanted) : device_(device), wanted_(wanted) {}
  // On the way out of a failure the failure counts, not what it does to waiting.
  ~SideWork() {
    given_.clear();
    try {
      finish();
    } catch (const flame::Error&) {
    }
  }
  SideWork(const SideWork&) = delete;
  SideWork& operator=(const SideWork&) = delete;

  void add_gradients(const ExtendedLinear& linear, const Extended& x, const Extended& dy, GradientMap& gradients) {
    add_gradients(linear, {x.buffer, dy.buffer}, x.main(), x.part(linear.in(), linear.extra()), dy, gradients);
  }

  // `low` is what the adapters made of x.
  void add_gradients(const ExtendedLinear& linear, const Tensor& x, const Tensor& low, const Extended& dy,
                     GradientMap& gradients) {
    add_gradients(linear, {x, low, dy.buffer}, cuda::matrix(x), cuda::matrix(low), dy, gradients);
  }

  // What was given since the last turn begins, and the first stream waits for what began then: it has had the time
  // between to overlap.
  void turn() {
    if (held_.empty()) return;
    cuda::add_adapter_gradients(cuda::fork(device_), std::exchange(given_, {}));
    const cudaEvent_t now = cuda::mark(device_);
    if (last_) cuda::wait_for(device_, last_);
    before_ = std::exchange(held_, {});
    last_ = now;
  }

  void finish() {
    turn();
    if (last_) cuda::wait_for(device_, last_);
    before_.clear();
    last_ = nullptr;
  }

 private:
  void add_gradients(const ExtendedLinear& linear, std::initializer_list<Tensor> read, const Matrix& x,
                     const Matrix& low, const Extended& dy, GradientMap& gradients) {
    if (!wanted_ || !linear.trains()) return;
    held_.insert(held_.end(), read);
    const std::vector<cuda::AdapterGradient> more = linear.adapter_gradients(x, low, dy, gradients);
    given_.insert(given_.end(), more.begin(), more.end());
  }

  Device device_;
  bool wanted_;
  std::vector<cuda::AdapterGradient> given_;
  std::vector<Tensor> held_, before_;
  cudaEvent_t last_ = nullptr;
};

// What a block knows of the pictures and texts that it runs for.
struct Batch {
  int64_t samples, tokens;
  Tensor text;  // [N, T, all keys and values]
  int64_t rows() const { return samples * tokens; }
};

// What a block's gradient needs. x1, x2, x3 are normalised; t is what ff_out's adapters made of its input.
struct Kept {
  Tensor h;
  Extended x1, a1, x2, a2, x3, f;
  Tensor rstd1, rstd2, rstd3, qkv, sum1, q2, sum2, t;

  size_t bytes() const {
    size_t total = 0;
    for (const Tensor* x : {&h, &x1.buffer, &a1.buffer, &x2.buffer, &a2.buffer, &x3.buffer, &rstd1, &rstd2, &rstd3,
                            &qkv, &sum1, &q2, &sum2, &f.buffer, &t})
      if (x->defined()) total += x->bytes();
    return total;
  }
};

class FusedBlock {
 public:
  FusedBlock(const TransformerBlock& block, int64_t text_column, DType dtype)
      : qkv_({block.self().q(), block.self().k(), block.self().v()}, dtype, block.norm1().weight(),
             block.norm1().bias()),
        out1_({block.self().out()}, dtype, {}, {}, true),
        q2_({block.cross().q()}, dtype, block.norm2().weight(), block.norm2().bias()),
        out2_({block.cross().out()}, dtype, {}, {}, true),
        ff_in_({block.feed_forward().in()}, dtype, block.norm3().weight(), block.norm3().bias()),
        ff_out_({block.feed_forward().out()}, dtype, {}, {}, true),
        width_(qkv_.in()),
        text_column_(text_column) {}

  // `out` = block(h), and what the gradient needs.
  Kept forward(const Tensor& h, const Batch& batch, const Matrix& out, bool recorded) const {
    Kept kept = attend(h, batch);
    const Tensor h2 = std::exchange(kept.h, h);
    feed_forward(kept, matrix(h2), out, recorded);
    if (!recorded) return {};
    if (policy_ == MemoryPolicy::block) kept = Kept(), kept.h = h;
    if (policy_ == MemoryPolicy::block) return kept;
    kept.h = {};
    if (policy_ != MemoryPolicy::lean) kept.f = {};
    if (policy_ == MemoryPolicy::attn_ff) kept.qkv = kept.q2 = {};
    return kept;
  }

  // d is the gradient of the block's result, with room for the adapters' part; returns that of its input.
  Extended backward(Kept kept, const Batch& batch, const Extended& d, const Tensor& dtext, SideWork& side,
                    GradientMap& gradients) const {
    restore(kept, batch);
    const Extended d2 = feed_forward_gradient(kept, d, side, gradients);
    const Extended d1 = text_gradient(kept, batch, d2, dtext, side, gradients);
    const Extended d0 = self_gradient(kept, batch, d1, side, gradients);
    side.turn();
    return d0;
  }

  std::array<const ExtendedLinear*, 6> linears() const { return {&qkv_, &out1_, &q2_, &out2_, &ff_in_, &ff_out_}; }
  void set_policy(MemoryPolicy policy) { policy_ = policy; }

 private:
  static Matrix matrix(const Tensor& x) { return cuda::matrix(x); }

  // Both attentions; kept.h is what comes out of them.
  Kept attend(const Tensor& h, const Batch& batch) const {
    const int64_t rows = batch.rows();
    const auto extended = [&](int64_t extra) { return Extended(rows, width_, extra, h.dtype(), h.device()); };
    const auto statistics = [&] { return Tensor::empty({rows}, DType::f32, h.device()); };
    Kept kept;

    kept.x1 = extended(qkv_.extra()), kept.rstd1 = statistics();
    cuda::normalize_rows(h.device(), matrix(h), kEps, kept.x1.main(), kept.rstd1.data<float>());
    kept.qkv = rows_of(rows, 3 * width_, h);
    qkv_.forward(kept.x1, matrix(kept.qkv));
    kept.a1 = extended(out1_.extra()),
    kept.sum1 = Tensor::empty({batch.samples, heads(), batch.tokens}, DType::f32, h.device());
    cuda::attention_rows(self_problem(kept, batch), rows_in(kept.a1.buffer, 0, batch.tokens), kept.sum1);
    const Tensor h1 = rows_of(rows, width_, h);
    const Matrix h_rows = matrix(h), h1_rows = matrix(h1);
    out1_.forward(kept.a1, h1_rows, &h_rows);

    kept.x2 = extended(q2_.extra()), kept.rstd2 = statistics();
    cuda::normalize_rows(h.device(), h1_rows, kEps, kept.x2.main(), kept.rstd2.data<float>());
    kept.q2 = rows_of(rows, width_, h);
    q2_.forward(kept.x2, matrix(kept.q2));
    kept.a2 = extended(out2_.extra()),
    kept.sum2 = Tensor::empty({batch.samples, heads(), batch.tokens}, DType::f32, h.device());
    cuda::attention_rows(cross_problem(kept, batch), rows_in(kept.a2.buffer, 0, batch.tokens), kept.sum2);
    const Tensor h2 = rows_of(rows, width_, h);
    out2_.forward(kept.a2, matrix(h2), &h1_rows);

    kept.x3 = extended(ff_in_.extra()), kept.rstd3 = statistics();
    cuda::normalize_rows(h.device(), matrix(h2), kEps, kept.x3.main(), kept.rstd3.data<float>());
    kept.h = h2;
    return kept;
  }

  // out = h2 + ff_out(geglu(ff_in(x3))), and where recorded what is kept of it.
  void feed_forward(Kept& kept, const Matrix& h2, const Matrix& out, bool recorded) const {
    const Tensor& like = kept.x3.buffer;
    kept.f = Extended(kept.x3.rows(), 8 * width_, ff_in_.extra(), like.dtype(), like.device());
    ff_in_.forward(kept.x3, kept.f.main());
    const Extended g(kept.x3.rows(), 4 * width_, ff_out_.extra(), like.dtype(), like.device());
    cuda::geglu_rows(like.device(), kept.f.main(), g.main());
    ff_out_.forward(g, out, &h2);
    if (!recorded || !ff_out_.trains()) return;
    kept.t = rows_of(kept.x3.rows(), ff_out_.extra(), like);
    cuda::copy_rows(cuda::stream(like.device()), g.part(4 * width_, ff_out_.extra()), matrix(kept.t));
  }

  // Computes again what the policy did not keep.
  void restore(Kept& kept, const Batch& batch) const {
    if (kept.h.defined()) {
      kept = attend(kept.h, batch);
      const Tensor h2 = std::exchange(kept.h, {}), unused = rows_of(batch.rows(), width_, h2);
      return feed_forward(kept, matrix(h2), matrix(unused), true);
    }
    if (!kept.qkv.defined()) {
      kept.qkv = rows_of(batch.rows(), 3 * width_, kept.x1.buffer);
      qkv_.forward(kept.x1, matrix(kept.qkv));
      kept.q2 = rows_of(batch.rows(), width_, kept.x1.buffer);
      q2_.forward(kept.x2, matrix(kept.q2));
    }
    if (!kept.f.buffer.defined()) {
      const Tensor& like = kept.x3.buffer;
      kept.f = Extended(batch.rows(), 8 * width_, ff_in_.extra(), like.dtype(), like.device());
      ff_in_.forward(kept.x3, kept.f.main());
    }
  }

  Extended extended_like(const Extended& d, int64_t width, int64_t extra) const {
    return Extended(d.rows(), width, extra, d.buffer.dtype(), d.buffer.device());
  }

  // The gradients of the three parts, the last first: each takes what was kept for it, which ends with it.

  // The gradient of f takes f's place, and g = geglu(f) that of its own gradient.
  Extended feed_forward_gradient(Kept& kept, const Extended& d, SideWork& side, GradientMap& gradients) const {
    const Device device = d.buffer.device();
    const Extended x3 = std::exchange(kept.x3, {});
    const Tensor g = rows_of(d.rows(), 4 * width_, d.buffer);
    const Matrix g_rows = matrix(g);
    ff_out_.backward(d, &g_rows);
    const Extended df = std::exchange(kept.f, {});
    cuda::geglu_backward_rows(device, g_rows, df.main(), df.main(), g_rows);
    if (kept.t.defined()) side.add_gradients(ff_out_, g, std::exchange(kept.t, {}), d, gradients);
    return through_norm(ff_in_, df, x3, kept.rstd3, d, side, gradients);
  }

  Extended text_gradient(Kept& kept, const Batch& batch, const Extended& d, const Tensor& dtext, SideWork& side,
                         GradientMap& gradients) const {
    const Tensor da2 = rows_of(d.rows(), width_, d.buffer);
    const Matrix da2_rows = cuda::matrix(da2);
    out2_.backward(d, &da2_rows);
    side.add_gradients(out2_, kept.a2, d, gradients);
    const Extended dq2 = extended_like(d, width_, q2_.extra());
    cross_attention_gradient(kept, batch, da2, dq2, dtext);
    kept.a2 = {}, kept.q2 = {};
    const Extended x2 = std::exchange(kept.x2, {});
    return through_norm(q2_, dq2, x2, kept.rstd2, d, side, gradients);
  }

  Extended self_gradient(Kept& kept, const Batch& batch, const Extended& d, SideWork& side,
                         GradientMap& gradients) const {
    const Tensor da1 = rows_of(d.rows(), width_, d.buffer);
    const Matrix da1_rows = cuda::matrix(da1);
    out1_.backward(d, &da1_rows);
    side.add_gradients(out1_, kept.a1, d, gradients);
    const Extended dqkv = extended_like(d, 3 * width_, qkv_.extra());
    self_attention_gradient(kept, batch, da1, dqkv);
    return through_norm(qkv_, dqkv, kept.x1, kept.rstd1, d, side, gradients);
  }

  // The gradient through a layer and the norm before it, and past them.
  Extended through_norm(const ExtendedLinear& linear, const Extended& dy, const Extended& x, const Tensor& rstd,
                        const Extended& past, SideWork& side, GradientMap& gradients) const {
    const Tensor dx = rows_of(x.rows(), width_, x.buffer);
    const Matrix dx_rows = matrix(dx);
    linear.backward(dy, &dx_rows);
    side.add_gradients(linear, x, dy, gradients);
    const Extended result = extended_like(past, width_, past.buffer.dim(1) - width_);
    cuda::normalize_rows_gradient(x.buffer.device(), dx_rows, x.main(), rstd.data<float>(), past.main(), result.main());
    return result;
  }

  int64_t heads() const { return width_ / kHeadWidth; }

  // Heads side by side in rows of a buffer, `column` elements from the row's begin.
  static cuda::HeadRows rows_in(const Tensor& buffer, int64_t column, int64_t tokens) {
    const int64_t pitch = buffer.dim(-1);
    return {buffer.raw() + static_cast<size_t>(column) * size_of(buffer.dtype()), tokens * pitch, pitch};
  }

  // Of the tokens to each other, and to the text.
  cuda::AttentionRows self_problem(const Kept& kept, const Batch& batch) const {
    const auto part = [&](int64_t i) { return rows_in(kept.qkv, i * width_, batch.tokens); };
    return {kept.qkv.device(), kept.qkv.dtype(), batch.samples, heads(), batch.tokens,
            batch.tokens,      part(0),          part(1),       part(2)};
  }
  cuda::AttentionRows cross_problem(const Kept& kept, const Batch& batch) const {
    const int64_t keys = batch.text.dim(1);
    return {kept.q2.device(),
            kept.q2.dtype(),
            batch.samples,
            heads(),
            batch.tokens,
            keys,
            rows_in(kept.q2, 0, batch.tokens),
            rows_in(batch.text, text_column_, keys),
            rows_in(batch.text, text_column_ + width_, keys)};
  }

  void self_attention_gradient(const Kept& kept, const Batch& batch, const Tensor& da, const Extended& dqkv) const {
    const auto part = [&](int64_t i) { return rows_in(dqkv.buffer, i * width_, batch.tokens); };
    cuda::attention_rows_gradient(self_problem(kept, batch), rows_in(kept.a1.buffer, 0, batch.tokens), kept.sum1,
                                  rows_in(da, 0, batch.tokens), {part(0), part(1), part(2)});
  }
  void cross_attention_gradient(const Kept& kept, const Batch& batch, const Tensor& da, const Extended& dq,
                                const Tensor& dtext) const {
    const auto of_text = [&](int64_t column) {
      return dtext.defined() ? rows_in(dtext, column, dtext.dim(1)) : cuda::HeadRows{};
    };
    cuda::attention_rows_gradient(
        cross_problem(kept, batch), rows_in(kept.a2.buffer, 0, batch.tokens), kept.sum2, rows_in(da, 0, batch.tokens),
        {rows_in(dq.buffer, 0, batch.tokens), of_text(text_column_), of_text(text_column_ + width_)});
  }

  ExtendedLinear qkv_, out1_, q2_, out2_, ff_in_, ff_out_;
  int64_t width_, text_column_;
  MemoryPolicy policy_ = MemoryPolicy::lean;
};

class FusedTransformer {
 public:
  FusedTransformer(const SpatialTransformer& transformer, int64_t text_column, DType dtype)
      : proj_in_({transformer.proj_in()}, dtype), proj_out_({transformer.proj_out()}, dtype, {}, {}, true) {
    for (const TransformerBlock& block : transformer.blocks()) {
      blocks_.emplace_back(block, text_column, dtype);
      text_column += 2 * proj_in_.in();
    }
  }

  Tensor operator()(const Tensor& normed, const Tensor& x, const Tensor& text) const {
    const Batch batch{x.dim(0), x.dim(1) * x.dim(2), text.detach()};
    const int64_t rows = batch.rows(), width = x.dim(3);
    const bool adapters = wants_gradients(), recorded = wants(normed) || wants(x) || wants(text) || adapters;

    const Extended in = with_room(normed, rows, width, proj_in_.extra());
    Tensor h = rows_of(rows, width, x);
    proj_in_.forward(in, cuda::matrix(h));
    const Extended last(rows, width, proj_out_.extra(), x.dtype(), x.device());
    auto kept = std::make_shared<std::vector<Kept>>();
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const bool is_last = i + 1 == blocks_.size();
      const Tensor next = is_last ? Tensor() : rows_of(rows, width, x);
      kept->push_back(blocks_[i].forward(h, batch, is_last ? last.main() : cuda::matrix(next), recorded));
      h = next;
    }
    const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
    const Matrix residual = cuda::matrix(x, rows, width);
    proj_out_.forward(last, cuda::matrix(y, rows, width), &residual);
    if (!recorded) return y;

    size_t bytes = in.buffer.bytes() + last.buffer.bytes();
    for (const Kept& block : *kept) bytes += block.bytes();
    Tape::current()->count(bytes);
    const std::array<Tensor, 3> inputs = {normed, x, text};
    return record_always("fused_transformer", y, inputs,
                         [this, batch, in, last, kept, adapters, dnormed_to = wants(normed), dx_to = wants(x),
                          dtext_to = wants(text), shape = x.shape()](const Tensor& dy, GradientMap& gradients) {
                           // Each block's keys and values are read for the last time before their gradients are
                           // written: they take their place.
                           const Tensor dtext = dtext_to ? batch.text : Tensor();
                           if (dtext_to && !gradients.contains(dtext_to)) gradients.add(dtext_to, dtext);
                           const Tensor dnormed =
                               backward(dy, batch, in, last, *kept, dtext, bool(dnormed_to), adapters, gradients);
                           if (dnormed_to) gradients.add(dnormed_to, dnormed.view(shape));
                           gradients.add(dx_to, dy);
                         });
  }

  void set_policy(MemoryPolicy policy) {
    for (FusedBlock& block : blocks_) block.set_policy(policy);
  }

  std::vector<const ExtendedLinear*> linears() const {
    std::vector<const ExtendedLinear*> result = {&proj_in_, &proj_out_};
    for (const FusedBlock& block : blocks_)
      for (const ExtendedLinear* linear : block.linears()) result.push_back(linear);
    return result;
  }

 private:
  // x as rows with `extra` columns behind them: itself where none are needed.
  static Extended with_room(const Tensor& x, int64_t rows, int64_t width, int64_t extra) {
    if (extra == 0) return Extended(x.detach().view({rows, width}), width);
    const Extended result(rows, width, extra, x.dtype(), x.device());
    cuda::copy_rows(cuda::stream(x.device()), cuda::matrix(x, rows, width), result.main());
    return result;
  }

  bool wants_gradients() const {
    for (const ExtendedLinear* linear : linears())
      if (linear->wants_gradients()) return true;
    return false;
  }

  // The room that a gradient passed from layer to layer needs behind its rows.
  int64_t widest_extra() const {
    int64_t most = std::max(proj_in_.extra(), proj_out_.extra());
    for (const FusedBlock& block : blocks_)
      for (const ExtendedLinear* linear : block.linears())
        if (linear->out() == proj_in_.in()) most = std::max(most, linear->extra());
    return most;
  }

  Tensor backward(const Tensor& dy, const Batch& batch, const Extended& in, const Extended& last,
                  std::vector<Kept>& kept, const Tensor& dtext, bool wanted, bool adapters,
                  GradientMap& gradients) const {
    const int64_t rows = batch.rows(), width = proj_in_.in(), extra = widest_extra();
    const auto extended = [&] { return Extended(rows, width, extra, dy.dtype(), dy.device()); };
    SideWork side(dy.device(), adapters);
    const Extended d_out = extended();
    cuda::copy_rows(cuda::stream(dy.device()), cuda::matrix(dy, rows, width), d_out.main());
    Extended d = extended();
    const Matrix d_rows = d.main();
    proj_out_.backward(d_out, &d_rows);
    side.add_gradients(proj_out_, last, d_out, gradients);
    for (size_t i = blocks_.size(); i-- > 0;)
      d = blocks_[i].backward(std::exchange(kept[i], {}), batch, d, dtext, side, gradients);
    const Tensor dnormed = wanted ? rows_of(rows, width, dy) : Tensor();
    if (wanted) {
      const Matrix dnormed_rows = cuda::matrix(dnormed);
      proj_in_.backward(d, &dnormed_rows);
    } else {
      proj_in_.backward(d, nullptr);
    }
    side.add_gradients(proj_in_, in, d, gradients);
    side.finish();
    return dnormed;
  }

  ExtendedLinear proj_in_, proj_out_;
  std::vector<FusedBlock> blocks_;
};

std::vector<Linear> text_layers(const std::vector<std::shared_ptr<SpatialTransformer>>& transformers) {
  std::vector<Linear> layers;
  for (const auto& transformer : transformers) {
    for (const TransformerBlock& block : transformer->blocks()) {
      layers.push_back(block.cross().k());
      layers.push_back(block.cross().v());
    }
  }
  return layers;
}

class All : public FusedTransformers {
 public:
  explicit All(const std::vector<std::shared_ptr<SpatialTransformer>>& transformers)
      : device_(transformers.front()->proj_in().weight().device()),
        dtype_(transformers.front()->proj_in().weight().dtype()),
        text_(text_layers(transformers)) {
    int64_t column = 0;
    for (const auto& transformer : transformers) {
      fused_.emplace_back(*transformer, column, dtype_);
      column += 2 * transformer->proj_in().in() * std::ssize(transformer->blocks());
    }
    make_places();
  }

  Tensor text(const Tensor& context) const override { return text_(context); }
  int64_t text_width() const override { return text_.width(); }
  Tensor run(size_t index, const Tensor& normed, const Tensor& x, const Tensor& text) const override {
    return fused_[index](normed, x, text);
  }
  void set_policy(MemoryPolicy policy) override {
    for (FusedTransformer& transformer : fused_) transformer.set_policy(policy);
  }
  void refresh() const override {
    if (count_)
      cuda::refresh_adapters(device_, reinterpret_cast<const cuda::AdapterPlace*>(places_.raw()), count_, most_rows_,
                             dtype_);
  }

 private:
  void make_places() {
    PurposeScope purpose(Purpose::weights);
    std::vector<cuda::AdapterPlace> places = text_.places();
    for (const FusedTransformer& transformer : fused_)
      for (const ExtendedLinear* linear : transformer.linears())
        for (const cuda::AdapterPlace& place : linear->places()) places.push_back(place);
    count_ = static_cast<int>(places.size());
    if (!count_) return;
    for (const cuda::AdapterPlace& place : places) most_rows_ = std::max(most_rows_, place.rank);
    const Tensor host = Tensor::empty({static_cast<int64_t>(places.size() * sizeof(cuda::AdapterPlace))}, DType::u8);
    std::memcpy(host.raw(), places.data(), host.bytes());
    places_ = host.to(device_);
    refresh();
  }

  Device device_;
  DType dtype_;
  FusedText text_;
  std::vector<FusedTransformer> fused_;
  Tensor places_;  // AdapterPlace of every adapter
  int count_ = 0;
  int64_t most_rows_ = 0;
};

}  // namespace

std::unique_ptr<FusedTransformers> fuse(const std::vector<std::shared_ptr<SpatialTransformer>>& transformers) {
  return std::make_unique<All>(transformers);
}

}  // namespace eri
