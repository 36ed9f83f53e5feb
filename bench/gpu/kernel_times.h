#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

// The time that kernels, copies and fills take on a GPU, seen by CUPTI, which is opened when it is needed.
namespace bench {

struct KernelTime {
  std::string name;  // demangled, without template arguments that say nothing
  int64_t calls = 0;
  double microseconds = 0;
};

struct KernelTimes {
  std::vector<KernelTime> kernels;  // the longest in sum first
  double busy_microseconds = 0;     // in which at least one was running
  double span_microseconds = 0;     // from the first's begin to the last's end
};

// What `work`, which must end with the device idle, runs. Kernels do not start early meanwhile, or their waiting for
// the one before would count; graphs that `work` launches must have been captured in `warm_up`. Throws flame::Error
// where there is no CUPTI.
KernelTimes kernel_times(const std::function<void()>& warm_up, const std::function<void()>& work);
nlohmann::json kernel_rows(const KernelTimes& all);

}  // namespace bench
