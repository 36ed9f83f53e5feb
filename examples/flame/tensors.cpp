#include <flame/flame.h>

#include <iostream>

using namespace flame;

int main() {
  // A tensor is a value: dense, row-major, on one device. Copies share the data, ops never change their inputs.
  const Tensor a = Tensor::from({1.0f, 2.0f, 3.0f, 4.0f}, {2, 2});
  std::cout << "a * a = " << a.matmul(a) << "\n";

  // While a Tape is in scope, ops on tensors that want gradients are noted; backward() returns the gradients.
  {
    Tape tape;
    const Tensor x = a.requires_grad();
    const GradientMap gradients = (x * x).sum().backward();
    std::cout << "d sum(x^2) / dx = " << gradients[x] << "\n";
  }

  // A network with 32 hidden units learns the sine. Its parameters lie in one buffer, so that a step is one pass.
  const Tensor x = Tensor::arange(200) * 0.05f - 5.0f, target = sin(x).reshape({200, 1}), input = x.reshape({200, 1});
  const ParameterPack pack(
      {{"up", Tensor::randn({32, 1})}, {"bias", Tensor::randn({32})}, {"down", Tensor::randn({1, 32}) * 0.2f}});
  AdamW adamw(pack, {.weight_decay = 0});
  GradientMap gradients;
  pack.bind(gradients);
  for (int step = 0; step <= 1000; ++step) {
    Tape tape;
    const Tensor hidden = tanh(linear(input, pack["up"].value, pack["bias"].value));
    const Tensor loss = mse_loss(linear(hidden, pack["down"].value), target);
    if (step % 250 == 0) std::cout << "step " << step << "  loss " << loss.item() << "\n";
    adamw.zero_grad();
    tape.backward(loss, gradients);
    adamw.step(0.01);
  }
}
