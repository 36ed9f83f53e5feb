#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>

#include "flame/io/safetensors.h"
#include "flame/optim/adafactor.h"
#include "flame/optim/adamw8bit.h"
#include "flame/optim/lion.h"
#include "flame/optim/prodigy.h"
#include "flame/optim/schedule_free.h"

// The cases of tests/reference/optimizers.py, and the checks that hold for each optimiser on either device.
namespace flame::test {

struct OptimizerCase {
  std::string name;
  std::function<std::unique_ptr<Optimizer>(ParameterPack)> make;
  double lr;
  std::optional<std::pair<double, double>> slow = {};  // the second group's factors, where there are two
  double tolerance = 2e-5;                             // relative L2 distance
  bool large = false;
};

template <class O>
auto made(const typename O::Options& options) {
  return [options](ParameterPack pack) -> std::unique_ptr<Optimizer> {
    return std::make_unique<O>(std::move(pack), options);
  };
}

inline const std::vector<OptimizerCase>& optimizer_cases() {
  const std::pair<double, double> fifth = {0.2, 0};
  static const std::vector<OptimizerCase> cases = {
      {"adamw", made<AdamW>({.weight_decay = 0.1}), 1e-2},
      {"adamw.groups", made<AdamW>({.weight_decay = 0.1}), 1e-2, fifth},
      {"lion", made<Lion>({.weight_decay = 0.1}), 1e-3},
      {"lion.groups", made<Lion>({0.95, 0.98, 0.1}), 1e-3, fifth},
      {"adafactor", made<Adafactor>({}), 0},
      {"adafactor.fixed", made<Adafactor>({.weight_decay = 0.1, .scale_parameter = false, .relative_step = false}),
       1e-2},
      {"adafactor.moment",
       made<Adafactor>({.clip_threshold = 0.5, .decay_rate = -0.5, .beta1 = 0.9, .relative_step = false}), 1e-2},
      {"adafactor.warmup", made<Adafactor>({.scale_parameter = false, .warmup_init = true}), 0},
      {"adafactor.groups", made<Adafactor>({.weight_decay = 0.1, .scale_parameter = false, .relative_step = false}),
       1e-2, fifth},
      {"prodigy", made<Prodigy>({.d0 = 1e-3}), 1},
      {"prodigy.safe",
       made<Prodigy>(
           {.weight_decay = 0.1, .use_bias_correction = true, .safeguard_warmup = true, .d0 = 1e-3, .d_coef = 0.5}),
       1},
      {"prodigy.coupled",
       made<Prodigy>({.beta1 = 0.8,
                      .beta2 = 0.99,
                      .beta3 = 0.9,
                      .weight_decay = 0.01,
                      .decouple = false,
                      .d0 = 1e-3,
                      .growth_rate = 1.5}),
       0.5},
      {"prodigy.no_moment", made<Prodigy>({.beta1 = 0, .beta2 = 0.99, .d0 = 1e-3, .growth_rate = 1.05}), 1},
      {"schedule_free", made<AdamWScheduleFree>({}), 1e-2},
      {"schedule_free.warmup",
       made<AdamWScheduleFree>(
           {.beta1 = 0.95, .beta2 = 0.99, .weight_decay = 0.1, .warmup_steps = 20, .r = 0.5, .weight_lr_power = 1}),
       1e-2},
      {"schedule_free.groups", made<AdamWScheduleFree>({.weight_decay = 0.1, .warmup_steps = 5}), 1e-2, fifth},
      // A value near the middle of two codes may fall to either side.
      {"adamw8bit", made<AdamW8bit>({.weight_decay = 0.1}), 1e-2, {}, 1e-3, true},
  };
  return cases;
}

// tests/reference/optimizers.py has the same formula.
inline Tensor formula(const std::string& name, const Shape& shape) {
  const auto mix = [](uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
  };
  uint64_t state = 0xCBF29CE484222325;
  for (const char c : name) state = (state ^ static_cast<uint8_t>(c)) * 0x100000001B3;
  state = mix(state);
  const Tensor values = Tensor::empty(shape);
  for (int64_t i = 0; i < values.numel(); ++i) {
    const uint64_t bits = mix(state + static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15) >> 40;
    values.data<float>()[i] = (static_cast<float>(bits) - 0x1p23f) * 0x1p-23f;
  }
  return values;
}

class OptimizerRun {
 public:
  explicit OptimizerRun(const OptimizerCase& c, Device device, DType compute = DType::f32) : case_(c) {
    ParameterGroup fast, slow;
    const auto add = [&](ParameterGroup& group, const std::string& name, const Shape& shape) {
      start_[name] = formula(name, shape);
      for (int64_t i = 0; i < start_[name].numel(); ++i) start_[name].data<float>()[i] *= 0.125f;
      group.parameters.emplace_back(name, start_[name].to(device));
    };
    add(fast, "matrix", c.large ? Shape{40, 130} : Shape{12, 20});
    if (c.large) {
      add(fast, "small", {30, 7});
    } else {
      add(fast, "vector", {7});
      add(slow, "conv", {2, 3, 3, 5});
      add(slow, "number", {});
    }
    if (c.slow) std::tie(slow.lr, slow.weight_decay) = *c.slow;
    optimizer_ = c.make(ParameterPack(std::vector<ParameterGroup>{fast, slow}, compute));
  }

