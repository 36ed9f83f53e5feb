#include "flame/ops/winograd_cpu.h"

#include <array>

#include "flame/device/parallel.h"
#include "flame/ops/gemm.h"

namespace flame::cpu::winograd {
namespace {

#ifdef __AVX__
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
constexpr int points = 36, side = 6, step = 4;  // a 6x6 piece of x makes a 4x4 piece of y
typedef float Lanes __attribute__((vector_size(lanes * sizeof(float))));

Lanes load(const float* from) {
  Lanes result;
  std::memcpy(&result, from, sizeof(Lanes));
  return result;
}

void store(float* to, const Lanes& value) { std::memcpy(to, &value, sizeof(Lanes)); }

// The finite points are 0, +-p and +-q.
constexpr float p = 2.0f / 3, q = 3.0f / 2, pp = p * p, qq = q * q;

using Line = std::array<Lanes, side>;

// Six values to the points.
Line to_points(const Line& d) {
  const Lanes even_p = d[4] - qq * d[2], odd_p = p * (d[3] - qq * d[1]);
  const Lanes even_q = d[4] - pp * d[2], odd_q = q * (d[3] - pp * d[1]);
  return {pp * qq * d[0] - (pp + qq) * d[2] + d[4], even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q,
          pp * qq * d[1] - (pp + qq) * d[3] + d[5]};
}

// Values at the points back to four results.
std::array<Lanes, step> from_points(const Line& m) {
  const Lanes even_p = m[1] + m[2], odd_p = m[1] - m[2], even_q = m[3] + m[4], odd_q = m[3] - m[4];
  return {m[0] + even_p + even_q, p * odd_p + q * odd_q, pp * even_p + qq * even_q,
          pp * p * odd_p + qq * q * odd_q + m[5]};
}

// Three taps to the points.
std::array<double, side> kernel_line(double g0, double g1, double g2) {
  constexpr double p = 2.0 / 3, q = 3.0 / 2, at_p = 2 * p * p * (p * p - q * q), at_q = 2 * q * q * (q * q - p * p);
  return {g0 / (p * p * q * q),
          (g0 + p * g1 + p * p * g2) / at_p,
          (g0 - p * g1 + p * p * g2) / at_p,
          (g0 + q * g1 + q * q * g2) / at_q,
          (g0 - q * g1 + q * q * g2) / at_q,
          g2};
}

// Which part of which sample a tile is.
struct Tiles {
  int64_t rows, columns;
  explicit Tiles(const Shape& y) : rows((y[1] + step - 1) / step), columns((y[2] + step - 1) / step) {}
  struct Place {
    int64_t sample, row, column;  // the first result
  };
  Place place(int64_t tile) const {
    return {tile / columns / rows, tile / columns % rows * step, tile % columns * step};
  }
};

// Writes tile number `at` of [36, pitch, channels].
void gather(const Tensor& x, const Tiles::Place& place, int top, int left, const float* zeros, float* to, int64_t at,
            int64_t pitch) {
  const int64_t height = x.dim(1), width = x.dim(2), channels = x.dim(3);
  const float* from = x.data<float>();
  const float* pixels[points];
  for (int i = 0; i < points; ++i) {
    const int64_t row = place.row + i / side - top, column = place.column + i % side - left;
    const bool inside = row >= 0 && row < height && column >= 0 && column < width;
    pixels[i] = inside ? from + ((place.sample * height + row) * width + column) * channels : zeros;
  }
  for (int64_t c = 0; c < channels; c += lanes) {
    Line rows[side];
    for (int i = 0; i < side; ++i) {
      const float** row = pixels + side * i;
      rows[i] = to_points(
          {load(row[0] + c), load(row[1] + c), load(row[2] + c), load(row[3] + c), load(row[4] + c), load(row[5] + c)});
    }
    for (int j = 0; j < side; ++j) {
      const Line column = to_points({rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]});
      for (int i = 0; i < side; ++i) store(to + ((i * side + j) * pitch + at) * channels + c, column[i]);
    }
  }
}

void scatter(const float* from, int64_t at, int64_t pitch, const Tiles::Place& place, const float* bias,
             const Tensor& y) {
  const int64_t height = y.dim(1), width = y.dim(2), channels = y.dim(3);
  float* corner = y.data<float>() + ((place.sample * height + place.row) * width + place.column) * channels;
  for (int64_t c = 0; c < channels; c += lanes) {
    std::array<Lanes, step> columns_done[side];
    for (int j = 0; j < side; ++j) {
      const auto at_point = [&](int i) { return load(from + ((i * side + j) * pitch + at) * channels + c); };
      columns_done[j] = from_points({at_point(0), at_point(1), at_point(2), at_point(3), at_point(4), at_point(5)});
    }
    const Lanes offset = bias ? load(bias + c) : Lanes{};
    for (int i = 0; i < step; ++i) {
      const auto row = from_points({columns_done[0][i], columns_done[1][i], columns_done[2][i], columns_done[3][i],
                                    columns_done[4][i], columns_done[5][i]});
      for (int j = 0; j < step; ++j)
        if (place.row + i < height && place.column + j < width)
          store(corner + (i * width + j) * channels + c, row[j] + offset);
    }
  }
}

// Rows for `count` tiles: one more, of no meaning, where 36 matrices a multiple of 4 KiB apart would fall on the same
// few places of the cache.
int64_t pitch_for(int64_t count, int64_t in, int64_t out) {
  const bool clash = count * in % 1024 == 0 || count * out % 1024 == 0;
  return count + clash;
}

}  // namespace

