#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "flame/optim/adamw.h"
#include "flame/optim/learning_rate.h"
#include "flame/optim/optimizer_kernels.h"
#include "tests/optim/grad_scaler.h"

namespace flame {
namespace {

// Large enough that several threads share it, and not a multiple of a block.
ParameterPack make_pack(uint64_t seed = 1) {
  Generator generator(seed);
  return ParameterPack({{"a", Tensor::randn({300, 130}, generator)},
                        {"b", Tensor::randn({7}, generator)},
                        {"c", Tensor::randn({2, 3, 3, 1500}, generator)}});
}

void set_gradients(const ParameterPack& pack, uint32_t step) {
  Generator generator(99);
  generator.set_step(step);
  pack.gradients().copy_from(Tensor::randn({pack.numel()}, generator));
}

TEST(ParameterPack, ParametersAreViewsOfOneBuffer) {
  const ParameterPack pack = make_pack();
  EXPECT_EQ(pack.numel(), 300 * 130 + 7 + 2 * 3 * 3 * 1500);
  pack.values().fill(3);
  EXPECT_EQ(pack["b"].value.to_host<float>(), std::vector<float>(7, 3.0f));
  EXPECT_EQ(pack["c"].value.shape(), Shape({2, 3, 3, 1500}));
  EXPECT_TRUE(pack["a"].value.wants_grad());
  EXPECT_THROW(pack["d"], Error);
  EXPECT_THROW(ParameterPack({{"a", Tensor::zeros({2})}, {"a", Tensor::zeros({3})}}), Error);
  EXPECT_THROW(AdamW(ParameterPack(), {}), Error);
}

TEST(ParameterPack, BackwardPassesAddToTheFlatGradient) {
  const ParameterPack pack = make_pack();
  GradientMap gradients;
  pack.bind(gradients);
  gradients.add(pack["b"].value.slot(), Tensor::full({7}, 2));
  gradients.add(pack["b"].value.slot(), Tensor::full({7}, 0.5));
  const std::vector<float> flat = pack.gradients().to_host<float>();
  EXPECT_EQ(flat[300 * 130 - 1], 0.0f);
  EXPECT_EQ(flat[300 * 130], 2.5f);
  EXPECT_EQ(flat[300 * 130 + 6], 2.5f);
  EXPECT_EQ(flat[300 * 130 + 7], 0.0f);
  pack.zero_grad();
  EXPECT_EQ(pack["b"].gradient.to_host<float>(), std::vector<float>(7, 0.0f));
}

TEST(ParameterPack, KeepsACopyToComputeIn) {
  const Tensor start = Tensor::from<float>({1, 1 + 0x1p-8f, 1 + 0x1.8p-7f, 1 + 0x1.04p-8f, -3e-20f}, {5});
  const ParameterPack pack({{"a", start}, {"b", Tensor::ones({2, 2})}}, DType::bf16);
  const ParameterPack::Parameter& a = pack["a"];
  EXPECT_EQ(a.value.dtype(), DType::bf16);
  EXPECT_TRUE(a.value.wants_grad());
  EXPECT_EQ(a.master.to_host<float>(), start.to_host<float>());
  const std::vector<float> nearest = {1, 1, 1 + 0x1p-6f, 1 + 0x1p-7f,
                                      start.to(DType::bf16).to(DType::f32).data<float>()[4]};
  EXPECT_EQ(a.value.detach().to(DType::f32).to_host<float>(), nearest);
  pack.values().fill(2);
  EXPECT_EQ(pack["b"].value.detach().to(DType::f32).to_host<float>(), std::vector<float>(4, 1.0f));
  pack.refresh();
  EXPECT_EQ(pack["b"].value.detach().to(DType::f32).to_host<float>(), std::vector<float>(4, 2.0f));

  GradientMap gradients;
  pack.bind(gradients);
  gradients.add(a.value.slot(), Tensor::ones({5}, DType::bf16));
  gradients.add(a.value.slot(), Tensor::full({5}, 0x1p-20));
  EXPECT_EQ(a.gradient.to_host<float>(), std::vector<float>(5, 1 + 0x1p-20f));
}

TEST(GradientNorm, IsTheL2Norm) {
  std::vector<float> values(100003);
  for (size_t i = 0; i < values.size(); ++i) values[i] = i % 2 ? 3.0f : -4.0f;
  const int64_t count = static_cast<int64_t>(values.size());
  EXPECT_DOUBLE_EQ(gradient_norm(Tensor::from(values, {count})), std::sqrt(50002 * 16.0 + 50001 * 9.0));
  values[70000] = 3e38f;  // its square is no float
  EXPECT_NEAR(gradient_norm(Tensor::from(values, {count})) / 3e38, 1, 1e-6);
}

TEST(GradientNorm, ClipsLikePyTorch) {
  EXPECT_DOUBLE_EQ(clip_factor(4, 1), 1 / 4.000001);
  EXPECT_EQ(clip_factor(0.5, 1), 1);
  EXPECT_EQ(clip_factor(1e30, std::numeric_limits<double>::infinity()), 1);
}

std::vector<float> train(int thread_count) {
  const int before = threads();
  set_threads(thread_count);
  AdamW optimizer(make_pack(), {});
  for (uint32_t step = 0; step < 5; ++step) {
    set_gradients(optimizer.pack(), step);
    optimizer.step(1e-2, 1);
  }
  set_threads(before);
  return optimizer.pack().values().to_host<float>();
}

TEST(Optimizer, IsTheSameForAnyNumberOfThreads) {
  const std::vector<float> one = train(1);
  EXPECT_EQ(one, train(2));
  EXPECT_EQ(one, train(3));
}

// Clipping to a third of the norm has to be the same as giving a third of the gradient.
TEST(Optimizer, ClipsBeforeTheUpdate) {
  AdamW clipped(make_pack(), {.eps = 1}), scaled(make_pack(), {.eps = 1});  // eps 1: the size of a gradient matters
  set_gradients(clipped.pack(), 0);
  set_gradients(scaled.pack(), 0);
  const double norm = gradient_norm(clipped.pack().gradients());
  EXPECT_DOUBLE_EQ(clipped.step(1e-2, norm / 3).gradient_norm, norm);
  float* gradients = scaled.pack().gradients().data<float>();
  for (int64_t i = 0; i < scaled.pack().numel(); ++i) gradients[i] /= 3;
  scaled.step(1e-2);
  const std::vector<float> a = clipped.pack().values().to_host<float>(), b = scaled.pack().values().to_host<float>();
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-6) << i;
}

TEST(Optimizer, SkipsAndCountsStepsWithoutAFiniteGradient) {
  AdamW optimizer(make_pack(), {});
  const std::vector<float> before = optimizer.pack().values().to_host<float>();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    set_gradients(optimizer.pack(), 0);
    optimizer.pack().gradients().data<float>()[40000] = bad;
    EXPECT_TRUE(optimizer.step(1e-2, 1).skipped);
  }
  EXPECT_EQ(optimizer.skipped(), 2);
  EXPECT_EQ(optimizer.steps(), 0);
  EXPECT_EQ(optimizer.pack().values().to_host<float>(), before);
  set_gradients(optimizer.pack(), 0);
  EXPECT_FALSE(optimizer.step(1e-2, 1).skipped);
  EXPECT_NE(optimizer.pack().values().to_host<float>(), before);
}