  Optimizer& optimizer() { return *optimizer_; }
  const ParameterPack& pack() const { return optimizer_->pack(); }

  void set_gradients(int64_t step, float scale = 1) {
    for (const auto& parameter : pack().parameters()) {
      const Shape& shape = parameter.master.shape();
      const Tensor gradient = formula(text(parameter.name, "/", step), shape);
      const Tensor mean = formula(parameter.name + "/mean", shape);
      for (int64_t i = 0; i < gradient.numel(); ++i)
        gradient.data<float>()[i] = scale * (0.1f * (gradient.data<float>()[i] + 0.5f * mean.data<float>()[i]));
      parameter.gradient.copy_from(gradient);
    }
  }
  Optimizer::Step step(int64_t number, double max_norm = std::numeric_limits<double>::infinity()) {
    set_gradients(number);
    return optimizer_->step(case_.lr, max_norm);
  }
  std::vector<float> values() const { return pack().values().to_host<float>(); }

  // The relative distance between what has moved and `expected`.
  double distance(const std::string& name, const Tensor& expected) const {
    const std::vector<float> now = pack()[name].master.to_host<float>();
    double difference = 0, size = 0;
    for (size_t i = 0; i < now.size(); ++i) {
      const double wanted = expected.data<float>()[i], got = now[i] - start_.at(name).data<float>()[i];
      difference += (got - wanted) * (got - wanted);
      size += wanted * wanted;
    }
    return std::sqrt(difference / size);
  }

