#include "flame/ops/attention.h"

#include "flame/autograd/tape.h"
#include "flame/ops/attention_kernels.h"
#include "flame/ops/on.h"

namespace flame {

Tensor softmax(const Tensor& x) {
  require(x.defined() && is_floating(x.dtype()) && x.rank() >= 1, "softmax", "expected a floating tensor with an axis");
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  on<cpu::softmax, cuda::softmax>(x.device(), x, y);
  return record("softmax", y, {x}, [dx_to = wants(x), y = keep(y, x)](const Tensor& dy, GradientMap& gradients) {
    const Tensor dx = Tensor::empty(y.shape(), y.dtype(), y.device());
    on<cpu::softmax_gradient, cuda::softmax_gradient>(dy.device(), y, dy, dx);
    gradients.add(dx_to, dx);
  });
}

Tensor log_softmax(const Tensor& x) {
  require(x.defined() && is_floating(x.dtype()) && x.rank() >= 1, "log_softmax",
          "expected a floating tensor with an axis");
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  on<cpu::log_softmax, cuda::log_softmax>(x.device(), x, y);
  return record("log_softmax", y, {x}, [dx_to = wants(x), y = keep(y, x)](const Tensor& dy, GradientMap& gradients) {
    const Tensor dx = Tensor::empty(y.shape(), y.dtype(), y.device());
    on<cpu::log_softmax_gradient, cuda::log_softmax_gradient>(dy.device(), y, dy, dx);
    gradients.add(dx_to, dx);
  });
}

Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal) {
  constexpr const char* op = "attention";
  require_same(op, q, k);
  require_same(op, q, v);
  require(is_floating(q.dtype()), op, "expected a floating dtype, got ", q.dtype());
  require(q.rank() == 4 && k.shape() == v.shape() && k.rank() == 4 && k.shape().with(1, q.dim(1)) == q.shape(), op,
          "expected q [N, Tq, heads, D] and k, v [N, Tk, heads, D], got ", q.shape(), ", ", k.shape(), " and ",
          v.shape());
  require(k.dim(1) > 0, op, "expected at least one key");
  const Tensor out = Tensor::empty(q.shape(), q.dtype(), q.device());
  const Tensor log_sum = Tensor::empty({q.dim(0), q.dim(2), q.dim(1)}, DType::f32, q.device());
  on<cpu::attention, cuda::attention>(q.device(), q, k, v, causal, out, log_sum);
  return record(op, out, {q, k, v},
                [causal, dq_to = wants(q), dk_to = wants(k), dv_to = wants(v), q = keep(q, q, k, v),
                 k = keep(k, q, k, v), v = keep(v, q, k), out = keep(out, q, k),
                 log_sum = keep(log_sum, q, k, v)](const Tensor& dy, GradientMap& gradients) {
                  const auto like = [&](const Tensor& x, const SlotPtr& wanted) {
                    return wanted ? Tensor::empty(x.shape(), dy.dtype(), dy.device()) : Tensor();
                  };
                  const Tensor dq = like(q, dq_to), dk = like(k, dk_to), dv = like(k, dv_to);
                  on<cpu::attention_gradient, cuda::attention_gradient>(dy.device(), q, k, v, causal, out, log_sum, dy,
                                                                        dq, dk, dv);
                  gradients.add(dq_to, dq);
                  gradients.add(dk_to, dk);
                  gradients.add(dv_to, dv);
                });
}

}  // namespace flame
