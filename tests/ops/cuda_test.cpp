#include <algorithm>

#include "flame/autograd/tape.h"
#include "flame/device/graph.h"
#include "flame/io/safetensors.h"
#include "run.h"

// Every check of a GPU on every line: against the CPU, the references, itself. A failure names both: Check.name/line.
namespace flame::test {
namespace {

class Cuda : public testing::TestWithParam<Line> {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
    set_deterministic(true);
  }
  const Line& line() const { return GetParam(); }
};

class CudaRedefined : public Cuda {};  // lines with a plain definition
class CudaAnyDType : public Cuda {};   // lines that work on integers too

constexpr double like_the_cpu = 1e-5;  // of f32 sums taken in another order

Tensor on_gpu(const Tensor& x) { return x.defined() ? x.to(Device::cuda()) : x; }

// The same where no vector load is aligned: one element behind the start of a buffer.
Tensor shifted_on_gpu(const Tensor& x) {
  if (!x.defined()) return x;
  const Tensor result = Tensor::empty({x.numel() + 1}, x.dtype(), Device::cuda()).rows(1, x.numel()).view(x.shape());
  result.copy_from(x);
  return result;
}

using Place = Tensor (*)(const Tensor&);
Tensors placed(const Tensors& x, Place place = on_gpu) {
  Tensors result;
  std::transform(x.begin(), x.end(), std::back_inserter(result), place);
  return result;
}

std::vector<Tensors> small_and_large(const Line& line) {
  std::vector<Tensors> result = {draw(line)};
  if (!line.large.empty()) result.push_back(draw(line, line.large));
  return result;
}

constexpr double half_ulp(DType dtype) { return dtype == DType::f32 ? 0 : dtype == DType::f16 ? 0x1p-11 : 0x1p-8; }

// A line of numbers stored as `dtype` on the GPU, next to the same numbers in f32 on the CPU.
struct Comparison {
  Outcome got, expected;
  Tensors noise;  // of the result and its gradients; none: it is not known
};
Comparison on_both(const Line& line, const Tensors& drawn, DType dtype, Place place = on_gpu) {
  const Tensors stored = stored_as(dtype, line, drawn), wide = stored_as(DType::f32, line, stored);
  const Wanted wanted = trainable(line);
  Tensor dy, wide_dy;
  if (!wanted.empty()) {
    dy = draw_like(line.f(stored));
    wide_dy = dy.to(line.f(wide).dtype());
  }
  return {evaluate(line.f, placed(stored, place), wanted, place(dy)), evaluate(line.f, wide, wanted, wide_dy),
          line.noise ? line.noise(wide, wide_dy, half_ulp(dtype)) : Tensors()};
}

struct Bounds {
  Tolerance tolerance;
  double floor = 0;
};

void expect_near(const Line& line, const Outcome& got, const Outcome& expected, const Bounds& bounds,
                 const std::string& where, const Tensors& noise = {}) {
  const auto& [tolerance, floor] = bounds;
  const auto noise_of = [&](int index) { return noise.empty() ? Tensor() : noise[index]; };
  EXPECT_TRUE(near(got.y, expected.y, tolerance.value, floor, noise_of(0))) << where;
  for (int i : trainable(line))
    EXPECT_TRUE(near(got.gradients[i], expected.gradients[i], tolerance.gradient, 4 * floor, noise_of(i + 1)))
        << where << ", gradient of input " << i;
}

void expect_same_bits(const Line& line, const Outcome& got, const Outcome& expected, const std::string& where) {
  EXPECT_TRUE(same_bits(got.y, expected.y)) << where;
  for (int i : trainable(line))
    EXPECT_TRUE(same_bits(got.gradients[i], expected.gradients[i])) << where << ", gradient of input " << i;
}

// What f32 results may differ from the CPU's.
Bounds in_f32(const Line& line) {
  const bool exact = line.tolerance.value == 0 && line.tolerance.gradient == 0;
  return {exact ? moved : Tolerance{like_the_cpu, like_the_cpu}};
}

// What results stored as `dtype` may differ from the CPU's in f32, beside the line's noise: the roundings to storage. A
// gradient takes two more where the noise is not known.
Bounds stored(const Line& line, DType dtype) {
  const double unit = half_ulp(dtype);
  const int more = line.noise ? 0 : 2;
  return {{line.roundings * unit, (line.roundings + more) * unit}, dtype == DType::f16 ? 0x1p-25 : 0};
}

TEST_P(Cuda, EqualsTheCpu) {
  for (const Tensors& x : small_and_large(line())) {
    const auto [got, expected, noise] = on_both(line(), x, DType::f32);
    EXPECT_TRUE(got.y.device().is_cuda());
    EXPECT_EQ(got.y.dtype(), expected.y.dtype());
    expect_near(line(), got, expected, in_f32(line()), text(x[0].shape()));
  }
}

// The result and every gradient are PyTorch's in float64, as near as the CPU's have to be.
TEST_P(Cuda, EqualsTheReference) {
  static const SafetensorsFile file(TESTS_DIR "/data/ops.safetensors");
  const auto stored = [&](const std::string& name) { return file.tensor(line().name + "/" + name); };
  Tensors x;
  Outcome expected = {stored("y"), Tensors(line().inputs.size())};
  for (size_t i = 0; i < line().inputs.size(); ++i) x.push_back(stored(text("x", i)));
  for (int i : trainable(line())) expected.gradients[i] = stored(text("dx", i));
  const Tensor dy = line().differentiable ? stored("dy") : Tensor();
  expect_near(line(), evaluate(line().f, placed(x), trainable(line()), on_gpu(dy)), expected, {line().tolerance},
              "as computed by PyTorch");
}

// In f16 and bf16 the result is the CPU's in f32 of the same inputs, rounded to storage.
TEST_P(Cuda, RoundsToStorageOnly) {
  for (const Tensors& x : small_and_large(line())) {
    for (DType dtype : {DType::f16, DType::bf16}) {
      const auto [got, expected, noise] = on_both(line(), x, dtype);
      for (int i : trainable(line())) EXPECT_EQ(got.gradients[i].dtype(), dtype);
      expect_near(line(), got, expected, stored(line(), dtype), text(dtype, " ", x[0].shape()), noise);
    }
  }
}

// Inputs may lie anywhere in a buffer, as parameters and rows of a batch do.
TEST_P(Cuda, TakesUnalignedInputs) {
  for (const Tensors& x : small_and_large(line())) {
    for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const auto [got, expected, noise] = on_both(line(), x, dtype, shifted_on_gpu);
      const bool wide = dtype == DType::f32;
      expect_near(line(), got, expected, wide ? in_f32(line()) : stored(line(), dtype), text(dtype, " ", x[0].shape()),
                  wide ? Tensors() : noise);
    }
  }
}

