#pragma once

#include "eri/train/run_state.h"

namespace eri {

// Throws where going on with `before` under today's settings would be another run: naming each key, what it was
// and what it is. What is said in other words and means the same, such as a unet_lr that is learning_rate, is the same.
// Opens the base model's files and reads a little of some weights.
void require_same_run(const RunState& before, const TrainConfig& now);

// What to tell people where another max_train_steps changes the learning rates of the steps to come, or nothing.
std::string other_rates(const RunState& before, const TrainConfig& now);

}  // namespace eri
