#include "eri/models/geometry.h"

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "flame/core/error.h"

namespace eri {
namespace {

using flame::Shape;
using flame::text;

constexpr int64_t kClipLength = 77;

// Collects tensors under one prefix.
class Table {
 public:
  Table(std::map<std::string, Shape>& tensors, std::string_view prefix) : tensors_(tensors), prefix_(prefix) {}

  void tensor(const std::string& name, const Shape& shape) { tensors_.emplace(prefix_ + "." + name, shape); }
  void norm(const std::string& name, int64_t channels) { affine(name, Shape({channels})); }
  void linear(const std::string& name, int64_t in, int64_t out) { affine(name, Shape({out, in})); }
  void conv(const std::string& name, int64_t in, int64_t out, int64_t kernel) {
    affine(name, Shape({out, in, kernel, kernel}));
  }

 private:
  void affine(const std::string& name, const Shape& weight) {
    tensor(name + ".weight", weight);
    tensor(name + ".bias", {weight[0]});
  }

  std::map<std::string, Shape>& tensors_;
  std::string prefix_;
};

void res_block(Table& table, const std::string& name, int64_t in, int64_t out, int64_t embedding) {
  table.norm(name + ".in_layers.0", in);
  table.conv(name + ".in_layers.2", in, out, 3);
  table.linear(name + ".emb_layers.1", embedding, out);
  table.norm(name + ".out_layers.0", out);
  table.conv(name + ".out_layers.3", out, out, 3);
  if (in != out) table.conv(name + ".skip_connection", in, out, 1);
}

void transformer(Table& table, const std::string& name, int64_t channels, int64_t context, int64_t depth) {
  table.norm(name + ".norm", channels);
  table.linear(name + ".proj_in", channels, channels);
  for (int64_t i = 0; i < depth; ++i) {
    const std::string block = text(name, ".transformer_blocks.", i);
    for (const auto& [attention, keys_from] : {std::pair{".attn1", channels}, std::pair{".attn2", context}}) {
      table.tensor(block + attention + ".to_q.weight", {channels, channels});
      table.tensor(block + attention + ".to_k.weight", {channels, keys_from});
      table.tensor(block + attention + ".to_v.weight", {channels, keys_from});
      table.linear(block + attention + ".to_out.0", channels, channels);
    }
    table.linear(block + ".ff.net.0.proj", channels, 8 * channels);
    table.linear(block + ".ff.net.2", 4 * channels, channels);
    for (const char* norm : {".norm1", ".norm2", ".norm3"}) table.norm(block + norm, channels);
  }
  table.linear(name + ".proj_out", channels, channels);
}

void unet(Table table, const Geometry::UNet& g) {
  const int64_t embedding = 4 * g.model_channels;
  const size_t levels = g.channel_mult.size();
  table.linear("time_embed.0", g.model_channels, embedding);
  table.linear("time_embed.2", embedding, embedding);
  table.linear("label_emb.0.0", g.adm_in_channels, embedding);
  table.linear("label_emb.0.2", embedding, embedding);
  table.conv("input_blocks.0.0", g.in_channels, g.model_channels, 3);
  int64_t channels = g.model_channels;
  std::vector<int64_t> skips = {channels};
  for (size_t level = 0; level < levels; ++level) {
    const int64_t out = g.model_channels * g.channel_mult[level];
    for (int64_t i = 0; i < g.num_res_blocks; ++i) {
      const std::string block = text("input_blocks.", skips.size());
      res_block(table, block + ".0", channels, out, embedding);
      channels = out;
      if (g.transformer_depth[level])
        transformer(table, block + ".1", channels, g.context_dim, g.transformer_depth[level]);
      skips.push_back(channels);
    }
    if (level + 1 == levels) continue;
    table.conv(text("input_blocks.", skips.size(), ".0.op"), channels, channels, 3);
    skips.push_back(channels);
  }
  res_block(table, "middle_block.0", channels, channels, embedding);
  transformer(table, "middle_block.1", channels, g.context_dim, g.transformer_depth_middle);
  res_block(table, "middle_block.2", channels, channels, embedding);
  int64_t index = 0;
  for (size_t level = levels; level-- > 0;) {
    const int64_t out = g.model_channels * g.channel_mult[level], depth = g.transformer_depth[level];
    for (int64_t i = 0; i <= g.num_res_blocks; ++i, ++index) {
      const std::string block = text("output_blocks.", index);
      res_block(table, block + ".0", channels + skips.back(), out, embedding);
      channels = out;
      skips.pop_back();
      if (depth) transformer(table, block + ".1", channels, g.context_dim, depth);
      if (level && i == g.num_res_blocks) table.conv(block + (depth ? ".2.conv" : ".1.conv"), channels, channels, 3);
    }
  }
  table.norm("out.0", g.model_channels);
  table.conv("out.2", g.model_channels, g.out_channels, 3);
}

void clip_l(Table table, const Geometry::Clip& g) {
  table.tensor("text_model.embeddings.token_embedding.weight", {g.vocab, g.width});
  table.tensor("text_model.embeddings.position_embedding.weight", {kClipLength, g.width});
  table.tensor("text_model.embeddings.position_ids", {1, kClipLength});
  for (int64_t i = 0; i < g.layers; ++i) {
    const std::string layer = text("text_model.encoder.layers.", i);
    for (const char* projection : {".q_proj", ".k_proj", ".v_proj", ".out_proj"})
      table.linear(layer + ".self_attn" + projection, g.width, g.width);
    table.norm(layer + ".layer_norm1", g.width);
    table.norm(layer + ".layer_norm2", g.width);
    table.linear(layer + ".mlp.fc1", g.width, g.mlp);
    table.linear(layer + ".mlp.fc2", g.mlp, g.width);
  }
  table.norm("text_model.final_layer_norm", g.width);
}

void clip_g(Table table, const Geometry::Clip& g) {
  table.tensor("token_embedding.weight", {g.vocab, g.width});
  table.tensor("positional_embedding", {kClipLength, g.width});
  table.tensor("text_projection", {g.width, g.width});
  table.tensor("logit_scale", {});
  for (int64_t i = 0; i < g.layers; ++i) {
    const std::string layer = text("transformer.resblocks.", i);
    table.tensor(layer + ".attn.in_proj_weight", {3 * g.width, g.width});
    table.tensor(layer + ".attn.in_proj_bias", {3 * g.width});
    table.linear(layer + ".attn.out_proj", g.width, g.width);
    table.norm(layer + ".ln_1", g.width);
    table.norm(layer + ".ln_2", g.width);
    table.linear(layer + ".mlp.c_fc", g.width, g.mlp);
    table.linear(layer + ".mlp.c_proj", g.mlp, g.width);
  }
  table.norm("ln_final", g.width);
}

void vae_block(Table& table, const std::string& name, int64_t in, int64_t out) {
  table.norm(name + ".norm1", in);
  table.conv(name + ".conv1", in, out, 3);
  table.norm(name + ".norm2", out);
  table.conv(name + ".conv2", out, out, 3);
  if (in != out) table.conv(name + ".nin_shortcut", in, out, 1);
}

void vae_middle(Table& table, const std::string& name, int64_t channels) {
  vae_block(table, name + ".block_1", channels, channels);
  table.norm(name + ".attn_1.norm", channels);
  for (const char* projection : {".q", ".k", ".v", ".proj_out"})
    table.conv(name + ".attn_1" + projection, channels, channels, 1);
  vae_block(table, name + ".block_2", channels, channels);
}

void vae(Table table, const Geometry::Vae& g) {
  const size_t levels = g.ch_mult.size();
  int64_t channels = g.ch;
  table.conv("encoder.conv_in", 3, channels, 3);
  for (size_t level = 0; level < levels; ++level) {
    for (int64_t i = 0; i < g.num_res_blocks; ++i) {
      vae_block(table, text("encoder.down.", level, ".block.", i), channels, g.ch * g.ch_mult[level]);
      channels = g.ch * g.ch_mult[level];
    }
    if (level + 1 < levels) table.conv(text("encoder.down.", level, ".downsample.conv"), channels, channels, 3);
  }
  vae_middle(table, "encoder.mid", channels);
  table.norm("encoder.norm_out", channels);
  table.conv("encoder.conv_out", channels, 2 * g.z_channels, 3);
  table.conv("decoder.conv_in", g.z_channels, channels, 3);
  vae_middle(table, "decoder.mid", channels);
  for (size_t level = levels; level-- > 0;) {
    for (int64_t i = 0; i <= g.num_res_blocks; ++i) {
      vae_block(table, text("decoder.up.", level, ".block.", i), channels, g.ch * g.ch_mult[level]);
      channels = g.ch * g.ch_mult[level];
    }
    if (level) table.conv(text("decoder.up.", level, ".upsample.conv"), channels, channels, 3);
  }
  table.norm("decoder.norm_out", channels);
  table.conv("decoder.conv_out", channels, 3, 3);
  table.conv("quant_conv", 2 * g.z_channels, 2 * g.z_channels, 1);
  table.conv("post_quant_conv", g.z_channels, g.z_channels, 1);
}

Geometry::Clip parse_clip(const nlohmann::json& json) {
  return {json.at("width"), json.at("layers"), json.at("heads"), json.at("mlp"), json.at("vocab"), json.at("act")};
}

}  // namespace

Geometry Geometry::parse(std::string_view json, const std::string& source) try {
  const auto all = nlohmann::json::parse(json);
  const auto& unet = all.at("unet");
  const auto& vae = all.at("vae");
  Geometry geometry;
  geometry.name = all.at("name");
  geometry.unet = {unet.at("in_channels"),
                   unet.at("out_channels"),
                   unet.at("model_channels"),
                   unet.at("channel_mult"),
                   unet.at("num_res_blocks"),
                   unet.at("transformer_depth"),
                   unet.at("transformer_depth_middle"),
                   unet.at("head_dim"),
                   unet.at("context_dim"),
                   unet.at("adm_in_channels")};
  geometry.clip_l = parse_clip(all.at("clip_l"));
  geometry.clip_g = parse_clip(all.at("clip_g"));
  geometry.vae = {vae.at("ch"), vae.at("ch_mult"), vae.at("num_res_blocks"), vae.at("z_channels"), vae.at("scale")};
  if (geometry.unet.transformer_depth.size() != geometry.unet.channel_mult.size())
    flame::fail(source, ": transformer_depth needs one number for each of channel_mult");
  return geometry;
} catch (const nlohmann::json::exception& error) {
  flame::fail(source, ": not a model geometry: ", error.what());
}

Geometry Geometry::load(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) flame::fail("cannot open the geometry ", path.string());
  return parse(std::string(std::istreambuf_iterator<char>(file), {}), path.string());
}

std::map<std::string, Shape> checkpoint_tensors(const Geometry& geometry) {
  std::map<std::string, Shape> tensors;
  unet(Table(tensors, unet_prefix), geometry.unet);
  clip_l(Table(tensors, clip_l_prefix), geometry.clip_l);
  clip_g(Table(tensors, clip_g_prefix), geometry.clip_g);
  vae(Table(tensors, vae_prefix), geometry.vae);
  return tensors;
}

}  // namespace eri
