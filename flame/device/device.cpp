#include "flame/device/device.h"

#include <omp.h>

#include <ostream>

#include "flame/core/error.h"

namespace flame {

Device Device::cuda(int index) { fail("device cuda:", index, ": this build of FLAME has no CUDA; use cpu"); }

Device Device::parse(std::string_view name) {
  if (name == "cpu" || name == "auto") return cpu();
  if (name == "cuda") return cuda(0);
  if (name.starts_with("cuda:") && name.size() > 5 && name.find_first_not_of("0123456789", 5) == name.npos &&
      name.size() < 8)
    return cuda(std::stoi(std::string(name.substr(5))));
  fail("device '", name, "' is unknown: expected auto, cpu or cuda:0");
}

std::string Device::name() const { return is_cpu() ? "cpu" : text("cuda:", index_); }

std::ostream& operator<<(std::ostream& out, Device device) { return out << device.name(); }

int threads() { return omp_get_max_threads(); }

void set_threads(int count) {
  require(count >= 1, "set_threads", "expected at least 1, got ", count);
  omp_set_num_threads(count);
}

std::string cpu_complaint() {
#if defined(__AVX2__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
    return "this CPU lacks AVX2 and FMA, which this build needs (every x86-64 CPU since about 2015 has them)";
#endif
  return "";
}

}  // namespace flame
