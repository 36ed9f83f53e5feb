#include "flame/autograd/tape.h"
#include "flame/core/scalar_math.h"
#include "flame/ops/on.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/pointwise_kernels.h"
#include "flame/ops/reduce.h"
#ifdef __CUDACC__
#include "flame/ops/pointwise_cuda.h"
#endif

namespace flame {
namespace {

// What the rule of a gradient reads besides dy, and so what is kept for it.
enum class Reads { nothing, input, output };

// --- the rules: each is the whole definition of an op ---

struct AddScalar {
  static constexpr const char* name = "add";
  static constexpr Reads reads = Reads::nothing;
  float s;
  FLAME_SCALAR float forward(float x) const { return x + s; }
  FLAME_SCALAR float backward(float, float dy) const { return dy; }
};
struct SubScalar {
  static constexpr const char* name = "sub";
  static constexpr Reads reads = Reads::nothing;
  float s;
  FLAME_SCALAR float forward(float x) const { return x - s; }
  FLAME_SCALAR float backward(float, float dy) const { return dy; }
};
struct ScalarMinus {
  static constexpr const char* name = "sub";
  static constexpr Reads reads = Reads::nothing;
  float s;
  FLAME_SCALAR float forward(float x) const { return s - x; }
  FLAME_SCALAR float backward(float, float dy) const { return -dy; }
};
struct MulScalar {
  static constexpr const char* name = "mul";
  static constexpr Reads reads = Reads::nothing;
  float s;
  FLAME_SCALAR float forward(float x) const { return x * s; }
  FLAME_SCALAR float backward(float, float dy) const { return dy * s; }
};
struct DivScalar {
  static constexpr const char* name = "div";
  static constexpr Reads reads = Reads::nothing;
  float s;
  FLAME_SCALAR float forward(float x) const { return x / s; }
  FLAME_SCALAR float backward(float, float dy) const { return dy / s; }
};
struct ScalarOver {
  static constexpr const char* name = "div";
  static constexpr Reads reads = Reads::input;
  float s;
  FLAME_SCALAR float forward(float x) const { return s / x; }
  FLAME_SCALAR float backward(float x, float dy) const { return -dy * s / (x * x); }
};
struct PowScalar {
  static constexpr const char* name = "pow";
  static constexpr Reads reads = Reads::input;
  float s;
  FLAME_SCALAR float forward(float x) const { return std::pow(x, s); }
  FLAME_SCALAR float backward(float x, float dy) const { return s == 0 ? 0.0f : dy * s * std::pow(x, s - 1); }
};
struct Exp {
  static constexpr const char* name = "exp";
  static constexpr Reads reads = Reads::output;
  FLAME_SCALAR float forward(float x) const { return std::exp(x); }
  FLAME_SCALAR float backward(float y, float dy) const { return dy * y; }
};
struct Log {
  static constexpr const char* name = "log";
  static constexpr Reads reads = Reads::input;
  FLAME_SCALAR float forward(float x) const { return std::log(x); }
  FLAME_SCALAR float backward(float x, float dy) const { return dy / x; }
};
struct Sqrt {
  static constexpr const char* name = "sqrt";
  static constexpr Reads reads = Reads::output;
  FLAME_SCALAR float forward(float x) const { return std::sqrt(x); }
  FLAME_SCALAR float backward(float y, float dy) const { return dy / (2 * y); }
};
struct Erf {
  static constexpr const char* name = "erf";
  static constexpr Reads reads = Reads::input;
  FLAME_SCALAR float forward(float x) const { return fast_erf(x); }
  FLAME_SCALAR float backward(float x, float dy) const { return dy * 1.12837917f * fast_exp(-x * x); }
};
struct Sin {
  static constexpr const char* name = "sin";
  static constexpr Reads reads = Reads::input;
  FLAME_SCALAR float forward(float x) const { return std::sin(x); }
  FLAME_SCALAR float backward(float x, float dy) const { return dy * std::cos(x); }
};
struct Cos {
  static constexpr const char* name = "cos";
  static constexpr Reads reads = Reads::input;
  FLAME_SCALAR float forward(float x) const { return std::cos(x); }
  FLAME_SCALAR float backward(float x, float dy) const { return -dy * std::sin(x); }
};
struct Abs {
  static constexpr const char* name = "abs";
  static constexpr Reads reads = Reads::input;
  FLAME_SCALAR float forward(float x) const { return std::fabs(x); }
  FLAME_SCALAR float backward(float x, float dy) const { return x > 0 ? dy : x < 0 ? -dy : 0.0f; }
};
struct Clamp {
  static constexpr const char* name = "clamp";
  static constexpr Reads reads = Reads::input;
  float low, high;
  FLAME_SCALAR float forward(float x) const { return x < low ? low : x > high ? high : x; }
  FLAME_SCALAR float backward(float x, float dy) const { return x < low || x > high ? 0.0f : dy; }
};
struct Sigmoid {
  static constexpr const char* name = "sigmoid";
  static constexpr Reads reads = Reads::output;
  FLAME_SCALAR float forward(float x) const { return fast_sigmoid(x); }
  FLAME_SCALAR float backward(float y, float dy) const { return dy * y * (1 - y); }
};
struct Tanh {
  static constexpr const char* name = "tanh";
  static constexpr Reads reads = Reads::output;
  FLAME_SCALAR float forward(float x) const { return fast_tanh(x); }
  FLAME_SCALAR float backward(float y, float dy) const { return dy * (1 - y * y); }
};
struct Silu {
  static constexpr const char* name = "silu";
  static constexpr Reads reads = Reads::input;
  FLAME_SCALAR float forward(float x) const { return x * fast_sigmoid(x); }
  FLAME_SCALAR float backward(float x, float dy) const {
    const float s = fast_sigmoid(x);
    return dy * s * (1 + x * (1 - s));
  }
};
struct Gelu {
  static constexpr const char* name = "gelu";
  static constexpr Reads reads = Reads::input;
  FLAME_SCALAR float forward(float x) const { return 0.5f * x * (1 + fast_erf(x * 0.70710678f)); }
  FLAME_SCALAR float backward(float x, float dy) const {
    return dy * (0.5f * (1 + fast_erf(x * 0.70710678f)) + x * 0.39894228f * fast_exp(-0.5f * x * x));
  }
};
struct GeluTanh {
  static constexpr const char* name = "gelu_tanh";
  static constexpr Reads reads = Reads::input;
  // 0.5 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) as a sigmoid, which loses no digits where tanh is near -1.
  FLAME_SCALAR float gate(float x) const { return fast_sigmoid(x * std::fma(0.0713548163f, x * x, 1.59576912f)); }
  FLAME_SCALAR float forward(float x) const { return x * gate(x); }
  FLAME_SCALAR float backward(float x, float dy) const {
    const float s = gate(x);
    return dy * s * (1 + (1 - s) * x * std::fma(0.214064449f, x * x, 1.59576912f));
  }
};
struct QuickGelu {
  static constexpr const char* name = "quick_gelu";
  static constexpr Reads reads = Reads::input;
  FLAME_SCALAR float forward(float x) const { return x * fast_sigmoid(1.702f * x); }
  FLAME_SCALAR float backward(float x, float dy) const {
    const float s = fast_sigmoid(1.702f * x);
    return dy * s * (1 + 1.702f * x * (1 - s));
  }
};

// Sums: the gradients are dy and b_sign dy, and nothing is kept for them.
struct Add {
  static constexpr const char* name = "add";
  static constexpr float b_sign = 1;
  FLAME_SCALAR float forward(float a, float b) const { return a + b; }
};
struct Sub {
  static constexpr const char* name = "sub";
  static constexpr float b_sign = -1;
  FLAME_SCALAR float forward(float a, float b) const { return a - b; }
};

// Other rules of two inputs; da always reads b and db always reads a.
struct Mul {
  static constexpr const char* name = "mul";
  static constexpr bool da_reads_a = false, db_reads_b = false;
  FLAME_SCALAR float forward(float a, float b) const { return a * b; }
  FLAME_SCALAR float da(float, float b, float dy) const { return dy * b; }
  FLAME_SCALAR float db(float a, float, float dy) const { return dy * a; }
};
struct Div {
  static constexpr const char* name = "div";
  static constexpr bool da_reads_a = false, db_reads_b = true;
  FLAME_SCALAR float forward(float a, float b) const { return a / b; }
  FLAME_SCALAR float da(float, float b, float dy) const { return dy / b; }
  FLAME_SCALAR float db(float a, float b, float dy) const { return -dy * a / (b * b); }
};
struct Pow {
  static constexpr const char* name = "pow";
  static constexpr bool da_reads_a = true, db_reads_b = true;
  FLAME_SCALAR float forward(float a, float b) const { return std::pow(a, b); }
  FLAME_SCALAR float da(float a, float b, float dy) const { return b == 0 ? 0.0f : dy * b * std::pow(a, b - 1); }
  FLAME_SCALAR float db(float a, float b, float dy) const {
    return a == 0 && b >= 0 ? 0.0f : dy * std::pow(a, b) * std::log(a);
  }
};
struct Minimum {
  static constexpr const char* name = "minimum";
  static constexpr bool da_reads_a = true, db_reads_b = true;
  FLAME_SCALAR float forward(float a, float b) const { return a != a ? a : b != b ? b : a < b ? a : b; }
  FLAME_SCALAR float da(float a, float b, float dy) const { return a < b ? dy : a == b ? 0.5f * dy : 0.0f; }
  FLAME_SCALAR float db(float a, float b, float dy) const { return b < a ? dy : a == b ? 0.5f * dy : 0.0f; }
};
struct Maximum {
  static constexpr const char* name = "maximum";
  static constexpr bool da_reads_a = true, db_reads_b = true;
  FLAME_SCALAR float forward(float a, float b) const { return a != a ? a : b != b ? b : a > b ? a : b; }
  FLAME_SCALAR float da(float a, float b, float dy) const { return a > b ? dy : a == b ? 0.5f * dy : 0.0f; }
  FLAME_SCALAR float db(float a, float b, float dy) const { return b > a ? dy : a == b ? 0.5f * dy : 0.0f; }
};

struct Less {
  static constexpr const char* name = "less";
  FLAME_SCALAR bool operator()(auto a, auto b) const { return a < b; }
};
struct LessEqual {
  static constexpr const char* name = "less_equal";
  FLAME_SCALAR bool operator()(auto a, auto b) const { return a <= b; }
};
struct Equal {
  static constexpr const char* name = "equal";
  FLAME_SCALAR bool operator()(auto a, auto b) const { return a == b; }
};
struct NotEqual {
  static constexpr const char* name = "not_equal";
  FLAME_SCALAR bool operator()(auto a, auto b) const { return a != b; }
};

// --- the functions of a rule as the kernels call them ---

template <class Rule>
struct Forward {
  Rule rule;
  FLAME_SCALAR float operator()(float x) const { return rule.forward(x); }
  FLAME_SCALAR float operator()(float a, float b) const { return rule.forward(a, b); }
};
template <class Rule>
struct Derivative {
  Rule rule;
  FLAME_SCALAR float operator()(float x, float dy) const { return rule.backward(x, dy); }
};
template <class Rule>
struct DerivativeOfA {
  FLAME_SCALAR float operator()(float a, float b, float dy) const { return Rule{}.da(a, b, dy); }
};
template <class Rule>
struct DerivativeOfB {
  FLAME_SCALAR float operator()(float a, float b, float dy) const { return Rule{}.db(a, b, dy); }
};
struct Select {
  FLAME_SCALAR float operator()(bool condition, float a, float b) const { return condition ? a : b; }
};
struct Sum {
  FLAME_SCALAR float operator()(float a, float b) const { return a + b; }
};

// --- applying them ---

void require_floating(Op op, const Tensor& x) {
  require(x.defined(), op, "expected a tensor, got none");
  require(is_floating(x.dtype()), op, "expected a floating dtype, got ", x.dtype());
}

template <class F>
void map(const F& f, const Tensor& x, const Tensor& y) {
  visit(x.dtype(), [&]<class T>() { on<cpu::map<T, F>, cuda::map<T, F>>(x.device(), f, x, y); });
}

template <class F>
void zip(const F& f, const Tensor& a, const Tensor& b, const Tensor& out) {
  visit(a.dtype(), [&]<class T>() { on<cpu::zip<T, T, T, F>, cuda::zip<T, T, T, F>>(a.device(), f, a, b, out); });
}

template <class Rule>
Tensor pointwise(const Tensor& x, Rule rule = {}) {
  require_floating(Rule::name, x);
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  map(Forward<Rule>{rule}, x, y);
  const Tensor read = Rule::reads == Reads::nothing ? Tensor() : keep(Rule::reads == Reads::input ? x : y, x);
  return record(Rule::name, y, {x}, [rule, dx_to = wants(x), read](const Tensor& dy, GradientMap& gradients) {
    const Tensor dx = Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    zip(Derivative<Rule>{rule}, read.defined() ? read : dy, dy, dx);
    gradients.add(dx_to, dx);
  });
}

// The gradient of one input: f(a, b, dy) over the broadcast shape, summed back to the input's own.
template <class F>
Tensor gradient(const F& f, const Tensor& a, const Tensor& b, const Tensor& dy, const Shape& shape) {
  const Tensor full = Tensor::empty(dy.shape(), dy.dtype(), dy.device());
  visit(dy.dtype(), [&]<class T>() { on<cpu::zip3<T, T, F>, cuda::zip3<T, T, F>>(dy.device(), f, a, b, dy, full); });
  return sum_to(full, shape);
}

template <class Rule>
Tensor pointwise2(const Tensor& a, const Tensor& b) {
  require_same(Rule::name, a, b);
  require_floating(Rule::name, a);
  const Tensor y = Tensor::empty(broadcast(a.shape(), b.shape(), Rule::name), a.dtype(), a.device());
  zip(Forward<Rule>{}, a, b, y);
  if constexpr (requires { Rule::b_sign; }) {
    return record(Rule::name, y, {a, b},
                  [da_to = wants(a), db_to = wants(b), a_shape = a.shape(), b_shape = b.shape()](
                      const Tensor& dy, GradientMap& gradients) {
                    if (da_to) gradients.add(da_to, sum_to(dy, a_shape));
                    if (db_to) gradients.add(db_to, sum_to(Rule::b_sign < 0 ? -dy : dy, b_shape));
                  });
  } else {
    const Tensor kept_a = Rule::da_reads_a ? keep(a, a, b) : keep(a, b);
    const Tensor kept_b = Rule::db_reads_b ? keep(b, a, b) : keep(b, a);
    return record(Rule::name, y, {a, b},
                  [da_to = wants(a), db_to = wants(b), a = kept_a, b = kept_b, a_shape = a.shape(),
                   b_shape = b.shape()](const Tensor& dy, GradientMap& gradients) {
                    const Tensor &p = a.defined() ? a : dy, &q = b.defined() ? b : dy;  // what is not kept is not read
                    if (da_to) gradients.add(da_to, gradient(DerivativeOfA<Rule>{}, p, q, dy, a_shape));
                    if (db_to) gradients.add(db_to, gradient(DerivativeOfB<Rule>{}, p, q, dy, b_shape));
                  });
  }
}

template <class F>
Tensor compare(const Tensor& a, const Tensor& b) {
  require_same(F::name, a, b);
  const Tensor y = Tensor::empty(broadcast(a.shape(), b.shape(), F::name), DType::boolean, a.device());
  visit_all(a.dtype(),
            [&]<class T>() { on<cpu::zip<T, T, bool, F>, cuda::zip<T, T, bool, F>>(a.device(), F{}, a, b, y); });
  return y;
}

}  // namespace

Tensor operator+(const Tensor& a, const Tensor& b) { return pointwise2<Add>(a, b); }
Tensor operator-(const Tensor& a, const Tensor& b) { return pointwise2<Sub>(a, b); }
Tensor operator*(const Tensor& a, const Tensor& b) { return pointwise2<Mul>(a, b); }
Tensor operator/(const Tensor& a, const Tensor& b) { return pointwise2<Div>(a, b); }
Tensor operator+(const Tensor& a, float b) { return pointwise(a, AddScalar{b}); }
Tensor operator-(const Tensor& a, float b) { return pointwise(a, SubScalar{b}); }
Tensor operator*(const Tensor& a, float b) { return pointwise(a, MulScalar{b}); }
Tensor operator/(const Tensor& a, float b) { return pointwise(a, DivScalar{b}); }
Tensor operator+(float a, const Tensor& b) { return pointwise(b, AddScalar{a}); }
Tensor operator-(float a, const Tensor& b) { return pointwise(b, ScalarMinus{a}); }
Tensor operator*(float a, const Tensor& b) { return pointwise(b, MulScalar{a}); }
Tensor operator/(float a, const Tensor& b) { return pointwise(b, ScalarOver{a}); }
Tensor operator-(const Tensor& a) { return pointwise(a, MulScalar{-1}); }
Tensor minimum(const Tensor& a, const Tensor& b) { return pointwise2<Minimum>(a, b); }
Tensor maximum(const Tensor& a, const Tensor& b) { return pointwise2<Maximum>(a, b); }
Tensor pow(const Tensor& a, const Tensor& b) { return pointwise2<Pow>(a, b); }
Tensor pow(const Tensor& a, float exponent) { return pointwise(a, PowScalar{exponent}); }

Tensor exp(const Tensor& x) { return pointwise<Exp>(x); }
Tensor log(const Tensor& x) { return pointwise<Log>(x); }
Tensor sqrt(const Tensor& x) { return pointwise<Sqrt>(x); }
Tensor erf(const Tensor& x) { return pointwise<Erf>(x); }
Tensor sin(const Tensor& x) { return pointwise<Sin>(x); }
Tensor cos(const Tensor& x) { return pointwise<Cos>(x); }
Tensor abs(const Tensor& x) { return pointwise<Abs>(x); }
Tensor sigmoid(const Tensor& x) { return pointwise<Sigmoid>(x); }
Tensor tanh(const Tensor& x) { return pointwise<Tanh>(x); }
Tensor silu(const Tensor& x) { return pointwise<Silu>(x); }
Tensor gelu(const Tensor& x) { return pointwise<Gelu>(x); }
Tensor gelu_tanh(const Tensor& x) { return pointwise<GeluTanh>(x); }
Tensor quick_gelu(const Tensor& x) { return pointwise<QuickGelu>(x); }

Tensor clamp(const Tensor& x, float low, float high) {
  require(low <= high, "clamp", "expected low <= high, got ", low, " and ", high);
  return pointwise(x, Clamp{low, high});
}

Tensor operator<(const Tensor& a, const Tensor& b) { return compare<Less>(a, b); }
Tensor operator<=(const Tensor& a, const Tensor& b) { return compare<LessEqual>(a, b); }
Tensor operator>(const Tensor& a, const Tensor& b) { return compare<Less>(b, a); }
Tensor operator>=(const Tensor& a, const Tensor& b) { return compare<LessEqual>(b, a); }
Tensor equal(const Tensor& a, const Tensor& b) { return compare<Equal>(a, b); }
Tensor not_equal(const Tensor& a, const Tensor& b) { return compare<NotEqual>(a, b); }

namespace {

Tensor select(const Tensor& condition, const Tensor& a, const Tensor& b) {
  const Shape shape = broadcast(condition.shape(), broadcast(a.shape(), b.shape(), "where"), "where");
  const Tensor y = Tensor::empty(shape, a.dtype(), a.device());
  visit(a.dtype(), [&]<class T>() {
    on<cpu::zip3<bool, T, Select>, cuda::zip3<bool, T, Select>>(a.device(), Select{}, condition, a, b, y);
  });
  return y;
}

}  // namespace

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  require_same("where", a, b);
  require_floating("where", a);
  require(condition.defined() && condition.dtype() == DType::boolean, "where", "expected a bool condition, got ",
          condition.dtype());
  require(condition.device() == a.device(), "where", "expected one device, got ", condition.device(), " and ",
          a.device());
  return record("where", select(condition, a, b), {a, b},
                [da_to = wants(a), db_to = wants(b), condition = keep(condition, a, b), a_shape = a.shape(),
                 b_shape = b.shape()](const Tensor& dy, GradientMap& gradients) {
                  const Tensor zero = Tensor::zeros({}, dy.dtype(), dy.device());
                  if (da_to) gradients.add(da_to, sum_to(select(condition, dy, zero), a_shape));
                  if (db_to) gradients.add(db_to, sum_to(select(condition, zero, dy), b_shape));
                });
}

void accumulate(const Tensor& into, const Tensor& x) {
  const char* op = "accumulate";
  require(into.defined() && x.defined() && into.device() == x.device(), op, "expected tensors of one device");
  require(into.shape() == x.shape(), op, "expected shape ", into.shape(), ", got ", x.shape());
  require(is_floating(x.dtype()), op, "expected a floating dtype, got ", x.dtype());
  visit(x.dtype(), [&]<class T>() {
    if (into.dtype() == x.dtype()) return zip(Sum{}, into, x, into);
    require(into.dtype() == DType::f32, op, "expected ", into.dtype(), ", got ", x.dtype());
    on<cpu::zip<float, T, float, Sum>, cuda::zip<float, T, float, Sum>>(into.device(), Sum{}, into, x, into);
  });
}

}  // namespace flame
