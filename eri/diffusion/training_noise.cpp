#include "eri/diffusion/training_noise.h"

#include <algorithm>
#include <cmath>

#include "flame/core/error.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

namespace eri {
namespace {

using flame::fail;
using flame::Shape;

// Weights of a linear interpolation from `from` values to `to`, whose edges agree, times `scale`: [to, room], zero from
// column `from` on.
std::vector<float> interpolation(int64_t from, int64_t to, int64_t room, double scale) {
  std::vector<float> matrix(static_cast<size_t>(to * room), 0.0f);
  for (int64_t i = 0; i < to; ++i) {
    const double ratio = static_cast<double>(from) / static_cast<double>(to);
    const double at = std::max((static_cast<double>(i) + 0.5) * ratio - 0.5, 0.0);
    const auto low = static_cast<int64_t>(at), high = std::min(low + 1, from - 1);
    const double part = at - static_cast<double>(low);
    matrix[i * room + low] += static_cast<float>(scale * (1 - part));
    matrix[i * room + high] += static_cast<float>(scale * part);
  }
  return matrix;
}

std::vector<float> transposed(const std::vector<float>& matrix, int64_t rows, int64_t columns) {
  std::vector<float> result(matrix.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < columns; ++k) result[k * rows + i] = matrix[i * columns + k];
  return result;
}

int64_t coarser(int64_t side, double ratio, int64_t level) {
  return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(side) / std::pow(ratio, level)));
}

// A strength, or a random part of it: [1].
Tensor strength(double most, bool random, flame::Generator& generator, flame::Device device, int64_t first_sample) {
  if (!random) return Tensor::full({1}, most, flame::DType::f32, device);
  return Tensor::rand({1}, generator, device, first_sample) * static_cast<float>(most);
}

}  // namespace

void require_valid(const NoiseOptions& options) {
  const auto not_negative = [](const char* option, double value) {
    if (!(value >= 0) || !std::isfinite(value)) fail(option, ": expected 0 or more, got ", value);
  };
  not_negative("noise_offset", options.noise_offset);
  not_negative("ip_noise_gamma", options.ip_noise_gamma);
  not_negative("multires_noise_discount", options.multires_noise_discount);
  if (options.multires_noise_iterations < 0 || options.multires_noise_iterations > 32)
    fail("multires_noise_iterations: expected 0 to 32, got ", options.multires_noise_iterations);
  if (!std::isfinite(options.adaptive_noise_scale)) fail("adaptive_noise_scale: expected a finite number");
  if (options.adaptive_noise_scale != 0 && options.noise_offset == 0)
    fail("adaptive_noise_scale: needs a noise_offset above 0");
  if (options.min_timestep < 0 || options.max_timestep > NoiseSchedule::steps ||
      options.min_timestep >= options.max_timestep)
    fail("min_timestep, max_timestep: expected 0 <= min < max <= ", NoiseSchedule::steps, ", got ",
         options.min_timestep, " and ", options.max_timestep);
}

Tensor with_offset(const Tensor& noise, const Tensor& latents, const Tensor& offset, const Tensor& strength,
                   double adaptive) {
  if (adaptive == 0) return noise + offset * strength;
  const Tensor size = flame::abs(flame::mean(latents, {2, 3}, true));
  const Tensor stronger = size * static_cast<float>(adaptive) + strength;
  return noise + offset * flame::maximum(stronger, Tensor::zeros({1}, flame::DType::f32, noise.device()));
}

MultiresNoise::MultiresNoise(const NoiseOptions& options, const Shape& latents, flame::Device device)
    : latents_(latents), discount_(options.multires_noise_discount) {
  const int64_t height = latents.dim(2), width = latents.dim(3);
  const flame::PurposeScope purpose(flame::Purpose::data);
  for (int64_t level = 1; level < options.multires_noise_iterations; ++level) {
    if (coarser(std::min(height, width), 2, level - 1) == 1) break;  // where noise of one pixel is the last
    const int64_t rows = coarser(height, 2, level), columns = coarser(width, 2, level);
    levels_.push_back({Tensor::zeros({height, rows}, flame::DType::f32, device),
                       Tensor::zeros({columns, width}, flame::DType::f32, device)});
  }
}

