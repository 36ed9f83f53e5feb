#include "eri/models/open_clip.h"

#include "flame/ops/layout.h"

namespace eri {

using namespace flame;

namespace {

constexpr int kWhole = -1, kTurned = -2;  // or the third of a fused tensor: q, k, v

struct Rule {
  const char *ours, *open_clip;  // parts of a name that stand for each other
  int part = kWhole;
};

constexpr Rule rules[] = {
    {"text_model.embeddings.token_embedding.", "token_embedding."},
    {"text_model.embeddings.position_embedding.weight", "positional_embedding"},
    {"text_model.final_layer_norm.", "ln_final."},
    {"text_projection.weight", "text_projection", kTurned},
    {".layer_norm1.", ".ln_1."},
    {".layer_norm2.", ".ln_2."},
    {".self_attn.q_proj.", ".attn.in_proj_", 0},
    {".self_attn.k_proj.", ".attn.in_proj_", 1},
    {".self_attn.v_proj.", ".attn.in_proj_", 2},
    {".self_attn.out_proj.", ".attn.out_proj."},
    {".mlp.fc1.", ".mlp.c_fc."},
    {".mlp.fc2.", ".mlp.c_proj."},
};
constexpr std::string_view kOurLayers = "text_model.encoder.layers.", kLayers = "transformer.resblocks.";

struct Place {
  std::string name;  // in the OpenCLIP part
  int part = kWhole;
};

// `name` with `from` replaced by `to`, if it is in there.
std::optional<std::string> replaced(const std::string& name, std::string_view from, std::string_view to) {
  const size_t at = name.find(from);
  if (at == std::string::npos) return std::nullopt;
  return std::string(name).replace(at, from.size(), to);
}

Place place(const std::string& name) {
  const std::string layer = replaced(name, kOurLayers, kLayers).value_or(name);
  for (const Rule& rule : rules) {
    if (auto found = replaced(layer, rule.ours, rule.open_clip)) return {*found, rule.part};
  }
  return {layer};
}

}  // namespace

std::vector<std::string> OpenClipSource::names() const {
  std::vector<std::string> result;
  for (const std::string& name : inner_->names()) {
    const std::string layer = replaced(name, kLayers, kOurLayers).value_or(name);
    for (const Rule& rule : rules) {
      if (auto ours = replaced(layer, rule.open_clip, rule.ours)) result.push_back(*ours);
    }
  }
  return result;
}

std::optional<Shape> OpenClipSource::find(const std::string& name) const {
  const auto [inner_name, part] = place(name);
  const std::optional<Shape> found = inner_->find(inner_name);
  if (!found || found->rank() == 0 || part == kWhole) return found;
  if (part == kTurned) return found->rank() == 2 ? Shape{(*found)[1], (*found)[0]} : *found;
  return (*found)[0] % 3 == 0 ? found->with(0, (*found)[0] / 3) : *found;
}

Tensor OpenClipSource::read(const std::string& name) const {
  const auto [inner_name, part] = place(name);
  const Tensor whole = inner_->read(inner_name);
  if (part == kWhole) return whole;
  if (part == kTurned) return permute(whole, {1, 0});
  const int64_t third = whole.dim(0) / 3;
  return whole.rows(part * third, third);
}

std::string OpenClipSource::full_name(const std::string& name) const {
  const auto [inner_name, part] = place(name);
  const char* which[] = {" (its q)", " (its k)", " (its v)"};
  return inner_->full_name(inner_name) + (part >= 0 ? which[part] : "");
}

}  // namespace eri
