#include "eri/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <random>
#include <set>

#include "eri/lora/metadata.h"
#include "eri/lora/verify.h"
#include "eri/train/optimizers.h"
#include "eri/train/same_run.h"
#include "eri/train/training_metadata.h"
#include "flame/core/error.h"
#include "flame/device/plan_cache.h"
#include "flame/ops/libraries_cuda.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

namespace fs = std::filesystem;
using flame::fail;
using flame::Tensor;
using flame::text;

constexpr double GiB = 1 << 30;
constexpr double polynomial_end = 1e-7;  // the learning rate that transformers' polynomial schedule ends at

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

TrainConfig checked(const TrainConfig& config) {
  validate(config);
  if (config.threads > 0) flame::set_threads(static_cast<int>(config.threads));
  TrainConfig result = config;  // `auto` as what it means here: a resumed run must mean the same
  const flame::DType dtype = compute_dtype(config.mixed_precision, flame::Device::parse(config.device));
  result.mixed_precision = mixed_precision_name(dtype);
  return result;
}

// Fails now, not after an hour of training.
void check_output(const TrainConfig& config) {
  std::error_code error;
  fs::create_directories(config.output_dir, error);
  if (error) fail("output_dir: cannot make the folder ", config.output_dir, ": ", error.message());
  flame::write_file_atomically(fs::path(config.output_dir) / (config.output_name + ".writable"), "");
  fs::remove(fs::path(config.output_dir) / (config.output_name + ".writable"));
}

// What the options mean for this model, which the optimiser must be able to train, with all that is given a rate.
LoraPlan checked_plan(const TrainConfig& config, const Family& family) {
  LoraPlan plan = plan_lora(family.lora_sites(), lora_options(config));
  std::set<double> factors;
  for (const auto& [module, share] : plan) factors.insert(share.lr);
  const std::string refusal =
      refuses_rates(choose_optimizer(config.optimizer_type, config.optimizer_args, config.weight_decay), factors);
  if (!refusal.empty()) fail("learning rates: ", refusal);
  const LoraOptions options = lora_options(config);
  for (const LoraPart part : {LoraPart::clip_l, LoraPart::clip_g}) {
    const std::string prefix = lora_name(part, "");
    const auto first = plan.lower_bound(prefix);
    const bool trains = first != plan.end() && first->first.starts_with(prefix);
    if (options.part_lr[static_cast<size_t>(part)] > 0 && !trains)
      fail("text_encoder_lr: lora_preset and the patterns choose no layer of ",
           part == LoraPart::clip_l ? "CLIP-L" : "CLIP-G", "; give it 0, or choose others");
  }
  return plan;
}

// "memory: peak 0.61 GiB; now weights 0.09, ..."
std::string memory_by_purpose(flame::Device device, size_t peak_before) {
  const auto gib = [](size_t bytes) {
    char number[32];
    std::snprintf(number, sizeof number, "%.3f", static_cast<double>(bytes) / GiB);
    return std::string(number);
  };
  const flame::MemoryUse use = flame::memory_use(device);
  std::string line = "memory in GiB: peak " + gib(use.peak);
  if (peak_before > use.peak) line += " (before the first step " + gib(peak_before) + ")";
  line += ", held now";
  for (size_t i = 0; i < std::size(use.by_purpose); ++i) {
    if (use.by_purpose[i] > 0)
      line += text(" ", flame::name(static_cast<flame::Purpose>(i)), " ", gib(use.by_purpose[i]));
  }
  if (device.is_cuda()) line += ", taken of the card " + gib(use.reserved);
  return line;
}

// What fails there is said by the op that needs it.
std::future<void> open_libraries([[maybe_unused]] flame::Device device) {
  if constexpr (flame::cuda_build) {
    if (device.is_cuda()) return std::async(std::launch::async, flame::cuda::open_libraries, device);
  }
  return {};
}

// "240 modules", and of which models they are if there are several.
std::string modules_by_part(const LoRA& lora) {
  constexpr std::pair<const char*, const char*> parts[] = {
      {"lora_unet_", "the UNet"}, {"lora_te1_", "CLIP-L"}, {"lora_te2_", "CLIP-G"}};
  std::string list;
  size_t there = 0;
  for (const auto& [prefix, name] : parts) {
    const auto count = std::count_if(lora.modules().begin(), lora.modules().end(),
                                     [&](const auto& module) { return module.first.starts_with(prefix); });
    if (count == 0) continue;
    list += text(there++ ? ", " : "", count, " of ", name);
  }
  return text(lora.modules().size(), " modules", there > 1 ? " (" + list + ")" : "");
}

