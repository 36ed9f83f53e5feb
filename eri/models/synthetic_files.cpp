#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "eri/models/synthetic.h"
#include "eri/models/weight_names.h"
#include "flame/io/safetensors.h"

namespace eri {
namespace {

namespace fs = std::filesystem;
using flame::DType;
using flame::Shape;
using flame::Tensor;
using flame::text;
using nlohmann::json;

using Weights = std::shared_ptr<const flame::WeightSource>;

// --- Weights under the names of a file ---

struct Stored {
  std::string ours;
  Shape shape;
};
using Names = std::map<std::string, Stored>;  // by the name in the file

bool is_position_ids(std::string_view name) { return name.ends_with("position_ids"); }

// As a single file has them, which are the weights' own names.
Names own_names(const flame::WeightSource& weights) {
  Names names;
  for (const std::string& name : weights.names()) names[name] = {name, *weights.find(name)};
  return names;
}

Names diffusers_names(const flame::WeightSource& weights, const NameMap& map) {
  Names names;
  for (const auto& [name, stored] : own_names(weights)) {
    const auto [theirs, piece] = *map.theirs(name);
    const bool is_matrix = piece == Piece::convolution && stored.shape.rank() == 4;
    names[theirs] = {name, is_matrix ? Shape{stored.shape[0], stored.shape[1]} : stored.shape};
  }
  return names;
}

Names without_position_ids(Names names) {
  std::erase_if(names, [](const auto& entry) { return is_position_ids(entry.first); });
  return names;
}

void write(const fs::path& path, const flame::WeightSource& weights, const Names& names, DType dtype) {
  std::map<std::string, flame::TensorSpec> specs;
  for (const auto& [name, stored] : names) specs[name] = {is_position_ids(name) ? DType::i64 : dtype, stored.shape};
  const auto make = [&](const std::string& name) {
    const Stored& stored = names.at(name);
    const Tensor value = weights.read(stored.ours).view(stored.shape);
    return value.dtype() == DType::i64 ? value : value.to(dtype);
  };
  fs::create_directories(path.parent_path().empty() ? "." : path.parent_path());
  flame::write_safetensors(path, specs, make, {{"format", "pt"}});
}

void write_json(const fs::path& path, const json& value) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << value.dump(2) << "\n";
}

// In so many files of about the same size, with an index, as diffusers and transformers write large models.
void write_shards(const fs::path& folder, const std::string& stem, const flame::WeightSource& weights,
                  const Names& names, DType dtype, int64_t count) {
  int64_t total = 0, done = 0;
  for (const auto& [name, stored] : names) total += stored.shape.numel();
  std::vector<Names> shards(static_cast<size_t>(count));
  json index = {{"metadata", {{"total_size", total * static_cast<int64_t>(flame::size_of(dtype))}}}};
  for (const auto& [name, stored] : names) {
    const int64_t shard = std::min(done * count / total, count - 1);
    shards[shard][name] = stored;
    done += stored.shape.numel();
    char file[64];
    std::snprintf(file, sizeof file, "%s-%05d-of-%05d.safetensors", stem.c_str(), static_cast<int>(shard + 1),
                  static_cast<int>(count));
    index["weight_map"][name] = file;
  }
  for (const Names& shard : shards)
    write(folder / index["weight_map"][shard.begin()->first].get<std::string>(), weights, shard, dtype);
  write_json(folder / (stem + ".safetensors.index.json"), index);
}

// --- What diffusers and transformers read a model's sizes from ---

template <class F>
json for_each_level(const std::vector<int64_t>& depth, bool reversed, const F& f) {
  json list = json::array();
  for (size_t i = 0; i < depth.size(); ++i) list.push_back(f(depth[reversed ? depth.size() - 1 - i : i]));
  return list;
}

json unet_config(const Geometry::UNet& g) {
  json channels = json::array(), heads = json::array();
  for (int64_t factor : g.channel_mult) {
    channels.push_back(g.model_channels * factor);
    heads.push_back(g.model_channels * factor / g.head_dim);  // diffusers means how many by attention_head_dim
  }
  const auto blocks = [&](const char* with, const char* without, bool reversed) {
    return for_each_level(g.transformer_depth, reversed, [=](int64_t depth) { return depth ? with : without; });
  };
  return {{"_class_name", "UNet2DConditionModel"},
          {"in_channels", g.in_channels},
          {"out_channels", g.out_channels},
          {"block_out_channels", channels},
          {"layers_per_block", g.num_res_blocks},
          {"down_block_types", blocks("CrossAttnDownBlock2D", "DownBlock2D", false)},
          {"up_block_types", blocks("CrossAttnUpBlock2D", "UpBlock2D", true)},
          {"transformer_layers_per_block",
           for_each_level(g.transformer_depth, false, [](int64_t depth) { return std::max<int64_t>(depth, 1); })},
          {"attention_head_dim", heads},
          {"cross_attention_dim", g.context_dim},
          {"use_linear_projection", true},
          {"addition_embed_type", "text_time"},
          {"addition_time_embed_dim", 256},
          {"projection_class_embeddings_input_dim", g.adm_in_channels}};
}

json vae_config(const Geometry::Vae& g) {
  json channels = json::array();
  for (int64_t factor : g.ch_mult) channels.push_back(g.ch * factor);
  return {{"_class_name", "AutoencoderKL"},
          {"in_channels", 3},
          {"out_channels", 3},
          {"latent_channels", g.z_channels},
          {"block_out_channels", channels},
          {"layers_per_block", g.num_res_blocks},
          {"down_block_types", json(g.ch_mult.size(), "DownEncoderBlock2D")},
          {"up_block_types", json(g.ch_mult.size(), "UpDecoderBlock2D")},
          {"scaling_factor", g.scale},
          {"force_upcast", true}};
}

json clip_config(const Geometry::Clip& g, const char* architecture) {
  return {{"architectures", {architecture}},
          {"model_type", "clip_text_model"},
          {"hidden_size", g.width},
          {"num_hidden_layers", g.layers},
          {"num_attention_heads", g.heads},
          {"intermediate_size", g.mlp},
          {"projection_dim", g.width},
          {"vocab_size", g.vocab},
          {"hidden_act", g.act},
          {"max_position_embeddings", 77},
          {"bos_token_id", 49406},
          {"eos_token_id", 49407},
          {"pad_token_id", 1}};
}

const json scheduler_config = {{"_class_name", "EulerDiscreteScheduler"},
                               {"beta_schedule", "scaled_linear"},
                               {"beta_start", 0.00085},
                               {"beta_end", 0.012},
                               {"num_train_timesteps", 1000},
                               {"prediction_type", "epsilon"}};

// --- The layouts ---

struct Parts {
  Weights unet, vae, clip_l, clip_g;
};

Parts parts_of(const Geometry& geometry, uint64_t seed) {
  const auto part = [&](std::string_view prefix) {
    return with_our_names(std::make_shared<SyntheticCheckpoint>(geometry, seed, prefix));
  };
  return {part(unet_prefix), part(vae_prefix), part(clip_l_prefix), part(clip_g_prefix)};
}

void write_diffusers(const fs::path& folder, const Geometry& geometry, const Parts& parts, DType dtype,
                     ModelLayout layout) {
  const auto& [unet, vae, clip_l, clip_g] = parts;
  const Names unet_names = diffusers_names(*unet, diffusers_unet_names(UNetLevels::of_single_file(unet->names())));
  const Names vae_names = diffusers_names(*vae, diffusers_vae_names(std::ssize(geometry.vae.ch_mult)));
  const std::string ending = layout == ModelLayout::diffusers_fp16 ? ".fp16.safetensors" : ".safetensors";
  const std::string model = "model", diffusion_model = "diffusion_pytorch_model";
  if (layout == ModelLayout::sharded) {
    write_shards(folder / "unet", diffusion_model, *unet, unet_names, dtype, 3);
    write_shards(folder / "text_encoder_2", model, *clip_g, own_names(*clip_g), dtype, 2);
  } else {
    write(folder / "unet" / (diffusion_model + ending), *unet, unet_names, dtype);
    write(folder / "text_encoder_2" / (model + ending), *clip_g, own_names(*clip_g), dtype);
  }
  write(folder / "vae" / (diffusion_model + ending), *vae, vae_names, dtype);
  write(folder / "text_encoder" / (model + ending), *clip_l, without_position_ids(own_names(*clip_l)), dtype);

  write_json(folder / "unet" / "config.json", unet_config(geometry.unet));
  write_json(folder / "vae" / "config.json", vae_config(geometry.vae));
  write_json(folder / "text_encoder" / "config.json", clip_config(geometry.clip_l, "CLIPTextModel"));
  write_json(folder / "text_encoder_2" / "config.json", clip_config(geometry.clip_g, "CLIPTextModelWithProjection"));
  write_json(folder / "scheduler" / "scheduler_config.json", scheduler_config);
  write_json(folder / "model_index.json", {{"_class_name", "StableDiffusionXLPipeline"},
                                           {"unet", {"diffusers", "UNet2DConditionModel"}},
                                           {"vae", {"diffusers", "AutoencoderKL"}},
                                           {"text_encoder", {"transformers", "CLIPTextModel"}},
                                           {"text_encoder_2", {"transformers", "CLIPTextModelWithProjection"}},
                                           {"scheduler", {"diffusers", "EulerDiscreteScheduler"}}});
}

void write_separate(const fs::path& folder, const Parts& parts, DType dtype) {
  write(folder / "unet.safetensors", *parts.unet, own_names(*parts.unet), dtype);
  write(folder / "sdxl_vae.safetensors", *parts.vae, own_names(*parts.vae), dtype);
  write(folder / "clip_l.safetensors", *parts.clip_l, own_names(*parts.clip_l), dtype);
  write(folder / "clip_g.safetensors", *parts.clip_g, own_names(*parts.clip_g), dtype);
}

}  // namespace

ModelLayout parse_layout(std::string_view name) {
  constexpr std::string_view names[] = {"single", "diffusers", "diffusers-fp16", "sharded", "separate"};
  const auto* found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names))
    flame::fail("layout: expected single, diffusers, diffusers-fp16, sharded or separate, got '", name, "'");
  return static_cast<ModelLayout>(found - std::begin(names));
}

void write_synthetic_checkpoint(const fs::path& path, const Geometry& geometry, uint64_t seed, DType dtype,
                                ModelLayout layout) {
  switch (layout) {
    case ModelLayout::single: {
      const SyntheticCheckpoint whole(geometry, seed);
      return write(path, whole, own_names(whole), dtype);
    }
    case ModelLayout::separate:
      return write_separate(path, parts_of(geometry, seed), dtype);
    default:
      return write_diffusers(path, geometry, parts_of(geometry, seed), dtype, layout);
  }
}

}  // namespace eri
