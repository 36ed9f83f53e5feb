#include "eri/models/unet.h"

#include <algorithm>

#include "eri/models/checkpoint.h"
#include "flame/autograd/tape.h"
#include "flame/device/graph.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {

using namespace flame;

namespace {

constexpr int64_t kIdWidth = 256, kIds = 6;

// The width of the text: that of the first attention to it.
int64_t find_context_width(const Scope& scope) {
  return (scope / "middle_block.1.transformer_blocks.0.attn2.to_k").shape("weight").dim(-1);
}

}  // namespace

UNet::UNet(const Scope& scope, int64_t head_width, std::optional<Frequencies> frequencies)
    : Module(scope),
      dtype_(scope.dtype()),
      in_channels_(scope.shape("input_blocks.0.0.weight").dim(1)),
      context_width_(find_context_width(scope)),
      head_width_(head_width),
      size_multiple_(size_multiple(scope)),
      time_waves_(scope.shape("time_embed.0.weight").dim(-1), scope.device(), frequencies),
      id_waves_(kIdWidth, scope.device(), frequencies),
      time_embed_(scope / "time_embed", {}),
      label_embed_(scope / "label_emb" / 0, {.out = time_embed_.out()}),
      fusion_(std::make_shared<Fusion>()),
      norm_out_(scope / "out" / 0, 1e-5f),
      conv_out_(scope / "out" / 2, {.out = in_channels_, .kernel = 3, .padding = 1}) {
  int64_t channels = in_channels_;
  std::vector<int64_t> skips;
  for (int i = 0; i < scope.count("input_blocks"); ++i) {
    input_blocks_.push_back(make_block(scope / "input_blocks" / i, channels));
    skips.push_back(channels);
  }
  for (int i = 0; i < scope.count("middle_block"); ++i) {
    const Scope child = scope / "middle_block" / i;
    middle_blocks_.push_back({child.path(), {make_layer(child, channels)}});
  }
  const int outputs = scope.count("output_blocks");
  require(outputs == std::ssize(skips), "UNet", "expected as many output_blocks as input_blocks, ", skips.size(),
          ", the checkpoint has ", outputs);
  for (int i = 0; i < outputs; ++i) {
    channels += skips.back();
    skips.pop_back();
    output_blocks_.push_back(make_block(scope / "output_blocks" / i, channels));
  }
}

UNet UNet::from_safetensors(const std::filesystem::path& path, Device device, DType dtype) {
  return from_checkpoint(Checkpoint(path), device, dtype);
}

UNet UNet::from_checkpoint(const Checkpoint& checkpoint, Device device, DType dtype) {
  const auto weights = checkpoint.unet();
  const Scope scope(*weights, dtype, device);
  UNet unet(scope);
  scope.require_finite();
  return unet;
}

int64_t UNet::size_multiple(const Scope& scope) {
  int64_t multiple = 1;
  for (int i = 0; i < scope.count("input_blocks"); ++i) {
    const Scope block = scope / "input_blocks" / i;
    for (int j = 0; j < block.count(); ++j) multiple *= (block / j).has("op") ? 2 : 1;
  }
  return multiple;
}

bool UNet::can_fuse() const {
  constexpr int64_t widest = 2048;  // row that one of the norm's kernels takes
  const auto fits = [](const auto& transformer) {
    const int64_t width = transformer->proj_in().in();
    return !transformer->blocks().empty() && width % 64 == 0 && width <= widest;
  };
  return cuda_build && conv_out_.weight().device().is_cuda() && dtype_ != DType::f32 && head_width_ == 64 &&
         !transformers_.empty() && std::all_of(transformers_.begin(), transformers_.end(), fits);
}

void UNet::fuse(MemoryPolicy policy) {
  require(can_fuse(), "UNet::fuse",
          "expected a build with CUDA, weights in f16 or bf16 on a GPU, heads of 64 and rows of at most 2048");
  forget([](const std::string& name) {
    return name.ends_with(".weight") &&
           (name.find(".transformer_blocks.") != name.npos || name.find(".proj_") != name.npos);
  });
  if constexpr (cuda_build) {
    fusion_->transformers = eri::fuse(transformers_);
    fusion_->transformers->set_policy(policy);
  }
}

void UNet::set_memory_policy(MemoryPolicy policy) {
  require(is_fused(), "UNet::set_memory_policy", "expected fused transformers");
  require(flame::captured_graphs(conv_out_.weight().device()) == 0, "UNet::set_memory_policy",
          "steps that have been captured would keep their policy; choose it before, or let go of them first");
  fusion_->transformers->set_policy(policy);
}

void UNet::refresh() const {
  if (is_fused()) fusion_->transformers->refresh();
}

UNet::Block UNet::make_block(const Scope& scope, int64_t& channels) {
  Block block{scope.path(), {}};
  for (int i = 0; i < scope.count(); ++i) block.layers.push_back(make_layer(scope / i, channels));
  return block;
}

