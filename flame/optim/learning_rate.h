#pragma once

#include <cstdint>
#include <string_view>

namespace flame {

// The factor that a step's learning rate is multiplied by: Hugging Face's get_*_schedule, as a function of the step.
struct LearningRateSchedule {
  enum class Kind : uint8_t { constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial };

  Kind kind = Kind::constant;
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;  // of the run, warm-up included; constant schedules do not ask
  int64_t num_cycles = 1;   // of cosine_with_restarts
  double power = 1;         // of polynomial, which ends at final_factor
  double final_factor = 0;

  double factor(int64_t step) const;         // step counts from 0
  static Kind parse(std::string_view name);  // one of these names, else throws
};

}  // namespace flame