std::string caching_line(size_t done, size_t all, double seconds) {
  char line[96];
  std::snprintf(line, sizeof line, "caching latents %zu/%zu, %.1f pictures/s", done, all,
                static_cast<double>(done) / seconds);
  return line;
}

std::string step_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "-step%08lld", static_cast<long long>(step));
  return name;
}

}  // namespace

Trainer::Trainer(const TrainConfig& config)
    : config_(checked(config)),
      generator_(static_cast<uint64_t>(config.seed)),
      started_at_(now()),
      session_(std::random_device()()) {
  std::optional<RunState> before;
  if (!config_.resume.empty()) {
    before = load_state(config_.resume);
    require_same_run(*before, config_);
    if (const std::string notice = other_rates(*before, config_); !notice.empty()) notices_.push_back(notice);
  }
  const flame::Device device = flame::Device::parse(config_.device);
  flame::set_deterministic(config_.deterministic);
  flame::set_tf32(config_.allow_tf32);
  flame::set_memory_limit(device, buffer_limit(config_.max_vram));
  check_output(config_);
  const std::future<void> libraries = open_libraries(device);
  start_.lap("device");

  // 1. Pictures, captions and prompts go through the encoders once, which then make room for what is trained.
  std::vector<SampleRequest> previews;
  if (!config_.sample_prompts.empty()) previews = preview_requests(config_);
  read_pictures_and_encoders(device);
  if (before && dataset_.fingerprint() != before->dataset)
    fail("resume: the pictures or captions in ", config_.train_data_dir, " are not those that ", config_.resume,
         " was trained on");
  loss_ = family_->loss_of(loss_options(config_));
  encode_all();
  if (!previews.empty()) previews_ = std::make_unique<Previews>(config_, previews, *family_);
  family_->release_encoders();
  start_.lap("caching");
  // 2. The frozen network.
  family_->load_network();
  base_ = base_fingerprint(Checkpoint(model_files(config_)));  // now that the files are in memory
  flame::synchronize(device);
  start_.lap("model");
  if (device.is_cuda()) flame::release_cache(device);  // the CPU reuses what it has

  // 3. What is trained.
  const LoraTargets targets = family_->trained_targets();
  lora_ = LoraNetwork(targets, new_lora(targets, plan_, generator_.seed()),
                      family_->can_fuse() ? flame::DType::f32 : compute_dtype(config_.mixed_precision, device), plan_);
  optimizer_ = make_optimizer(choose_optimizer(config_.optimizer_type, config_.optimizer_args, config_.weight_decay),
                              lora_.parameters());
  if (config_.mixed_precision == "fp16") optimizer_->scale_losses();
  schedule_ = {.kind = flame::LearningRateSchedule::parse(config_.lr_scheduler),
               .warmup_steps = config_.lr_warmup_steps,
               .total_steps = config_.max_train_steps,
               .num_cycles = config_.lr_scheduler_num_cycles,
               .power = config_.lr_scheduler_power,
               .final_factor = polynomial_end / config_.learning_rate};
  if (before) resume(*before);
  if (family_->can_fuse()) family_->fuse(parse_memory_policy(config_.memory_policy));

  train_step_ = std::make_unique<TrainStep>(
      [this](const Tensor& latents, const TrainingNoise& noise, const Conditioning& condition) {
        return family_->loss(latents, noise, condition, loss_);
      },
      *optimizer_, generator_,
      TrainStep::Options{.noise = noise_options(config_),
                         .batches = config_.gradient_accumulation_steps,
                         .max_grad_norm = config_.max_grad_norm,
                         .graphs = config_.cuda_graph},
      [this] { family_->refresh(); });
  flame::synchronize(device);
  start_.lap("adapters");
  peak_before_steps_ = flame::memory_use(device).peak;
  flame::reset_peak(device);
}