bool pays(const Convolution& conv) {
  const int64_t in = conv.x[3], out = conv.weight[0];
  if (conv.weight[1] != 3 || conv.weight[2] != 3 || conv.stride != 1 || conv.groups() > 1) return false;
  const auto [top, left, bottom, right] = conv.padding;
  if (std::max({top, left, bottom, right}) > 2) return false;
  constexpr int64_t few = 32, most = 1 << 16;
  if (in % lanes != 0 || out % lanes != 0 || std::min(in, out) < few || in * out > most) return false;
  if (conv.result().numel(0, 3) < 128) return false;  // reading four times the weight takes longer than it saves
  const auto is_mostly_used = [](int64_t height, int64_t width) {  // the tiles, also where they hang over the edge
    return 2 * height * width > (height + step - 1) / step * ((width + step - 1) / step) * step * step;
  };
  return is_mostly_used(conv.x[1], conv.x[2]) && is_mostly_used(conv.height(), conv.width());
}

Tensor transform(const Tensor& weight, bool gradient) {
  const int64_t out = weight.dim(0), in = weight.dim(3);
  const Tensor result = Tensor::empty({points, gradient ? out : in, gradient ? in : out});
  const float* from = weight.data<float>();
  float* to = result.data<float>();
  parallel_for(out, 1 + 1024 / in, [=](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t c = 0; c < in; ++c) {
        const auto tap = [&](int i) { return double{from[(o * 9 + (gradient ? 8 - i : i)) * in + c]}; };
        std::array<double, side> rows[3];
        for (int i = 0; i < 3; ++i) rows[i] = kernel_line(tap(3 * i), tap(3 * i + 1), tap(3 * i + 2));
        for (int j = 0; j < side; ++j) {
          const auto column = kernel_line(rows[0][j], rows[1][j], rows[2][j]);
          for (int i = 0; i < side; ++i)
            to[(i * side + j) * in * out + (gradient ? o * in + c : c * out + o)] = static_cast<float>(column[i]);
        }
      }
    }
  });
  return result;
}

void convolve(const Tensor& x, const Tensor& transformed, const Tensor& bias, int top, int left, const Tensor& y) {
  const Tiles tiles(y.shape());
  const int64_t in = x.dim(3), out = y.dim(3), all = y.dim(0) * tiles.rows * tiles.columns;
  const Tensor zeros = Tensor::zeros({in});
  // Tiles at a time, so that what is between the steps stays in the cache.
  const int64_t most = std::clamp<int64_t>(8192 / (in + out), 32, 128);
  parallel_for(all, 1 + 1'000'000 / (2 * points * in * out), [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += most) {
      const int64_t count = std::min(most, end - first), pitch = pitch_for(count, in, out);
      const Tensor pieces = Tensor::empty({points, pitch, in}), products = Tensor::empty({points, pitch, out});
      for (int64_t i = 0; i < count; ++i)
        gather(x, tiles.place(first + i), top, left, zeros.data<float>(), pieces.data<float>(), i, pitch);
      gemm(pieces, transformed, products);
      for (int64_t i = 0; i < count; ++i)
        scatter(products.data<float>(), i, pitch, tiles.place(first + i), bias.defined() ? bias.data<float>() : nullptr,
                y);
    }
  });
}

}  // namespace flame::cpu::winograd
