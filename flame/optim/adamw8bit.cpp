#include "flame/optim/adamw8bit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "flame/device/parallel.h"
#include "flame/ops/layout_kernels.h"
#include "flame/ops/on.h"
#include "flame/optim/adamw8bit_kernels.h"
#include "flame/optim/update_rules.h"

namespace flame {
namespace {

// A block's averages, taken out of their bytes.
struct Averages {
  std::array<float, block_8bit> values;

  void expand(const uint8_t* codes, const float* map, float largest, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values[i] = map[codes[i]] * largest;
  }
  float shrink(uint8_t* codes, const float* map, int64_t count) const {
    float largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(values[i]));
    for (int64_t i = 0; i < count; ++i) codes[i] = nearest_code(map, largest > 0 ? values[i] / largest : 0);
    return largest;
  }
};

}  // namespace

std::vector<float> dynamic_map(bool with_sign) {
  constexpr int exponents = 7;
  std::vector<float> map = {0, 1};
  for (int i = 0; i < exponents; ++i) {
    const int items = with_sign ? 1 << i : 2 << i;
    // In float and with one rounding, as torch.linspace: the map has the same bits.
    const float step = (1.0f - 0.1f) / static_cast<float>(items);
    const auto edge = [&](int k) {
      return k < (items + 1) / 2 ? std::fma(step, static_cast<float>(k), 0.1f)
                                 : std::fma(-step, static_cast<float>(items - k), 1.0f);
    };
    const auto power = static_cast<float>(std::pow(10.0, i - exponents + 1));
    for (int k = 0; k < items; ++k) {
      const float mean = (edge(k) + edge(k + 1)) / 2;
      map.push_back(power * mean);
      if (with_sign) map.push_back(-power * mean);
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

void cpu::adamw_8bit(const AdamW8BitBuffers& b, const AdamWOptions& options, double lr, double decay,
                     const Tensor& state) {
  if (StepState::in(state)->skip) return;
  const AdamWRule rule = AdamWStep{options, lr, decay}(*StepState::in(state));
  const auto* blocks = reinterpret_cast<const Block8Bit*>(b.blocks.raw());
  const float *map1 = b.maps.data<float>(), *map2 = map1 + 256, *gradients = b.gradients.data<float>();
  float *values = b.values.data<float>(), *wide1 = b.wide1.data<float>(), *wide2 = b.wide2.data<float>();
  float *largest1 = b.largest1.data<float>(), *largest2 = b.largest2.data<float>();
  uint8_t *codes1 = b.codes1.data<uint8_t>(), *codes2 = b.codes2.data<uint8_t>();
  parallel_for(b.blocks.dim(0), 64, [=](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      const auto [begin, count, wide] = blocks[k];
      Averages m, v;
      if (wide < 0) {
        m.expand(codes1 + begin, map1, largest1[k], count);
        v.expand(codes2 + begin, map2, largest2[k], count);
      } else {
        std::copy_n(wide1 + wide, count, m.values.begin());
        std::copy_n(wide2 + wide, count, v.values.begin());
      }
      for (int64_t i = 0; i < count; ++i) {
        std::array<float, 2> averages = {m.values[i], v.values[i]};
        values[begin + i] = rule(values[begin + i], gradients[begin + i], averages);
        m.values[i] = averages[0];
        v.values[i] = averages[1];
      }
      if (wide < 0) {
        largest1[k] = m.shrink(codes1 + begin, map1, count);
        largest2[k] = v.shrink(codes2 + begin, map2, count);
      } else {
        std::copy_n(m.values.begin(), count, wide1 + wide);
        std::copy_n(v.values.begin(), count, wide2 + wide);
      }
    }
  });
}

AdamW8bit::AdamW8bit(ParameterPack pack, const Options& options) : Optimizer(std::move(pack)), options_(options) {
  std::vector<Block8Bit> blocks;
  int64_t wide = 0;
  const auto& groups = this->pack().groups();
  for (const auto& parameter : this->pack().parameters()) {
    const int64_t count = parameter.master.numel();
    while (parameter.offset >= groups[group_blocks_.size()].begin + groups[group_blocks_.size()].numel)
      group_blocks_.push_back(std::ssize(blocks));
    const bool small = count < least_8bit;
    places_.push_back({std::ssize(blocks), (count + block_8bit - 1) / block_8bit, small ? wide : -1});
    for (int64_t at = 0; at < count; at += block_8bit)
      blocks.push_back({parameter.offset + at, std::min(block_8bit, count - at), small ? wide + at : -1});
    if (small) wide += count;
  }
  group_blocks_.resize(groups.size(), std::ssize(blocks));

  PurposeScope purpose(Purpose::optimizer);
  const Device device = this->pack().values().device();
  const auto zeros = [&](const Shape& shape, DType dtype) { return Tensor::zeros(shape, dtype, device); };
  codes1_ = zeros({this->pack().numel()}, DType::u8);
  codes2_ = zeros({this->pack().numel()}, DType::u8);
  largest1_ = zeros({std::ssize(blocks)}, DType::f32);
  largest2_ = zeros({std::ssize(blocks)}, DType::f32);
  wide1_ = zeros({wide}, DType::f32);
  wide2_ = zeros({wide}, DType::f32);
  std::vector<float> maps = dynamic_map(true);
  for (const float value : dynamic_map(false)) maps.push_back(value);
  maps_ = Tensor::from(maps, {2, 256}, device);
  const Tensor table = Tensor::empty({std::ssize(blocks), sizeof(Block8Bit) / sizeof(int64_t)}, DType::i64);
  std::memcpy(table.raw(), blocks.data(), table.bytes());
  blocks_ = table.to(device);
}

std::map<std::string, Tensor> AdamW8bit::state() const {
  std::map<std::string, Tensor> result;
  for (size_t i = 0; i < places_.size(); ++i) {
    const auto& parameter = pack().parameters()[i];
    const auto& [block, blocks, wide] = places_[i];
    const int64_t count = parameter.master.numel();
    const auto add = [&](const char* quantity, const Tensor& part) { result[quantity + parameter.name] = part; };
    if (wide >= 0) {
      add("exp_avg.", wide1_.rows(wide, count).view(parameter.master.shape()));
      add("exp_avg_sq.", wide2_.rows(wide, count).view(parameter.master.shape()));
    } else {
      add("state1.", ParameterPack::view(codes1_, parameter));
      add("state2.", ParameterPack::view(codes2_, parameter));
      add("absmax1.", largest1_.rows(block, blocks));
      add("absmax2.", largest2_.rows(block, blocks));
    }
  }
  return result;
}

void AdamW8bit::update(const Tensor& state) {
  const Device device = state.device();
  int64_t begin = 0;
  for (size_t i = 0; i < group_blocks_.size(); ++i) {
    const ParameterPack::Group& group = pack().groups()[i];
    const int64_t count = group_blocks_[i] - begin;
    const auto part = [&](const Tensor& x) { return x.rows(begin, count); };
    on<cpu::adamw_8bit, cuda::adamw_8bit>(
        device,
        AdamW8BitBuffers{pack().values(), pack().gradients(), pack().compute_copy(), part(blocks_), maps_, codes1_,
                         codes2_, part(largest1_), part(largest2_), wide1_, wide2_},
        options_, group.lr, group.weight_decay, state);
    begin = group_blocks_[i];
  }
  if (device.is_cpu()) pack().refresh();
}

}  // namespace flame
