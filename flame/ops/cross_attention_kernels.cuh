#pragma once

#include "flame/device/launch_cuda.h"
#include "flame/ops/cross_attention_cuda.h"
#include "flame/ops/tensor_core_cuda.h"

// A block takes a chunk of one head's queries; its warps take 16 rows at a time and see all keys, so that softmax and
// the gradient's row sums need no other warp. Tiles in shared memory have rows of 64 elements (128 bytes) whose eight
// 16-byte pieces are permuted by the row's number: ldmatrix reads eight rows at once without bank conflicts.
namespace flame::cuda {

inline constexpr float log2_e = 1.4426950408889634f;

struct Extents {
  int items;  // batch * heads
  int heads, queries, keys;
  int rows, chunks;  // queries of a block, blocks of a head
  float scale;
};

// One block's share.
struct Chunk {
  int index, item, sample, head;
  int first, last;  // queries

  __device__ explicit Chunk(const Extents& e)
      : index(blockIdx.x % e.chunks),
        item(blockIdx.x / e.chunks),
        sample(item / e.heads),
        head(item % e.heads),
        first(index * e.rows),
        last(min(first + e.rows, e.queries)) {}

  __device__ uint16_t* of(const HeadRows& x) const {
    return static_cast<uint16_t*>(x.data) + sample * x.sample + head * CrossAttention::width;
  }
};

struct Lane {
  int warp = threadIdx.x / 32, id = threadIdx.x % 32, g = id / 4, t = id % 4;
  // Where ldmatrix finds this lane's row in a tile: of matrices that go down the rows first, or along them first.
  uint32_t down = place(id % 16, id / 16), along = place(id % 8 + id / 16 * 8, id / 8 % 2);

  __device__ static uint32_t place(int row, int piece) { return row * 128 + ((piece ^ (row & 7)) << 4); }
};

// Rows [0, padded) of a head into a tile; those from `count` on become zeros.
template <int padded, int threads>
__device__ void copy_rows(uint32_t tile, const uint16_t* from, int64_t pitch, int count) {
  constexpr int step = threads / 8;
  const int first = threadIdx.x / 8, piece = threadIdx.x % 8;
  const uint32_t to = tile + Lane::place(first, piece);
#pragma unroll
  for (int i = 0; i < padded; i += step) {
    const int row = first + i;
    if (padded % step != 0 && row >= padded) break;
    const bool real = row < count;
    copy_async(to + i * 128, from + (real ? row * pitch : 0) + piece * 8, real);
  }
}

// scores [16, keys] = a k', with a [16, 64] as factors and k [keys, 64] a tile.
template <class T, int key_steps>
__device__ void times_transposed(float (&scores)[2 * key_steps][4], const uint32_t (&a)[4][4], uint32_t k,
                                 const Lane& lane) {
#pragma unroll
  for (int i = 0; i < 2 * key_steps; ++i) scores[i][0] = scores[i][1] = scores[i][2] = scores[i][3] = 0;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int i = 0; i < key_steps; ++i) {
      uint32_t b[4];
      load_matrices(b, k + i * 16 * 128 + (lane.along ^ (step << 5)));
      mma<T>(scores[2 * i], a[step], b[0], b[1]);
      mma<T>(scores[2 * i + 1], a[step], b[2], b[3]);
    }
  }
}

// result [16, 64] = p v, with p [16, keys] as factors and v [keys, 64] a tile.
template <class T, int key_steps>
__device__ void times(float (&result)[8][4], const uint32_t (&p)[key_steps][4], uint32_t v, const Lane& lane) {
#pragma unroll
  for (int i = 0; i < 8; ++i) result[i][0] = result[i][1] = result[i][2] = result[i][3] = 0;
#pragma unroll
  for (int step = 0; step < key_steps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t b[4];
      load_transposed(b, v + step * 16 * 128 + (lane.down ^ (i << 5)));
      mma<T>(result[2 * i], p[step], b[0], b[1]);
      mma<T>(result[2 * i + 1], p[step], b[2], b[3]);
    }
  }
}

// A product's layout is that of the next product's left factor.
template <class T, int key_steps>
__device__ void as_factors(uint32_t (&p)[key_steps][4], const float (&scores)[2 * key_steps][4]) {
#pragma unroll
  for (int i = 0; i < key_steps; ++i) {
    p[i][0] = pack<T>(scores[2 * i][0], scores[2 * i][1]);
    p[i][1] = pack<T>(scores[2 * i][2], scores[2 * i][3]);
    p[i][2] = pack<T>(scores[2 * i + 1][0], scores[2 * i + 1][1]);
    p[i][3] = pack<T>(scores[2 * i + 1][2], scores[2 * i + 1][3]);
  }
}

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

