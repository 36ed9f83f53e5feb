#include <cupti.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>

#include "flame/core/error.h"
#include "flame/device/launch_cuda.h"
#include "flame/device/shared_library.h"
#include "kernel_times.h"

namespace bench {
namespace {

struct Interval {
  uint64_t begin, end;
};
std::vector<Interval> intervals;
std::map<std::string, KernelTime> times;

flame::SharedLibrary& library() {
  static flame::SharedLibrary cupti("CUPTI", "ERI_CUPTI", {"libcupti.so.13"});
  return cupti;
}
// The function of CUPTI's whose declaration is F.
template <class F>
F* cupti(const char* name) {
  return reinterpret_cast<F*>(library().symbol(name));
}

void check(CUptiResult result, const char* what) {
  flame::require(result == CUPTI_SUCCESS, "CUPTI", what, " failed with error ", static_cast<int>(result));
}

std::string readable(const char* mangled) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(mangled, nullptr, nullptr, &status), std::free);
  std::string text = status == 0 && name ? name.get() : mangled;
  for (const std::string_view noise : {"(anonymous namespace)::", "flame::cuda::", "flame::", "void "}) {
    for (size_t at = text.find(noise); at != text.npos; at = text.find(noise, at)) text.erase(at, noise.size());
  }
  if (const size_t arguments = text.rfind('('); arguments != text.npos && arguments > 0) text.resize(arguments);
  return text.size() > 100 ? text.substr(0, 100) : text;
}

void note(const std::string& name, uint64_t begin, uint64_t end) {
  KernelTime& time = times[name];
  time.name = name;
  ++time.calls;
  time.microseconds += static_cast<double>(end - begin) * 1e-3;
  intervals.push_back({begin, end});
}

void give_buffer(uint8_t** buffer, size_t* size, size_t* records) {
  *size = size_t{8} << 20;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, *size));
  *records = 0;
}

void take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t filled) {
  static const auto next = cupti<decltype(cuptiActivityGetNextRecord)>("cuptiActivityGetNextRecord");
  CUpti_Activity* record = nullptr;
  while (filled && next(buffer, filled, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      note(readable(kernel->name), kernel->start, kernel->end);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* copy = reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      note("copy", copy->start, copy->end);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const auto* fill = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      note("memset", fill->start, fill->end);
    }
  }
  std::free(buffer);
}

double covered() {
  std::sort(intervals.begin(), intervals.end(), [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  uint64_t sum = 0, until = 0;
  for (const auto& [begin, end] : intervals) {
    if (end > until) sum += end - std::max(begin, until);
    until = std::max(until, end);
  }
  return static_cast<double>(sum) * 1e-3;
}

}  // namespace

KernelTimes kernel_times(const std::function<void()>& warm_up, const std::function<void()>& work) {
  constexpr CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                          CUPTI_ACTIVITY_KIND_MEMSET};
  flame::cuda::set_early_launches(false);
  warm_up();
  intervals.clear();
  times.clear();
  check(cupti<decltype(cuptiActivityRegisterCallbacks)>("cuptiActivityRegisterCallbacks")(give_buffer, take_buffer),
        "cuptiActivityRegisterCallbacks");
  for (CUpti_ActivityKind kind : kinds)
    check(cupti<decltype(cuptiActivityEnable)>("cuptiActivityEnable")(kind), "cuptiActivityEnable");
  work();
  check(cupti<decltype(cuptiActivityFlushAll)>("cuptiActivityFlushAll")(1), "cuptiActivityFlushAll");
  for (CUpti_ActivityKind kind : kinds)
    check(cupti<decltype(cuptiActivityDisable)>("cuptiActivityDisable")(kind), "cuptiActivityDisable");
  flame::cuda::set_early_launches(true);

  KernelTimes result;
  for (const auto& [name, time] : times) result.kernels.push_back(time);
  std::sort(result.kernels.begin(), result.kernels.end(),
            [](const KernelTime& a, const KernelTime& b) { return a.microseconds > b.microseconds; });
  result.busy_microseconds = covered();
  if (!intervals.empty()) {
    uint64_t last = 0;
    for (const Interval& interval : intervals) last = std::max(last, interval.end);
    result.span_microseconds = static_cast<double>(last - intervals.front().begin) * 1e-3;
  }
  return result;
}

nlohmann::json kernel_rows(const KernelTimes& all) {
  nlohmann::json rows = nlohmann::json::array();
  for (const KernelTime& kernel : all.kernels)
    rows.push_back({{"name", kernel.name}, {"calls", kernel.calls}, {"us", kernel.microseconds}});
  return {{"busy_us", all.busy_microseconds}, {"span_us", all.span_microseconds}, {"kernels", rows}};
}

}  // namespace bench
