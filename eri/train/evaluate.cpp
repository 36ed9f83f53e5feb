#include "eri/train/evaluate.h"

#include <algorithm>
#include <numeric>

namespace eri {

double fixed_noise_loss(const Family& family, const CachedDataset& dataset) {
  constexpr int64_t points = 16, most = 8;
  flame::Generator generator(0);
  const DiffusionLoss plain = family.loss_of({});
  double total = 0;
  for (int64_t point = 0; point < points; ++point) {
    const int64_t timestep = (2 * point + 1) * family.timesteps() / (2 * points);
    for (size_t first = 0; first < dataset.size(); first += most) {
      std::vector<size_t> indices(std::min<size_t>(most, dataset.size() - first));
      std::iota(indices.begin(), indices.end(), first);
      const CachedDataset::Batch batch = dataset.batch(indices);
      generator.set_step(static_cast<uint32_t>(point));
      const flame::Tensor noise =
          flame::Tensor::randn(batch.latents.shape(), generator, batch.latents.device(), static_cast<int64_t>(first));
      const flame::Tensor t = flame::Tensor::full({batch.latents.dim(0)}, static_cast<double>(timestep),
                                                  flame::DType::i64, batch.latents.device());
      const flame::Tensor loss = family.loss(batch.latents, {noise, noise, t}, batch.condition, plain);
      total += loss.item() * static_cast<double>(indices.size());
    }
  }
  return total / static_cast<double>(points * dataset.size());
}

}  // namespace eri