 private:
  const OptimizerCase& case_;
  std::map<std::string, Tensor> start_;
  std::unique_ptr<Optimizer> optimizer_;
};

// What each implementation of its own has moved after steps 1, 10 and 60.
inline void expect_the_reference(const OptimizerCase& c, Device device) {
  const SafetensorsFile expected(TESTS_DIR "/data/optimizers.safetensors");
  OptimizerRun run(c, device);
  int64_t kept = 0;
  for (int64_t step = 1; step <= 60; ++step) {
    EXPECT_FALSE(run.step(step).skipped);
    if (step != 1 && step != 10 && step != 60) continue;
    const auto compare = [&](const std::string& prefix) {
      for (const auto& parameter : run.pack().parameters()) {
        const Tensor wanted = expected.tensor(c.name + "/" + prefix + parameter.name).rows(kept, 1);
        EXPECT_LE(run.distance(parameter.name, wanted), c.tolerance) << prefix << parameter.name << " at " << step;
      }
    };
    compare("");
    if (const auto* prodigy = dynamic_cast<const Prodigy*>(&run.optimizer())) {
      const double d = static_cast<double>(expected.tensor(c.name + "/d").data<float>()[kept]);
      EXPECT_NEAR(prodigy->d() / d, 1, 2e-6) << step;
    }
    if (run.optimizer().averages()) {
      const std::vector<float> before = run.values();
      run.optimizer().eval();
      compare("averaged.");
      EXPECT_THROW(run.optimizer().step(c.lr), Error);
      EXPECT_THROW(run.optimizer().save(), Error);
      run.optimizer().train();
      EXPECT_EQ(run.values(), before);
    }
    ++kept;
  }
  EXPECT_EQ(run.optimizer().steps(), 60);
}

inline void expect_to_go_on_bit_for_bit(const OptimizerCase& c, Device device) {
  OptimizerRun whole(c, device), resumed(c, device);
  std::map<std::string, Tensor> saved;
  Tensor values;
  for (int64_t step = 1; step <= 8; ++step) {
    whole.step(step, 0.2);
    if (step == 4) saved = whole.optimizer().save(), values = whole.pack().values().clone();
  }
  resumed.step(77);
  resumed.optimizer().load(saved);
  resumed.pack().values().copy_from(values);
  for (int64_t step = 5; step <= 8; ++step) resumed.step(step, 0.2);
  EXPECT_EQ(resumed.values(), whole.values());
  EXPECT_EQ(resumed.optimizer().steps(), 8);
  int64_t bytes = 0;
  for (const auto& [name, tensor] : saved)
    if (name != "step" && name != "skipped") bytes += static_cast<int64_t>(tensor.bytes());
  EXPECT_EQ(whole.optimizer().state_bytes(), bytes);
}

// A step without a finite gradient leaves no trace, not in the state either.
inline void expect_to_skip(const OptimizerCase& c, Device device) {
  OptimizerRun clean(c, device), disturbed(c, device);
  for (int64_t step = 1; step <= 4; ++step) {
    clean.step(step);
    disturbed.set_gradients(step);
    disturbed.pack().gradients().rows(3, 1).fill(step % 2 ? NAN : INFINITY);
    EXPECT_TRUE(disturbed.optimizer().step(c.lr).skipped);
    disturbed.step(step);
  }
  EXPECT_EQ(disturbed.values(), clean.values());
  EXPECT_EQ(disturbed.optimizer().skipped(), 4);
}

// Clipping to half the norm is the same as half the gradient.
inline void expect_to_clip(const OptimizerCase& c, Device device) {
  OptimizerRun clipped(c, device), halved(c, device);
  for (int64_t step = 1; step <= 3; ++step) {
    clipped.set_gradients(step);
    const double norm = gradient_norm(clipped.pack().gradients());
    clipped.optimizer().step(c.lr, norm / 2);
    halved.set_gradients(step, 0.5f);
    halved.optimizer().step(c.lr);
  }
  const std::vector<float> a = clipped.values(), b = halved.values();
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-5) << i;
}

// The model sees the masters, rounded.
inline void expect_a_rounded_copy(const OptimizerCase& c, Device device) {
  OptimizerRun wide(c, device), narrow(c, device, DType::bf16);
  for (int64_t step = 1; step <= 3; ++step) {
    wide.step(step);
    narrow.step(step);
    const Tensor rounded = narrow.pack().values().to(Device::cpu()).to(DType::bf16).to(DType::f32);
    EXPECT_EQ(narrow.pack().compute_copy().to(Device::cpu()).to(DType::f32).to_host<float>(), rounded.to_host<float>());
  }
  EXPECT_EQ(narrow.values(), wide.values());
}

inline std::string case_name(const testing::TestParamInfo<OptimizerCase>& info) {
  std::string name = info.param.name;
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}
inline std::ostream& operator<<(std::ostream& out, const OptimizerCase& c) { return out << c.name; }

}  // namespace flame::test