// word[i] of lane t of four becomes word[t] of lane i.
__device__ inline void transpose_quad(uint32_t (&word)[4], int t) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t got = __shfl_xor_sync(~0u, t & 2 ? word[i] : word[i + 2], 2);
    (t & 2 ? word[i] : word[i + 2]) = got;
  }
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t got = __shfl_xor_sync(~0u, t & 1 ? word[i] : word[i + 1], 1);
    (t & 1 ? word[i] : word[i + 1]) = got;
  }
}

// 16 rows of 64 elements in a warp's registers: lane (g, t) holds pieces t and t + 4 of rows g and g + 8.
struct WarpRows {
  uint4 piece[2][2];  // [row half][column half]

  __device__ void load(const uint16_t* from, int64_t pitch, int row, int last, const Lane& lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int mine = row + lane.g + 8 * half;
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        piece[half][part] = mine < last ? *reinterpret_cast<const uint4*>(from + mine * pitch + part * 32 + lane.t * 8)
                                        : uint4{0, 0, 0, 0};
      }
    }
  }

  __device__ void as_factors(uint32_t (&a)[4][4], const Lane& lane) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        uint32_t word[4] = {piece[half][part].x, piece[half][part].y, piece[half][part].z, piece[half][part].w};
        transpose_quad(word, lane.t);
#pragma unroll
        for (int i = 0; i < 4; ++i) a[2 * part + i / 2][i % 2 * 2 + half] = word[i];
      }
    }
  }
};

// Rows of c [16, 64] below `last`; those of the upper and the lower half times a factor each.
template <class T>
__device__ void store_rows(const float (&c)[8][4], const float (&factor)[2], uint16_t* to, int64_t pitch, int row,
                           int last, const Lane& lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int mine = row + lane.g + 8 * half;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      uint32_t word[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&tile)[4] = c[4 * part + i];
        word[i] = pack<T>(tile[2 * half] * factor[half], tile[2 * half + 1] * factor[half]);
      }
      transpose_quad(word, lane.t);
      if (mine < last)
        *reinterpret_cast<uint4*>(to + mine * pitch + part * 32 + lane.t * 8) = {word[0], word[1], word[2], word[3]};
    }
  }
}

struct ForwardTask {
  Extents extents;
  HeadRows q, k, v, out;
  float* log_sum;
};

template <int key_steps>
constexpr int forward_shared_bytes = 2 * key_steps * 16 * 128;

template <class T, int key_steps, int warps>
__global__ void __launch_bounds__(32 * warps) forward_kernel(const ForwardTask task) {
  take_turn();
  const Extents& extents = task.extents;
  const Chunk chunk(extents);
  const Lane lane;
  const uint32_t k = shared_memory(), v = k + key_steps * 16 * 128;
  copy_rows<key_steps * 16, 32 * warps>(k, chunk.of(task.k), task.k.token, extents.keys);
  copy_rows<key_steps * 16, 32 * warps>(v, chunk.of(task.v), task.v.token, extents.keys);

  const uint16_t* q = chunk.of(task.q);
  int row = chunk.first + 16 * lane.warp;
  WarpRows next;
  next.load(q, task.q.token, row, chunk.last, lane);
  wait_for_copies();
  __syncthreads();
  for (; row < chunk.last; row += 16 * warps) {
    uint32_t a[4][4];
    next.as_factors(a, lane);
    next.load(q, task.q.token, row + 16 * warps, chunk.last, lane);
    float p[2 * key_steps][4];
    times_transposed<T, key_steps>(p, a, k, lane);

    float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};  // of rows g and g + 8
#pragma unroll
    for (int i = 0; i < 2 * key_steps; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (8 * i + 2 * lane.t + j % 2 >= extents.keys) p[i][j] = -INFINITY;
        most[j / 2] = fmaxf(most[j / 2], p[i][j]);
      }
    }
    most[0] = quad_max(most[0]);
    most[1] = quad_max(most[1]);
    const float factor = extents.scale * log2_e, shift[2] = {-most[0] * factor, -most[1] * factor};
#pragma unroll
    for (int i = 0; i < 2 * key_steps; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j / 2] += p[i][j] = fast_exp2(fmaf(p[i][j], factor, shift[j / 2]));
    }
    sum[0] = quad_sum(sum[0]);
    sum[1] = quad_sum(sum[1]);

    uint32_t weights[key_steps][4];
    as_factors<T, key_steps>(weights, p);
    float out[8][4];
    times<T, key_steps>(out, weights, v, lane);
    store_rows<T>(out, {1 / sum[0], 1 / sum[1]}, chunk.of(task.out), task.out.token, row, chunk.last, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int mine = row + lane.g + 8 * half;
      if (lane.t == 0 && mine < chunk.last)
        task.log_sum[int64_t{chunk.item} * extents.queries + mine] = extents.scale * most[half] + logf(sum[half]);
    }
  }
}

