#pragma once

#include <array>

#include "flame/ops/on.h"
#include "flame/optim/optimizer_kernels.h"
#include "flame/optim/parameter_pack.h"

namespace flame {

// One group's part of the flat buffers: f32, but for `copy`, the values in another dtype, or no tensor.
struct UpdateBuffers {
  Tensor values, gradients, copy;
  std::vector<Tensor> states;

  static UpdateBuffers of(const ParameterPack& pack, const ParameterPack::Group& group,
                          const std::vector<Tensor>& states) {
    const auto part = [&](const Tensor& flat) { return flat.rows(group.begin, group.numel); };
    UpdateBuffers buffers = {part(pack.values()), part(pack.gradients()), {}, {}};
    if (pack.compute_copy().defined()) buffers.copy = part(pack.compute_copy());
    for (const Tensor& state : states) buffers.states.push_back(part(state));
    return buffers;
  }
};

// A Step is what an optimiser does to one value. On the parameters' device, `step(StepState)` gives a rule for this
// step, and `value = rule(value, gradient, states)` moves a value and the Step::states numbers that go with it.
namespace cpu {
template <class Step>
void update(const UpdateBuffers& buffers, const Step& step, const Tensor& state);
}
namespace cuda {
template <class Step>
void update(const UpdateBuffers& buffers, const Step& step, const Tensor& state);
}

// The step of each group, which `step_of(group)` makes: nothing if the state says that it is skipped.
template <class StepOf>
void update_groups(const ParameterPack& pack, const std::vector<Tensor>& states, const Tensor& state,
                   const StepOf& step_of) {
  using Step = std::invoke_result_t<StepOf, const ParameterPack::Group&>;
  for (const ParameterPack::Group& group : pack.groups()) {
    const UpdateBuffers buffers = UpdateBuffers::of(pack, group, states);
    on<cpu::update<Step>, cuda::update<Step>>(state.device(), buffers, step_of(group), state);
  }
}

}  // namespace flame
