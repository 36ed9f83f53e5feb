#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <type_traits>
#include <utility>

#include "flame/core/shape.h"
#include "flame/device/launch_cuda.h"
#include "flame/ops/pointwise_kernels.h"

// One kernel for everything that computes a value from those at one place each of some tensors: rules with
// broadcasting, casts, copies of runs, permutations.
namespace flame::cuda {

// How K tensors, the result first, are gone through together: axes, outermost first, and each tensor's stride along
// them in elements, 0 where it stands still.
template <size_t K>
struct Walk {
  int rank = 0;
  int64_t count = 1;  // of places
  std::array<int64_t, Shape::max_rank> extent = {};
  std::array<std::array<int64_t, Shape::max_rank>, K> stride = {};

  // Adds an axis inside those that there are. It becomes one with its neighbour if every tensor goes on from one to
  // the other.
  void add(int64_t size, const std::array<int64_t, K>& strides) {
    count *= size;
    if (size == 1) return;
    bool goes_on = rank > 0;
    for (size_t k = 0; k < K && goes_on; ++k) goes_on = stride[k][rank - 1] == size * strides[k];
    if (!goes_on) extent[rank++] = 1;
    extent[rank - 1] *= size;
    for (size_t k = 0; k < K; ++k) stride[k][rank - 1] = strides[k];
  }
};

// A dense result of shape `out` from dense inputs that NumPy's rules broadcast to it.
template <class... Shapes>
Walk<1 + sizeof...(Shapes)> broadcast_walk(const Shape& out, const Shapes&... inputs) {
  constexpr size_t K = 1 + sizeof...(Shapes);
  const std::array<Shape, K> shapes = {out, inputs...};
  Walk<K> walk;
  for (int axis = 0; axis < out.rank(); ++axis) {
    std::array<int64_t, K> strides;
    for (size_t k = 0; k < K; ++k) {
      const int own = axis - (out.rank() - shapes[k].rank());
      strides[k] = own < 0 || shapes[k][own] == 1 ? 0 : shapes[k].numel(own + 1, shapes[k].rank());
    }
    walk.add(out[axis], strides);
  }
  return walk;
}

// N neighbours that are loaded and stored at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Chunk {
  T values[N];
};

template <size_t Bytes>
struct WordOf;
template <>
struct WordOf<1> {
  using type = uint8_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

template <int N, class T>
__device__ Chunk<T, N> load_chunk(const T* from) {
  return std::bit_cast<Chunk<T, N>>(*reinterpret_cast<const typename WordOf<sizeof(T) * N>::type*>(from));
}

template <int N, class T>
__device__ void store_chunk(T* to, const Chunk<T, N>& chunk) {
  using Word = typename WordOf<sizeof(T) * N>::type;
  *reinterpret_cast<Word*>(to) = std::bit_cast<Word>(chunk);
}

// N values of a tensor, all the same one where it stands still.
template <int N, class T>
__device__ Chunk<T, N> load_along(const T* from, bool moves) {
  if (moves) return load_chunk<N>(from);
  Chunk<T, N> chunk;
  for (int i = 0; i < N; ++i) chunk.values[i] = *from;
  return chunk;
}

// Where each tensor is at place number `place`; only walks of one axis have more than 2^32 places.
template <size_t K>
__device__ std::array<int64_t, K> offsets(const Walk<K>& walk, int64_t place) {
  std::array<int64_t, K> at = {};
  auto rest = static_cast<uint32_t>(place);
  for (int axis = walk.rank - 1; axis > 0; --axis) {
    const auto extent = static_cast<uint32_t>(walk.extent[axis]);
    const uint32_t outer = rest / extent, index = rest - outer * extent;
    for (size_t k = 0; k < K; ++k) at[k] += index * walk.stride[k][axis];
    rest = outer;
  }
  const int64_t first = walk.rank == 1 ? place : rest;
  for (size_t k = 0; k < K; ++k) at[k] += first * walk.stride[k][0];
  return at;
}

// One value, and N neighbours.
template <class F, class U, class... T, size_t... I>
__device__ void apply_at(std::index_sequence<I...>, const F& f, const Walk<1 + sizeof...(T)>& walk, int64_t place,
                         U* out, const T*... in) {
  const auto at = offsets(walk, place);
  out[at[0]] = U(f(Compute<T>(in[at[1 + I]])...));
}

template <int N, class F, class U, class... T, size_t... I>
__device__ void apply_chunk(std::index_sequence<I...>, const F& f, const Walk<1 + sizeof...(T)>& walk, int64_t place,
                            U* out, const T*... in) {
  const auto at = offsets(walk, place);
  const auto compute = [&](const Chunk<T, N>&... from) {
    Chunk<U, N> to;
#pragma unroll
    for (int j = 0; j < N; ++j) to.values[j] = U(f(Compute<T>(from.values[j])...));
    store_chunk(out + at[0], to);
  };
  compute(load_along<N>(in + at[1 + I], walk.stride[1 + I][walk.rank - 1] != 0)...);
}

// The first `chunks` times N places N at a time, the others one at a time.
template <int N, class F, class U, class... T>
__global__ void apply_kernel(const F f, const __grid_constant__ Walk<1 + sizeof...(T)> walk, int64_t chunks, U* out,
                             const T*... in) {
  take_turn();
  constexpr auto inputs = std::index_sequence_for<T...>();
  const int64_t thread = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, threads = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = thread; i < chunks; i += threads) apply_chunk<N>(inputs, f, walk, i * N, out, in...);
  for (int64_t i = chunks * N + thread; i < walk.count; i += threads) apply_at(inputs, f, walk, i, out, in...);
}

