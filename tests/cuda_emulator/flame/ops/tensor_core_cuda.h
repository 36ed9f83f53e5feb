#pragma once

#include <bit>
#include <cstring>

#include "cuda_runtime.h"
#include "flame/core/dtype.h"
#include "flame/core/error.h"

// The instructions of the header that this one stands in for, by what the PTX manual says of them. A lane's place in a
// matrix is described there. Addresses of shared memory are offsets from its beginning.
namespace flame::cuda {

template <class T>
float half_of(uint32_t pair, int i) {
  T value;
  value.bits = static_cast<uint16_t>(pair >> 16 * i);
  return float(value);
}

template <class T>
void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Factors {
    uint32_t a[4], b[2];
  };
  const Factors mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const std::byte* const all = cuda_emulator::wait_for_warp(&mine, sizeof(mine), cuda_emulator::Site::current());
  const unsigned lane = cuda_emulator::lane(), g = lane / 4, t = lane % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
    float sum = 0;
    for (unsigned k = 0; k < 16; ++k) {  // of a pair, which lane of four, and which of its registers
      const unsigned half = k % 2, of = k % 8 / 2, upper = k / 8;
      const auto& left = cuda_emulator::shown_by<Factors>(all, row % 8 * 4 + of);
      const auto& right = cuda_emulator::shown_by<Factors>(all, column * 4 + of);
      sum += half_of<T>(left.a[row / 8 + 2 * upper], half) * half_of<T>(right.b[upper], half);
    }
    c[i] += sum;
  }
}

template <class T>
uint32_t pack(float first, float second) {
  return uint32_t{T(second).bits} << 16 | T(first).bits;
}

inline uint32_t shared_memory() { return 0; }
inline std::byte* in_shared_memory(uint32_t address) { return cuda_emulator::shared_memory() + address; }

// Matrix i's row r is where lane 8 i + r says.
inline const std::byte* rows_of_matrices(uint32_t address) {
  require(address % 16 == 0, "ldmatrix", "address ", address, " is not aligned");
  return cuda_emulator::wait_for_warp(&address, sizeof(address), cuda_emulator::Site::current());
}
inline uint16_t element(const std::byte* rows, unsigned matrix, unsigned row, unsigned column) {
  uint16_t bits;
  std::memcpy(&bits, in_shared_memory(cuda_emulator::shown_by<uint32_t>(rows, 8 * matrix + row)) + 2 * column, 2);
  return bits;
}
inline void load_matrices(uint32_t (&m)[4], uint32_t address) {
  const std::byte* const rows = rows_of_matrices(address);
  const unsigned lane = cuda_emulator::lane(), g = lane / 4, t = lane % 4;
  for (unsigned i = 0; i < 4; ++i) m[i] = uint32_t{element(rows, i, g, 2 * t + 1)} << 16 | element(rows, i, g, 2 * t);
}
inline void load_transposed(uint32_t (&m)[4], uint32_t address) {
  const std::byte* const rows = rows_of_matrices(address);
  const unsigned lane = cuda_emulator::lane(), g = lane / 4, t = lane % 4;
  for (unsigned i = 0; i < 4; ++i) m[i] = uint32_t{element(rows, i, 2 * t + 1, g)} << 16 | element(rows, i, 2 * t, g);
}

inline void store_shared(uint32_t address, uint32_t word) {
  require(address % 4 == 0, "st.shared", "address ", address, " is not aligned");
  std::memcpy(in_shared_memory(address), &word, sizeof(word));
}
inline void copy_async(uint32_t to, const void* from, bool real) {
  require(to % 16 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0, "cp.async", "an address is not aligned");
  cuda_emulator::begin_copy([=] {
    if (real)
      std::memcpy(in_shared_memory(to), from, 16);
    else
      std::memset(in_shared_memory(to), 0, 16);
  });
}
inline void wait_for_copies() { cuda_emulator::finish_copies(); }

inline float fast_exp2(float x) { return x < -126 ? 0 : std::exp2(x); }

}  // namespace flame::cuda
