#pragma once

#include <chrono>
#include <string>

namespace eri {

// A line for people on standard error that tells how far something is: written over and over on a terminal, a new one
// every ten seconds elsewhere.
class ProgressLine {
 public:
  ProgressLine();
  bool due() const;  // the last one is old enough
  void show(const std::string& line);
  void end();                            // what was shown last stays
  void say(const std::string& message);  // a line of its own

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_, open_ = false;
  Clock::time_point shown_;
};

}  // namespace eri