// Whether n neighbours along the last axis can be loaded at once, or are all the same one.
inline bool fits_chunks(const void* data, size_t size, int n, int rank, const int64_t* strides) {
  if (strides[rank - 1] != 1) return strides[rank - 1] == 0;
  bool fits = reinterpret_cast<uintptr_t>(data) % (size * n) == 0;
  for (int axis = 0; axis + 1 < rank; ++axis) fits &= strides[axis] % n == 0;
  return fits;
}

// out = f(in...) at every place of the walk. An input may be the result itself if both go the same way.
template <class F, class U, class... T>
void apply(Device device, const F& f, const Walk<1 + sizeof...(T)>& walk, U* out, const T*... in) {
  if (walk.count == 0) return;
  if (walk.rank > 1 && walk.count > std::numeric_limits<uint32_t>::max()) {
    auto first = walk, second = walk;
    first.extent[0] = walk.extent[0] / 2, second.extent[0] = walk.extent[0] - first.extent[0];
    const int64_t inner = walk.count / walk.extent[0];
    first.count = first.extent[0] * inner, second.count = second.extent[0] * inner;
    apply(device, f, first, out, in...);
    const auto skip = [&](auto* data, size_t k) { return data + first.extent[0] * walk.stride[k][0]; };
    return [&]<size_t... I>(std::index_sequence<I...>) { apply(device, f, second, skip(out, 0), skip(in, 1 + I)...); }
    (std::index_sequence_for<T...>());
  }
  constexpr int threads = 256, n = 16 / std::max({sizeof(U), sizeof(T)...});
  size_t k = 0;
  const auto fits = [&](const auto* data) {
    return fits_chunks(data, sizeof(*data), n, walk.rank, walk.stride[k++].data());
  };
  const bool whole = walk.rank == 1 || (walk.rank > 1 && walk.extent[walk.rank - 1] % n == 0);
  const bool chunked = whole && walk.stride[0][walk.rank - 1] == 1 && fits(out) && (fits(in) && ...);
  const int64_t chunks = chunked ? walk.count / n : 0;
  launch(apply_kernel<n, F, U, T...>,
         {blocks_for(device, std::max(chunks, walk.count - chunks * n), threads), threads, 0, stream(device)}, f, walk,
         chunks, out, in...);
}

}  // namespace flame::cuda
