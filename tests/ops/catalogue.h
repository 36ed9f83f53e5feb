#pragma once

#include <functional>
#include <string>
#include <vector>

#include "flame/core/tensor.h"

// Every op is one line here; every check in catalogue_test.cpp runs on every line. A new op needs a line in
// catalogue.cpp and its formula in tests/reference/ops.py, which says how to write tests/data/ops.safetensors anew.
namespace flame::test {

using Tensors = std::vector<Tensor>;

// One input: its shape and how its values are drawn.
struct Input {
  enum class Kind { uniform, lattice, ids, flags };
  Shape shape;
  Kind kind = Kind::uniform;
  double low = -2, high = 2;  // uniform in [low, high); lattice: low, low + 0.5, .. up to high; ids: 0 .. high - 1
  bool trainable = true;
  DType dtype = DType::f32;
  bool optional = false;
  bool any_floating = false;  // of any floating dtype, whatever the others are
};

inline Input uniform(const Shape& shape, double low = -2, double high = 2) {
  return {shape, Input::Kind::uniform, low, high};
}
// Values at least 0.2 away from a kink, or from the other input's where the two lattices lie between each other.
inline Input lattice(const Shape& shape, double low, double high) { return {shape, Input::Kind::lattice, low, high}; }
inline Input ids(const Shape& shape, int64_t count, DType dtype = DType::i64) {
  return {shape, Input::Kind::ids, 0, static_cast<double>(count), false, dtype};
}
inline Input flags(const Shape& shape) { return {shape, Input::Kind::flags, 0, 1, false, DType::boolean}; }
inline Input bias(int64_t channels) { return {.shape = {channels}, .optional = true}; }
inline Input fixed(const Shape& shape, double low, double high) {
  return {shape, Input::Kind::uniform, low, high, false};
}

// How far results may be from the reference: |got - expected| <= bound (|expected| + rms(expected)).
struct Tolerance {
  double value, gradient;
};
inline constexpr double ulp = 0x1p-23;
inline constexpr Tolerance moved = {0, 0};                 // bytes go elsewhere
inline constexpr Tolerance exact = {0, 4 * ulp};           // one correctly rounded operation; slopes take a few
inline constexpr Tolerance rounded = {ulp, 4 * ulp};       // one more rounding on the way
inline constexpr Tolerance function = {4 * ulp, 8 * ulp};  // exp and its like; norms
inline constexpr Tolerance summed = {8 * ulp, 16 * ulp};   // sums of products in f32
inline constexpr Tolerance offset = {8 * ulp, 64 * ulp};  // x is 100 deviations from 0, and so is its mean, kept in f32

// Something that the rule of an op keeps if one of the inputs `reasons` (none: any input) wants a gradient: the input
// of that number, the result, or so many floats of its own.
struct Kept {
  static constexpr int result = -1, floats = -2;
  int what;
  std::vector<int> reasons = {};
  int64_t count = 0;  // of floats
};

struct Line {
  std::string name;    // "op" or "op.variant"; errors of the op begin with "op"
  std::string covers;  // the declaration, as completeness_test.cpp reads it: "operator+(Tensor,float)"
  std::vector<Input> inputs;
  std::function<Tensor(const Tensors&)> f;
  Tolerance tolerance;
  std::vector<Kept> kept = {};
  std::function<Tensor(const Tensors&)> plain = {};             // the same by other ops
  std::vector<Shape> large = {};                                // shapes that are worth several threads
  std::vector<std::vector<Shape>> misfits = {};                 // shapes that must be refused
  std::vector<std::function<Tensor(const Tensors&)>> bad = {};  // calls that must be refused
  bool differentiable = true;
  bool smooth = true;  // false: a staircase, which has no numeric gradient
  int roundings = 1;   // to the storage type on the way to the result; its gradients may take two more
  // Or else, on a GPU, how far roundings on the way may move each element of the result and of the gradients of x, in
  // that order, for the gradient dy of the result; an undefined tensor: not at all.
  std::function<Tensors(const Tensors& x, const Tensor& dy, double half_ulp)> noise = {};
  bool any_dtype = false;   // works on integers too
  bool any_threads = true;  // the same bits for any number of threads
};

const std::vector<Line>& catalogue();
std::ostream& operator<<(std::ostream& out, const Line& line);  // the name, for GoogleTest

}  // namespace flame::test
