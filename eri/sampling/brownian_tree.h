#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace eri {

// A Brownian motion of `count` points over [begin, end], the one that torchsde's BrownianTree makes from a seed: the
// interval is halved until a time is met to 1e-6, and each half has a random number of its own, so that an increment
// does not depend on what was asked before.
class BrownianTree {
 public:
  BrownianTree(double begin, double end, int64_t count, uint64_t seed);

  std::vector<float> increment(double from, double to);  // W(to) - W(from); begin <= from < to <= end

 private:
  struct Node {  // an interval and its place in the tree
    double begin, end;
    uint64_t key;
    uint32_t depth;
  };
  using Values = std::vector<float>;
  Values normal(const std::vector<uint64_t>& spawn_key) const;
  void add(const Node& node, const Values& increment, double from, double to, Values& sum);
  Values left_half(const Node& node, double middle, const Values& increment);

  int64_t count_;
  uint64_t seed_;
  Node root_;
  Values whole_;
  std::map<std::pair<uint32_t, uint64_t>, Values> left_halves_;  // of large nodes, by depth and key
};

}  // namespace eri
