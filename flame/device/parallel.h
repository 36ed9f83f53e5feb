#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace flame {

// One copy of a kernel, whoever calls it: inlined twice, GCC 12 leaves the loops of one copy scalar.
template <class F>
[[gnu::noinline]] void run_piece(const F& f, int64_t begin, int64_t end) {
  f(begin, end);
}

// Calls f(begin, end) on consecutive pieces of [0, n), one a thread; `grain` is the least worth a thread of its own.
// The pieces depend only on n, grain and the number of threads. f must not throw.
template <class F>
void parallel_for(int64_t n, int64_t grain, const F& f) {
  const int64_t pieces =
      omp_in_parallel() ? 1 : std::min<int64_t>(omp_get_max_threads(), n / std::max<int64_t>(grain, 1));
  if (pieces <= 1) {
    if (n > 0) run_piece(f, 0, n);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(static_cast <int>(pieces))
  for (int64_t i = 0; i < pieces; ++i) run_piece(f, n * i / pieces, n * (i + 1) / pieces);
}

}  // namespace flame