// Looks at all pictures while the encoders are loaded; what is wrong with the pictures is said first.
void Trainer::read_pictures_and_encoders(flame::Device device) {
  const ModelFiles base = model_files(config_);
  std::future<ImageDataset> pictures = std::async(std::launch::async, [this, threads = flame::threads()] {
    flame::set_threads(threads);  // OpenMP has a number for each thread that asks
    return scan_folder(config_.train_data_dir, {.width = config_.resolution.width,
                                                .height = config_.resolution.height,
                                                .caption_extension = config_.caption_extension});
  });
  try {
    const Checkpoint checkpoint(base);
    checkpoint_bytes_ = checkpoint.bytes();
    notices_.push_back("the model " + checkpoint.parametrization().sentence());
    zero_terminal_snr_ = checkpoint.parametrization().zero_terminal_snr;
    family_ = load_sdxl(checkpoint, device,
                        {.dtype = compute_dtype(config_.mixed_precision, device),
                         .no_half_vae = config_.no_half_vae,
                         .max_token_length = config_.max_token_length});
    flame::synchronize(device);
    plan_ = checked_plan(config_, *family_);  // before anything takes long
    family_->train(plan_);
  } catch (...) {
    pictures.get();
    throw;
  }
  start_.lap("model");
  dataset_ = pictures.get();
  start_.lap("pictures");
  order_ = BatchOrder(dataset_.repeats(), config_.train_batch_size, generator_.seed());
  if (!config_.minimal_metadata) base_metadata_ = std::async(std::launch::async, base_model_metadata, base);
}

void Trainer::encode_all() {
  for (int64_t side : {config_.resolution.width, config_.resolution.height}) {
    if (side % family_->size_multiple() != 0)
      fail("resolution: this model takes multiples of ", family_->size_multiple(), ", got ", side);
  }
  for (const std::string& notice : dataset_.notices()) notices_.push_back(notice);
  for (const Sample& sample : dataset_.samples()) {
    if (const size_t cut = family_->tokens_cut(sample.caption))
      notices_.push_back(text(sample.name, ": the last ", cut, " tokens of its caption do not fit into ",
                              config_.max_token_length, " and are not used; --max_token_length may be raised"));
  }
  ProgressLine progress;
  const double begun = now();
  cache_ = std::make_unique<CachedDataset>(dataset_, *family_, generator_.seed(), [&](size_t done) {
    if (done < dataset_.size() && progress.due()) progress.show(caching_line(done, dataset_.size(), now() - begun));
  });
  progress.end();
}

Trainer::WhatIsUsed::WhatIsUsed(const Trainer& trainer) : trainer_(trainer) {
  if (!trainer_.optimizer_->averages()) return;
  trainer_.optimizer_->eval();
  trainer_.family_->refresh();
}

Trainer::WhatIsUsed::~WhatIsUsed() {
  if (!trainer_.optimizer_->averages()) return;
  trainer_.optimizer_->train();
  trainer_.family_->refresh();
}

void Trainer::queue_step() {
  const int64_t step = steps_done_ + 1, batches = config_.gradient_accumulation_steps;
  std::vector<CachedDataset::Batch> given;
  for (int64_t i = 0; i < batches; ++i) given.push_back(cache_->batch(order_.batch((step - 1) * batches + i)));
  train_step_->queue(step, config_.learning_rate * schedule_.factor(steps_done_), given);
  steps_done_ = step;
}

StepResult Trainer::step() {
  queue_step();
  return train_step_->results(true).back();
}

void Trainer::run(const std::atomic<bool>& stop) {
  const std::string log_name = config_.output_name + "-log" + (steps_done_ ? step_name(steps_done_) : "") + ".jsonl";
  TrainLog log(fs::path(config_.output_dir) / log_name, steps_done_ + 1, config_.max_train_steps);
  for (const std::string& notice : notices_) log.say(notice);
  log.say(text(dataset_.size(), " pictures, ", modules_by_part(lora_.lora()), " of rank ", lora_.lora().ranks(), ", ",
               lora_.parameters().numel(), " trainable parameters"));
  log.say(start_.loaded(checkpoint_bytes_));
  const auto show = [&](bool all) {
    for (const StepResult& result : train_step_->results(all)) log.step(result);
  };
  if (config_.sample_at_first && steps_done_ == 0) draw_previews(log);
  for (int64_t first = steps_done_ + 1; steps_done_ < config_.max_train_steps && !stop;) {
    queue_step();
    show(steps_done_ == first);
    if (steps_done_ == first) {
      start_.lap("first step");
      log.say(start_.line(dataset_.size()));
      log.say(memory_by_purpose(family_->device(), peak_before_steps_));
      flame::save_plans();  // a run that is killed has them all by now
    }
    if (config_.sample_every_n_steps && steps_done_ % config_.sample_every_n_steps == 0) {
      show(true);
      draw_previews(log);
    }
    const bool due = config_.save_every_n_steps && steps_done_ % config_.save_every_n_steps == 0;
    if (!due || steps_done_ == config_.max_train_steps) continue;
    show(true);
    try {
      const std::string wrong = save(config_.output_name + step_name(steps_done_), log);
      if (!wrong.empty()) log.say(wrong);
    } catch (const flame::Error& error) {
      log.say(text(error.what(), "\nTraining goes on and will save again at step ",
                   std::min(steps_done_ + config_.save_every_n_steps, config_.max_train_steps), "."));
    }
  }
  show(true);
  const bool done = steps_done_ == config_.max_train_steps;
  const std::string name = config_.output_name + (done ? "" : step_name(steps_done_)), wrong = save(name, log);
  if (done && !wrong.empty()) fail(wrong);
  if (done) return;
  if (!wrong.empty()) log.say(wrong);
  log.say(text("stopped after step ", steps_done_, "; go on with --resume ",
               (fs::path(config_.output_dir) / (name + "-state")).string()));
}

