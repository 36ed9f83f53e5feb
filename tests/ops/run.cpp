#include "run.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "flame/autograd/tape.h"
#include "flame/ops/layout.h"

namespace flame::test {
namespace {

Tensor draw(const Input& input, const Shape& shape, Generator& generator) {
  std::vector<float> values = Tensor::rand(shape, generator).to_host<float>();
  for (float& value : values) {
    const double span = input.high - input.low;
    switch (input.kind) {
      case Input::Kind::uniform:
        value = static_cast<float>(input.low + span * value);
        break;
      case Input::Kind::lattice:
        value = static_cast<float>(input.low + 0.5 * std::floor((2 * span + 1) * value));
        break;
      case Input::Kind::ids:
        value = static_cast<float>(std::floor(input.high * value));
        break;
      case Input::Kind::flags:
        value = value < 0.5f ? 0.0f : 1.0f;
        break;
    }
  }
  return Tensor::from(values, shape).to(input.dtype);
}

}  // namespace

std::vector<Line> lines_with(const std::function<bool(const Line&)>& property) {
  std::vector<Line> result;
  std::copy_if(catalogue().begin(), catalogue().end(), std::back_inserter(result), property);
  return result;
}

std::string test_name(const testing::TestParamInfo<Line>& info) {
  std::string name = info.param.name;
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

Tensors draw(const Line& line, const std::vector<Shape>& shapes) {
  Generator generator(std::hash<std::string>()(line.name));
  Tensors inputs;
  for (size_t i = 0; i < line.inputs.size(); ++i)
    inputs.push_back(draw(line.inputs[i], shapes.empty() ? line.inputs[i].shape : shapes[i], generator));
  return inputs;
}

Tensor draw_like(const Tensor& y) {
  Generator generator(static_cast<uint64_t>(y.numel()));
  return draw(uniform(y.shape(), -1, 1), y.shape(), generator).to(y.dtype()).to(y.device());
}

Wanted trainable(const Line& line) {
  Wanted result;
  for (size_t i = 0; i < line.inputs.size(); ++i)
    if (line.inputs[i].trainable && line.differentiable) result.push_back(static_cast<int>(i));
  return result;
}

std::vector<Wanted> alone_and_together(const Line& line) {
  const Wanted all = trainable(line);
  std::vector<Wanted> result;
  for (int i : all) result.push_back({i});
  if (all.size() > 1) result.push_back(all);
  return result;
}

Outcome evaluate(const std::function<Tensor(const Tensors&)>& f, Tensors inputs, const Wanted& wanted, Tensor dy) {
  Tape tape;
  for (int i : wanted) inputs[i] = inputs[i].requires_grad();
  Outcome result = {f(inputs), Tensors(inputs.size())};
  if (wanted.empty()) return result;
  GradientMap gradients;
  tape.backward(result.y, dy.defined() ? dy : draw_like(result.y), gradients);
  for (int i : wanted) result.gradients[i] = gradients[inputs[i]];
  return result;
}

std::vector<double> values(const Tensor& x) {
  const Tensor host = x.to(Device::cpu());
  std::vector<double> result;
  visit_all(x.dtype(), [&]<class T>() {
    const T* data = host.data<T>();
    for (int64_t i = 0; i < x.numel(); ++i) {
      if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, bf16>)
        result.push_back(static_cast<float>(data[i]));
      else
        result.push_back(static_cast<double>(data[i]));
    }
  });
  return result;
}

Tensors stored_as(DType dtype, const Line& line, const Tensors& inputs) {
  Tensors result = inputs;
  for (size_t i = 0; i < inputs.size(); ++i)
    if (line.inputs[i].trainable) result[i] = inputs[i].to(dtype);
  return result;
}

void expect_refused(const Line& line, const std::function<Tensor(const Tensors&)>& f, const Tensors& x,
                    const std::string& what) {
  const std::string op = line.name.substr(0, line.name.find('.'));
  Tape tape;
  try {
    f(x);
    ADD_FAILURE() << what << " was accepted";
  } catch (const Error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with(op + ": ")) << what << " gave: " << error.what();
  }
}

testing::AssertionResult near(const Tensor& got, const Tensor& expected, double bound, double floor,
                              const Tensor& noise) {
  if (got.shape() != expected.shape())
    return testing::AssertionFailure() << "expected shape " << expected.shape() << ", got " << got.shape();
  const std::vector<double> a = values(got), b = values(expected);
  const std::vector<double> more = noise.defined() ? values(noise) : std::vector<double>(b.size());
  double squares = 0;
  for (double value : b) squares += value * value;
  const double rms = std::sqrt(squares / static_cast<double>(std::max<size_t>(b.size(), 1)));
  for (size_t i = 0; i < a.size(); ++i) {
    const double error = std::abs(a[i] - b[i]), scale = std::abs(b[i]) + rms;
    if (!(error <= bound * scale + floor + more[i]))
      return testing::AssertionFailure() << "element " << i << " is " << a[i] << ", expected " << b[i] << ": off by "
                                         << error / scale << ", allowed " << bound + (floor + more[i]) / scale;
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult same_bits(const Tensor& got, const Tensor& expected) {
  if (got.shape() != expected.shape() || got.dtype() != expected.dtype())
    return testing::AssertionFailure() << "expected " << expected << ", got " << got;
  const Tensor a = got.to(Device::cpu()), b = expected.to(Device::cpu());
  if (std::memcmp(a.raw(), b.raw(), a.bytes()) == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "expected the bits of " << expected << ", got " << got;
}

}  // namespace flame::test
