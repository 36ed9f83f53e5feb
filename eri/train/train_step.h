#pragma once

#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "eri/diffusion/training_noise.h"
#include "eri/train/cached_dataset.h"
#include "eri/train/train_log.h"
#include "flame/device/graph.h"
#include "flame/optim/optimizer.h"

namespace eri {

// One optimiser step: noise, prediction, loss (scaled, if the optimiser does that), gradients, update. On a GPU it is
// captured, one graph for each shape of batch and one for the update, once it has run plainly; the CPU then only hands
// over the next pictures and reads losses that arrive some steps later.
class TrainStep {
 public:
  // Mean loss of a batch, f32 []. It may read only what is on the device.
  using Loss = std::function<flame::Tensor(const flame::Tensor& latents, const TrainingNoise& noise,
                                           const Conditioning& condition)>;
  struct Options {
    NoiseOptions noise = {};
    int64_t batches = 1;       // whose gradients make one step
    double max_grad_norm = 0;  // 0: no limit
    bool graphs = true;        // capture, where there is a GPU
  };

  // `after_update` is called, and captured, after each update of the parameters.
  TrainStep(Loss loss, flame::Optimizer& optimizer, flame::Generator& generator, const Options& options,
            std::function<void()> after_update = {});
  TrainStep(const TrainStep&) = delete;
  TrainStep& operator=(const TrainStep&) = delete;

  // Begins step number `step` with options.batches batches. Waits only for a step that lies far behind.
  void queue(int64_t step, double learning_rate, const std::vector<CachedDataset::Batch>& batches);
  // What has arrived of steps queued and not yet returned, in their order; `all`: waits for every one.
  std::vector<StepResult> results(bool all);

  size_t graph_nodes() const;  // of the graphs captured so far

 private:
  // What one shape of batch has of its own: where its pictures go, and the graph that reads them from there.
  struct Batch {
    flame::Tensor latents;
    Conditioning condition;
    MultiresNoise multires;  // where there is such noise
    flame::RepeatedWork work;
  };
  struct Report {
    StepResult result;
    flame::PinnedBytes values;
    flame::Event arrived;
  };

  Batch& batch_like(const CachedDataset::Batch& given);
  void accumulate_gradients(const Batch& batch, int64_t first_sample);
  void update();
  void take_oldest();  // waits for it

  Loss loss_;
  flame::Optimizer& optimizer_;
  flame::Generator& generator_;
  Options options_;
  std::function<void()> after_update_;
  flame::Device device_;
  flame::Tensor counters_;       // i32 [2]: step, first sample of the batch
  flame::Tensor learning_rate_;  // f32 []
  flame::Tensor loss_sum_;       // f32 []
  flame::Tensor report_;         // f32 [3]: loss, norm, scale of the losses to come
  std::map<std::vector<int64_t>, Batch> batches_;
  flame::RepeatedWork update_work_;
  std::deque<Report> reports_;  // under way
  std::vector<Report> spare_;
  std::vector<StepResult> done_;
};

}  // namespace eri
