#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "flame/optim/adamw.h"

namespace flame::test {

// An optimiser on `device` scales losses as torch.amp.GradScaler does (tests/reference/grad_scaler.py), also where it
// goes on from a saved state. `step` makes the optimiser's next step.
inline void expect_the_scales_of_pytorch(Device device, const std::function<void(Optimizer&)>& step) {
  std::ifstream file("tests/data/grad_scaler.json");
  const nlohmann::json expected = nlohmann::json::parse(file);
  const auto make = [&] {
    auto made =
        std::make_unique<AdamW>(ParameterPack({{"x", Tensor::zeros({1000}, DType::f32, device)}}), AdamW::Options{});
    made->scale_losses({.growth_interval = expected.at("growth_interval")});
    return made;
  };
  std::unique_ptr<AdamW> optimizer = make();
  EXPECT_EQ(optimizer->loss_scale().item(), 0x1p16f);
  const size_t count = expected.at("good").size();
  ASSERT_GT(count, 0u);
  for (size_t i = 0; i < count; ++i) {
    const bool good = expected.at("good")[i];
    const Tensor& gradients = optimizer->pack().gradients();
    gradients.fill(optimizer->loss_scale().item());
    if (!good) gradients.rows(static_cast<int64_t>(i), 1).fill(i % 2 ? NAN : std::numeric_limits<double>::infinity());
    step(*optimizer);
    EXPECT_EQ(optimizer->loss_scale().item(), expected.at("scale")[i].get<float>()) << "step " << i;
    EXPECT_EQ(static_cast<double>(-optimizer->steps()), expected.at("value")[i].get<double>()) << "step " << i;
    if (good) {
      EXPECT_FLOAT_EQ(optimizer->last_norm().item(), std::sqrt(1000.0f)) << "step " << i;
    }
    if (i % 7 == 6) {  // saved and taken up by another
      const std::map<std::string, Tensor> saved = optimizer->save();
      optimizer = make();
      optimizer->load(saved);
    }
  }
}

}  // namespace flame::test
