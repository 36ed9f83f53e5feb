#include "flame/device/parallel.h"
#include "flame/ops/converted.h"
#include "flame/ops/layout_kernels.h"

namespace flame::cpu {
namespace {

constexpr int64_t grain = 1 << 16;  // elements worth a thread

// Moving does not look at values: all types of a size share one kernel.
template <class F>
void visit_size(DType dtype, const F& f) {
  switch (size_of(dtype)) {
    case 1:
      return f.template operator()<uint8_t>();
    case 2:
      return f.template operator()<uint16_t>();
    case 4:
      return f.template operator()<uint32_t>();
    default:
      return f.template operator()<uint64_t>();
  }
}

template <class T>
T* elements(const Tensor& x) {
  return reinterpret_cast<T*>(x.raw());
}

// A permutation without axes of extent 1 and with neighbours merged that stay neighbours. Outermost first.
struct Walk {
  int rank = 0;
  std::array<int64_t, Shape::max_rank> extent, from_stride, to_stride;
};

Walk walk(const Shape& from, const std::vector<int>& axes) {
  Walk w;
  for (int axis : axes) {
    const int64_t extent = from[axis], stride = from.numel(axis + 1, from.rank());
    if (extent == 1) continue;
    if (w.rank > 0 && w.from_stride[w.rank - 1] == stride * extent) {
      w.extent[w.rank - 1] *= extent;
      w.from_stride[w.rank - 1] = stride;
    } else {
      w.extent[w.rank] = extent;
      w.from_stride[w.rank++] = stride;
    }
  }
  int64_t stride = 1;
  for (int i = w.rank - 1; i >= 0; --i) {
    w.to_stride[i] = stride;
    stride *= w.extent[i];
  }
  return w;
}

// Takes an axis out of a walk.
void remove(Walk& w, int axis) {
  for (int i = axis; i + 1 < w.rank; ++i) {
    w.extent[i] = w.extent[i + 1];
    w.from_stride[i] = w.from_stride[i + 1];
    w.to_stride[i] = w.to_stride[i + 1];
  }
  --w.rank;
}

// Where the walk's step number `index` stands in both tensors.
std::pair<int64_t, int64_t> offsets(const Walk& w, int64_t index) {
  int64_t from = 0, to = 0;
  for (int i = w.rank - 1; i >= 0; --i) {
    const int64_t at = index % w.extent[i];
    index /= w.extent[i];
    from += at * w.from_stride[i];
    to += at * w.to_stride[i];
  }
  return {from, to};
}

int64_t steps(const Walk& w) {
  int64_t count = 1;
  for (int i = 0; i < w.rank; ++i) count *= w.extent[i];
  return count;
}

template <class T>
void permute_runs(const T* x, T* y, Walk w) {
  const int64_t length = w.rank ? w.extent[w.rank - 1] : 1;
  if (w.rank) remove(w, w.rank - 1);
  const int64_t runs = w.rank ? w.extent[w.rank - 1] : 1, stride = w.rank ? w.from_stride[w.rank - 1] : 0;
  if (w.rank) remove(w, w.rank - 1);
  parallel_for(steps(w), std::max<int64_t>(1, grain / (runs * length)), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto [from, to] = offsets(w, i);
      for (int64_t r = 0; r < runs; ++r) std::copy_n(x + from + r * stride, length, y + to + r * length);
    }
  });
}

// The axis that is contiguous in x and the one that is contiguous in y, in tiles that stay in the cache.
template <class T>
void permute_tiles(const T* x, T* y, Walk w) {
  constexpr int64_t tile = 32;
  const int64_t columns = w.extent[w.rank - 1], column_stride = w.from_stride[w.rank - 1];
  remove(w, w.rank - 1);
  int axis = 0;
  while (w.from_stride[axis] != 1) ++axis;
  const int64_t rows = w.extent[axis], row_stride = w.to_stride[axis];
  remove(w, axis);
  const int64_t bands = (rows + tile - 1) / tile;
  parallel_for(steps(w) * bands, std::max<int64_t>(1, grain / (tile * columns)), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto [from, to] = offsets(w, i / bands);
      const int64_t first = i % bands * tile, last = std::min(rows, first + tile);
      for (int64_t c = 0; c < columns; c += tile) {
        const int64_t stop = std::min(columns, c + tile);
        for (int64_t r = first; r < last; ++r) {
          const T* source = x + from + r;
          T* target = y + to + r * row_stride;
          for (int64_t k = c; k < stop; ++k) target[k] = source[k * column_stride];
        }
      }
    }
  });
}

// Kernels must not throw, so this comes before them.
void check_ids(const Tensor& ids, int64_t count) {
  const auto check = [&](const auto* id) {
    for (int64_t i = 0; i < ids.numel(); ++i)
      require(id[i] >= 0 && id[i] < count, "embedding", "id ", id[i], " is outside a table of ", count, " rows");
  };
  ids.dtype() == DType::i64 ? check(ids.data<int64_t>()) : check(ids.data<int32_t>());
}

}  // namespace

