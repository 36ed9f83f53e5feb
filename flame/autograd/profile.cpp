#include "flame/autograd/profile.h"

#include <utility>

namespace flame {
namespace {

thread_local Profile* current = nullptr;

}  // namespace

Profile::Profile() : outer_(std::exchange(current, this)) {}
Profile::~Profile() { current = outer_; }

void Profile::note(const char* op, const char* pass) {
  if (!current) return;
  const Clock::time_point now = Clock::now();
  Time& time = current->times_[std::string(op) + pass];
  ++time.calls;
  time.seconds += std::chrono::duration<double>(now - std::exchange(current->last_, now)).count();
}

}  // namespace flame