// A picture that cannot be drawn is no reason to stop training.
void Trainer::draw_previews(TrainLog& log) {
  log.aside([&] {
    try {
      const WhatIsUsed used(*this);
      log.say(text("drew ", previews_->draw(steps_done_).string(), " at step ", steps_done_));
    } catch (const std::exception& error) {
      log.say(text("no pictures at step ", steps_done_, ": ", error.what(), "\nTraining goes on."));
    }
  });
}

std::string Trainer::save(const std::string& name, TrainLog& log) const {
  const fs::path file = fs::path(config_.output_dir) / (name + ".safetensors");
  save_lora(file);
  if (config_.save_state) save_state(fs::path(config_.output_dir) / (name + "-state"));
  log.say(text("saved ", file.string(), config_.save_state ? " and its state" : ""));
  const LoraReport report = verify_lora(file, family_->trained_targets());
  if (report.complaints.empty()) return "";
  if (report.complaints.size() == 1 && report.without_effect == report.modules)
    return text(file.string(), " changes nothing yet: the learning rate has been 0, or no step could be made");
  return text(file.string(), " would not load completely everywhere: ", listed(report.complaints));
}

void Trainer::save_lora(const fs::path& file) const {
  const int64_t pictures = steps_done_ * config_.gradient_accumulation_steps * config_.train_batch_size;
  flame::Metadata about =
      training_metadata(config_, dataset_,
                        {.steps = steps_done_,
                         .epochs = pictures / static_cast<int64_t>(order_.epoch_size()),
                         .started_at = started_at_,
                         .now = now(),
                         .session = session_,
                         .prediction_type = family_->prediction_type(),
                         .zero_terminal_snr = zero_terminal_snr_,
                         .gradient_checkpointing = family_->can_fuse() && config_.memory_policy == "block"});
  if (base_metadata_.valid()) about.merge(flame::Metadata(base_metadata_.get()));
  const WhatIsUsed used(*this);
  lora_.lora().save(file, about, config_.minimal_metadata ? MetadataDetail::minimal : MetadataDetail::full);
}

void Trainer::save_state(const fs::path& folder) const {
  const flame::Device cpu = flame::Device::cpu();
  RunState state{steps_done_, config_, dataset_.fingerprint(), {}, base_};
  for (const auto& parameter : lora_.parameters().parameters())
    state.tensors["parameter." + parameter.name] = parameter.master.to(cpu);
  for (const auto& [name, tensor] : optimizer_->save()) state.tensors["optimizer." + name] = tensor.to(cpu);
  eri::save_state(folder, state);
}

void Trainer::resume(const RunState& state) {
  std::map<std::string, Tensor> optimizer;
  size_t restored = 0;
  for (const auto& [name, tensor] : state.tensors) {
    if (name.starts_with("optimizer.")) {
      optimizer[name.substr(10)] = tensor;
    } else if (name.starts_with("parameter.") && lora_.parameters().contains(name.substr(10))) {
      lora_.parameters()[name.substr(10)].master.copy_from(tensor);
      ++restored;
    } else {
      fail("resume: ", config_.resume, " has the unknown tensor ", name);
    }
  }
  if (restored != lora_.parameters().parameters().size())
    fail("resume: ", config_.resume, " has ", restored, " of ", lora_.parameters().parameters().size(), " parameters");
  lora_.parameters().refresh();
  optimizer_->load(optimizer);
  steps_done_ = state.step;
}

}  // namespace eri
