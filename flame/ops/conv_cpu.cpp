#include <string_view>

#include "flame/ops/as_f32.h"
#include "flame/ops/conv.h"
#include "flame/ops/conv_kernels.h"
#include "flame/ops/frozen_copies_cpu.h"
#include "flame/ops/onednn.h"
#include "flame/ops/winograd_cpu.h"

namespace flame {
namespace cpu {
namespace {

using dnnl::memory;
constexpr auto f32 = memory::data_type::f32;

enum class Pass : int { forward, input_gradient, weight_gradient };

// A convolution's primitive, the blocked layout it wants for the weight (any other falls to code that is a thousand
// times slower), and the way between that and [out, kh, kw, C].
struct Plan {
  onednn::Call run;
  memory::desc blocked;
  onednn::Call reorder;  // plain to blocked; for the weight's gradient blocked to plain
  std::string implementation;
};

memory::desc channels_last(const Shape& shape) {
  return {{shape[0], shape[3], shape[1], shape[2]}, f32, memory::format_tag::nhwc};
}

memory::desc weight_layout(const Convolution& conv) {
  const int64_t groups = conv.groups(), out = conv.weight[0], in = conv.weight[3];
  if (groups == 1) return channels_last(conv.weight);
  return {{groups, out / groups, in, conv.weight[1], conv.weight[2]}, f32, memory::format_tag::gohwi};
}

// A direct convolution adds the products of all kh kw C one after the other, a GEMM in pieces: a third of the rounding,
// in a quarter more time. That is spent where most of SDXL's rounding is made: many channels and few pixels.
bool needs_short_sums(const Convolution& conv, Pass pass) {
  constexpr int64_t many = 2560, few = 1024;
  const int64_t terms = conv.weight.numel() / conv.weight[pass == Pass::forward ? 0 : 3];
  return conv.groups() == 1 && terms >= many && conv.result().numel(0, 3) <= few;
}

// The first implementation that oneDNN offers; of those that go through a GEMM if `short_sums`, where there is one.
template <class Make>
auto choose(const Make& make, bool short_sums) {
  auto chosen = make();
  while (short_sums && !std::string_view(chosen.impl_info_str()).ends_with("gemm:jit"))
    if (!chosen.next_impl()) return make();
  return chosen;
}

Plan make_plan(const Convolution& conv, Pass pass, bool has_bias, int threads) {
  const onednn::ThreadLimit limit(threads);
  const memory::desc x = channels_last(conv.x), y = channels_last(conv.result()), plain = weight_layout(conv);
  const memory::desc any(plain.dims(), f32, memory::format_tag::any);
  const memory::desc bias = has_bias ? memory::desc({conv.weight[0]}, f32, memory::format_tag::a) : memory::desc();
  const auto [top, left, bottom, right] = conv.padding;
  const memory::dims strides(2, conv.stride), before = {top, left}, after = {bottom, right};
  const auto direct = dnnl::algorithm::convolution_direct;
  dnnl::engine& engine = onednn::engine();
  const auto reorder = [&](const memory::desc& from, const memory::desc& to) {
    return onednn::Call(dnnl::reorder({engine, from, engine, to}), threads, {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
  };

  const bool short_sums = needs_short_sums(conv, pass);
  const auto forward = choose(
      [&] {
        return dnnl::convolution_forward::primitive_desc(
            {dnnl::prop_kind::forward_training, direct, x, any, bias, y, strides, before, after}, engine);
      },
      short_sums);
  if (pass == Pass::forward) {
    const memory::desc blocked = forward.weights_desc();
    std::vector<std::pair<int, memory::desc>> operands = {
        {DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, blocked}, {DNNL_ARG_DST, y}};
    if (has_bias) operands.emplace_back(DNNL_ARG_BIAS, bias);
    return {{dnnl::convolution_forward(forward), threads, operands},
            blocked,
            reorder(plain, blocked),
            forward.impl_info_str()};
  }
  if (pass == Pass::input_gradient) {
    const auto backward = choose(
        [&] {
          return dnnl::convolution_backward_data::primitive_desc({direct, x, any, y, strides, before, after}, engine,
                                                                 forward);
        },
        short_sums);
    const memory::desc blocked = backward.weights_desc();
    return {{dnnl::convolution_backward_data(backward),
             threads,
             {{DNNL_ARG_DIFF_DST, y}, {DNNL_ARG_WEIGHTS, blocked}, {DNNL_ARG_DIFF_SRC, x}}},
            blocked,
            reorder(plain, blocked),
            backward.impl_info_str()};
  }
  const dnnl::convolution_backward_weights::primitive_desc backward({direct, x, any, y, strides, before, after}, engine,
                                                                    forward);
  const memory::desc blocked = backward.diff_weights_desc();
  return {{dnnl::convolution_backward_weights(backward),
           threads,
           {{DNNL_ARG_SRC, x}, {DNNL_ARG_DIFF_DST, y}, {DNNL_ARG_DIFF_WEIGHTS, blocked}}},
          blocked,
          reorder(blocked, plain),
          backward.impl_info_str()};
}

Plan& plan_for(const Convolution& conv, Pass pass, bool has_bias) {
  const double operations = 2.0 * static_cast<double>(conv.result().numel() * conv.weight.numel(1, 4));
  const int threads = onednn::threads_for(operations);
  const auto [top, left, bottom, right] = conv.padding;
  const onednn::Key key = {
      conv.x, conv.weight, {static_cast<int>(pass), conv.stride, top, left, bottom, right, has_bias, threads}};
  static thread_local onednn::Cache<Plan> plans;
  auto found = plans.find(key);
  if (found == plans.end()) found = plans.emplace(key, make_plan(conv, pass, has_bias, threads)).first;
  return found->second;
}

Tensor blocked_tensor(const Plan& plan) {
  return Tensor::empty({static_cast<int64_t>(plan.blocked.get_size() / sizeof(float))});
}

Tensor blocked(const Tensor& weight, Plan& plan) {
  return copy_of(weight, Form::blocked, plan.blocked, [&] {
    const Tensor copy = blocked_tensor(plan);
    plan.reorder({as_f32(weight).raw(), copy.raw()});
    return copy;
  });
}

bool use_winograd(const Convolution& conv, const Tensor& weight) { return weight.frozen() && winograd::pays(conv); }

Tensor transformed(const Tensor& weight, bool gradient) {
  return copy_of(weight, gradient ? Form::winograd_gradient : Form::winograd, {},
                 [&] { return winograd::transform(as_f32(weight), gradient); });
}

}  // namespace

void conv2d(const Convolution& conv, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  const Tensor from = as_f32(x), offset = as_f32(bias);
  write_as_f32(y, [&](const Tensor& to) {
    if (use_winograd(conv, weight))
      return winograd::convolve(from, transformed(weight, false), offset, conv.padding.top, conv.padding.left, to);
    Plan& plan = plan_for(conv, Pass::forward, bias.defined());
    const Tensor weights = blocked(weight, plan);
    if (bias.defined())
      plan.run({from.raw(), weights.raw(), to.raw(), offset.raw()});
    else
      plan.run({from.raw(), weights.raw(), to.raw()});
  });
}

void conv2d_input_gradient(const Convolution& conv, const Tensor& dy, const Tensor& weight, const Tensor& dx) {
  const Tensor from = as_f32(dy);
  write_as_f32(dx, [&](const Tensor& to) {
    if (use_winograd(conv, weight))
      return winograd::convolve(from, transformed(weight, true), {}, 2 - conv.padding.top, 2 - conv.padding.left, to);
    Plan& plan = plan_for(conv, Pass::input_gradient, false);
    plan.run({from.raw(), blocked(weight, plan).raw(), to.raw()});
  });
}

void conv2d_weight_gradient(const Convolution& conv, const Tensor& x, const Tensor& dy, const Tensor& dw) {
  Plan& plan = plan_for(conv, Pass::weight_gradient, false);
  const Tensor gradient = blocked_tensor(plan), input = as_f32(x), from = as_f32(dy);
  plan.run({input.raw(), from.raw(), gradient.raw()});
  write_as_f32(dw, [&](const Tensor& to) { plan.reorder({gradient.raw(), to.raw()}); });
}

}  // namespace cpu

const char* conv2d_implementation(const Tensor& x, const Tensor& weight, int stride, Padding padding, bool backward) {
  const Convolution conv = {x.shape(), weight.shape(), stride, padding};
  if (conv.is_linear()) return "matmul";
  if (cpu::use_winograd(conv, weight)) return "winograd";
  const auto pass = backward ? cpu::Pass::input_gradient : cpu::Pass::forward;
  return cpu::plan_for(conv, pass, false).implementation.c_str();
}

}  // namespace flame
