#include "eri/train/cached_dataset.h"

#include "flame/ops/layout.h"

namespace eri {
namespace {

using flame::Tensor;

constexpr auto cpu = flame::Device::cpu;

// Rows of the parts, one after the other.
template <class Part>
Tensor gather(const std::vector<size_t>& indices, flame::Device device, const Part& part) {
  std::vector<Tensor> rows;
  for (size_t index : indices) rows.push_back(part(index));
  return flame::concat(rows, 0).to(device);
}

}  // namespace

CachedDataset::CachedDataset(const ImageDataset& dataset, const Family& family, uint64_t seed)
    : device_(family.device()) {
  flame::PurposeScope purpose(flame::Purpose::data);
  flame::Generator generator(seed);  // step 0 of the run's numbers: what is drawn before training
  for (size_t i = 0; i < dataset.size(); ++i) {
    const Tensor pixels = dataset.pixels(i);
    generator.set_step(0);
    const Tensor noise =
        Tensor::randn(family.latent_shape(1, pixels.dim(2), pixels.dim(3)), generator, cpu(), static_cast<int64_t>(i));
    latents_.push_back(family.encode_pictures(pixels, noise).to(cpu()));
    const auto [context, pooled, time_ids] =
        family.encode_text({dataset.samples()[i].caption}, {dataset.samples()[i].size});
    conditions_.push_back({context.to(cpu()), pooled.to(cpu()), time_ids.to(cpu())});
  }
}

CachedDataset::Batch CachedDataset::batch(const std::vector<size_t>& indices) const {
  return {gather(indices, device_, [&](size_t i) { return latents_[i]; }),
          {gather(indices, device_, [&](size_t i) { return conditions_[i].context; }),
           gather(indices, device_, [&](size_t i) { return conditions_[i].pooled; }),
           gather(indices, device_, [&](size_t i) { return conditions_[i].time_ids; })}};
}

}  // namespace eri
