#include "eri/models/weight_names.h"

#include <algorithm>

#include "flame/ops/layout.h"

namespace eri {

using namespace flame;

namespace {

using Leaf = NameMap::Leaf;

// --- The UNet: a single file's names, diffusers' ---

constexpr Leaf unet_ends[] = {
    {"time_embed.0.", "time_embedding.linear_1."},
    {"time_embed.2.", "time_embedding.linear_2."},
    {"label_emb.0.0.", "add_embedding.linear_1."},
    {"label_emb.0.2.", "add_embedding.linear_2."},
    {"input_blocks.0.0.", "conv_in."},
    {"out.0.", "conv_norm_out."},
    {"out.2.", "conv_out."},
};
constexpr Leaf unet_res_block[] = {
    {"in_layers.0.", "norm1."},  {"in_layers.2.", "conv1."},  {"emb_layers.1.", "time_emb_proj."},
    {"out_layers.0.", "norm2."}, {"out_layers.3.", "conv2."}, {"skip_connection.", "conv_shortcut."},
};

// --- The VAE: a single file's names, diffusers' ---

constexpr Leaf vae_ends[] = {
    {"encoder.conv_in.", "encoder.conv_in."},
    {"encoder.norm_out.", "encoder.conv_norm_out."},
    {"encoder.conv_out.", "encoder.conv_out."},
    {"decoder.conv_in.", "decoder.conv_in."},
    {"decoder.norm_out.", "decoder.conv_norm_out."},
    {"decoder.conv_out.", "decoder.conv_out."},
    {"quant_conv.", "quant_conv."},
    {"post_quant_conv.", "post_quant_conv."},
};
constexpr Leaf vae_res_block[] = {
    {"norm1.", "norm1."},
    {"conv1.", "conv1."},
    {"norm2.", "norm2."},
    {"conv2.", "conv2."},
    {"nin_shortcut.", "conv_shortcut."},
};
constexpr Leaf vae_attention[] = {
    {"norm.", "group_norm."},
    {"q.", "to_q.", Piece::convolution},
    {"k.", "to_k.", Piece::convolution},
    {"v.", "to_v.", Piece::convolution},
    {"proj_out.", "to_out.0.", Piece::convolution},
};
constexpr Leaf vae_attention_before_0_17[] = {
    {"norm.", "group_norm."},
    {"q.", "query.", Piece::convolution},
    {"k.", "key.", Piece::convolution},
    {"v.", "value.", Piece::convolution},
    {"proj_out.", "proj_attn.", Piece::convolution},
};

// --- CLIP: transformers' names, OpenCLIP's ---

constexpr Leaf clip_ends[] = {
    {"text_model.embeddings.token_embedding.", "token_embedding."},
    {"text_model.embeddings.position_embedding.weight", "positional_embedding"},
    {"text_model.final_layer_norm.", "ln_final."},
    {"text_projection.weight", "text_projection", Piece::turned},
};
constexpr Leaf clip_layer[] = {
    {"layer_norm1.", "ln_1."},
    {"layer_norm2.", "ln_2."},
    {"self_attn.q_proj.", "attn.in_proj_", Piece::q},
    {"self_attn.k_proj.", "attn.in_proj_", Piece::k},
    {"self_attn.v_proj.", "attn.in_proj_", Piece::v},
    {"self_attn.out_proj.", "attn.out_proj."},
    {"mlp.fc1.", "mlp.c_fc."},
    {"mlp.fc2.", "mlp.c_proj."},
};

bool has_below(const std::vector<std::string>& names, const std::string& prefix) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return name.starts_with(prefix); });
}

bool is_third(Piece piece) { return piece == Piece::q || piece == Piece::k || piece == Piece::v; }

// Of a piece of a tensor; of one that cannot have such a piece, its own.
Shape shape_of(const Shape& stored, Piece piece) {
  if (is_third(piece) && stored.rank() > 0 && stored[0] % 3 == 0) return stored.with(0, stored[0] / 3);
  if (piece == Piece::turned && stored.rank() == 2) return {stored[1], stored[0]};
  if (piece == Piece::convolution && stored.rank() == 2) return {stored[0], stored[1], 1, 1};
  return stored;
}

// `name` without its prefix `from`, behind `to`.
std::string moved(const std::string& name, std::string_view from, std::string_view to) {
  return std::string(to) + name.substr(from.size());
}

}  // namespace

