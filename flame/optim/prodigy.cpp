#include "flame/optim/prodigy.h"

#include <algorithm>

#include "flame/device/parallel.h"
#include "flame/optim/update_kernels.h"
#include "flame/optim/update_rules.h"

namespace flame {
namespace {

ProdigyOptions complete(ProdigyOptions options) {
  if (options.beta3 == 0) options.beta3 = std::sqrt(options.beta2);
  return options;
}

}  // namespace

Tensor ProdigyNumbers::make(double d0, Device device) {
  const Tensor numbers = Tensor::zeros({sizeof(ProdigyNumbers) / sizeof(int64_t)}, DType::i64);
  *in(numbers) = {.d = d0, .d_max = d0, .d_numerator = 0, .k = 0, .rate = 0, .idle = 0};
  return numbers.to(device);
}

// Pieces of the same size for any number of threads, a pair of sums each.
void cpu::prodigy_take_in(const ProdigyBuffers& b, const ProdigyOptions& options, double lr, double decay,
                          const Tensor& state, const Tensor& numbers, const Tensor& sums) {
  const StepState& step = *StepState::in(state);
  if (step.skip) return;
  const auto rule = ProdigyTakeIn::of(options, decay, options.beta3, step.learning_rate * lr,
                                      *ProdigyNumbers::in(numbers), step.scale);
  const float *values = b.values.data<float>(), *gradients = b.gradients.data<float>(), *start = b.start.data<float>();
  float *exp_avg = b.exp_avg.data<float>(), *exp_avg_sq = b.exp_avg_sq.data<float>(), *s = b.s.data<float>();
  auto* pairs = reinterpret_cast<double*>(sums.raw());
  const int64_t count = b.values.numel(), piece = (count + prodigy_sums - 1) / prodigy_sums;
  parallel_for(prodigy_sums, 16, [=](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      double carried = 0, size = 0;
      for (int64_t i = k * piece; i < std::min((k + 1) * piece, count); ++i)
        rule(values[i], gradients[i], start[i], exp_avg[i], exp_avg_sq[i], s[i], carried, size);
      pairs[2 * k] = carried;
      pairs[2 * k + 1] = size;
    }
  });
}

void cpu::prodigy_estimate(const ProdigyOptions& options, double lr, const Tensor& state, const Tensor& sums,
                           const Tensor& numbers) {
  const StepState& step = *StepState::in(state);
  if (step.skip) return;
  const auto* pairs = reinterpret_cast<const double*>(sums.raw());
  double carried = 0, size = 0;
  for (int64_t k = 0; k < sums.numel() / 2; ++k) {
    carried += pairs[2 * k];
    size += pairs[2 * k + 1];
  }
  ProdigyNumbers::in(numbers)->estimate(options, step.learning_rate * lr, options.beta3, carried, size);
}

Prodigy::Prodigy(ParameterPack pack, const Options& options)
    : Optimizer(std::move(pack)),
      options_(complete(options)),
      start_(flat_zeros()),
      exp_avg_(flat_zeros()),
      exp_avg_sq_(flat_zeros()),
      s_(flat_zeros()) {
  require(options_.d0 > 0 && options_.eps > 0, "Prodigy", "expected d0 and eps above 0, got ", options_.d0, " and ",
          options_.eps);
  for (const ParameterPack::Group& group : this->pack().groups()) lr_ = std::max(lr_, group.lr);
  for (const ParameterPack::Group& group : this->pack().groups())
    require(group.lr == lr_ || group.lr == 0, "Prodigy",
            "it finds one step size for all: expected groups with the same learning rate, or 0, got ", lr_, " and ",
            group.lr);
  PurposeScope purpose(Purpose::optimizer);
  start_.copy_from(this->pack().values());
  numbers_ = ProdigyNumbers::make(options_.d0, start_.device());
}

double Prodigy::d() const { return ProdigyNumbers::in(numbers_.to(Device::cpu()))->d; }

std::map<std::string, Tensor> Prodigy::state() const {
  auto result = views({{"p0", start_}, {"exp_avg", exp_avg_}, {"exp_avg_sq", exp_avg_sq_}, {"s", s_}});
  result["numbers"] = numbers_;
  return result;
}

void Prodigy::update(const Tensor& state) {
  const Device device = state.device();
  const auto& groups = pack().groups();
  const Tensor sums = Tensor::empty({std::ssize(groups), 2 * prodigy_sums}, DType::i64, device);  // as doubles
  sums.fill(0);
  for (int64_t i = 0; i < std::ssize(groups); ++i) {
    const ParameterPack::Group& group = groups[i];
    if (group.lr == 0) continue;
    const auto part = [&](const Tensor& flat) { return flat.rows(group.begin, group.numel); };
    on<cpu::prodigy_take_in, cuda::prodigy_take_in>(
        device,
        ProdigyBuffers{part(pack().values()), part(pack().gradients()), part(start_), part(exp_avg_), part(exp_avg_sq_),
                       part(s_)},
        options_, lr_, group.weight_decay, state, numbers_, sums.rows(i, 1));
  }
  on<cpu::prodigy_estimate, cuda::prodigy_estimate>(device, options_, lr_, state, sums, numbers_);
  update_groups(pack(), {exp_avg_, exp_avg_sq_}, state, [&](const ParameterPack::Group& group) {
    return ProdigyStep{options_, group.lr, group.weight_decay, ProdigyNumbers::in(numbers_)};
  });
}

}  // namespace flame