void copy_runs(const Tensor& from, const Tensor& to, const Runs& runs) {
  const auto size = static_cast<int64_t>(size_of(to.dtype()));
  const std::byte* source = from.raw() + runs.from * size;
  std::byte* target = to.raw() + runs.to * size;
  const int64_t length = runs.length * size, from_stride = runs.from_stride * size, to_stride = runs.to_stride * size;
  parallel_for(runs.count * length, 1 << 18, [=](int64_t begin, int64_t end) {
    for (int64_t at = begin, run = begin / length, skip = begin % length; at < end; ++run, skip = 0) {
      const int64_t n = std::min(length - skip, end - at);
      std::memcpy(target + run * to_stride + skip, source + run * from_stride + skip, static_cast<size_t>(n));
      at += n;
    }
  });
}

void fill_runs(const Tensor& to, const Runs& runs, double value) {
  visit_all(to.dtype(), [&]<class T>() {
    T* target = to.data<T>() + runs.to;
    const T filling = converted<T>(static_cast<float>(value));
    parallel_for(runs.count, grain / std::max<int64_t>(runs.length, 1), [=](int64_t begin, int64_t end) {
      for (int64_t run = begin; run < end; ++run) std::fill_n(target + run * runs.to_stride, runs.length, filling);
    });
  });
}

void permute(const Tensor& x, const Tensor& y, const std::vector<int>& axes) {
  if (x.numel() == 0) return;
  const Walk w = walk(x.shape(), axes);
  visit_size(x.dtype(), [&]<class T>() {
    if (w.rank == 0 || w.from_stride[w.rank - 1] == 1)
      permute_runs(elements<T>(x), elements<T>(y), w);
    else
      permute_tiles(elements<T>(x), elements<T>(y), w);
  });
}

void upsample(const Tensor& x, const Tensor& y) {
  const int64_t width = x.dim(2), channels = x.dim(3), row = width * channels;
  visit_size(x.dtype(), [&]<class T>() {
    const T* from = elements<T>(x);
    T* to = elements<T>(y);
    parallel_for(x.dim(0) * x.dim(1), grain / std::max<int64_t>(4 * row, 1), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        T* out = to + r * 4 * row;
        for (int64_t w = 0; w < width; ++w) {
          const T* pixel = from + r * row + w * channels;
          std::copy_n(pixel, channels, out + 2 * w * channels);
          std::copy_n(pixel, channels, out + (2 * w + 1) * channels);
        }
        std::copy_n(out, 2 * row, out + 2 * row);
      }
    });
  });
}

void sum_squares(const Tensor& dy, const Tensor& dx) {
  const int64_t width = dx.dim(2), channels = dx.dim(3), row = width * channels;
  visit(dx.dtype(), [&]<class T>() {
    const T* from = dy.data<T>();
    T* to = dx.data<T>();
    parallel_for(dx.dim(0) * dx.dim(1), grain / std::max<int64_t>(4 * row, 1), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t w = 0; w < width; ++w) {
          const T *a = from + r * 4 * row + 2 * w * channels, *b = a + channels, *c = a + 2 * row, *d = c + channels;
          T* out = to + r * row + w * channels;
          for (int64_t i = 0; i < channels; ++i) {
            out[i] = T((static_cast<float>(a[i]) + static_cast<float>(b[i])) +
                       (static_cast<float>(c[i]) + static_cast<float>(d[i])));
          }
        }
      }
    });
  });
}

void cast(const Tensor& x, const Tensor& y) {
  visit_all(x.dtype(), [&]<class T>() {
    visit_all(y.dtype(), [&]<class U>() {
      const T* from = x.data<T>();
      U* to = y.data<U>();
      parallel_for(x.numel(), grain, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] = converted<U>(from[i]);
      });
    });
  });
}

void gather_rows(const Tensor& table, const Tensor& ids, const Tensor& y) {
  check_ids(ids, table.dim(0));
  const size_t row = static_cast<size_t>(table.dim(1)) * size_of(table.dtype());
  const std::byte* from = table.raw();
  std::byte* to = y.raw();
  const auto gather = [&](const auto* id) {
    parallel_for(ids.numel(), grain / std::max<int64_t>(table.dim(1), 1), [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::memcpy(to + static_cast<size_t>(i) * row, from + static_cast<size_t>(id[i]) * row, row);
    });
  };
  ids.dtype() == DType::i64 ? gather(ids.data<int64_t>()) : gather(ids.data<int32_t>());
}

void scatter_rows(const Tensor& dy, const Tensor& ids, const Tensor& table) {
  const int64_t count = ids.numel(), width = table.dim(1);
  float* to = table.data<float>();
  visit(dy.dtype(), [&]<class T>() {
    const T* from = dy.data<T>();
    const auto scatter = [&](const auto* id) {  // a thread owns columns, so the order is that of ids
      parallel_for(width, std::max<int64_t>(16, grain / std::max<int64_t>(count, 1)), [=](int64_t begin, int64_t end) {
        for (int64_t i = 0; i < count; ++i) {
          const T* row = from + i * width;
          float* sum = to + id[i] * width;
          for (int64_t k = begin; k < end; ++k) sum[k] += static_cast<float>(row[k]);
        }
      });
    };
    ids.dtype() == DType::i64 ? scatter(ids.data<int64_t>()) : scatter(ids.data<int32_t>());
  });
}

}  // namespace flame::cpu
