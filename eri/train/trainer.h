#pragma once

#include <atomic>
#include <future>
#include <memory>

#include "eri/data/epoch_order.h"
#include "eri/lora/lora.h"
#include "eri/train/cached_dataset.h"
#include "eri/train/config.h"
#include "eri/train/previews.h"
#include "eri/train/run_state.h"
#include "eri/train/start_report.h"
#include "eri/train/train_log.h"
#include "eri/train/train_step.h"
#include "flame/optim/learning_rate.h"

namespace eri {

// One training run: a LoRA for a frozen model.
class Trainer {
 public:
  // Checks the configuration and all pictures, loads the model, encodes pictures and captions, makes the LoRA and, with
  // config.resume, takes up where that run was. Throws before anything is trained if something is wrong.
  explicit Trainer(const TrainConfig& config);

  // Trains to max_train_steps, saving on the way and at the end. When `stop` becomes true it saves and returns early.
  void run(const std::atomic<bool>& stop);

  StepResult step();  // one optimiser step
  int64_t steps_done() const { return steps_done_; }
  const flame::ParameterPack& parameters() const { return optimizer_->pack(); }
  const Family& family() const { return *family_; }

  void save_lora(const std::filesystem::path& file) const;
  void save_state(const std::filesystem::path& folder) const;  // what `resume` takes

 private:
  // While it lives, the LoRA has the values that are meant to be used, and not those that the optimiser trains.
  class WhatIsUsed {
   public:
    explicit WhatIsUsed(const Trainer& trainer);
    ~WhatIsUsed();
    WhatIsUsed(const WhatIsUsed&) = delete;
    WhatIsUsed& operator=(const WhatIsUsed&) = delete;

   private:
    const Trainer& trainer_;
  };

  void read_pictures_and_encoders(flame::Device device);
  void encode_all();
  void resume(const RunState& state);
  void queue_step();
  // Both, as output_dir/name...; then looks at the LoRA as other programs will, and returns what is wrong with it.
  std::string save(const std::string& name, TrainLog& log) const;
  void draw_previews(TrainLog& log);

  StartReport start_;
  TrainConfig config_;
  std::unique_ptr<Family> family_;
  ImageDataset dataset_;
  BatchOrder order_;
  std::vector<std::string> notices_;  // for people
  size_t checkpoint_bytes_ = 0;       // of the base model's files
  BaseFingerprint base_;
  std::unique_ptr<CachedDataset> cache_;
  std::unique_ptr<Previews> previews_;  // where the configuration asks for some
  DiffusionLoss loss_;
  flame::Generator generator_;
  LoraPlan plan_;
  LoraNetwork lora_;
  std::unique_ptr<flame::Optimizer> optimizer_;
  flame::LearningRateSchedule schedule_;
  std::unique_ptr<TrainStep> train_step_;
  int64_t steps_done_ = 0;                             // or under way
  std::shared_future<flame::Metadata> base_metadata_;  // names and hashes of the base: read while training starts
  double started_at_;                                  // seconds since 1970
  uint64_t session_;                                   // random, of this run
  bool zero_terminal_snr_ = false;                     // of the base model
  size_t peak_before_steps_ = 0;                       // of the device's memory
};

}  // namespace eri
