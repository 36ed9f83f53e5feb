#include "eri/sampling/brownian_tree.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "eri/sampling/seed_sequence.h"
#include "eri/sampling/torch_generator.h"
#include "flame/core/error.h"

namespace eri {
namespace {

// To six decimals, as Python rounds.
double rounded(double time) {
  char digits[64];
  std::snprintf(digits, sizeof digits, "%.6f", time);
  return std::strtod(digits, nullptr);
}

void scale(std::vector<float>& values, double factor) {
  for (float& value : values) value *= static_cast<float>(factor);
}

}  // namespace

BrownianTree::BrownianTree(double begin, double end, int64_t count, uint64_t seed)
    : count_(count), seed_(seed), root_{rounded(begin), rounded(end), 0, 0}, whole_(normal({})) {
  flame::require(begin < end, "BrownianTree", "expected begin < end, got ", begin, " and ", end);
  scale(whole_, std::sqrt(end - begin));
}

std::vector<float> BrownianTree::increment(double from, double to) {
  Values sum(static_cast<size_t>(count_), 0.0f);
  from = std::max(rounded(from), root_.begin), to = std::min(rounded(to), root_.end);
  if (from < to) add(root_, whole_, from, to, sum);
  return sum;
}

BrownianTree::Values BrownianTree::normal(const std::vector<uint64_t>& spawn_key) const {
  constexpr size_t pool_size = 24;
  return TorchGenerator(seed_sequence(seed_, spawn_key, pool_size)).randn(count_);
}

// Adds what of [from, to] lies in a node, whose own increment is known.
void BrownianTree::add(const Node& node, const Values& increment, double from, double to, Values& sum) {
  if (from >= node.end || to <= node.begin) return;
  if (from <= node.begin && to >= node.end) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += increment[i];
    return;
  }
  const double middle = rounded(0.5 * (node.end + node.begin));
  const Values left = left_half(node, middle, increment);
  add({node.begin, middle, 2 * node.key, node.depth + 1}, left, from, to, sum);
  Values right = increment;
  for (size_t i = 0; i < right.size(); ++i) right[i] -= left[i];
  add({middle, node.end, 2 * node.key + 1, node.depth + 1}, right, from, to, sum);
}

// A Brownian bridge to the middle. Large nodes are met again by the next steps, small ones are too many to keep.
BrownianTree::Values BrownianTree::left_half(const Node& node, double middle, const Values& increment) {
  constexpr uint32_t kept_depth = 8;
  const auto found = left_halves_.find({node.depth, node.key});
  if (found != left_halves_.end()) return found->second;
  const double before = middle - node.begin, after = node.end - middle, length = node.end - node.begin;
  Values left = normal({node.key, node.depth});
  scale(left, std::sqrt(before * after / length));
  for (size_t i = 0; i < left.size(); ++i)
    left[i] += static_cast<float>(before) * increment[i] * static_cast<float>(1 / length);
  if (node.depth < kept_depth) left_halves_[{node.depth, node.key}] = left;
  return left;
}

}  // namespace eri