TEST(Optimizer, StepsTheSameWithoutReadingAnythingBack) {
  AdamW plain(make_pack(), {}), on_device(make_pack(), {});
  const Tensor rate = Tensor::zeros({});
  for (uint32_t step = 0; step < 4; ++step) {
    set_gradients(plain.pack(), step);
    set_gradients(on_device.pack(), step);
    if (step == 2) plain.pack().gradients().fill(NAN), on_device.pack().gradients().fill(NAN);
    rate.fill(0x1p-7 / (step + 1));
    const Optimizer::Step expected = plain.step(static_cast<double>(rate.item()), 1);
    on_device.step_on_device(rate, 1);
    EXPECT_EQ(on_device.last_norm().shape(), Shape{});
    const float norm = on_device.last_norm().item();
    EXPECT_TRUE(expected.skipped ? std::isnan(norm) : norm == static_cast<float>(expected.gradient_norm)) << norm;
  }
  EXPECT_EQ(on_device.steps(), 3);
  EXPECT_EQ(on_device.skipped(), 1);
  EXPECT_EQ(on_device.pack().values().to_host<float>(), plain.pack().values().to_host<float>());
  EXPECT_THROW(on_device.step_on_device(Tensor::zeros({}, DType::f16)), Error);
  EXPECT_THROW(on_device.step_on_device(Tensor::zeros({2})), Error);
}

// What is trained and saved does not depend on what the model computes in.
TEST(Optimizer, MovesTheMastersAndRoundsThemForTheModel) {
  const ParameterPack start = make_pack();
  NamedTensors values;
  for (const auto& parameter : start.parameters()) values.emplace_back(parameter.name, parameter.master);
  for (const DType dtype : {DType::bf16, DType::f16}) {
    AdamW wide(ParameterPack(values), {}), narrow(ParameterPack(values, dtype), {});
    for (uint32_t step = 0; step < 3; ++step) {
      for (AdamW* optimizer : {&wide, &narrow}) {
        set_gradients(optimizer->pack(), step);
        optimizer->step(1e-2, 1);
      }
    }
    const Tensor masters = narrow.pack().values();
    EXPECT_EQ(masters.to_host<float>(), wide.pack().values().to_host<float>());
    EXPECT_EQ(narrow.pack().compute_copy().to(DType::f32).to_host<float>(),
              masters.to(dtype).to(DType::f32).to_host<float>());
    for (const auto& [name, tensor] : narrow.save()) {
      EXPECT_TRUE(tensor.dtype() == DType::f32 || tensor.dtype() == DType::i64) << name;
    }
  }
}

