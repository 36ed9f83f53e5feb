#include "flame/autograd/tape.h"

#include <gtest/gtest.h>

#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

namespace flame {
namespace {

using Values = std::vector<float>;

Tensor leaf(const Values& values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())}).requires_grad();
}
Values values(const Tensor& x) { return x.to_host<float>(); }

// The message of the Error that f throws.
template <class F>
std::string message(const F& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Tape, TheExampleOfTheReadme) {
  Tape tape;
  const Tensor x = leaf({1, -2, 3});
  const Tensor loss = (x * x).sum();
  const GradientMap gradients = loss.backward();
  EXPECT_EQ(values(gradients[x]), (Values{2, -4, 6}));
  EXPECT_EQ(tape.size(), 0u);
}

TEST(Tape, AddsUpOverEveryPath) {
  Tape tape;
  const Tensor x = leaf({1, 2}), y = leaf({3, 5});
  const Tensor s = x + y;                         // dx and dy begin as one tensor
  const Tensor loss = (s + x * y + x + s).sum();  // 3 x + 2 y + x y
  const GradientMap gradients = loss.backward();
  EXPECT_EQ(values(gradients[x]), (Values{6, 8}));
  EXPECT_EQ(values(gradients[y]), (Values{3, 4}));
}

TEST(Tape, GradientsThatShareAViewDoNotMix) {
  Tape tape;
  const Tensor x = leaf({1, 2}), y = leaf({3, 4});
  const Tensor both = concat({x, y}, 0);  // their gradients are rows of one tensor
  const Tensor loss = (both * both).sum() + (x * 10).sum();
  const GradientMap gradients = loss.backward();
  EXPECT_EQ(values(gradients[x]), (Values{12, 14}));
  EXPECT_EQ(values(gradients[y]), (Values{6, 8}));
}

TEST(Tape, RecordsNothingThatNobodyWants) {
  const Tensor frozen = Tensor::ones({2}), x = leaf({1, 2});
  EXPECT_FALSE((x * x).wants_grad()) << "there is no tape";
  Tape tape;
  EXPECT_FALSE((frozen * frozen).wants_grad());
  {
    const PauseTape pause;
    EXPECT_EQ(Tape::current(), nullptr);
    EXPECT_FALSE((x * x).wants_grad());
  }
  EXPECT_EQ(tape.size(), 0u);
  EXPECT_TRUE((x * frozen).wants_grad());
  EXPECT_EQ(tape.size(), 1u);
  EXPECT_EQ(tape.bytes_kept(), 8u);
}

TEST(Tape, DetachEndsTheWay) {
  Tape tape;
  const Tensor x = leaf({2}), y = leaf({3});
  const GradientMap gradients = (x.detach() * y + y).sum().backward();
  EXPECT_FALSE(gradients.contains(x));
  EXPECT_EQ(values(gradients[y]), (Values{3}));
  EXPECT_NE(message([&] { gradients[x]; }).find("the loss does not depend on it"), std::string::npos);
  EXPECT_NE(message([&] { gradients[Tensor::ones({1})]; }).find("does not require one"), std::string::npos);
}

TEST(Tape, IsUsedUpByItsBackwardPass) {
  Tape tape;
  const Tensor x = leaf({2});
  const Tensor square = x * x, loss = square.sum();
  loss.backward();
  EXPECT_NE(message([&] { loss.backward(); }).find("freed"), std::string::npos);
  EXPECT_NE(message([&] { square* square; }).find("mul: an input"), std::string::npos);
  EXPECT_NE(message([&] { checkpoint([](const Tensor& t) { return t * t; }, square); }).find("checkpoint: an input"),
            std::string::npos);
  EXPECT_EQ(values((x * x).sum().backward()[x]), (Values{4})) << "leaves may be used again";
}

// A gradient of two parts, the smaller of which bf16 cannot add to the larger.
TEST(Tape, AddsGradientsUpInAWiderDType) {
  const Tensor narrow = Tensor::ones({3}, DType::bf16), part = Tensor::full({3}, 0x1p-9, DType::bf16);
  const auto gradient = [&](const Tensor& x) {
    Tape tape;
    return (checkpoint([&](const Tensor& t) { return t + t * part; }, x).sum()).backward()[x];
  };
  const Tensor plain = gradient(narrow.requires_grad()), wide = gradient(narrow.requires_grad(DType::f32));
  EXPECT_EQ(plain.dtype(), DType::bf16);
  EXPECT_EQ(values(plain.to(DType::f32)), Values(3, 1));
  EXPECT_EQ(wide.dtype(), DType::f32);
  EXPECT_EQ(values(wide), Values(3, 1 + 0x1p-9f));
}

