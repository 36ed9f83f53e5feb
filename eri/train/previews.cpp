#include "eri/train/previews.h"

#include <cstdio>

#include "eri/sampling/parameters_text.h"
#include "flame/core/error.h"

namespace eri {

namespace fs = std::filesystem;
using flame::Tensor;

std::vector<SampleRequest> preview_requests(const TrainConfig& config) {
  SampleRequest request{.prompt = {}, .steps = 30};  // these and the guidance are sd-scripts'
  request.options = {.seed = static_cast<uint64_t>(config.seed),
                     .cfg = 7.5,
                     .width = config.resolution.width,
                     .height = config.resolution.height,
                     .sampler = sampler_named(config.sample_sampler),
                     .scheduler = scheduler_named(config.sample_scheduler)};
  return read_prompts(config.sample_prompts, request);
}

Previews::Previews(const TrainConfig& config, const std::vector<SampleRequest>& requests, const Family& family)
    : family_(family),
      folder_(fs::path(config.output_dir) / "sample"),
      name_(config.output_name),
      model_(fs::path(config.pretrained_model_name_or_path).stem().string()),
      sampler_(
          family.denoiser(),
          [&family](const Tensor& x, const Tensor& timesteps, const Conditioning& condition) {
            return family.predict(x, timesteps, condition);
          },
          family.device(), config.cuda_graph) {
  const flame::PurposeScope purpose(flame::Purpose::data);
  for (const SampleRequest& request : requests) {
    const int64_t width = request.options.width, height = request.options.height;
    try {
      require_size(request.options, family.size_multiple());
    } catch (const flame::Error& error) {
      flame::fail(config.sample_prompts, ": '", request.prompt, "': ", error.what());
    }
    previews_.push_back(
        {request, family.trains_text() ? Conditioning() : encoded(request), family.latent_shape(1, height, width)});
  }
}

Conditioning Previews::encoded(const SampleRequest& request) const {
  const flame::ArenaScope arena(family_.device());
  const std::vector<std::string> texts = request.texts();
  const int64_t width = request.options.width, height = request.options.height;
  const std::vector<SizeConditioning> sizes(texts.size(), {height, width, 0, 0, height, width});
  return family_.encode_prompts(texts, sizes).map([](const Tensor& x) { return x.to(flame::Device::cpu()); });
}

fs::path Previews::draw(int64_t step) {
  std::vector<Tensor> latents;
  for (const auto& [request, condition, shape] : previews_) {
    const Sampling how = request.sampling();
    const uint64_t seeds[] = {request.options.seed};
    latents.push_back(
        sampler_(unit_noise(seeds, shape, family_.device(), NoiseSource::philox),
                 family_.trains_text() ? encoded(request) : condition, how,
                 step_noise(how.sampler, seeds, shape, sampler_.sigmas(how), family_.device(), NoiseSource::philox)));
  }
  fs::create_directories(folder_);
  const std::vector<flame::Image> pictures = family_.decode(latents);
  for (size_t i = 0; i < pictures.size(); ++i) {
    char numbers[80];
    std::snprintf(numbers, sizeof numbers, "_%06lld_%02zu_%llu.png", static_cast<long long>(step), i,
                  static_cast<unsigned long long>(previews_[i].request.options.seed));
    pictures[i].save(folder_ / (name_ + numbers),
                     {{"parameters", parameters_text(previews_[i].request, model_, {}, NoiseSource::philox)}});
  }
  return folder_;
}

}  // namespace eri
