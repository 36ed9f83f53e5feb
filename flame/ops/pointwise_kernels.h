#pragma once

#include <array>

#include "flame/core/tensor.h"
#include "flame/device/parallel.h"

// How a scalar rule is applied to whole tensors. A rule is a small struct; both devices run the same one.
namespace flame {

// Arithmetic is fp32 for floating storage; integers and booleans stay what they are.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, f16> || std::is_same_v<T, bf16>, float, T>;

}  // namespace flame

namespace flame::cpu {

// Visits the result of broadcasting K inputs to `out` as contiguous runs: f(out offset, input offsets, input steps, n),
// where an input's step is 1, or 0 if it stands still along the run.
template <size_t K, class F>
void for_each_run(const Shape& out, const std::array<Shape, K>& inputs, const F& f) {
  // Neighbouring axes along which every input moves the same way become one.
  std::array<int64_t, Shape::max_rank> extent;
  std::array<std::array<bool, K>, Shape::max_rank> moves;
  int rank = 0;
  for (int i = 0; i < out.rank(); ++i) {
    if (out[i] == 1) continue;
    std::array<bool, K> here;
    for (size_t k = 0; k < K; ++k) {
      const int own = i - (out.rank() - inputs[k].rank());
      here[k] = own >= 0 && inputs[k][own] != 1;
    }
    if (rank > 0 && here == moves[rank - 1]) {
      extent[rank - 1] *= out[i];
    } else {
      extent[rank] = out[i];
      moves[rank++] = here;
    }
  }
  if (rank == 0) extent[0] = 1, moves[0] = {}, rank = 1;
  const int64_t n = extent[rank - 1], runs = n ? out.numel() / n : 0;
  constexpr int64_t most = 16384;
  const int64_t pieces = (n + most - 1) / most;
  parallel_for(runs * pieces, std::max<int64_t>(1, most / std::max<int64_t>(n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t run = item / pieces, start = item % pieces * most;
      std::array<int64_t, K> offset = {}, stride;
      for (size_t k = 0; k < K; ++k) {
        offset[k] = moves[rank - 1][k] ? start : 0;
        stride[k] = moves[rank - 1][k] ? n : 1;
      }
      int64_t rest = run;
      for (int i = rank - 2; i >= 0; --i) {
        const int64_t index = rest % extent[i];
        rest /= extent[i];
        for (size_t k = 0; k < K; ++k) {
          if (!moves[i][k]) continue;
          offset[k] += index * stride[k];
          stride[k] *= extent[i];
        }
      }
      f(run * n + start, offset, moves[rank - 1], std::min(most, n - start));
    }
  });
}

// y = f(x), one value at a time.
template <class T, class F>
void map(const F& f, const Tensor& x, const Tensor& y) {
  const T* from = x.data<T>();
  T* to = y.data<T>();
  parallel_for(y.numel(), 16384, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = T(f(Compute<T>(from[i])));
  });
}

// out = f(a, b) with broadcasting.
template <class A, class B, class U, class F>
void zip(const F& f, const Tensor& a, const Tensor& b, const Tensor& out) {
  const A* a_data = a.data<A>();
  const B* b_data = b.data<B>();
  U* out_data = out.data<U>();
  for_each_run<2>(out.shape(), {a.shape(), b.shape()}, [&](int64_t o, auto offset, auto step, int64_t n) {
    const A* x = a_data + offset[0];
    const B* z = b_data + offset[1];
    U* y = out_data + o;
    if (step[0] && step[1]) {
      for (int64_t i = 0; i < n; ++i) y[i] = U(f(Compute<A>(x[i]), Compute<B>(z[i])));
    } else if (step[0]) {
      const Compute<B> fixed(*z);
      for (int64_t i = 0; i < n; ++i) y[i] = U(f(Compute<A>(x[i]), fixed));
    } else {
      const Compute<A> fixed(*x);
      for (int64_t i = 0; i < n; ++i) y[i] = U(f(fixed, Compute<B>(z[i * step[1]])));
    }
  });
}

// out = f(a, b, c) with broadcasting; the first may be of another type.
template <class A, class T, class F>
void zip3(const F& f, const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& out) {
  const A* a_data = a.data<A>();
  const T *b_data = b.data<T>(), *c_data = c.data<T>();
  T* out_data = out.data<T>();
  for_each_run<3>(out.shape(), {a.shape(), b.shape(), c.shape()}, [&](int64_t o, auto offset, auto step, int64_t n) {
    const int64_t da = step[0], db = step[1], dc = step[2];
    const A* x = a_data + offset[0];
    const T *z = b_data + offset[1], *w = c_data + offset[2];
    for (int64_t i = 0; i < n; ++i) {
      out_data[o + i] = T(f(Compute<A>(x[i * da]), Compute<T>(z[i * db]), Compute<T>(w[i * dc])));
    }
  });
}

}  // namespace flame::cpu

// The same three on a GPU: declared for on<>, defined in pointwise_cuda.h, where CUDA is compiled.
namespace flame::cuda {
template <class T, class F>
void map(const F& f, const Tensor& x, const Tensor& y);
template <class A, class B, class U, class F>
void zip(const F& f, const Tensor& a, const Tensor& b, const Tensor& out);
template <class A, class T, class F>
void zip3(const F& f, const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& out);
}  // namespace flame::cuda
