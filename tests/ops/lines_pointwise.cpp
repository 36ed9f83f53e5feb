#include <cmath>
#include <numbers>

#include "flame/ops/pointwise.h"
#include "lines.h"

namespace flame::test {
namespace {

// A function of each value by itself. `reads`: what its slope reads, an input, Kept::result or nothing.
enum class Reads { nothing, input, result };
Line unary(const std::string& name, const std::string& covers, const Input& x, std::function<Tensor(In)> f,
           Tolerance tolerance, Reads reads, std::function<Tensor(In)> plain = {}) {
  Line line = {.name = name, .covers = covers, .inputs = {x}, .f = std::move(f), .tolerance = tolerance};
  if (reads != Reads::nothing) line.kept = {{reads == Reads::input ? 0 : Kept::result}};
  line.plain = std::move(plain);
  line.large = {{257, 513}};
  return line;
}

// Where the slope reads the stored result y, which is off by half an ulp, and how the slope changes with y.
Line reading_result(Line line, std::function<Tensor(const Tensor& y)> change) {
  line.noise = [f = line.f, change = std::move(change)](In x, const Tensor& dy, double half_ulp) {
    const Tensor y = f(x);
    return Tensors{Tensor(), static_cast<float>(half_ulp) * abs(dy * y * change(y))};
  };
  return line;
}

// Two inputs that are broadcast against each other.
Line binary(const std::string& name, const std::string& covers, const Input& a, const Input& b,
            std::function<Tensor(In)> f, Tolerance tolerance, std::vector<Kept> kept) {
  Line line = {.name = name, .covers = covers, .inputs = {a, b}, .f = std::move(f), .tolerance = tolerance};
  line.kept = std::move(kept);
  line.large = {{3, 257, 129}, {257, 1}};
  line.misfits = {{{2, 3}, {4}}};
  return line;
}

Line comparison(const std::string& name, const std::string& covers, std::function<Tensor(In)> f) {
  Line line = binary(name, covers, lattice({3, 4}, -1, 1), lattice({4}, -1, 1), std::move(f), moved, {});
  line.differentiable = false;
  line.any_dtype = true;
  return line;
}

}  // namespace

std::vector<Line> arithmetic_lines() {
  const std::vector<Kept> other = {{0, {1}}, {1, {0}}}, both = {{0}, {1}};
  const Input x = uniform({3, 4});
  return {
      binary("add", "operator+(Tensor,Tensor)", uniform({2, 3, 4}), uniform({2, 3, 4}),
             [](In x) { return x[0] + x[1]; }, exact, {}),
      binary("add.broadcast", "operator+(Tensor,Tensor)", uniform({2, 3, 4}), uniform({3, 1}),
             [](In x) { return x[0] + x[1]; }, exact, {}),
      binary("add.outer", "operator+(Tensor,Tensor)", uniform({3, 1}), uniform({4}), [](In x) { return x[0] + x[1]; },
             exact, {}),
      binary("sub", "operator-(Tensor,Tensor)", uniform({2, 3, 4}), uniform({2, 1, 4}),
             [](In x) { return x[0] - x[1]; }, exact, {}),
      binary(
          "mul", "operator*(Tensor,Tensor)", uniform({2, 3, 4}), uniform({2, 3, 4}), [](In x) { return x[0] * x[1]; },
          exact, other),
      binary(
          "mul.broadcast", "operator*(Tensor,Tensor)", uniform({4}), uniform({2, 3, 4}),
          [](In x) { return x[0] * x[1]; }, exact, other),
      binary("div", "operator/(Tensor,Tensor)", uniform({2, 3, 4}), uniform({3, 1}, 0.5, 2),
             [](In x) { return x[0] / x[1]; }, exact, {{0, {1}}, {1}}),
      binary(
          "minimum", "minimum(Tensor,Tensor)", lattice({3, 4}, -1, 1), lattice({4}, -1.25, 1.25),
          [](In x) { return minimum(x[0], x[1]); }, exact, both),
      binary(
          "maximum", "maximum(Tensor,Tensor)", lattice({3, 4}, -1, 1), lattice({4}, -1.25, 1.25),
          [](In x) { return maximum(x[0], x[1]); }, exact, both),
      binary(
          "pow", "pow(Tensor,Tensor)", uniform({3, 4}, 0.5, 2), uniform({4}), [](In x) { return pow(x[0], x[1]); },
          function, both),
      unary(
          "add.scalar", "operator+(Tensor,float)", x, [](In x) { return x[0] + 1.5f; }, exact, Reads::nothing),
      unary(
          "add.to_scalar", "operator+(float,Tensor)", x, [](In x) { return 1.5f + x[0]; }, exact, Reads::nothing),
      unary(
          "sub.scalar", "operator-(Tensor,float)", x, [](In x) { return x[0] - 1.5f; }, exact, Reads::nothing),
      unary(
          "sub.from_scalar", "operator-(float,Tensor)", x, [](In x) { return 1.5f - x[0]; }, exact, Reads::nothing),
      unary(
          "mul.scalar", "operator*(Tensor,float)", x, [](In x) { return x[0] * 1.5f; }, exact, Reads::nothing),
      unary(
          "mul.by_scalar", "operator*(float,Tensor)", x, [](In x) { return 1.5f * x[0]; }, exact, Reads::nothing),
      unary(
          "mul.negation", "operator-(Tensor)", x, [](In x) { return -x[0]; }, exact, Reads::nothing),
      unary(
          "div.scalar", "operator/(Tensor,float)", x, [](In x) { return x[0] / 1.5f; }, exact, Reads::nothing),
      unary(
          "div.of_scalar", "operator/(float,Tensor)", uniform({3, 4}, 0.5, 2), [](In x) { return 1.5f / x[0]; }, exact,
          Reads::input),
      unary(
          "pow.scalar", "pow(Tensor,float)", uniform({3, 4}, 0.5, 2), [](In x) { return pow(x[0], 2.5f); }, function,
          Reads::input),
      unary(
          "pow.square", "pow(Tensor,float)", uniform({3, 4}), [](In x) { return pow(x[0], 2); }, function, Reads::input,
          [](In x) { return x[0] * x[0]; }),
      unary(
          "abs", "abs(Tensor)", lattice({3, 4}, -1.25, 1.25), [](In x) { return abs(x[0]); }, exact, Reads::input),
      {.name = "clamp",
       .covers = "clamp(Tensor,float,float)",
       .inputs = {lattice({3, 4}, -2.25, 2.25)},
       .f = [](In x) { return clamp(x[0], -0.5f, 1); },
       .tolerance = exact,
       .kept = {{0}},
       .plain =
           [](In x) {
             const auto bound = [&](double value) { return Tensor::full({}, value, x[0].dtype(), x[0].device()); };
             return minimum(maximum(x[0], bound(-0.5)), bound(1));
           },
       .large = {{257, 513}},
       .bad = {[](In x) { return clamp(x[0], 1, 0); }}},
  };
}

std::vector<Line> function_lines() {
  const auto sum_in_place = [](In x) {
    const Tensor sum = x[0].defined() ? x[0].clone() : Tensor();
    accumulate(sum, x[1]);
    return sum;
  };
  const Input x = uniform({5, 6}, -3, 3), positive = uniform({5, 6}, 0.25, 4);
  return {
      unary(
          "exp", "exp(Tensor)", x, [](In x) { return exp(x[0]); }, function, Reads::result),
      unary(
          "log", "log(Tensor)", positive, [](In x) { return log(x[0]); }, function, Reads::input),
      unary(
          "sqrt", "sqrt(Tensor)", positive, [](In x) { return sqrt(x[0]); }, exact, Reads::result),
      unary(
          "erf", "erf(Tensor)", x, [](In x) { return erf(x[0]); }, function, Reads::input),
      unary(
          "sin", "sin(Tensor)", x, [](In x) { return sin(x[0]); }, function, Reads::input),
      unary(
          "cos", "cos(Tensor)", x, [](In x) { return cos(x[0]); }, function, Reads::input),
      reading_result(unary(
                         "sigmoid", "sigmoid(Tensor)", x, [](In x) { return sigmoid(x[0]); }, function, Reads::result,
                         [](In x) { return 1 / (1 + exp(-x[0])); }),
                     [](const Tensor& y) { return 1 - 2 * y; }),  // of y (1 - y)
      reading_result(unary(
                         "tanh", "tanh(Tensor)", x, [](In x) { return tanh(x[0]); }, function, Reads::result,
                         [](In x) { return 2 * sigmoid(2 * x[0]) - 1; }),
                     [](const Tensor& y) { return -2 * y; }),  // of 1 - y^2
      unary(
          "silu", "silu(Tensor)", x, [](In x) { return silu(x[0]); }, function, Reads::input,
          [](In x) { return x[0] * sigmoid(x[0]); }),
      unary(
          "gelu", "gelu(Tensor)", x, [](In x) { return gelu(x[0]); }, function, Reads::input,
          [](In x) { return 0.5f * x[0] * (1 + erf(x[0] / std::numbers::sqrt2_v<float>)); }),
      unary(
          "gelu_tanh", "gelu_tanh(Tensor)", x, [](In x) { return gelu_tanh(x[0]); }, function, Reads::input,
          [](In x) {
            const Tensor cubic = x[0] + 0.044715f * x[0] * x[0] * x[0];
            return 0.5f * x[0] * (1 + tanh(cubic * std::sqrt(2 / std::numbers::pi_v<float>)));
          }),
      unary(
          "quick_gelu", "quick_gelu(Tensor)", x, [](In x) { return quick_gelu(x[0]); }, function, Reads::input,
          [](In x) { return x[0] * sigmoid(1.702f * x[0]); }),
      comparison("less", "operator<(Tensor,Tensor)", [](In x) { return x[0] < x[1]; }),
      comparison("less_equal", "operator<=(Tensor,Tensor)", [](In x) { return x[0] <= x[1]; }),
      comparison("less.greater", "operator>(Tensor,Tensor)", [](In x) { return x[0] > x[1]; }),
      comparison("less_equal.greater", "operator>=(Tensor,Tensor)", [](In x) { return x[0] >= x[1]; }),
      comparison("equal", "equal(Tensor,Tensor)", [](In x) { return equal(x[0], x[1]); }),
      comparison("not_equal", "not_equal(Tensor,Tensor)", [](In x) { return not_equal(x[0], x[1]); }),
      {.name = "where",
       .covers = "where(Tensor,Tensor,Tensor)",
       .inputs = {flags({2, 3, 1}), uniform({2, 3, 4}), uniform({4})},
       .f = [](In x) { return where(x[0], x[1], x[2]); },
       .tolerance = exact,
       .kept = {{0}},
       .large = {{3, 257, 1}, {3, 257, 129}, {129}},
       .misfits = {{{2, 3, 1}, {2, 3, 4}, {3}}, {{5}, {2, 3, 4}, {4}}},
       .bad = {[](In x) { return where(x[1], x[1], x[2]); }}},
      {.name = "accumulate",
       .covers = "accumulate(Tensor,Tensor)",
       .inputs = {uniform({3, 4}), {.shape = {3, 4}, .any_floating = true}},
       .f = sum_in_place,
       .tolerance = exact,
       .plain = [](In x) { return x[0].detach() + x[1].detach(); },
       .large = {{257, 513}, {257, 513}},
       .misfits = {{{3, 4}, {4}}},
       .differentiable = false},
      {.name = "accumulate.narrow",
       .covers = "accumulate(Tensor,Tensor)",
       .inputs = {fixed({3, 4}, 0.5, 2),
                  {.shape = {3, 4}, .trainable = false, .dtype = DType::bf16, .any_floating = true}},
       .f = sum_in_place,
       .tolerance = exact,
       .plain = [](In x) { return x[0] + x[1].to(DType::f32); },
       .large = {{257, 513}, {257, 513}},
       .misfits = {{{3, 4}, {4}}},
       .differentiable = false},
  };
}

}  // namespace flame::test
