#include "eri/train/cached_dataset.h"

#include <algorithm>
#include <deque>
#include <map>

#include "eri/data/read_ahead.h"
#include "flame/device/graph.h"
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

// Results on their way to the CPU while the device computes the next ones.
class Arrivals {
 public:
  using Taker = std::function<void(const Tensor& arrived)>;

  explicit Arrivals(flame::Device device) : device_(device) {}

  void add(const Tensor& result, Taker taker) {
    if (under_way_.size() == most) take();
    Place place = place_of(result.bytes());
    place.bytes.fetch(result.raw(), 0, result.bytes());
    place.arrived.record();
    under_way_.push_back({result.shape(), result.dtype(), std::move(place), std::move(taker)});
  }
  void finish() {
    while (!under_way_.empty()) take();
  }

 private:
  static constexpr size_t most = 4;
  struct Place {
    flame::PinnedBytes bytes;
    flame::Event arrived;
  };
  struct Arrival {
    flame::Shape shape;
    flame::DType dtype;
    Place place;
    Taker taker;
  };

  // Pinning memory stops the GPU: a place is used again.
  Place place_of(size_t bytes) {
    std::vector<Place>& spare = spare_[bytes];
    if (spare.empty()) return {flame::PinnedBytes(device_, bytes), flame::Event(device_)};
    Place place = std::move(spare.back());
    spare.pop_back();
    return place;
  }

  void take() {
    Arrival first = std::move(under_way_.front());
    under_way_.pop_front();
    first.place.arrived.wait();
    const Tensor arrived = Tensor::empty(first.shape, first.dtype);
    flame::copy_bytes(arrived.raw(), cpu(), first.place.bytes.data(), cpu(), arrived.bytes());
    spare_[arrived.bytes()].push_back(std::move(first.place));
    first.taker(arrived);
  }

  flame::Device device_;
  std::deque<Arrival> under_way_;
  std::map<size_t, std::vector<Place>> spare_;  // by size
};

// `parts` and the last of them again, up to `count`: all batches of all datasets have one shape, for which plans are
// searched for once.
template <class Part>
std::vector<Part> filled_up(std::vector<Part> parts, size_t count) {
  while (parts.size() < count) parts.push_back(parts.back());
  return parts;
}

// How many samples from `first` on, up to `most`, have pictures of one size.
size_t alike(const std::vector<Sample>& samples, size_t first, size_t most) {
  const auto same = [](const SizeConditioning& a, const SizeConditioning& b) {
    return a.target_height == b.target_height && a.target_width == b.target_width;
  };
  size_t count = 1;
  while (count < most && first + count < samples.size() && same(samples[first + count].size, samples[first].size))
    ++count;
  return count;
}

}  // namespace

CachedDataset::CachedDataset(const ImageDataset& dataset, const Family& family, uint64_t seed, const Progress& progress)
    : device_(family.device()), latents_(dataset.size()), conditions_(dataset.size()) {
  flame::PurposeScope purpose(flame::Purpose::data);
  encode_captions(dataset, family);
  encode_pictures(dataset, family, seed, progress);
}

void CachedDataset::encode_captions(const ImageDataset& dataset, const Family& family) {
  std::map<std::string, std::vector<size_t>> samples_of;
  for (size_t i = 0; i < dataset.size(); ++i) {
    const auto& [name, caption, repeats, size] = dataset.samples()[i];
    samples_of[caption].push_back(i);
    conditions_[i].time_ids = family.time_ids({size});
  }
  const std::vector<std::pair<std::string, std::vector<size_t>>> captions(samples_of.begin(), samples_of.end());

  Arrivals arrivals(device_);
  const size_t at_once = family.captions_at_once();
  for (size_t first = 0; first < captions.size(); first += at_once) {
    const size_t count = std::min(at_once, captions.size() - first);
    std::vector<std::string> texts;
    for (size_t i = first; i < first + count; ++i) texts.push_back(captions[i].first);
    const std::vector<SizeConditioning> any(at_once, dataset.samples().front().size);
    Conditioning encoded = family.encode_text(filled_up(texts, at_once), any);
    encoded.time_ids = {};  // each sample has its own
    for (const auto part : Conditioning::parts()) {
      if (!(encoded.*part).defined()) continue;
      arrivals.add(encoded.*part, [this, &captions, part, first, count](const Tensor& arrived) {
        for (size_t k = 0; k < count; ++k) {
          for (size_t sample : captions[first + k].second)
            conditions_[sample].*part = arrived.rows(static_cast<int64_t>(k), 1);
        }
      });
    }
  }
  arrivals.finish();
}

void CachedDataset::encode_pictures(const ImageDataset& dataset, const Family& family, uint64_t seed,
                                    const Progress& progress) {
  const int readers = device_.is_cpu() ? 1 : std::clamp(flame::threads() / 2, 1, 8);
  ReadAhead<Tensor> pixels(dataset.size(), readers, 2 * static_cast<size_t>(readers), [&](size_t i) {
    flame::set_threads(1);  // of this reader: the others are its parallelism
    const flame::PurposeScope purpose(flame::Purpose::data);
    return dataset.pixels(i);
  });
  flame::Generator generator(seed);  // step 0 of the run's numbers: what is drawn before training
  Arrivals arrivals(device_);
  for (size_t first = 0, count; first < dataset.size(); first += count) {
    const auto& size = dataset.samples()[first].size;
    const size_t at_once = family.pictures_at_once(size.target_height, size.target_width);
    count = alike(dataset.samples(), first, at_once);
    std::vector<Tensor> pictures;
    for (size_t i = 0; i < count; ++i) pictures.push_back(pixels.next());
    const Tensor batch = at_once == 1 ? pictures.front() : flame::concat(filled_up(pictures, at_once), 0);
    generator.set_step(0);
    const Tensor noise = Tensor::randn(family.latent_shape(batch.dim(0), batch.dim(2), batch.dim(3)), generator, cpu(),
                                       static_cast<int64_t>(first));
    arrivals.add(family.encode_pictures(batch, noise), [this, first, count](const Tensor& arrived) {
      for (size_t i = 0; i < count; ++i) latents_[first + i] = arrived.rows(static_cast<int64_t>(i), 1);
    });
    if (progress) progress(first + count);
  }
  arrivals.finish();
}

CachedDataset::Batch CachedDataset::batch(const std::vector<size_t>& indices) const {
  Batch batch = {gather(indices, device_, [&](size_t i) { return latents_[i]; }), {}};
  for (const auto part : Conditioning::parts()) {
    if ((conditions_.front().*part).defined())
      batch.condition.*part = gather(indices, device_, [&](size_t i) { return conditions_[i].*part; });
  }
  return batch;
}

}  // namespace eri