std::vector<double> MultiresNoise::ratios(const NoiseOptions& options, uint64_t seed, uint32_t step,
                                          uint32_t first_sample) {
  constexpr uint32_t call = 0xFFFFFFFF;  // no tensor's
  std::vector<double> ratios;
  for (int64_t level = 1; level < options.multires_noise_iterations; ++level) {
    const uint32_t word = flame::philox({static_cast<uint32_t>(level), first_sample, step, call}, seed)[0];
    ratios.push_back(2 + 2 * (word * 0x1p-32));
  }
  return ratios;
}

void MultiresNoise::set(const std::vector<double>& ratios) {
  const int64_t height = latents_.dim(2), width = latents_.dim(3);
  bool over = std::min(height, width) == 1;
  for (size_t i = 0; i < levels_.size(); ++i) {
    const auto level = static_cast<int64_t>(i) + 1;
    const auto& [to_rows, to_columns] = levels_[i];
    const int64_t rows = coarser(height, ratios[i], level), columns = coarser(width, ratios[i], level);
    const double scale = over ? 0 : std::pow(discount_, level);
    const int64_t room = to_columns.dim(0);
    to_rows.copy_from(Tensor::from(interpolation(rows, height, to_rows.dim(1), scale), to_rows.shape()));
    to_columns.copy_from(
        Tensor::from(transposed(interpolation(columns, width, room, 1), width, room), to_columns.shape()));
    over = over || rows == 1 || columns == 1;
  }
}

std::vector<Shape> MultiresNoise::shapes() const {
  std::vector<Shape> shapes = {latents_};
  for (const Level& level : levels_)
    shapes.push_back(latents_.with(2, level.rows.dim(1)).with(3, level.columns.dim(0)));
  return shapes;
}

Tensor MultiresNoise::operator()(const Tensor& noise, const std::vector<Tensor>& levels) const {
  Tensor sum = noise + levels.front();
  for (size_t i = 0; i < levels_.size(); ++i) {
    const Tensor& coarse = levels[i + 1];
    const Tensor wide =
        flame::matmul(coarse.view({coarse.dim(0) * coarse.dim(1), coarse.dim(2), coarse.dim(3)}), levels_[i].columns);
    sum = sum + flame::matmul(levels_[i].rows, wide).view(sum.shape());
  }
  const Tensor centred = sum - flame::mean(sum);
  const auto count = static_cast<float>(std::max<int64_t>(sum.numel() - 1, 1));
  return sum / flame::sqrt(flame::sum(centred * centred) / count);
}

TrainingNoise draw_noise(const NoiseOptions& options, const Tensor& latents, const MultiresNoise& multires,
                         flame::Generator& generator, int64_t first_sample) {
  const flame::Device device = latents.device();
  const auto randn = [&](const Shape& shape) { return Tensor::randn(shape, generator, device, first_sample); };
  TrainingNoise drawn;
  drawn.noise = randn(latents.shape());
  drawn.timesteps =
      Tensor::randint(options.min_timestep, options.max_timestep, {latents.dim(0)}, generator, device, first_sample);
  const auto part = [&](double most, bool random) { return strength(most, random, generator, device, first_sample); };
  if (options.noise_offset > 0) {
    const Tensor offset = randn(latents.shape().with(2, 1).with(3, 1));
    const Tensor strength = part(options.noise_offset, options.noise_offset_random_strength);
    drawn.noise = with_offset(drawn.noise, latents, offset, strength, options.adaptive_noise_scale);
  }
  if (options.multires_noise_iterations > 0) {
    std::vector<Tensor> levels;
    for (const Shape& shape : multires.shapes()) levels.push_back(randn(shape));
    drawn.noise = multires(drawn.noise, levels);
  }
  drawn.added = drawn.noise;
  if (options.ip_noise_gamma > 0) {
    const Tensor perturbation = randn(latents.shape());
    drawn.added = drawn.noise + perturbation * part(options.ip_noise_gamma, options.ip_noise_gamma_random_strength);
  }
  return drawn;
}

}  // namespace eri
