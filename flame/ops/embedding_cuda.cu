#include "flame/device/launch_cuda.h"
#include "flame/ops/layout_kernels.h"

namespace flame::cuda {
namespace {

constexpr int block = 256;

template <class Word>
__device__ Word all_ones() {
  if constexpr (std::is_same_v<Word, uint4>)
    return uint4{~0u, ~0u, ~0u, ~0u};
  else
    return static_cast<Word>(~Word{0});
}

// A kernel cannot throw: an id outside the table gives NaN, which all bits set are in every floating dtype.
template <class Word, class Id>
__global__ void gather_rows_kernel(const Word* table, const Id* ids, Word* y, int64_t count, int64_t width,
                                   int64_t table_rows) {
  take_turn();
  const int64_t threads = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count * width; i += threads) {
    const int64_t row = i / width, id = ids[row];
    const bool known = id >= 0 && id < table_rows;
    y[i] = known ? table[id * width + (i - row * width)] : all_ones<Word>();
  }
}

// The block of an id's first occurrence adds all its rows, in their order.
template <class T, class Id>
__global__ void scatter_rows_kernel(const T* dy, const Id* ids, float* table, int64_t count, int64_t width,
                                    int64_t table_rows) {
  take_turn();
  const int64_t first = blockIdx.x, id = ids[first];
  if (id < 0 || id >= table_rows) return;
  bool earlier = false;
  for (int64_t i = threadIdx.x; i < first; i += blockDim.x) earlier |= ids[i] == id;
  if (__syncthreads_or(earlier)) return;
  for (int64_t k = threadIdx.x; k < width; k += blockDim.x) {
    float sum = table[id * width + k];
    for (int64_t i = first; i < count; ++i) {
      if (ids[i] == id) sum += static_cast<float>(dy[i * width + k]);
    }
    table[id * width + k] = sum;
  }
}

template <class F>
void visit_ids(const Tensor& ids, const F& f) {
  ids.dtype() == DType::i64 ? f(static_cast<const int64_t*>(ids.data<int64_t>()))
                            : f(static_cast<const int32_t*>(ids.data<int32_t>()));
}

// Calls f with the widest type that a row is a whole number of.
template <class F>
void visit_words(const Tensor& table, const Tensor& y, size_t row, const F& f) {
  const uintptr_t all = reinterpret_cast<uintptr_t>(table.raw()) | reinterpret_cast<uintptr_t>(y.raw()) | row;
  if (all % 16 == 0) return f.template operator()<uint4>();
  if (all % 4 == 0) return f.template operator()<uint32_t>();
  if (all % 2 == 0) return f.template operator()<uint16_t>();
  return f.template operator()<uint8_t>();
}

}  // namespace

void gather_rows(const Tensor& table, const Tensor& ids, const Tensor& y) {
  if (y.numel() == 0) return;
  const Device device = table.device();
  const size_t row = static_cast<size_t>(table.dim(1)) * size_of(table.dtype());
  visit_words(table, y, row, [&]<class Word>() {
    visit_ids(ids, [&]<class Id>(const Id* id) {
      const auto width = static_cast<int64_t>(row / sizeof(Word));
      launch(gather_rows_kernel<Word, Id>, {blocks_for(device, ids.numel() * width, block), block, 0, stream(device)},
             reinterpret_cast<const Word*>(table.raw()), id, reinterpret_cast<Word*>(y.raw()), ids.numel(), width,
             table.dim(0));
    });
  });
}

void scatter_rows(const Tensor& dy, const Tensor& ids, const Tensor& table) {
  if (dy.numel() == 0) return;
  visit(dy.dtype(), [&]<class T>() {
    visit_ids(ids, [&]<class Id>(const Id* id) {
      launch(scatter_rows_kernel<T, Id>, {static_cast<unsigned>(ids.numel()), block, 0, stream(dy.device())},
             dy.data<T>(), id, table.data<float>(), ids.numel(), table.dim(1), table.dim(0));
    });
  });
}

}  // namespace flame::cuda
