#include "flame/device/device.h"

#include <omp.h>

#include <ostream>

#include "flame/core/error.h"

namespace flame {

#ifndef FLAME_CUDA
Device Device::cuda(int index) { fail("device cuda:", index, ": this build of FLAME has no CUDA; use cpu"); }
int cuda_device_count() { return 0; }
void synchronize(Device) {}
void set_tf32(bool) {}
void set_deterministic(bool) {}
void set_memory_limit(Device, size_t) {}
ArenaScope::ArenaScope(Device device, ArenaPlan*) : device_(device), outer_(false) {}
ArenaScope::~ArenaScope() = default;
LastingScope::LastingScope() : before_(-1) {}
LastingScope::~LastingScope() = default;
#endif

Device Device::parse(std::string_view name) {
  if (name == "cpu") return cpu();
  if (name == "auto") return cuda_device_count() > 0 ? cuda(0) : cpu();
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
