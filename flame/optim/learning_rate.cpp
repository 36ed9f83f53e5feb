#include "flame/optim/learning_rate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "flame/core/error.h"

namespace flame {

double LearningRateSchedule::factor(int64_t step) const {
  if (kind == Kind::constant) return 1;
  const auto at_least_one = [](int64_t steps) { return static_cast<double>(std::max<int64_t>(steps, 1)); };
  if (step < warmup_steps) return static_cast<double>(step) / at_least_one(warmup_steps);
  const double decay_steps = at_least_one(total_steps - warmup_steps);
  const double progress = static_cast<double>(step - warmup_steps) / decay_steps;
  const auto half_wave = [](double part) { return std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * part))); };
  switch (kind) {
    case Kind::linear:
      return std::max(0.0, static_cast<double>(total_steps - step) / decay_steps);
    case Kind::cosine:
      return half_wave(progress);
    case Kind::cosine_with_restarts:
      return progress >= 1 ? 0 : half_wave(std::fmod(static_cast<double>(num_cycles) * progress, 1.0));
    case Kind::polynomial:
      if (step > total_steps) return final_factor;
      return (1 - final_factor) * std::pow(1 - progress, power) + final_factor;
    default:
      return 1;
  }
}

LearningRateSchedule::Kind LearningRateSchedule::parse(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, Kind>, 6> kinds = {
      {{"constant", Kind::constant},
       {"constant_with_warmup", Kind::constant_with_warmup},
       {"linear", Kind::linear},
       {"cosine", Kind::cosine},
       {"cosine_with_restarts", Kind::cosine_with_restarts},
       {"polynomial", Kind::polynomial}}};
  for (const auto& [known, kind] : kinds) {
    if (name == known) return kind;
  }
  fail("unknown learning-rate schedule '", name,
       "': expected constant, constant_with_warmup, linear, cosine, "
       "cosine_with_restarts or polynomial");
}

}  // namespace flame