struct GradientTask {
  Extents extents;
  HeadRows q, k, v, dout, dq;
  const float* log_sum;
  float* partials;  // [chunks, items, 2, keys, 64]: of dv and of dk, the latter without the scale
};

// Where things lie in shared memory. Weights are those of the softmax, and below them their gradients: [rows, keys],
// with rows 16 bytes longer so that eight of them lie in different banks.
template <int key_steps, int warps, int stages, bool keys_too>
struct GradientPlaces {
  static constexpr int tile = 16 * warps * 128, pitch = key_steps * 32 + 16;
  static constexpr int v = key_steps * 16 * 128, queries = 2 * v, weights = queries + stages * 2 * tile;
  static constexpr int dweights = weights + 16 * warps * pitch;
  static constexpr int bytes = keys_too ? dweights + 16 * warps * pitch : weights;
};

// A share of the products dv = p' dout and dk = ds' q: all keys, and `tiles` columns of eight of one of the two.
template <class T, int key_steps, int warps>
struct KeyGradient {
  static constexpr int tiles = 16 / warps;
  int product, first;  // 0: dv, 1: dk; the first column
  float sum[key_steps][tiles][4] = {};

  __device__ explicit KeyGradient(const Lane& lane)
      : product(lane.warp / (warps / 2)), first(lane.warp % (warps / 2) * tiles * 8) {}

  // weights [16 * warps, keys] with this pitch, rows [16 * warps, 64] a tile.
  __device__ void add(uint32_t weights, int pitch, uint32_t rows, const Lane& lane) {
    const uint32_t mine = weights + (lane.id % 8 + lane.id / 16 * 8) * pitch + lane.id / 8 % 2 * 16;
#pragma unroll
    for (int step = 0; step < warps; ++step) {
      uint32_t b[tiles / 2][4];
#pragma unroll
      for (int i = 0; i < tiles / 2; ++i)
        load_transposed(b[i], rows + step * 16 * 128 + (lane.down ^ (first * 2 + i * 32)));
#pragma unroll
      for (int i = 0; i < key_steps; ++i) {
        uint32_t a[4];
        load_transposed(a, mine + step * 16 * pitch + i * 32);
#pragma unroll
        for (int j = 0; j < tiles; ++j) mma<T>(sum[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }

  __device__ void store(float* to, int keys, const Lane& lane) const {
#pragma unroll
    for (int i = 0; i < key_steps; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int key = 16 * i + 8 * half + lane.g;
        if (key >= keys) continue;
#pragma unroll
        for (int j = 0; j < tiles; ++j) {
          *reinterpret_cast<float2*>(to + key * 64 + first + j * 8 + 2 * lane.t) = {sum[i][j][2 * half],
                                                                                    sum[i][j][2 * half + 1]};
        }
      }
    }
  }
};

// 16 rows of a tile as factors.
__device__ inline void load_factors(uint32_t (&a)[4][4], uint32_t tile, const Lane& lane) {
#pragma unroll
  for (int step = 0; step < 4; ++step) load_matrices(a[step], tile + lane.warp * 16 * 128 + (lane.down ^ (step << 5)));
}

template <int key_steps>
__device__ void store_weights(uint32_t to, int pitch, const uint32_t (&p)[key_steps][4], const Lane& lane) {
  const uint32_t mine = to + (lane.warp * 16 + lane.g) * pitch + lane.t * 4;
#pragma unroll
  for (int i = 0; i < key_steps; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) store_shared(mine + j % 2 * 8 * pitch + i * 32 + j / 2 * 16, p[i][j]);
  }
}

// With p = exp(scale q k' - log_sum): ds = p (dout v' - rowsum(p dout v')), dq = scale ds k, and, where keys_too,
// partial sums of dv = p' dout and dk / scale = ds' q.
template <class T, int key_steps, int warps, int stages, bool keys_too>
__global__ void __launch_bounds__(32 * warps) gradient_kernel(const GradientTask task) {
  take_turn();
  using Places = GradientPlaces<key_steps, warps, stages, keys_too>;
  constexpr int tile_rows = 16 * warps;
  const Extents& extents = task.extents;
  const Chunk chunk(extents);
  const Lane lane;
  const uint32_t memory = shared_memory(), k = memory, v = memory + Places::v;
  const auto copy_queries = [&](int row, int stage) {
    const uint32_t tile = memory + Places::queries + stage * 2 * Places::tile;
    copy_rows<tile_rows, 32 * warps>(tile, chunk.of(task.q) + row * task.q.token, task.q.token, chunk.last - row);
    copy_rows<tile_rows, 32 * warps>(tile + Places::tile, chunk.of(task.dout) + row * task.dout.token, task.dout.token,
                                     chunk.last - row);
  };
  copy_rows<key_steps * 16, 32 * warps>(k, chunk.of(task.k), task.k.token, extents.keys);
  copy_queries(chunk.first, 0);
  copy_rows<key_steps * 16, 32 * warps>(v, chunk.of(task.v), task.v.token, extents.keys);
  KeyGradient<T, key_steps, warps> key_gradient(lane);

  for (int row = chunk.first, stage = 0; row < chunk.last; row += tile_rows, stage = (stage + 1) % stages) {
    float shift[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int mine = row + lane.warp * 16 + lane.g + 8 * half;
      shift[half] = mine < chunk.last ? -log2_e * task.log_sum[int64_t{chunk.item} * extents.queries + mine] : 0;
    }
    const uint32_t q = memory + Places::queries + stage * 2 * Places::tile, dout = q + Places::tile;
    wait_for_copies();
    __syncthreads();
    const int following = row + tile_rows;
    if (stages == 2 && following < chunk.last) copy_queries(following, 1 - stage);

    // 1. p and dp = dout v'
    uint32_t factors[4][4], weights[key_steps][4];
    float p[2 * key_steps][4], dp[2 * key_steps][4];
    load_factors(factors, q, lane);
    times_transposed<T, key_steps>(p, factors, k, lane);
    load_factors(factors, dout, lane);
    times_transposed<T, key_steps>(dp, factors, v, lane);
    float sum[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 2 * key_steps; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool real = 8 * i + 2 * lane.t + j % 2 < extents.keys;
        p[i][j] = real ? fast_exp2(fmaf(p[i][j], extents.scale * log2_e, shift[j / 2])) : 0;
        sum[j / 2] = fmaf(p[i][j], dp[i][j], sum[j / 2]);
      }
    }
    if constexpr (keys_too) {
      as_factors<T, key_steps>(weights, p);
      store_weights<key_steps>(memory + Places::weights, Places::pitch, weights, lane);
    }

    // 2. ds
    sum[0] = quad_sum(sum[0]);
    sum[1] = quad_sum(sum[1]);
#pragma unroll
    for (int i = 0; i < 2 * key_steps; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) p[i][j] *= dp[i][j] - sum[j / 2];
    }
    as_factors<T, key_steps>(weights, p);
    if constexpr (keys_too) store_weights<key_steps>(memory + Places::dweights, Places::pitch, weights, lane);

    // 3. dq
    if (task.dq.data) {
      float dq[8][4];
      times<T, key_steps>(dq, weights, k, lane);
      store_rows<T>(dq, {extents.scale, extents.scale}, chunk.of(task.dq), task.dq.token, row + 16 * lane.warp,
                    chunk.last, lane);
    }

    // 4. dv and dk
    if constexpr (keys_too) {
      __syncthreads();
      key_gradient.add(memory + (key_gradient.product ? Places::dweights : Places::weights), Places::pitch,
                       key_gradient.product ? q : dout, lane);
    }
    if (stages == 1 && following < chunk.last) {
      __syncthreads();
      copy_queries(following, 0);
    }
  }
  if constexpr (keys_too) {
    const int64_t place = (int64_t{chunk.index} * extents.items + chunk.item) * 2 + key_gradient.product;
    key_gradient.store(task.partials + place * extents.keys * 64, extents.keys, lane);
  }
}