TEST(Tape, BindsAWiderGradient) {
  const Tensor x = Tensor::ones({2}, DType::f16).requires_grad(DType::f32);
  const Tensor sum = Tensor::full({2}, 0x1p-20);
  GradientMap gradients;
  EXPECT_NE(message([&] { gradients.bind(x, Tensor::zeros({2}, DType::f16)); }).find("expected [2] f32, got [2] f16"),
            std::string::npos);
  gradients.bind(x, sum);
  gradients.add(x.slot(), Tensor::ones({2}, DType::f16));
  gradients.add(x.slot(), Tensor::full({2}, 0x1p-21));
  EXPECT_EQ(values(sum), Values(2, 1 + 0x1.8p-20f));
  EXPECT_NE(message([&] { gradients.add(x.slot(), Tensor::ones({2}, DType::bf16)); }).find("got [2] bf16"),
            std::string::npos);
}

TEST(Tape, WantsAGradientInNoNarrowerDType) {
  EXPECT_NE(message([] { Tensor::ones({2}).requires_grad(DType::bf16); }).find("requires_grad"), std::string::npos);
  EXPECT_NE(message([] { Tensor::ones({2}, DType::f16).requires_grad(DType::bf16); }).find("f32"), std::string::npos);
  const Tensor x = Tensor::ones({2}).requires_grad();
  GradientMap gradients;
  EXPECT_NE(message([&] { gradients.add(x.slot(), Tensor::ones({2}, DType::bf16)); }).find("got [2] bf16"),
            std::string::npos)
      << "an op's mistake";
}

TEST(Accumulate, AddsNarrowToWideOnly) {
  for (const DType narrow : {DType::f16, DType::bf16}) {
    const Tensor sum = Tensor::full({2, 3}, 1), x = Tensor::full({2, 3}, 0x1p-12, narrow);
    accumulate(sum, x);
    EXPECT_EQ(values(sum), Values(6, 1 + 0x1p-12f));
    EXPECT_NE(message([&] { accumulate(x, sum); }).find("accumulate"), std::string::npos);
  }
  EXPECT_NE(message([] { accumulate(Tensor::ones({1}, DType::bf16), Tensor::ones({1}, DType::f16)); }).find("bf16"),
            std::string::npos);
}

TEST(Tape, FreesWhatItKept) {
  const size_t before = memory_use(Device::cpu()).current;
  {
    Tape tape;
    Tensor y = leaf(Values(1000, 0.5f));
    for (int i = 0; i < 10; ++i) y = exp(y * -1.0f);
    EXPECT_EQ(tape.bytes_kept(), 10u * 4000);
    y.sum().backward();
    EXPECT_EQ(tape.bytes_kept(), 0u);
    EXPECT_LT(memory_use(Device::cpu()).current, before + 10000) << "only y and x are left";
  }
  EXPECT_EQ(memory_use(Device::cpu()).current, before);
}

TEST(Tape, RefusesWhatIsNoLoss) {
  const Tensor x = leaf({1, 2});
  EXPECT_NE(message([&] { x.backward(); }).find("no Tape in scope"), std::string::npos);
  Tape tape;
  EXPECT_NE(message([&] { (x * x).backward(); }).find("expected a scalar, got shape [2]"), std::string::npos);
  EXPECT_NE(message([&] { Tensor::ones({}).backward(); }).find("nothing that requires a gradient"), std::string::npos);
  EXPECT_THROW(Tensor::ones({2}, DType::i32).requires_grad(), Error);
  GradientMap gradients;
  EXPECT_NE(message([&] { tape.backward(x * x, Tensor::ones({3}), gradients); }).find("expected [2] f32, got [3] f32"),
            std::string::npos);
}

TEST(Tape, AnyResultWithItsGradient) {
  Tape tape;
  const Tensor x = leaf({1, 2});
  GradientMap gradients;
  tape.backward(x * x, Tensor::from({10.0f, 1.0f}, {2}), gradients);
  EXPECT_EQ(values(gradients[x]), (Values{20, 4}));
}

TEST(Tape, TapesNest) {
  const Tensor x = leaf({3});
  Tape outer;
  const Tensor loss = (x * x).sum();
  {
    Tape inner;
    EXPECT_EQ(values((2 * x).sum().backward()[x]), (Values{2}));
    EXPECT_NE(message([&] { loss * 2; }).find("another tape"), std::string::npos);
    EXPECT_NE(message([&] { loss.backward(); }).find("another tape"), std::string::npos);
  }
  EXPECT_EQ(Tape::current(), &outer);
  EXPECT_EQ(values(loss.backward()[x]), (Values{6}));
}

TEST(GradientMap, AddsUpOverSeveralPasses) {
  const Tensor x = leaf({1, 2});
  Tape tape;
  GradientMap gradients;
  tape.backward((x * x).sum(), gradients);
  const Tensor first = gradients[x];
  tape.backward((3 * x).sum(), gradients);
  EXPECT_EQ(values(gradients[x]), (Values{5, 7}));
  EXPECT_EQ(values(first), (Values{2, 4})) << "what was handed out does not change";
}

