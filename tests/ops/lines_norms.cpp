#include "flame/ops/layout.h"
#include "flame/ops/loss.h"
#include "flame/ops/norm.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "lines.h"
#include "plain.h"

namespace flame::test {
std::vector<Line> norm_lines() {
  const auto layer = [](In x) { return layer_norm(x[0], x[1], x[2], 1e-5f); };
  const auto rms = [](In x) { return rms_norm(x[0], x[1], 1e-6f); };
  const auto norm = [](In x) { return group_norm(x[0], 4, x[1], x[2], 1e-5f); };
  const auto group_bytes = [](int64_t statistics) {
    return std::vector<Kept>{{0, {0, 1}}, {1, {0}}, {Kept::floats, {0, 1}, statistics}};
  };
  const std::string covers = "group_norm(Tensor,int,Tensor,Tensor,float)";
  const Input gain = uniform({8}), twelve = uniform({12}), eleven = uniform({11});
  return {
      {.name = "layer_norm",
       .covers = "layer_norm(Tensor,Tensor,Tensor,float)",
       .inputs = {uniform({2, 3, 11}), eleven, eleven},
       .f = layer,
       .tolerance = function,
       .kept = {{0, {0, 1}}, {1, {0}}, {Kept::floats, {0, 1}, 2 * 6}},
       .plain = [](In x) { return plain_layer_norm(x[0], x[1], x[2], 1e-5f); },
       .large = {{2049, 129}, {129}, {129}},
       .misfits = {{{2, 11}, {10}, {11}}, {{2, 11}, {11}, {1}}}},
      {.name = "layer_norm.offset",
       .covers = "layer_norm(Tensor,Tensor,Tensor,float)",
       .inputs = {uniform({2, 3, 11}, 30, 31), eleven, eleven},
       .f = layer,
       .tolerance = offset,
       .kept = {{0, {0, 1}}, {1, {0}}, {Kept::floats, {0, 1}, 2 * 6}}},
      {.name = "rms_norm",
       .covers = "rms_norm(Tensor,Tensor,float)",
       .inputs = {uniform({2, 3, 11}), eleven},
       .f = rms,
       .tolerance = function,
       .kept = {{0, {0, 1}}, {1, {0}}, {Kept::floats, {0, 1}, 6}},
       .plain = [](In x) { return x[0] / sqrt(mean(x[0] * x[0], {-1}, true) + 1e-6f) * x[1]; },
       .large = {{2049, 129}, {129}},
       .misfits = {{{2, 11}, {10}}, {{2, 11}, {1}}, {{}, {1}}}},
      {.name = "rms_norm.eps",
       .covers = "rms_norm(Tensor,Tensor,float)",
       .inputs = {uniform({5, 16}), uniform({16})},
       .f = [](In x) { return rms_norm(x[0], x[1], 0.5f); },
       .tolerance = function,
       .kept = {{0, {0, 1}}, {1, {0}}, {Kept::floats, {0, 1}, 5}},
       .large = {{65, 4096}, {4096}}},
      {.name = "group_norm",
       .covers = covers,
       .inputs = {uniform({2, 3, 3, 8}), gain, gain},
       .f = norm,
       .tolerance = function,
       .kept = group_bytes(2 * 2 * 4),
       .plain = [](In x) { return plain_group_norm(x[0], 4, x[1], x[2], 1e-5f); },
       .large = {{4, 33, 31, 64}, {64}, {64}},
       .misfits = {{{2, 3, 8}, {6}, {8}}, {{2, 3, 6}, {6}, {6}}, {{8}, {8}, {8}}},
       .bad = {[](In x) { return group_norm(x[0], 0, x[1], x[2], 1e-5f); }}},
      {.name = "group_norm.one_sample",
       .covers = covers,
       .inputs = {uniform({1, 3, 3, 8}), gain, gain},
       .f = norm,
       .tolerance = function,
       .kept = group_bytes(2 * 4),
       .plain = [](In x) { return plain_group_norm(x[0], 4, x[1], x[2], 1e-5f); },
       .large = {{1, 65, 63, 64}, {64}, {64}}},
      {.name = "group_norm.offset",
       .covers = covers,
       .inputs = {uniform({2, 3, 3, 8}, 30, 31), gain, gain},
       .f = norm,
       .tolerance = offset,
       .kept = group_bytes(2 * 2 * 4)},
      {.name = "group_norm.single",
       .covers = covers,
       .inputs = {uniform({2, 5, 12}), twelve, twelve},
       .f = [](In x) { return group_norm(x[0], 12, x[1], x[2], 1e-6f); },
       .tolerance = function,
       .kept = group_bytes(2 * 2 * 12),
       .plain = [](In x) { return plain_group_norm(x[0], 12, x[1], x[2], 1e-6f); }},
      {.name = "group_norm_silu",
       .covers = "group_norm_silu(Tensor,int,Tensor,Tensor,float)",
       .inputs = {uniform({2, 3, 3, 6}), uniform({6}), uniform({6})},
       .f = [](In x) { return group_norm_silu(x[0], 2, x[1], x[2], 1e-5f); },
       .tolerance = function,
       .kept = {{0}, {1}, {2}, {Kept::floats, {}, 2 * 2 * 2}},
       .plain = [](In x) { return silu(group_norm(x[0], 2, x[1], x[2], 1e-5f)); },
       .large = {{3, 33, 31, 64}, {64}, {64}},
       .misfits = {{{2, 3, 6}, {6}, {5}}, {{2, 3, 5}, {5}, {5}}}},
      {.name = "geglu",
       .covers = "geglu(Tensor)",
       .inputs = {uniform({2, 3, 10})},
       .f = [](In x) { return geglu(x[0]); },
       .tolerance = function,
       .kept = {{0}},
       .plain =
           [](In x) {
             return narrow(x[0], -1, 0, x[0].dim(-1) / 2) * gelu(narrow(x[0], -1, x[0].dim(-1) / 2, x[0].dim(-1) / 2));
           },
       .large = {{257, 514}},
       .misfits = {{{2, 3}}, {{}}}},
  };
}

std::vector<Line> loss_lines() {
  // Differences lie 0.25 or more from the kinks at 0 and where |d| is 1.
  const std::vector<Input> apart = {lattice({3, 4}, -2, 2), lattice({3, 4}, -1.75, 1.75)};
  const std::vector<Shape> large = {{5, 257, 129}, {5, 257, 129}};
  const auto plain_huber = [](In x) {
    const Tensor d = x[0] - x[1];
    const Tensor one = Tensor::full({}, 1, d.dtype(), d.device());
    return mean(where(abs(d) <= one, 0.5f * d * d, abs(d) - 0.5f)).to(DType::f32);
  };
  return {
      {.name = "mse_loss",
       .covers = "mse_loss(Tensor,Tensor)",
       .inputs = {uniform({2, 3, 4}), uniform({2, 3, 4})},
       .f = [](In x) { return mse_loss(x[0], x[1]); },
       .tolerance = exact,
       .kept = {{0}, {1}},
       .plain = [](In x) { return mean((x[0] - x[1]) * (x[0] - x[1])).to(DType::f32); },
       .large = {{5, 257, 129}, {5, 257, 129}},
       .misfits = {{{2, 3}, {3}}, {{0}, {0}}}},
      {.name = "weighted_mse_loss",
       .covers = "weighted_mse_loss(Tensor,Tensor,Tensor)",
       .inputs = {uniform({3, 2, 4}), uniform({3, 2, 4}), fixed({3}, 0.5, 2)},
       .f = [](In x) { return weighted_mse_loss(x[0], x[1], x[2]); },
       .tolerance = exact,
       .kept = {{0}, {1}, {2}},
       .plain =
           [](In x) {
             return mean(x[2] * mean((x[0] - x[1]) * (x[0] - x[1]), {1, 2}).to(DType::f32));
           },
       .large = {{5, 257, 129}, {5, 257, 129}, {5}},
       .misfits = {{{3, 2}, {3, 2}, {2}}, {{3, 2}, {3, 4}, {3}}},
       .bad = {[](In x) { return weighted_mse_loss(x[0], x[1], x[2].requires_grad()); }}},
      {.name = "huber_loss",
       .covers = "huber_loss(Tensor,Tensor,float)",
       .inputs = apart,
       .f = [](In x) { return huber_loss(x[0], x[1]); },
       .tolerance = exact,
       .kept = {{0}, {1}},
       .plain = plain_huber,
       .large = large,
       .misfits = {{{2, 3}, {3}}, {{0}, {0}}},
       .bad = {[](In x) { return huber_loss(x[0], x[1], 0); }}},
      {.name = "huber_loss.delta",
       .covers = "huber_loss(Tensor,Tensor,float)",
       .inputs = apart,
       .f = [](In x) { return huber_loss(x[0], x[1], 0.5f); },
       .tolerance = exact,
       .kept = {{0}, {1}}},
      {.name = "smooth_l1_loss",
       .covers = "smooth_l1_loss(Tensor,Tensor,float)",
       .inputs = apart,
       .f = [](In x) { return smooth_l1_loss(x[0], x[1]); },
       .tolerance = exact,
       .kept = {{0}, {1}},
       .plain = plain_huber,
       .large = large,
       .misfits = {{{2, 3}, {3}}, {{0}, {0}}},
       .bad = {[](In x) { return smooth_l1_loss(x[0], x[1], -1); }}},
      {.name = "smooth_l1_loss.beta",
       .covers = "smooth_l1_loss(Tensor,Tensor,float)",
       .inputs = apart,
       .f = [](In x) { return smooth_l1_loss(x[0], x[1], 0.5f); },
       .tolerance = exact,
       .kept = {{0}, {1}}},
      {.name = "smooth_l1_loss.size",
       .covers = "smooth_l1_loss(Tensor,Tensor,float)",
       .inputs = apart,
       .f = [](In x) { return smooth_l1_loss(x[0], x[1], 0); },
       .tolerance = exact,
       .kept = {{0}, {1}}},
  };
}

}  // namespace flame::test