struct SumTask {
  Extents extents;
  HeadRows dk, dv;
  const float* partials;
};

// Four numbers a thread, added up over the chunks in their order.
template <class T>
__global__ void sum_kernel(const SumTask task) {
  take_turn();
  const Extents& extents = task.extents;
  const int count = extents.items * 2 * extents.keys * 16, i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int row = i / 16, key = row % extents.keys, product = row / extents.keys % 2, item = row / extents.keys / 2;
  // Field by field: the address of a kernel's argument would copy it to memory.
  void* const data = product ? task.dk.data : task.dv.data;
  const int64_t sample = product ? task.dk.sample : task.dv.sample, token = product ? task.dk.token : task.dv.token;
  if (!data) return;
  const auto* partials = reinterpret_cast<const float4*>(task.partials) + i;
  float4 sum = {0, 0, 0, 0};
#pragma unroll 8
  for (int chunk = 0; chunk < extents.chunks; ++chunk) {
    const float4 part = partials[int64_t{chunk} * count];
    sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
  }
  const float factor = product ? extents.scale : 1;
  uint16_t* to = static_cast<uint16_t*>(data) + item / extents.heads * sample + key * token +
                 item % extents.heads * CrossAttention::width;
  *reinterpret_cast<uint2*>(to + i % 16 * 4) = {pack<T>(sum.x * factor, sum.y * factor),
                                                pack<T>(sum.z * factor, sum.w * factor)};
}

}  // namespace flame::cuda