void NameMap::add_block(const std::string& ours, const std::string& theirs, std::span<const Leaf> leaves) {
  by_ours_[ours] = {theirs, leaves};
  by_theirs_[theirs] = {ours, leaves};
}

// The block with the longest name that `name` begins with.
const NameMap::Blocks::value_type* NameMap::block_of(const Blocks& blocks, const std::string& name) {
  for (std::string begin = name;; begin.pop_back()) {
    begin.erase(begin.rfind('.') + 1);  // all of it where there is no dot
    if (const auto found = blocks.find(begin); found != blocks.end()) return &*found;
    if (begin.empty()) return nullptr;
  }
}

std::optional<Place> NameMap::theirs(const std::string& ours) const {
  const auto* found = block_of(by_ours_, ours);
  if (!found) return std::nullopt;
  const auto& [prefix, block] = *found;
  const std::string rest = ours.substr(prefix.size());
  if (block.leaves.empty()) return Place{block.other + rest};
  for (const Leaf& leaf : block.leaves) {
    if (rest.starts_with(leaf.ours)) return Place{block.other + moved(rest, leaf.ours, leaf.theirs), leaf.piece};
  }
  return std::nullopt;
}

std::vector<std::string> NameMap::ours(const std::string& theirs) const {
  const auto* found = block_of(by_theirs_, theirs);
  if (!found) return {};
  const auto& [prefix, block] = *found;
  const std::string rest = theirs.substr(prefix.size());
  if (block.leaves.empty()) return {block.other + rest};
  std::vector<std::string> result;
  for (const Leaf& leaf : block.leaves) {
    if (rest.starts_with(leaf.theirs)) result.push_back(block.other + moved(rest, leaf.theirs, leaf.ours));
  }
  return result;
}

UNetLevels UNetLevels::of_diffusers(const std::vector<std::string>& names) {
  UNetLevels levels{count_numbered(names, "down_blocks.0.resnets."), {}};
  for (int64_t i = 0; i < count_numbered(names, "down_blocks."); ++i)
    levels.transformers.push_back(has_below(names, text("down_blocks.", i, ".attentions.")));
  return levels;
}

UNetLevels UNetLevels::of_single_file(const std::vector<std::string>& names) {
  UNetLevels levels;
  const int64_t blocks = count_numbered(names, "input_blocks.");
  int64_t first = 1;  // of a level
  for (int64_t i = 1; i <= blocks; ++i) {
    if (i < blocks && !has_below(names, text("input_blocks.", i, ".0.op."))) continue;
    levels.res_blocks = i - first;
    levels.transformers.push_back(has_below(names, text("input_blocks.", first, ".1.")));
    first = i + 1;
  }
  return levels;
}

NameMap diffusers_unet_names(const UNetLevels& levels) {
  NameMap names;
  names.add_block("", "", unet_ends);
  const int64_t count = std::ssize(levels.transformers), res_blocks = levels.res_blocks;
  int64_t index = 1;  // 0 is conv_in
  for (int64_t i = 0; i < count; ++i) {
    const std::string down = text("down_blocks.", i);
    for (int64_t j = 0; j < res_blocks; ++j, ++index) {
      names.add_block(text("input_blocks.", index, ".0."), text(down, ".resnets.", j, "."), unet_res_block);
      if (levels.transformers[i])
        names.add_block(text("input_blocks.", index, ".1."), text(down, ".attentions.", j, "."));
    }
    if (i + 1 < count) names.add_block(text("input_blocks.", index++, ".0.op."), down + ".downsamplers.0.conv.");
  }
  names.add_block("middle_block.0.", "mid_block.resnets.0.", unet_res_block);
  names.add_block("middle_block.1.", "mid_block.attentions.0.");
  names.add_block("middle_block.2.", "mid_block.resnets.1.", unet_res_block);
  index = 0;
  for (int64_t i = 0; i < count; ++i) {
    const std::string up = text("up_blocks.", i);
    const bool transformers = levels.transformers[count - 1 - i];
    for (int64_t j = 0; j <= res_blocks; ++j, ++index) {
      names.add_block(text("output_blocks.", index, ".0."), text(up, ".resnets.", j, "."), unet_res_block);
      if (transformers) names.add_block(text("output_blocks.", index, ".1."), text(up, ".attentions.", j, "."));
    }
    const char* upsampler = transformers ? ".2.conv." : ".1.conv.";
    if (i + 1 < count) names.add_block(text("output_blocks.", index - 1, upsampler), up + ".upsamplers.0.conv.");
  }
  return names;
}

