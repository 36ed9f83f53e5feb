#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flame/nn/scope.h"

// What the tensors of a model are called in the layouts that people have. Our own names are those of a single-file
// checkpoint for the UNet and the VAE, and transformers' for the text encoders.
namespace eri {

// What of a stored tensor is meant: q, k and v are the thirds of a fused one's rows; turned is its transpose; of a
// matrix that is a convolution of 1 x 1 here, all, with that shape.
enum class Piece { whole, q, k, v, turned, convolution };

struct Place {
  std::string name;
  Piece piece = Piece::whole;
};

// Our names for the tensors of a part and another layout's for the same.
class NameMap {
 public:
  std::optional<Place> theirs(const std::string& ours) const;
  std::vector<std::string> ours(const std::string& theirs) const;  // q, k and v of a fused tensor

  // How names go on behind a block's, each up to a dot or the end.
  struct Leaf {
    std::string_view ours, theirs;
    Piece piece = Piece::whole;
  };
  // Of two names that begin like this (with a dot at the end, or nothing) the rest follows `leaves`, or is the same
  // where there are none.
  void add_block(const std::string& ours, const std::string& theirs, std::span<const Leaf> leaves = {});

 private:
  struct Block {
    std::string other;
    std::span<const Leaf> leaves;
  };
  using Blocks = std::map<std::string, Block>;
  static const Blocks::value_type* block_of(const Blocks& blocks, const std::string& name);

  Blocks by_ours_, by_theirs_;
};

// diffusers' UNet2DConditionModel: how many ResBlocks a level has on the way down, and which levels have transformers.
struct UNetLevels {
  int64_t res_blocks = 0;
  std::vector<bool> transformers;  // one a level, from the finest

  static UNetLevels of_diffusers(const std::vector<std::string>& names);
  static UNetLevels of_single_file(const std::vector<std::string>& names);  // ours
};
NameMap diffusers_unet_names(const UNetLevels& levels);

// diffusers' AutoencoderKL with so many levels; its attention had other names in diffusers before 0.17.
NameMap diffusers_vae_names(int64_t levels, bool before_0_17 = false);

// An OpenCLIP text encoder with so many layers: q, k and v are fused, text_projection is turned (it is multiplied from
// the left).
NameMap open_clip_names(int64_t layers);

// A text encoder as transformers 5 saves CLIPTextModel: its names lack the first part.
NameMap bare_clip_names();

// n if there are names that begin with prefix0., prefix1. .. prefix(n-1).
int64_t count_numbered(const std::vector<std::string>& names, const std::string& prefix);

// Another source's tensors under our names.
class RenamedSource : public flame::WeightSource {
 public:
  RenamedSource(std::shared_ptr<const flame::WeightSource> inner, NameMap names)
      : inner_(std::move(inner)), names_(std::move(names)) {}
  std::string describe() const override { return inner_->describe(); }
  std::vector<std::string> names() const override;
  std::optional<flame::Shape> find(const std::string& name) const override;
  flame::Tensor read(const std::string& name) const override;
  std::string full_name(const std::string& name) const override;

 private:
  std::shared_ptr<const flame::WeightSource> inner_;
  NameMap names_;
};

// The weights of `inner` under our names, whichever of its layouts they have.
std::shared_ptr<const flame::WeightSource> with_our_names(std::shared_ptr<const flame::WeightSource> inner);

}  // namespace eri
