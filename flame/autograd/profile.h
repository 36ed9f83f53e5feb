#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

namespace flame {

// While one exists on this thread, the time between the ends of two ops counts for the later one, forward and backward.
// Set one thread, and then look at times(): threads that a Profile does not know of are not measured.
class Profile {
 public:
  Profile();
  ~Profile();
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  struct Time {
    int64_t calls = 0;
    double seconds = 0;
  };
  const std::map<std::string, Time>& times() const { return times_; }  // by name: "linear", "linear backward"

  static void note(const char* op, const char* pass = "");  // called by the tape when an op is done

 private:
  using Clock = std::chrono::steady_clock;
  std::map<std::string, Time> times_;
  Clock::time_point last_ = Clock::now();
  Profile* outer_;
};

}  // namespace flame