// The rule holds the declared bytes, and no others, until the backward pass.
TEST_P(Cuda, KeepsWhatItDeclares) {
  evaluate(line().f, placed(draw(line())), trainable(line()));  // libraries take their workspace now
  for (const Wanted& wanted : alone_and_together(line())) {
    Tape tape;
    size_t declared = 0, rounding = 0;
    const size_t before = memory_use(Device::cuda()).current;
    {
      Tensors x = placed(draw(line()));
      for (int i : wanted) x[i] = x[i].requires_grad();
      const Tensor y = line().f(x);
      for (const Kept& kept : line().kept) {
        const auto is_wanted = [&](int i) { return std::find(wanted.begin(), wanted.end(), i) != wanted.end(); };
        if (!kept.reasons.empty() && std::none_of(kept.reasons.begin(), kept.reasons.end(), is_wanted)) continue;
        declared += kept.what >= 0              ? x[kept.what].bytes()
                    : kept.what == Kept::result ? y.bytes()
                                                : static_cast<size_t>(kept.count) * sizeof(float);
        rounding += 1024;  // of the allocator's, on no more than two blocks
      }
    }
    const std::string which = "trainable: " + testing::PrintToString(wanted);
    EXPECT_EQ(tape.bytes_kept(), declared) << which;
    const size_t held = memory_use(Device::cuda()).current - before;
    EXPECT_GE(held, declared) << which;
    EXPECT_LE(held, declared + rounding) << which;
  }
}