// The layer that `scope` has weights for; takes `channels` and leaves in it how many it gives.
UNet::Layer UNet::make_layer(const Scope& scope, int64_t& channels) {
  if (scope.has("weight")) {
    const Conv2d conv(scope, {.in = channels, .kernel = 3, .padding = 1});
    channels = conv.out();
    return [conv](const Tensor& x, const Condition&) { return conv(x); };
  }
  if (scope.has("op")) {
    const Conv2d conv(scope / "op", {.in = channels, .out = channels, .kernel = 3, .stride = 2, .padding = 1});
    return [conv](const Tensor& x, const Condition&) { return conv(x); };  // [N, H/2, W/2, C]
  }
  if (scope.has("conv")) {
    const Conv2d conv(scope / "conv", {.in = channels, .out = channels, .kernel = 3, .padding = 1});
    return [conv](const Tensor& x, const Condition&) { return conv(upsample_nearest2x(x)); };  // [N, 2H, 2W, C]
  }
  if (scope.has("transformer_blocks")) {
    const size_t index = transformers_.size();
    transformers_.push_back(std::make_shared<SpatialTransformer>(scope, channels, context_width_, head_width_));
    return [transformer = transformers_.back(), index, fusion = fusion_](const Tensor& x, const Condition& condition) {
      if (!fusion->transformers) return (*transformer)(x, condition);
      return fusion->transformers->run(index, transformer->norm()(x), x, condition.text);
    };
  }
  const ResBlock block(scope, channels, time_embed_.out());
  channels = block.out();
  return block;
}

Tensor UNet::operator()(const Tensor& x, const Tensor& t, const Tensor& context, const Tensor& pooled,
                        const Tensor& time_ids) const {
  check(x, t, context, pooled, time_ids);
  if (trace) return predict(x, t, context, pooled, time_ids);
  return split_batch([this](std::span<const Tensor> in) { return predict(in[0], in[1], in[2], in[3], in[4]); },
                     {x, t, context, pooled, time_ids});
}

Tensor UNet::predict(const Tensor& x, const Tensor& t, const Tensor& context, const Tensor& pooled,
                     const Tensor& time_ids) const {
  Condition condition{silu(embed(t, pooled, time_ids)), context.to(dtype_), {}};
  if (is_fused())
    condition.text = is_read(context) ? condition.context : fusion_->transformers->text(condition.context);

  Tensor h = channels_last(x.to(dtype_));  // [N, H, W, 4]
  std::vector<Tensor> skips;
  for (const Block& block : input_blocks_) {
    h = run(block, h, condition);
    skips.push_back(h);
  }
  for (const Block& block : middle_blocks_) h = run(block, h, condition);
  for (const Block& block : output_blocks_) {
    h = run(block, concat({h, skips.back()}, 3), condition);
    skips.pop_back();
  }
  return channels_first(conv_out_(norm_out_.silu(h)));  // [N, 4, H, W]
}

bool UNet::is_read(const Tensor& context) const {
  const int64_t width = context.dim(2);
  return is_fused() && width == fusion_->transformers->text_width() && width != context_width_;
}

Tensor UNet::read_text(const Tensor& context) const {
  const bool is_wider = is_fused() && fusion_->transformers->text_width() != context_width_;
  return is_wider ? fusion_->transformers->text(context.to(dtype_)) : context;
}

void UNet::check(const Tensor& x, const Tensor& t, const Tensor& context, const Tensor& pooled,
                 const Tensor& time_ids) const {
  constexpr const char* op = "UNet";
  const int64_t n = x.rank() == 4 ? x.dim(0) : 0;
  require(n > 0 && x.dim(1) == in_channels_, op, "expected x of shape [N, ", in_channels_, ", H, W], got ", x.shape());
  require(x.dim(2) % size_multiple_ == 0 && x.dim(3) % size_multiple_ == 0, op, "expected H and W in multiples of ",
          size_multiple_, ", got x of shape ", x.shape());
  require(t.shape() == Shape{n}, op, "expected t of shape ", Shape{n}, ", got ", t.shape());
  require(context.rank() == 3 && context.dim(0) == n && (context.dim(2) == context_width_ || is_read(context)), op,
          "expected a context of shape [", n, ", T, ", context_width_, "], got ", context.shape());
  require(pooled.shape() == Shape{n, pooled_width()}, op, "expected a pooled text of shape ", Shape{n, pooled_width()},
          ", got ", pooled.shape());
  require(time_ids.shape() == Shape{n, kIds} && time_ids.dtype() == DType::f32, op, "expected time_ids of shape ",
          Shape{n, kIds}, " f32, got ", time_ids.shape(), " ", time_ids.dtype());
}

// The ids stay f32 up to the waves: in bf16 a width of 1333 would become 1336.
Tensor UNet::embed(const Tensor& t, const Tensor& pooled, const Tensor& time_ids) const {
  const Tensor time = time_embed_(time_waves_(t.to(DType::f32)).to(dtype_));  // [N, E]
  const Tensor id_waves = id_waves_(time_ids).reshape({t.dim(0), kIds * kIdWidth});
  const Tensor label = label_embed_(concat({pooled.to(dtype_), id_waves.to(dtype_)}, 1));  // [N, E]
  if (trace) trace("time_embed", time), trace("label_emb", label);
  return time + label;
}

Tensor UNet::run(const Block& block, Tensor h, const Condition& condition) const {
  for (const Layer& layer : block.layers) h = layer(h, condition);
  if (trace) trace(block.name, channels_first(h));
  return h;
}

}  // namespace eri