NameMap diffusers_vae_names(int64_t levels, bool before_0_17) {
  constexpr int64_t most_blocks = 16;  // of a level; more than any VAE has
  const std::span<const Leaf> attention = before_0_17 ? vae_attention_before_0_17 : vae_attention;
  NameMap names;
  names.add_block("", "", vae_ends);
  for (const std::string part : {"encoder", "decoder"}) {
    names.add_block(part + ".mid.block_1.", part + ".mid_block.resnets.0.", vae_res_block);
    names.add_block(part + ".mid.attn_1.", part + ".mid_block.attentions.0.", attention);
    names.add_block(part + ".mid.block_2.", part + ".mid_block.resnets.1.", vae_res_block);
  }
  for (int64_t i = 0; i < levels; ++i) {
    const std::string down = text("encoder.down.", i), downs = text("encoder.down_blocks.", i);
    const std::string up = text("decoder.up.", i), ups = text("decoder.up_blocks.", levels - 1 - i);
    for (int64_t j = 0; j < most_blocks; ++j) {
      names.add_block(text(down, ".block.", j, "."), text(downs, ".resnets.", j, "."), vae_res_block);
      names.add_block(text(up, ".block.", j, "."), text(ups, ".resnets.", j, "."), vae_res_block);
    }
    names.add_block(down + ".downsample.conv.", downs + ".downsamplers.0.conv.");
    names.add_block(up + ".upsample.conv.", ups + ".upsamplers.0.conv.");
  }
  return names;
}

NameMap open_clip_names(int64_t layers) {
  NameMap names;
  names.add_block("", "", clip_ends);
  for (int64_t i = 0; i < layers; ++i)
    names.add_block(text("text_model.encoder.layers.", i, "."), text("transformer.resblocks.", i, "."), clip_layer);
  return names;
}

NameMap bare_clip_names() {
  NameMap names;
  names.add_block("text_model.", "");
  return names;
}

int64_t count_numbered(const std::vector<std::string>& names, const std::string& prefix) {
  int64_t count = 0;
  while (has_below(names, text(prefix, count, "."))) ++count;
  return count;
}

std::vector<std::string> RenamedSource::names() const {
  std::vector<std::string> result;
  for (const std::string& theirs : inner_->names()) {
    for (std::string& ours : names_.ours(theirs)) result.push_back(std::move(ours));
  }
  return result;
}

std::optional<Shape> RenamedSource::find(const std::string& name) const {
  const auto place = names_.theirs(name);
  const auto found = place ? inner_->find(place->name) : std::nullopt;
  return found ? shape_of(*found, place->piece) : found;
}

Tensor RenamedSource::read(const std::string& name) const {
  const auto place = names_.theirs(name);
  require(place.has_value(), "RenamedSource", "there is no tensor ", name);
  const auto& [stored_name, piece] = *place;
  const Tensor stored = inner_->read(stored_name);
  if (piece == Piece::turned) return permute(stored, {1, 0});
  const Shape shape = shape_of(stored.shape(), piece);
  if (!is_third(piece)) return stored.view(shape);
  return stored.rows((static_cast<int64_t>(piece) - static_cast<int64_t>(Piece::q)) * shape[0], shape[0]);
}

std::string RenamedSource::full_name(const std::string& name) const {
  const auto place = names_.theirs(name);
  if (!place) return inner_->full_name(name);
  constexpr const char* pieces[] = {"", " (its q)", " (its k)", " (its v)", "", ""};
  return inner_->full_name(place->name) + pieces[static_cast<size_t>(place->piece)];
}

std::shared_ptr<const WeightSource> with_our_names(std::shared_ptr<const WeightSource> inner) {
  const std::vector<std::string> names = inner->names();
  const auto renamed = [&](NameMap map) { return std::make_shared<RenamedSource>(inner, std::move(map)); };
  if (has_below(names, "down_blocks.")) return renamed(diffusers_unet_names(UNetLevels::of_diffusers(names)));
  if (const int64_t levels = count_numbered(names, "decoder.up_blocks."))
    return renamed(diffusers_vae_names(levels, has_below(names, "decoder.mid_block.attentions.0.query.")));
  if (const int64_t layers = count_numbered(names, "transformer.resblocks.")) return renamed(open_clip_names(layers));
  if (has_below(names, "encoder.layers.")) return renamed(bare_clip_names());
  return inner;
}

}  // namespace eri
