#include "eri/models/synthetic.h"

#include <array>
#include <cmath>

#include "flame/device/parallel.h"

namespace eri {
namespace {

using flame::Shape;
using flame::Tensor;

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;

// The output function of splitmix64.
inline uint64_t mix(uint64_t z) {
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
  z = (z ^ z >> 27) * 0x94D049BB133111EB;
  return z ^ z >> 31;
}

uint64_t fnv1a(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3;
  return hash;
}

struct Range {
  float base, amplitude;
};

// Stems and branch outputs get a small gain: activations then reach the norms with a variance near 1e-2.
float gain(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, float>, 12> gains = {{
      {"input_blocks.0.0.weight", 1 / 16.0f},
      {"encoder.conv_in.weight", 1 / 16.0f},
      {"out_layers.3.weight", 1 / 16.0f},
      {"conv2.weight", 1 / 16.0f},
      {"proj_in.weight", 1 / 16.0f},
      {"to_out.0.weight", 1 / 16.0f},
      {"out_proj.weight", 1 / 16.0f},
      {"attn_1.proj_out.weight", 1 / 16.0f},
      {"decoder.conv_in.weight", 1 / 64.0f},
      {"ff.net.2.weight", 1 / 4.0f},
      {"mlp.fc2.weight", 1 / 4.0f},
      {"mlp.c_proj.weight", 1 / 4.0f},
  }};
  for (const auto& [ending, value] : gains) {
    if (name.ends_with(ending)) return value;
  }
  return 1;
}

Range range(std::string_view name, const Shape& shape) {
  if (shape.rank() < 2) return name.ends_with(".weight") ? Range{1, 1 / 4.0f} : Range{0, 1 / 32.0f};
  if (name.ends_with("token_embedding.weight")) return {0, 1 / 32.0f};
  if (name.ends_with("position_embedding.weight") || name.ends_with("positional_embedding")) return {0, 1 / 64.0f};
  const double fan_in = static_cast<double>(shape.numel(1, shape.rank()));
  return {0, gain(name) * static_cast<float>(std::sqrt(3 / fan_in))};
}

}  // namespace

void synthetic_values(const std::string& name, const Shape& shape, uint64_t seed, int64_t first, int64_t count,
                      float* values) {
  const uint64_t state = mix(fnv1a(name) ^ seed * kGolden);
  const auto [base, amplitude] = range(name, shape);
  flame::parallel_for(count, 1 << 15, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t bits = mix(state + static_cast<uint64_t>(first + i + 1) * kGolden) >> 40;
      const float u = static_cast<float>(static_cast<int32_t>(bits) - (1 << 23)) * 0x1p-23f;
      values[i] = base + amplitude * u;
    }
  });
}

SyntheticCheckpoint::SyntheticCheckpoint(const Geometry& geometry, uint64_t seed, std::string_view part)
    : geometry_(geometry.name), prefix_(part.empty() ? "" : std::string(part) + "."), seed_(seed) {
  for (const auto& [name, shape] : checkpoint_tensors(geometry)) {
    if (name.starts_with(prefix_)) tensors_.emplace(name.substr(prefix_.size()), shape);
  }
}

std::string SyntheticCheckpoint::describe() const {
  return flame::text("the synthetic checkpoint ", geometry_, " with seed ", seed_);
}

std::vector<std::string> SyntheticCheckpoint::names() const {
  std::vector<std::string> result;
  for (const auto& [name, shape] : tensors_) result.push_back(name);
  return result;
}

std::optional<Shape> SyntheticCheckpoint::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? std::nullopt : std::optional(found->second);
}

Tensor SyntheticCheckpoint::read(const std::string& name) const {
  const auto shape = find(name);
  if (!shape) flame::fail(describe(), " has no tensor ", name);
  if (name.ends_with("position_ids")) return Tensor::arange(shape->numel(), flame::DType::i64).view(*shape);
  const Tensor result = Tensor::empty(*shape);
  synthetic_values(full_name(name), *shape, seed_, 0, shape->numel(), result.data<float>());
  return result;
}

}  // namespace eri