TEST(GradientMap, AddsToBoundMemoryInPlace) {
  const Tensor flat = Tensor::zeros({5}), x = leaf({1, 2}), y = leaf({4});
  GradientMap gradients;
  gradients.bind(x, flat.rows(1, 2));
  gradients.bind(y, flat.rows(3, 1));
  Tape tape;
  for (int pass = 0; pass < 2; ++pass) tape.backward((x * x).sum() + (y * 3).sum(), gradients);
  EXPECT_EQ(values(flat), (Values{0, 4, 8, 6, 0}));
  EXPECT_EQ(gradients[x].raw(), flat.rows(1, 2).raw());
  flat.fill(0);
  tape.backward((y * y).sum(), gradients);
  EXPECT_EQ(values(flat), (Values{0, 0, 0, 8, 0}));
  EXPECT_THROW(gradients.bind(x, flat), Error);
  EXPECT_THROW(gradients.bind(Tensor::ones({2}), flat.rows(0, 2)), Error);
  EXPECT_THROW(gradients.bind(x * x, flat.rows(0, 2)), Error) << "not a leaf";
}

TEST(NoGradient, ThrowsIfOneIsWanted) {
  const Tensor x = leaf({1}), y = Tensor::ones({1});
  EXPECT_EQ(no_gradient("f", y, {x, y}).raw(), y.raw()) << "without a tape nobody waits for it";
  Tape tape;
  EXPECT_NO_THROW(no_gradient("f", y, {y}));
  EXPECT_TRUE(message([&] {
                no_gradient("f", y, {y, x});
              }).starts_with("f: has no gradient, but an input of shape [1]"));
}

// --- checkpoint ---

struct Layer {
  Tensor weight = Tensor::from<float>({0.5f, -1, 2, 0.25f}, {2, 2}).requires_grad();
  mutable int runs = 0;
  Tensor operator()(const Tensor& x) const {
    ++runs;
    return sigmoid(linear(x, weight)) * x;
  }
};

TEST(Checkpoint, EqualsThePlainPass) {
  const Layer layer;
  const Tensor x = Tensor::from<float>({1.0f, 2, -3, 0.5f}, {2, 2});
  for (const bool trainable : {true, false}) {
    const Tensor input = trainable ? x.requires_grad() : x;
    Tape tape;
    const Tensor plain = layer(2 * layer(input));
    const GradientMap expected = (plain * plain).sum().backward();
    const Tensor again = checkpoint(std::ref(layer), 2 * checkpoint(std::ref(layer), input));
    EXPECT_EQ(tape.bytes_kept(), 2 * x.bytes()) << "only what goes in";
    const GradientMap got = (again * again).sum().backward();
    EXPECT_EQ(values(again), values(plain));
    EXPECT_EQ(values(got[layer.weight]), values(expected[layer.weight]));
    EXPECT_EQ(got.contains(input), trainable);
    if (trainable) {
      EXPECT_EQ(values(got[input]), values(expected[input]));
    }
  }
}

TEST(Checkpoint, RunsOnceMoreInTheBackwardPass) {
  const Layer layer;
  const Tensor x = Tensor::ones({2, 2});
  checkpoint(std::ref(layer), x);
  EXPECT_EQ(layer.runs, 1) << "without a tape";
  Tape tape;
  checkpoint(std::ref(layer), x).sum().backward();
  EXPECT_EQ(layer.runs, 3);
}

TEST(Checkpoint, RecordsNothingWhereNothingTrains) {
  Tape tape;
  const Tensor y = checkpoint([](const Tensor& t) { return t * t; }, Tensor::ones({2}));
  EXPECT_FALSE(y.wants_grad());
  EXPECT_EQ(tape.size(), 0u);
  EXPECT_EQ(tape.bytes_kept(), 0u);
}

// A block of a network reads what was computed outside it, the time embedding for instance.
TEST(Checkpoint, ReachesTensorsOfTheOuterTape) {
  const Tensor x = leaf({1, 2}), t = leaf({3, 4});
  Tape tape;
  const auto block = [](const Tensor& time) { return [time](const Tensor& h) { return h * time + time; }; };
  const Tensor plain_time = t * t;
  const GradientMap expected = block(plain_time)(block(plain_time)(x)).sum().backward();
  const Tensor time = t * t;
  const GradientMap got = checkpoint(block(time), checkpoint(block(time), x)).sum().backward();
  EXPECT_EQ(values(got[x]), values(expected[x]));
  EXPECT_EQ(values(got[t]), values(expected[t]));
}

TEST(Checkpoint, NestsInAnother) {
  const Layer layer;
  const Tensor x = Tensor::from<float>({1.0f, 2, -3, 0.5f}, {2, 2}).requires_grad();
  Tape tape;
  const GradientMap expected = layer(layer(x)).sum().backward();
  const auto two = [&](const Tensor& t) { return checkpoint(std::ref(layer), checkpoint(std::ref(layer), t)); };
  const GradientMap got = checkpoint(two, x).sum().backward();
  EXPECT_EQ(values(got[x]), values(expected[x]));
  EXPECT_EQ(values(got[layer.weight]), values(expected[layer.weight]));
}

}  // namespace
}  // namespace flame
