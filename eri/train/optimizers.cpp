#include "eri/train/optimizers.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <sstream>

#include "eri/lora/metadata.h"
#include "flame/core/closest.h"
#include "flame/core/error.h"
#include "flame/optim/adamw8bit_kernels.h"

namespace eri {
namespace {

using flame::fail;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// "key=value" pairs, as Python writes values; each is asked for by the optimiser that knows it.
class Arguments {
 public:
  explicit Arguments(const std::string& args) {
    std::istringstream words(args);
    for (std::string word; words >> word;) {
      const size_t equals = word.find('=');
      if (equals == word.npos || equals == 0) fail("optimizer_args: expected key=value, got '", word, "'");
      given_[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }

  void number(const char* key, double& value) {
    if (const std::string* text = find(key); text && *text != "None") value = parse(key, *text);
    in_full_ += flame::text(" ", key, "=", python_text(value));
  }
  void number(const char* key, int64_t& value) {
    double wide = static_cast<double>(value);
    number(key, wide);
    value = static_cast<int64_t>(wide);
    if (static_cast<double>(value) != wide) fail("optimizer_args: ", key, ": expected a whole number, got ", wide);
  }
  void flag(const char* key, bool& value) {
    if (const std::string* text = find(key)) {
      const std::string word = lower(*text);
      if (word != "true" && word != "false")
        fail("optimizer_args: ", key, ": expected True or False, got '", *text, "'");
      value = word == "true";
    }
    in_full_ += flame::text(" ", key, "=", value ? "True" : "False");
  }
  void pair(const char* key, double& first, double& second) {
    if (const std::string* text = find(key)) {
      std::string inner = *text;
      if (inner.starts_with("(") || inner.starts_with("[")) inner = inner.substr(1, inner.size() - 2);
      const size_t comma = inner.find(',');
      if (comma == inner.npos) fail("optimizer_args: ", key, ": expected two numbers with a comma, got '", *text, "'");
      first = parse(key, inner.substr(0, comma));
      second = parse(key, inner.substr(comma + 1));
    }
    in_full_ += flame::text(" ", key, "=", python_text(first), ",", python_text(second));
  }
  const std::string& in_full() const { return in_full_; }  // all that were asked for

  // Once the optimiser has asked for all that it knows.
  void refuse_others(const char* optimizer) const {
    for (const auto& [key, value] : given_) {
      if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
      const std::string match = flame::closest(key, known_);
      std::string all;
      for (const std::string& each : known_) all += (all.empty() ? "" : ", ") + each;
      fail("optimizer_args: ", optimizer, " has no '", key, "'; ",
           match.empty() ? "it has " + all : "did you mean '" + match + "'?");
    }
  }

 private:
  const std::string* find(const char* key) {
    known_.emplace_back(key);
    const auto found = given_.find(key);
    return found == given_.end() ? nullptr : &found->second;
  }
  static double parse(const char* key, const std::string& text) {
    double value = 0;
    const char *begin = text.data(), *end = begin + text.size();
    if (auto [last, error] = std::from_chars(begin, end, value); error == std::errc() && last == end) return value;
    fail("optimizer_args: ", key, ": expected a number, got '", text, "'");
  }

  std::map<std::string, std::string> given_;
  std::vector<std::string> known_;
  std::string in_full_;
};

template <class Options>
Options adam(Arguments& args, double weight_decay) {
  Options options;
  options.weight_decay = weight_decay;
  args.pair("betas", options.beta1, options.beta2);
  args.number("weight_decay", options.weight_decay);
  if constexpr (requires { options.eps; }) args.number("eps", options.eps);
  return options;
}

flame::AdafactorOptions adafactor(Arguments& args, double weight_decay) {
  flame::AdafactorOptions options;
  options.weight_decay = weight_decay;
  args.pair("eps", options.eps, options.eps_scale);
  args.number("clip_threshold", options.clip_threshold);
  args.number("decay_rate", options.decay_rate);
  args.number("beta1", options.beta1);
  args.number("weight_decay", options.weight_decay);
  args.flag("scale_parameter", options.scale_parameter);
  args.flag("relative_step", options.relative_step);
  args.flag("warmup_init", options.warmup_init);
  if (options.warmup_init && !options.relative_step) fail("optimizer_args: warmup_init=True wants relative_step=True");
  return options;
}

flame::ProdigyOptions prodigy(Arguments& args, double weight_decay) {
  auto options = adam<flame::ProdigyOptions>(args, weight_decay);
  args.number("beta3", options.beta3);
  args.flag("decouple", options.decouple);
  args.flag("use_bias_correction", options.use_bias_correction);
  args.flag("safeguard_warmup", options.safeguard_warmup);
  args.number("d0", options.d0);
  args.number("d_coef", options.d_coef);
  args.number("growth_rate", options.growth_rate);
  return options;
}

flame::ScheduleFreeOptions schedule_free(Arguments& args, double weight_decay) {
  auto options = adam<flame::ScheduleFreeOptions>(args, weight_decay);
  args.number("warmup_steps", options.warmup_steps);
  args.number("r", options.r);
  args.number("weight_lr_power", options.weight_lr_power);
  return options;
}

using Chooser = OptimizerChoice (*)(Arguments& args, double weight_decay);
struct Known {
  const char* name;
  Chooser choose;
};
constexpr Known optimizers[] = {
    {"AdamW", [](Arguments& args, double decay) -> OptimizerChoice { return adam<flame::AdamWOptions>(args, decay); }},
    {"AdamW8bit", [](Arguments& args, double decay) -> OptimizerChoice { return adam<AdamW8bitOptions>(args, decay); }},
    {"Lion", [](Arguments& args, double decay) -> OptimizerChoice { return adam<flame::LionOptions>(args, decay); }},
    {"AdaFactor", [](Arguments& args, double decay) -> OptimizerChoice { return adafactor(args, decay); }},
    {"Prodigy", [](Arguments& args, double decay) -> OptimizerChoice { return prodigy(args, decay); }},
    {"AdamWScheduleFree", [](Arguments& args, double decay) -> OptimizerChoice { return schedule_free(args, decay); }},
};

template <class... F>
struct Overload : F... {
  using F::operator()...;
};

constexpr int64_t kFloat = 4;

// bitsandbytes' rule for one parameter: two bytes an element, and two scales a block.
int64_t bytes_8bit(int64_t elements) {
  if (elements < flame::least_8bit) return 2 * elements * kFloat;
  return 2 * elements + 2 * kFloat * ((elements + flame::block_8bit - 1) / flame::block_8bit);
}

struct Chosen {
  OptimizerChoice choice;
  std::string in_full;
};

Chosen chosen(const std::string& type, const std::string& args, double weight_decay) {
  std::vector<std::string> names;
  for (const auto& [name, choose] : optimizers) {
    names.emplace_back(name);
    if (lower(name) != lower(type)) continue;
    Arguments arguments(args);
    const OptimizerChoice choice = choose(arguments, weight_decay);
    arguments.refuse_others(name);
    return {choice, name + arguments.in_full()};
  }
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : name == names.back() ? " or " : ", ") + name;
  fail("optimizer_type: expected ", list, ", got '", type, "'");
}

}  // namespace

OptimizerChoice choose_optimizer(const std::string& type, const std::string& args, double weight_decay) {
  return chosen(type, args, weight_decay).choice;
}

std::string optimizer_in_full(const std::string& type, const std::string& args, double weight_decay) {
  return chosen(type, args, weight_decay).in_full;
}

std::unique_ptr<flame::Optimizer> make_optimizer(const OptimizerChoice& choice, flame::ParameterPack pack) {
  const auto made = [&]<class O>(const auto& options, O*) -> std::unique_ptr<flame::Optimizer> {
    return std::make_unique<O>(std::move(pack), options);
  };
  return std::visit(
      Overload{
          [&](const flame::AdamWOptions& options) { return made(options, static_cast<flame::AdamW*>(nullptr)); },
          [&](const AdamW8bitOptions& options) { return made(options, static_cast<flame::AdamW8bit*>(nullptr)); },
          [&](const flame::LionOptions& options) { return made(options, static_cast<flame::Lion*>(nullptr)); },
          [&](const flame::AdafactorOptions& options) {
            return made(options, static_cast<flame::Adafactor*>(nullptr));
          },
          [&](const flame::ProdigyOptions& options) { return made(options, static_cast<flame::Prodigy*>(nullptr)); },
          [&](const flame::ScheduleFreeOptions& options) {
            return made(options, static_cast<flame::AdamWScheduleFree*>(nullptr));
          },
      },
      choice);
}

std::string refuses_schedule(const OptimizerChoice& choice) {
  if (std::holds_alternative<flame::ScheduleFreeOptions>(choice))
    return "AdamWScheduleFree wants a constant learning rate; give optimizer_args warmup_steps=N to warm up";
  const auto* adafactor = std::get_if<flame::AdafactorOptions>(&choice);
  if (adafactor && adafactor->relative_step)
    return "AdaFactor chooses its own learning rate; give optimizer_args relative_step=False to use a schedule";
  return "";
}

std::string refuses_rates(const OptimizerChoice& choice, const std::set<double>& factors) {
  const auto* adafactor = std::get_if<flame::AdafactorOptions>(&choice);
  if (adafactor && adafactor->relative_step && factors != std::set<double>{1})
    return "AdaFactor chooses its own learning rates; give optimizer_args relative_step=False for unet_lr, "
           "text_encoder_lr "
           "and block_lr_weight, or the same number for learning_rate, unet_lr and text_encoder_lr";
  if (std::holds_alternative<flame::ProdigyOptions>(choice) && factors.size() > 1)
    return "Prodigy finds one step size for all; block_lr_weight may be one number or 0 in each place, and unet_lr "
           "and text_encoder_lr have to be equal";
  return "";
}

int64_t state_bytes(const OptimizerChoice& choice, int64_t rank, int64_t in, int64_t out) {
  const int64_t elements = rank * (in + out);
  return std::visit(Overload{
                        [&](const flame::AdamWOptions&) { return 2 * elements * kFloat; },
                        [&](const AdamW8bitOptions&) { return bytes_8bit(rank * in) + bytes_8bit(rank * out); },
                        [&](const flame::LionOptions&) { return elements * kFloat; },
                        [&](const flame::AdafactorOptions& options) {
                          return (2 * rank + in + out + (options.beta1 > 0 ? elements : 0)) * kFloat;
                        },
                        [&](const flame::ProdigyOptions&) { return 4 * elements * kFloat; },
                        [&](const flame::ScheduleFreeOptions&) { return 2 * elements * kFloat; },
                    },
                    choice);
}

}  // namespace eri
