#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

namespace eri {

// What the time before and with a run's first step is spent on.
class StartReport {
 public:
  // What went by since the last call, or since this was made, was `part`. The same part may come again.
  void lap(const std::string& part);
  double seconds(const std::string& part) const;

  // "start: model 0.91 s, caching 1.20 s (24 pictures, 20.0 a second), first step 1.82 s; 3.93 s in all"
  std::string line(size_t pictures) const;
  // "loaded 6.94 GB in 0.41 s (16.9 GB/s)", of the part "model"
  std::string loaded(size_t bytes) const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Part {
    std::string name;
    double seconds;
  };
  std::vector<Part> parts_;
  Clock::time_point last_ = Clock::now();
};

}  // namespace eri