TEST_P(Cuda, RepeatsToTheBit) {
  for (const Tensors& drawn : small_and_large(line())) {
    const Tensors x = placed(drawn);
    const Outcome first = evaluate(line().f, x, trainable(line()));
    for (int run = 2; run <= 4; ++run)
      expect_same_bits(line(), evaluate(line().f, x, trainable(line())), first, text("run ", run));
  }
}

Outcome on_cpu(const Outcome& outcome) {
  Outcome result = {outcome.y.to(Device::cpu()), {}};
  for (const Tensor& gradient : outcome.gradients)
    result.gradients.push_back(gradient.defined() ? gradient.to(Device::cpu()) : gradient);
  return result;
}

// Overwrites results, so that those of a replay are its own; not what is a view of an input.
void spoil(const Outcome& outcome, Tensors inputs, const Tensor& dy) {
  Tensors results = outcome.gradients;
  results.push_back(outcome.y);
  inputs.push_back(dy);
  for (const Tensor& result : results) {
    const auto shares = [&](const Tensor& input) { return input.buffer() == result.buffer(); };
    if (result.defined() && std::none_of(inputs.begin(), inputs.end(), shares)) result.fill(77);
  }
}

// A captured forward and backward pass gives the bits of a plain one, each time it is run.
TEST_P(Cuda, ReplaysToTheBit) {
  const Tensors x = placed(draw(line(), line().large));
  const Tensor dy = trainable(line()).empty() ? Tensor() : draw_like(line().f(x));
  const auto run = [&] { return evaluate(line().f, x, trainable(line()), dy); };
  Outcome expected, got;
  for (int warming = 0; warming < 2; ++warming) {
    const ArenaScope arena(Device::cuda());
    expected = on_cpu(run());
  }
  const ArenaScope arena(Device::cuda());
  const CapturedGraph graph(Device::cuda(), [&] { got = run(); });
  for (int replay = 1; replay <= 2; ++replay) {
    spoil(got, x, dy);
    graph();
    expect_same_bits(line(), got, expected, text("replay ", replay));
  }
  got = {};  // before the arena ends
}

// Inputs on two devices are refused by an error that names the op.
TEST_P(Cuda, RefusesTwoDevices) {
  const Tensors host = draw(line());
  for (size_t i = 0; i < host.size() && host.size() > 1; ++i) {
    Tensors x = placed(host);
    x[i] = host[i];
    expect_refused(line(), line().f, x, text("input ", i, " on the CPU"));
  }
}

// A fast op equals its plain definition, in value and gradients, small and large.
TEST_P(CudaRedefined, EqualsItsPlainDefinition) {
  for (const Tensors& drawn : small_and_large(line())) {
    const Tensors x = placed(drawn);
    expect_near(line(), evaluate(line().f, x, trainable(line())), evaluate(line().plain, x, trainable(line())),
                {{2 * summed.value, 2 * summed.gradient}}, text(drawn[0].shape()));
  }
}

// What is moved is moved in every dtype.
TEST_P(CudaAnyDType, TakesIntegers) {
  for (const Tensors& x : small_and_large(line())) {
    for (DType dtype : {DType::u8, DType::i32, DType::i64, DType::boolean}) {
      Tensors whole = x;
      for (Tensor& input : whole)
        if (is_floating(input.dtype())) input = input.to(dtype);
      EXPECT_TRUE(same_bits(line().f(placed(whole)), line().f(whole))) << dtype << " " << x[0].shape();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Op, Cuda, testing::ValuesIn(catalogue()), test_name);
INSTANTIATE_TEST_SUITE_P(Op, CudaRedefined,
                         testing::ValuesIn(lines_with([](const Line& line) { return line.plain != nullptr; })),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Op, CudaAnyDType,
                         testing::ValuesIn(lines_with([](const Line& line) { return line.any_dtype; })), test_name);

}  // namespace
}  // namespace flame::test
