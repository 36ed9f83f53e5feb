#include <algorithm>
#include <cmath>
#include <numeric>

#include "flame/autograd/tape.h"
#include "flame/io/safetensors.h"
#include "flame/ops/layout.h"
#include "run.h"

// Every check on every line. A failure names both: Check.name/line.
namespace flame::test {
namespace {

class Catalogue : public testing::TestWithParam<Line> {
 protected:
  const Line& line() const { return GetParam(); }
};

class Smooth : public Catalogue {};     // lines with a slope
class Redefined : public Catalogue {};  // lines with a plain definition
class AnyDType : public Catalogue {};   // lines that work on integers too

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// x with input `which` moved by step times signs.
Tensors moved_along(const Tensors& x, int which, const std::vector<float>& signs, double step) {
  Tensors result = x;
  std::vector<float> values = x[which].to_host<float>();
  for (size_t i = 0; i < values.size(); ++i) values[i] += static_cast<float>(step) * signs[i];
  result[which] = Tensor::from(values, x[which].shape());
  return result;
}

// The slope along a direction by central differences, fourth order, equals the gradient's component along it.
TEST_P(Smooth, GradientIsTheSlope) {
  const Tensors x = draw(line());
  Generator generator(7);
  for (const Wanted& wanted : alone_and_together(line())) {
    const Outcome outcome = evaluate(line().f, x, wanted);
    const std::vector<double> dy = values(draw_like(outcome.y));
    for (int i : wanted) {
      const std::vector<double> gradient = values(outcome.gradients[i]);
      for (int direction = 0; direction < 3; ++direction) {
        std::vector<float> signs = Tensor::rand({x[i].numel()}, generator).to_host<float>();
        for (float& sign : signs) sign = sign < 0.5f ? -1 : 1;
        const auto at = [&](double step) { return dot(dy, values(line().f(moved_along(x, i, signs, step)))); };
        const double h = 1.0 / 64, slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
        const double expected = dot(gradient, std::vector<double>(signs.begin(), signs.end()));
        const double noise = 1e-7 / h * std::sqrt(dot(dy, dy)) * std::sqrt(dot(values(outcome.y), values(outcome.y)));
        EXPECT_NEAR(slope, expected, 1e-3 * std::sqrt(dot(gradient, gradient)) + noise) << "input " << i;
      }
    }
  }
}

// Without trainable inputs nothing is recorded; with some, the rule keeps the declared bytes and holds no others.
TEST_P(Catalogue, KeepsWhatItDeclares) {
  {
    Tape tape;
    const Tensor y = line().f(draw(line()));
    EXPECT_FALSE(y.wants_grad());
    EXPECT_EQ(tape.size(), 0u);
    EXPECT_EQ(tape.bytes_kept(), 0u);
  }
  for (const Wanted& wanted : alone_and_together(line())) {
    Tape tape;
    size_t declared = 0, rounding = 0;
    const size_t before = memory_use(Device::cpu()).current;
    {
      Tensors x = draw(line());
      for (int i : wanted) x[i] = x[i].requires_grad();
      const Tensor y = line().f(x);
      EXPECT_TRUE(y.wants_grad());
      for (const Kept& kept : line().kept) {
        const auto is_wanted = [&](int i) { return std::find(wanted.begin(), wanted.end(), i) != wanted.end(); };
        if (!kept.reasons.empty() && std::none_of(kept.reasons.begin(), kept.reasons.end(), is_wanted)) continue;
        declared += kept.what >= 0              ? x[kept.what].bytes()
                    : kept.what == Kept::result ? y.bytes()
                                                : static_cast<size_t>(kept.count) * sizeof(float);
        rounding += 128;  // of the allocator's, on no more than two blocks
      }
    }
    EXPECT_EQ(tape.bytes_kept(), declared) << "trainable: " << testing::PrintToString(wanted);
    const size_t held = memory_use(Device::cpu()).current - before;
    EXPECT_GE(held, declared) << "trainable: " << testing::PrintToString(wanted);
    EXPECT_LE(held, declared + rounding) << "trainable: " << testing::PrintToString(wanted);
  }
}

// The result and every gradient are PyTorch's in float64.
TEST_P(Catalogue, EqualsTheReference) {
  static const SafetensorsFile file(TESTS_DIR "/data/ops.safetensors");
  const auto stored = [&](const std::string& name) { return file.tensor(line().name + "/" + name); };
  Tensors x;
  for (size_t i = 0; i < line().inputs.size(); ++i) x.push_back(stored(text("x", i)));
  const Outcome outcome = evaluate(line().f, x, trainable(line()), line().differentiable ? stored("dy") : Tensor());
  EXPECT_EQ(outcome.y.dtype(), stored("y").dtype());
  EXPECT_TRUE(near(outcome.y, stored("y"), line().tolerance.value));
  for (int i : trainable(line()))
    EXPECT_TRUE(near(outcome.gradients[i], stored(text("dx", i)), line().tolerance.gradient))
        << "gradient of input " << i;
}

// A fast op equals its plain definition, in value and gradients, small and large.
TEST_P(Redefined, EqualsItsPlainDefinition) {
  for (const Tensors& x : {draw(line()), draw(line(), line().large)}) {
    const Outcome fast = evaluate(line().f, x, trainable(line())), plain = evaluate(line().plain, x, trainable(line()));
    EXPECT_TRUE(near(fast.y, plain.y, 2 * summed.value)) << x[0].shape();
    for (int i : trainable(line()))
      EXPECT_TRUE(near(fast.gradients[i], plain.gradients[i], 2 * summed.gradient))
          << x[0].shape() << ", gradient of input " << i;
  }
}

// In f16 and bf16 the result is the f32 one of the same inputs, rounded to storage.
TEST_P(Catalogue, RoundsToStorageOnly) {
  for (DType dtype : {DType::f16, DType::bf16}) {
    const double half_ulp = dtype == DType::f16 ? 0x1p-11 : 0x1p-8, least = dtype == DType::f16 ? 0x1p-25 : 0;
    const Tensors narrow = stored_as(dtype, line(), draw(line())), wide = stored_as(DType::f32, line(), narrow);
    const Wanted wanted = trainable(line());
    const Tensor y = line().f(narrow);
    const Tensor dy = wanted.empty() ? Tensor() : draw_like(y);
    const Outcome got = evaluate(line().f, narrow, wanted, dy);
    const Outcome expected = evaluate(line().f, wide, wanted, dy.defined() ? dy.to(line().f(wide).dtype()) : dy);
    EXPECT_TRUE(near(got.y, expected.y, line().roundings * half_ulp, least)) << dtype;
    for (int i : wanted) {
      EXPECT_EQ(got.gradients[i].dtype(), dtype);
      EXPECT_TRUE(near(got.gradients[i], expected.gradients[i], (line().roundings + 2) * half_ulp, 4 * least))
          << dtype << ", gradient of input " << i;
    }
  }
}

// Again, and with other numbers of threads, every bit is the same.
TEST_P(Catalogue, RepeatsToTheBit) {
  const Tensors x = draw(line(), line().large);
  const Outcome first = evaluate(line().f, x, trainable(line()));
  const int before = threads();
  for (int count : line().any_threads ? std::vector{before, 1, 2, 3} : std::vector{before}) {
    set_threads(count);
    const Outcome again = evaluate(line().f, x, trainable(line()));
    EXPECT_TRUE(same_bits(again.y, first.y)) << count << " threads";
    for (int i : trainable(line()))
      EXPECT_TRUE(same_bits(again.gradients[i], first.gradients[i])) << count << " threads, gradient of input " << i;
  }
  set_threads(before);
}

// What does not fit is refused by an error that names the op.
TEST_P(Catalogue, RefusesWhatDoesNotFit) {
  const Tensors x = draw(line());
  const auto floating = std::count_if(x.begin(), x.end(), [](const Tensor& t) { return is_floating(t.dtype()); });
  for (size_t i = 0; i < x.size(); ++i) {
    const auto with = [&](const Tensor& replacement) {
      Tensors changed = x;
      changed[i] = replacement;
      return changed;
    };
    if (!line().inputs[i].optional) expect_refused(line(), line().f, with({}), text("no tensor for input ", i));
    if (!is_floating(x[i].dtype())) continue;
    if (floating > 1 && !line().inputs[i].any_floating)
      expect_refused(line(), line().f, with(x[i].to(DType::f16)), text("f16 for input ", i));
    if (!line().any_dtype) expect_refused(line(), line().f, with(x[i].to(DType::i32)), text("i32 for input ", i));
  }
  for (const auto& shapes : line().misfits)
    expect_refused(line(), line().f, draw(line(), shapes), "shapes " + testing::PrintToString(shapes));
  for (size_t i = 0; i < line().bad.size(); ++i) expect_refused(line(), line().bad[i], x, text("bad call ", i));
}

// What is moved is moved in every dtype.
TEST_P(AnyDType, TakesIntegers) {
  const Tensors x = draw(line());
  for (DType dtype : {DType::u8, DType::i32, DType::i64, DType::boolean}) {
    Tensors whole = x, expected = x;
    for (size_t i = 0; i < x.size(); ++i) {
      if (is_floating(x[i].dtype())) whole[i] = x[i].to(dtype), expected[i] = whole[i].to(DType::f32);
    }
    const Tensor got = line().f(whole);
    EXPECT_TRUE(same_bits(got, line().f(expected).to(got.dtype()))) << dtype;
  }
}

INSTANTIATE_TEST_SUITE_P(Op, Catalogue, testing::ValuesIn(catalogue()), test_name);
INSTANTIATE_TEST_SUITE_P(Op, Smooth, testing::ValuesIn(lines_with([](const Line& line) {
                           return line.smooth && line.differentiable;
                         })),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Op, Redefined,
                         testing::ValuesIn(lines_with([](const Line& line) { return line.plain != nullptr; })),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Op, AnyDType, testing::ValuesIn(lines_with([](const Line& line) { return line.any_dtype; })),
                         test_name);

}  // namespace
}  // namespace flame::test
