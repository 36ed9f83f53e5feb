#pragma once

#include <memory>
#include <set>
#include <string>
#include <variant>

#include "flame/optim/adafactor.h"
#include "flame/optim/adamw8bit.h"
#include "flame/optim/lion.h"
#include "flame/optim/prodigy.h"
#include "flame/optim/schedule_free.h"

namespace eri {

struct AdamW8bitOptions : flame::AdamWOptions {};

// An optimiser and its arguments, before there is anything to optimise.
using OptimizerChoice = std::variant<flame::AdamWOptions, AdamW8bitOptions, flame::LionOptions, flame::AdafactorOptions,
                                     flame::ProdigyOptions, flame::ScheduleFreeOptions>;

// kohya's names (AdamW, AdamW8bit, Lion, AdaFactor, Prodigy, AdamWScheduleFree) in any case. `args` are its
// "key=value" pairs, apart by spaces; their keys are those of the optimiser's own implementation. Throws naming what is
// unknown and what there is.
OptimizerChoice choose_optimizer(const std::string& type, const std::string& args, double weight_decay);

// The same with every argument that it knows and its value, "AdamW betas=0.9,0.999 ...": one text for one meaning.
std::string optimizer_in_full(const std::string& type, const std::string& args, double weight_decay);

std::unique_ptr<flame::Optimizer> make_optimizer(const OptimizerChoice& choice, flame::ParameterPack pack);

// Whether it has a learning rate of its own, so that a schedule would be against it; what to say then, or nothing.
std::string refuses_schedule(const OptimizerChoice& choice);

// Whether it cannot give parameters learning rates of their own, the step's times these factors; the same.
std::string refuses_rates(const OptimizerChoice& choice, const std::set<double>& factors);

// What its state takes of memory for the two factors of a LoRA [rank, in] and [out, rank].
int64_t state_bytes(const OptimizerChoice& choice, int64_t rank, int64_t in, int64_t out);

}  // namespace eri
