#pragma once

#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <limits>
#include <ostream>
#include <string>

namespace eri {

// What this process holds of the host's memory, in bytes: what malloc gave out, and all of its own, without pages of
// files. What malloc keeps to be used again goes back first: how much that is depends on which thread came first.
struct HostMemory {
  size_t malloced;
  double resident;

  static HostMemory now() {
    ::malloc_trim(0);
    const struct mallinfo2 all = ::mallinfo2();
    HostMemory memory{all.uordblks + all.hblkhd, std::numeric_limits<double>::quiet_NaN()};
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("RssAnon:")) memory.resident = 1024 * std::stod(line.substr(8));
    return memory;
  }

  friend std::ostream& operator<<(std::ostream& out, const HostMemory& memory) {
    return out << memory.malloced << " bytes of malloc's, " << memory.resident / (1 << 20) << " MiB resident";
  }
};

inline void expect_no_more(const HostMemory& now, const HostMemory& before) {
  constexpr size_t rounding = 1024;  // malloc gives a few bytes more where what is left over is too small for a chunk
  EXPECT_LT(now.malloced, before.malloced + rounding);
  EXPECT_LT(now.resident, before.resident + (5 << 20));  // two huge pages; seen: 0.1 MiB
}

// glibc keeps freed memory for each thread and counts it as used. Told not to, which it takes a new start of the
// program, it can be asked what leaked, to the byte.
inline void count_every_byte(char** argv) {
  const std::string ours = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1";
  const char* const given = std::getenv("GLIBC_TUNABLES");
  const std::string all = given ? given : "";
  if (all.ends_with(ours)) return;
  ::setenv("GLIBC_TUNABLES", (all.empty() ? ours : all + ":" + ours).c_str(), 1);
  ::execv("/proc/self/exe", argv);
}

}  // namespace eri
