#include "eri/train/train_step.h"

#include <cmath>
#include <limits>

#include "flame/autograd/tape.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

using flame::DType;
using flame::Tensor;

constexpr size_t most_reports = 8;  // how far the CPU may run ahead

std::vector<int64_t> key_of(const CachedDataset::Batch& batch) {
  std::vector<int64_t> key;
  const auto& [context, pooled, time_ids, ids] = batch.condition;
  for (const Tensor* part : {&batch.latents, ids.defined() ? &ids : &context})
    key.insert(key.end(), part->shape().begin(), part->shape().end());
  return key;
}

}  // namespace

TrainStep::TrainStep(Loss loss, flame::Optimizer& optimizer, flame::Generator& generator, const Options& options,
                     std::function<void()> after_update)
    : loss_(std::move(loss)),
      optimizer_(optimizer),
      generator_(generator),
      options_(options),
      after_update_(std::move(after_update)),
      device_(optimizer.pack().values().device()),
      update_work_(device_, options_.graphs) {
  flame::PurposeScope purpose(flame::Purpose::data);
  counters_ = Tensor::zeros({2}, DType::i32, device_);
  learning_rate_ = Tensor::zeros({}, DType::f32, device_);
  loss_sum_ = Tensor::zeros({}, DType::f32, device_);
  report_ = Tensor::zeros({3}, DType::f32, device_);
  if (device_.is_cuda()) generator_.follow(counters_.buffer());
  optimizer_.zero_grad();
}

void TrainStep::queue(int64_t step, double learning_rate, const std::vector<CachedDataset::Batch>& batches) {
  flame::require(std::ssize(batches) == options_.batches, "TrainStep", "expected ", options_.batches, " batches, got ",
                 batches.size());
  if (reports_.size() == most_reports) take_oldest();
  int64_t first_sample = 0;
  for (const CachedDataset::Batch& given : batches) {
    Batch& batch = batch_like(given);
    batch.latents.copy_from(given.latents);
    batch.condition.copy_from(given.condition);
    counters_.copy_from(Tensor::from({static_cast<int32_t>(step), static_cast<int32_t>(first_sample)}, {2}));
    generator_.set_step(static_cast<uint32_t>(step));
    if (options_.noise.multires_noise_iterations > 0)
      batch.multires.set(MultiresNoise::ratios(options_.noise, generator_.seed(), static_cast<uint32_t>(step),
                                               static_cast<uint32_t>(first_sample)));
    // A GPU reads from counters_ which samples these are.
    batch.work([&] { accumulate_gradients(batch, device_.is_cpu() ? first_sample : 0); });
    first_sample += given.latents.dim(0);
  }
  learning_rate_.copy_from(Tensor::from({static_cast<float>(learning_rate)}, {}));
  update_work_([&] { update(); });

  if (spare_.empty()) spare_.push_back({{}, flame::PinnedBytes(device_, report_.bytes()), flame::Event(device_)});
  Report report = std::move(spare_.back());
  spare_.pop_back();
  report.result = StepResult();
  report.result.step = step;
  report.result.learning_rate = learning_rate;
  report.values.fetch(report_.raw(), 0, report_.bytes());
  report.arrived.record();
  reports_.push_back(std::move(report));
}

TrainStep::Batch& TrainStep::batch_like(const CachedDataset::Batch& given) {
  Batch& batch = batches_.try_emplace(key_of(given), Batch{{}, {}, {}, {device_, options_.graphs}}).first->second;
  if (batch.latents.defined()) return batch;
  flame::PurposeScope purpose(flame::Purpose::data);
  const auto room_for = [&](const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), device_); };
  batch.latents = room_for(given.latents);
  batch.condition = given.condition.map(room_for);
  batch.multires = MultiresNoise(options_.noise, given.latents.shape(), device_);
  return batch;
}

void TrainStep::accumulate_gradients(const Batch& batch, int64_t first_sample) {
  const TrainingNoise noise = draw_noise(options_.noise, batch.latents, batch.multires, generator_, first_sample);
  flame::GradientMap gradients;
  optimizer_.pack().bind(gradients);
  flame::Tape tape;
  const Tensor loss = loss_(batch.latents, noise, batch.condition);
  const float share = 1 / static_cast<float>(options_.batches);
  tape.backward(loss, optimizer_.loss_scale() * share, gradients);
  flame::accumulate(loss_sum_, loss.detach() * share);
}

void TrainStep::update() {
  optimizer_.step_on_device(
      learning_rate_, options_.max_grad_norm > 0 ? options_.max_grad_norm : std::numeric_limits<double>::infinity());
  report_.rows(0, 1).copy_from(loss_sum_.view({1}));
  report_.rows(1, 1).copy_from(optimizer_.last_norm().view({1}));
  report_.rows(2, 1).copy_from(optimizer_.loss_scale().view({1}));
  loss_sum_.fill(0);
  optimizer_.zero_grad();
  if (after_update_) after_update_();
}

void TrainStep::take_oldest() {
  Report& report = reports_.front();
  report.arrived.wait();
  const auto* const values = reinterpret_cast<const float*>(report.values.data());
  report.result.loss = values[0];
  report.result.grad_norm = values[1];
  report.result.skipped = !std::isfinite(values[1]);
  if (optimizer_.scales_losses()) report.result.loss_scale = values[2];
  done_.push_back(report.result);
  spare_.push_back(std::move(report));
  reports_.pop_front();
}

std::vector<StepResult> TrainStep::results(bool all) {
  while (!reports_.empty() && (all || reports_.front().arrived.over())) take_oldest();
  return std::exchange(done_, {});
}

size_t TrainStep::graph_nodes() const {
  size_t nodes = update_work_.nodes();
  for (const auto& [key, batch] : batches_) nodes += batch.work.nodes();
  return nodes;
}

}  // namespace eri
