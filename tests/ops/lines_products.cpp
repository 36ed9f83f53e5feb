#include "attention_noise.h"
#include "flame/ops/attention.h"
#include "flame/ops/conv.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "lines.h"
#include "plain.h"

namespace flame::test {
namespace {

auto noise_of_attention(bool causal) {
  return [causal](In x, const Tensor& dy, double half_ulp) {
    const auto [out, dq, dk, dv] = attention_noise(x[0], x[1], x[2], dy, causal, half_ulp);
    return Tensors{out, dq, dk, dv};
  };
}

}  // namespace

std::vector<Line> product_lines() {
  const std::vector<Kept> other = {{0, {1}}, {1, {0}}};
  const auto product = [](In x) { return x[0].matmul(x[1]); };
  return {
      {.name = "matmul",
       .covers = "matmul(Tensor,Tensor)",
       .inputs = {uniform({3, 4}), uniform({4, 5})},
       .f = product,
       .tolerance = summed,
       .kept = other,
       .plain =
           [](In x) {
             return sum(reshape(x[0], {3, 4, 1}) * x[1], {1});
           },
       .misfits = {{{3, 4}, {3, 5}}, {{4}, {4, 5}}}},
      {.name = "matmul.batched",
       .covers = "matmul(Tensor,Tensor)",
       .inputs = {uniform({2, 3, 4}), uniform({2, 4, 5})},
       .f = product,
       .tolerance = summed,
       .kept = other,
       .large = {{4, 129, 65}, {4, 65, 127}},
       .misfits = {{{2, 3, 4}, {3, 4, 5}}}},
      {.name = "matmul.broadcast",
       .covers = "matmul(Tensor,Tensor)",
       .inputs = {uniform({2, 1, 3, 4}), uniform({3, 4, 5})},
       .f = product,
       .tolerance = summed,
       .kept = other,
       .plain =
           [](In x) { return repeat(x[0], 1, 3).matmul(repeat(reshape(x[1], x[1].shape().inserted(0, 1)), 0, 2)); },
       .large = {{2, 1, 129, 65}, {3, 65, 127}}},
      {.name = "matmul.tall",
       .covers = "matmul(Tensor,Tensor)",
       .inputs = {uniform({2, 3, 4}), uniform({4, 5})},
       .f = product,
       .tolerance = summed,
       .kept = other,
       .large = {{3, 257, 129}, {129, 65}}},
      {.name = "linear",
       .covers = "linear(Tensor,Tensor,Tensor)",
       .inputs = {uniform({2, 3, 4}), uniform({5, 4}), bias(5)},
       .f = [](In x) { return linear(x[0], x[1], x[2]); },
       .tolerance = summed,
       .kept = other,
       .plain =
           [](In x) {
             return x[0].matmul(x[1].permute({1, 0})) + x[2];
           },
       .large = {{3, 257, 129}, {65, 129}, {65}},
       .misfits = {{{2, 3, 4}, {5, 3}, {5}}, {{2, 3, 4}, {5, 4}, {4}}}},
      {.name = "linear.no_bias",
       .covers = "linear(Tensor,Tensor,Tensor)",
       .inputs = {uniform({6, 4}), uniform({5, 4})},
       .f = [](In x) { return linear(x[0], x[1]); },
       .tolerance = summed,
       .kept = other,
       .plain =
           [](In x) {
             return x[0].matmul(x[1].permute({1, 0}));
           },
       .large = {{771, 129}, {65, 129}}},
      {.name = "lora_linear",
       .covers = "lora_linear(Tensor,Tensor,Tensor,Tensor,Tensor,float)",
       .inputs = {uniform({2, 3, 4}), uniform({5, 4}), bias(5), uniform({2, 4}), uniform({5, 2})},
       .f = [](In x) { return lora_linear(x[0], x[1], x[2], x[3], x[4], 0.5f); },
       .tolerance = summed,
       .kept = {{0, {1, 3}}, {1, {0}}, {3, {0}}, {4, {0, 3}}, {Kept::floats, {4}, 6 * 2}},
       .plain = [](In x) { return linear(x[0], x[1], x[2]) + 0.5f * linear(linear(x[0], x[3]), x[4]); },
       .large = {{3, 257, 129}, {65, 129}, {65}, {4, 129}, {65, 4}},
       .misfits = {{{2, 3, 4}, {5, 4}, {5}, {2, 3}, {5, 2}}, {{2, 3, 4}, {5, 4}, {5}, {2, 4}, {5, 3}}},
       .roundings = 3},
      {.name = "lora_linear.no_bias",
       .covers = "lora_linear(Tensor,Tensor,Tensor,Tensor,Tensor,float)",
       .inputs = {uniform({6, 4}), uniform({5, 4}), uniform({2, 4}), uniform({5, 2})},
       .f = [](In x) { return lora_linear(x[0], x[1], {}, x[2], x[3], 0.5f); },
       .tolerance = summed,
       .kept = {{0, {1, 2}}, {1, {0}}, {2, {0}}, {3, {0, 2}}, {Kept::floats, {3}, 6 * 2}},
       .plain = [](In x) { return linear(x[0], x[1]) + 0.5f * linear(linear(x[0], x[2]), x[3]); },
       .roundings = 3},
      {.name = "conv2d",
       .covers = "conv2d(Tensor,Tensor,Tensor,int,Padding,int)",
       .inputs = {uniform({2, 4, 5, 3}), uniform({4, 3, 3, 3}), bias(4)},
       .f = [](In x) { return conv2d(x[0], x[1], x[2], 1, 1); },
       .tolerance = summed,
       .kept = other,
       .plain = [](In x) { return plain_conv3x3(x[0], x[1], 1) + x[2]; },
       .large = {{3, 17, 19, 32}, {64, 3, 3, 32}, {64}},
       .misfits = {{{2, 4, 5, 2}, {4, 3, 3, 3}, {4}},
                   {{2, 4, 5, 3}, {4, 3, 3, 3}, {3}},
                   {{4, 5, 3}, {4, 3, 3, 3}, {4}}},
       .any_threads = false},
      {.name = "conv2d.valid",
       .covers = "conv2d(Tensor,Tensor,Tensor,int,Padding,int)",
       .inputs = {uniform({2, 4, 5, 3}), uniform({4, 3, 3, 3})},
       .f = [](In x) { return conv2d(x[0], x[1]); },
       .tolerance = summed,
       .kept = other,
       .plain = [](In x) { return plain_conv3x3(x[0], x[1], 0); },
       .misfits = {{{2, 2, 2, 3}, {4, 3, 3, 3}}},
       .bad = {[](In x) { return conv2d(x[0], x[1], {}, 0, 1); }}},
      {.name = "conv2d.stride2",
       .covers = "conv2d(Tensor,Tensor,Tensor,int,Padding,int)",
       .inputs = {uniform({2, 4, 6, 3}), uniform({4, 3, 3, 3}), bias(4)},
       .f = [](In x) { return conv2d(x[0], x[1], x[2], 2, 1); },
       .tolerance = summed,
       .kept = other,
       .large = {{3, 32, 32, 32}, {64, 3, 3, 32}, {64}},
       .any_threads = false},
      {.name = "conv2d.1x1",
       .covers = "conv2d(Tensor,Tensor,Tensor,int,Padding,int)",
       .inputs = {uniform({2, 3, 4, 3}), uniform({4, 1, 1, 3}), bias(4)},
       .f = [](In x) { return conv2d(x[0], x[1], x[2]); },
       .tolerance = summed,
       .kept = other,
       .plain =
           [](In x) {
             return linear(x[0], reshape(x[1], {4, 3}), x[2]);
           }},
      {.name = "conv2d.groups",
       .covers = "conv2d(Tensor,Tensor,Tensor,int,Padding,int)",
       .inputs = {uniform({2, 4, 5, 6}), uniform({4, 3, 3, 3}), bias(4)},
       .f = [](In x) { return conv2d(x[0], x[1], x[2], 1, 1, 2); },
       .tolerance = summed,
       .kept = other,
       .plain = [](In x) { return plain_grouped_conv3x3(x[0], x[1], 1) + x[2]; },
       .large = {{3, 17, 19, 32}, {64, 3, 3, 16}, {64}},
       .misfits = {{{2, 4, 5, 5}, {4, 3, 3, 3}, {4}}, {{2, 4, 5, 6}, {3, 3, 3, 3}, {3}}},
       .bad = {[](In x) { return conv2d(x[0], x[1], {}, 1, 1, 0); }},
       .any_threads = false},
      {.name = "conv2d.depthwise",
       .covers = "conv2d(Tensor,Tensor,Tensor,int,Padding,int)",
       .inputs = {uniform({2, 5, 4, 6}), uniform({6, 3, 3, 1})},
       .f = [](In x) { return conv2d(x[0], x[1], {}, 2, 1, 6); },
       .tolerance = summed,
       .kept = other,
       .any_threads = false},
      {.name = "conv2d.groups_1x1",
       .covers = "conv2d(Tensor,Tensor,Tensor,int,Padding,int)",
       .inputs = {uniform({2, 3, 4, 6}), uniform({9, 1, 1, 2}), bias(9)},
       .f = [](In x) { return conv2d(x[0], x[1], x[2], 1, 0, 3); },
       .tolerance = summed,
       .kept = other,
       .any_threads = false},
      {.name = "softmax",
       .covers = "softmax(Tensor)",
       .inputs = {uniform({2, 3, 5})},
       .f = [](In x) { return softmax(x[0]); },
       .tolerance = summed,
       .kept = {{Kept::result}},
       .plain = [](In x) { return exp(x[0]) / sum(exp(x[0]), {-1}, true); },
       .large = {{513, 129}},
       .misfits = {{{}}}},
      {.name = "log_softmax",
       .covers = "log_softmax(Tensor)",
       .inputs = {uniform({2, 3, 5})},
       .f = [](In x) { return log_softmax(x[0]); },
       .tolerance = summed,
       .kept = {{Kept::result}},
       .plain = [](In x) { return x[0] - log(sum(exp(x[0]), {-1}, true)); },
       .large = {{513, 129}},
       .misfits = {{{}}}},
      {.name = "attention",
       .covers = "scaled_dot_product_attention(Tensor,Tensor,Tensor,bool)",
       .inputs = {uniform({2, 3, 2, 4}), uniform({2, 5, 2, 4}), uniform({2, 5, 2, 4})},
       .f = [](In x) { return scaled_dot_product_attention(x[0], x[1], x[2]); },
       .tolerance = summed,
       .kept = {{0}, {1}, {2, {0, 1}}, {Kept::result, {0, 1}}, {Kept::floats, {}, 2 * 2 * 3}},
       .plain = [](In x) { return plain_attention(x[0], x[1], x[2], false); },
       .large = {{2, 129, 4, 32}, {2, 77, 4, 32}, {2, 77, 4, 32}},
       .misfits = {{{2, 3, 2, 4}, {2, 5, 2, 3}, {2, 5, 2, 3}},
                   {{2, 3, 2, 4}, {2, 5, 2, 4}, {2, 6, 2, 4}},
                   {{6, 2, 4}, {10, 2, 4}, {10, 2, 4}}},
       .noise = noise_of_attention(false)},
      {.name = "attention.causal",
       .covers = "scaled_dot_product_attention(Tensor,Tensor,Tensor,bool)",
       .inputs = {uniform({2, 5, 2, 4}), uniform({2, 5, 2, 4}), uniform({2, 5, 2, 4})},
       .f = [](In x) { return scaled_dot_product_attention(x[0], x[1], x[2], true); },
       .tolerance = summed,
       .kept = {{0}, {1}, {2, {0, 1}}, {Kept::result, {0, 1}}, {Kept::floats, {}, 2 * 2 * 5}},
       .plain = [](In x) { return plain_attention(x[0], x[1], x[2], true); },
       .large = {{2, 129, 4, 32}, {2, 129, 4, 32}, {2, 129, 4, 32}},
       .noise = noise_of_attention(true)},
  };
}

}  // namespace flame::test
