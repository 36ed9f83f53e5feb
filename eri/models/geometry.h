#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "flame/core/shape.h"

namespace eri {

// The sizes of an SDXL-like model. The defaults are SDXL's own.
struct Geometry {
  struct UNet {
    int64_t in_channels = 4, out_channels = 4;
    int64_t model_channels = 320;
    std::vector<int64_t> channel_mult = {1, 2, 4};  // one a level
    int64_t num_res_blocks = 2;
    std::vector<int64_t> transformer_depth = {0, 2, 10};  // blocks in each transformer of a level; 0: none
    int64_t transformer_depth_middle = 10;
    int64_t head_dim = 64;
    int64_t context_dim = 2048;
    int64_t adm_in_channels = 2816;
    friend bool operator==(const UNet&, const UNet&) = default;
  };
  struct Clip {
    int64_t width, layers, heads, mlp, vocab;
    std::string act;  // "gelu" or "quick_gelu"
    friend bool operator==(const Clip&, const Clip&) = default;
  };
  struct Vae {
    int64_t ch = 128;
    std::vector<int64_t> ch_mult = {1, 2, 4, 4};
    int64_t num_res_blocks = 2;
    int64_t z_channels = 4;
    double scale = 0.13025;
    friend bool operator==(const Vae&, const Vae&) = default;
  };

  std::string name = "sdxl";
  UNet unet;
  Clip clip_l = {768, 12, 12, 3072, 49408, "quick_gelu"};
  Clip clip_g = {1280, 32, 20, 5120, 49408, "gelu"};
  Vae vae;
  friend bool operator==(const Geometry&, const Geometry&) = default;

  // From JSON such as tests/parity/geometries/sdxl.json. `source` names it in errors.
  static Geometry parse(std::string_view json, const std::string& source);
  static Geometry load(const std::filesystem::path& path);
};

// Where a single-file checkpoint keeps its parts.
inline constexpr std::string_view unet_prefix = "model.diffusion_model";
inline constexpr std::string_view clip_l_prefix = "conditioner.embedders.0.transformer";
inline constexpr std::string_view clip_g_prefix = "conditioner.embedders.1.model";
inline constexpr std::string_view vae_prefix = "first_stage_model";

// Names and shapes of all tensors of a single-file checkpoint of this geometry.
std::map<std::string, flame::Shape> checkpoint_tensors(const Geometry& geometry);

}  // namespace eri