TEST(Optimizer, GoesOnBitForBitFromASavedState) {
  AdamW whole(make_pack(), {});
  std::map<std::string, Tensor> saved;
  Tensor values;
  for (uint32_t step = 0; step < 6; ++step) {
    if (step == 3) saved = whole.save(), values = whole.pack().values().clone();
    set_gradients(whole.pack(), step);
    whole.step(1e-2, 1);
  }
  AdamW resumed(make_pack(2), {});
  resumed.load(saved);
  resumed.pack().values().copy_from(values);
  EXPECT_EQ(resumed.steps(), 3);
  for (uint32_t step = 3; step < 6; ++step) {
    set_gradients(resumed.pack(), step);
    resumed.step(1e-2, 1);
  }
  EXPECT_EQ(resumed.pack().values().to_host<float>(), whole.pack().values().to_host<float>());
}

TEST(Optimizer, RefusesAStateThatDoesNotFit) {
  AdamW optimizer(make_pack(), {});
  const std::map<std::string, Tensor> good = optimizer.save();
  EXPECT_EQ(good.size(), 2 * 3 + 2);
  auto missing = good;
  missing.erase("exp_avg.b");
  EXPECT_THROW(optimizer.load(missing), Error);
  auto unknown = good;
  unknown["exp_avg.d"] = Tensor::zeros({7});
  EXPECT_THROW(optimizer.load(unknown), Error);
  auto other_shape = good;
  other_shape["exp_avg_sq.b"] = Tensor::zeros({8});
  EXPECT_THROW(optimizer.load(other_shape), Error);
  EXPECT_NO_THROW(optimizer.load(good));
}

// From transformers 5.23's get_constant_schedule_with_warmup(o, 4), get_linear_... and get_cosine_...(o, 4, 20).
TEST(LearningRateSchedule, IsHuggingFaces) {
  using Kind = LearningRateSchedule::Kind;
  const std::vector<int64_t> steps = {0, 1, 3, 4, 5, 11, 19, 20, 21};
  const auto factors = [&](LearningRateSchedule schedule) {
    std::vector<double> result;
    for (const int64_t step : steps) result.push_back(schedule.factor(step));
    return result;
  };
  EXPECT_EQ(factors({Kind::constant, 4, 20}), std::vector<double>(9, 1.0));
  EXPECT_EQ(factors({Kind::constant_with_warmup, 4, 20}), (std::vector<double>{0, 0.25, 0.75, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(factors({Kind::linear, 4, 20}), (std::vector<double>{0, 0.25, 0.75, 1, 0.9375, 0.5625, 0.0625, 0, 0}));
  const std::vector<double> cosine = {
      0, 0.25, 0.75, 1, 0.9903926402016152, 0.5975451610080642, 0.009607359798384785, 0, 0.009607359798384785};
  const std::vector<double> got = factors({Kind::cosine, 4, 20});
  for (size_t i = 0; i < steps.size(); ++i) EXPECT_NEAR(got[i], cosine[i], 1e-15) << steps[i];
  EXPECT_EQ(LearningRateSchedule::parse("cosine"), Kind::cosine);
  EXPECT_THROW(LearningRateSchedule::parse("cosin"), Error);
}

TEST(LossScaling, IsThatOfPyTorch) {
  test::expect_the_scales_of_pytorch(Device::cpu(), [](Optimizer& optimizer) { optimizer.step(1e-3); });
}

// A power of two that gradients come multiplied by leaves no trace in what they move.
TEST(LossScaling, ChangesNoBit) {
  AdamW plain(make_pack(), {}), scaled(make_pack(), {});
  scaled.scale_losses({.initial = 1024, .growth_interval = 2});
  for (uint32_t step = 0; step < 6; ++step) {
    set_gradients(plain.pack(), step);
    const float scale = scaled.loss_scale().item();
    EXPECT_EQ(scale, 1024 << step / 2);
    set_gradients(scaled.pack(), step);
    for (int64_t i = 0; i < scaled.pack().numel(); ++i) scaled.pack().gradients().data<float>()[i] *= scale;
    EXPECT_EQ(scaled.step(1e-2, 1).gradient_norm, plain.step(1e-2, 1).gradient_norm);
  }
  EXPECT_EQ(scaled.pack().values().to_host<float>(), plain.pack().values().to_host<float>());
}

TEST(LossScaling, IsAPartOfTheSavedState) {
  AdamW plain(make_pack(), {}), scaled(make_pack(), {});
  scaled.scale_losses();
  EXPECT_THROW(scaled.load(plain.save()), Error);
  EXPECT_THROW(plain.load(scaled.save()), Error);
  EXPECT_THROW(plain.scale_losses({.initial = 0}), Error);
}

}  // namespace
}  // namespace flame
