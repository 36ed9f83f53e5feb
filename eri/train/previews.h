#pragma once

#include "eri/sampling/drawing.h"
#include "eri/sampling/sample_request.h"
#include "eri/train/config.h"
#include "eri/train/family.h"

namespace eri {

// What a prompt file asks for, with what config says where a prompt does not: training's resolution and seed.
std::vector<SampleRequest> preview_requests(const TrainConfig& config);

// Pictures of what a LoRA has learned so far, drawn by the model that trains. They have random numbers of their own and
// use the memory of a training step, so that training goes its way to the bit; between them only the prompts' encodings
// are held, and where text encoders train not even these.
class Previews {
 public:
  // Encodes the prompts where text encoders do not train, so before family.release_encoders(). Throws if a picture's
  // size does not suit the model.
  Previews(const TrainConfig& config, const std::vector<SampleRequest>& requests, const Family& family);

  // One picture a prompt: output_dir/sample/NAME_STEP_PROMPT_SEED.png, all numbers; returns their folder.
  std::filesystem::path draw(int64_t step);

 private:
  struct Preview {
    SampleRequest request;
    Conditioning condition;  // none where text encoders train
    flame::Shape latents;
  };
  Conditioning encoded(const SampleRequest& request) const;  // on the CPU
  const Family& family_;
  std::filesystem::path folder_;
  std::string name_, model_;
  std::vector<Preview> previews_;
  LatentSampler sampler_;
};

}  // namespace eri
