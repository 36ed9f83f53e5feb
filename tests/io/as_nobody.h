#pragma once

#include <grp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "flame/device/device.h"
#include "tests/io/files.h"

namespace flame::testing {

// What `f` throws when it runs as a user who may do nothing: root may write everywhere.
template <class F>
std::string error_as_nobody(const F& f) {
  if (::geteuid() != 0) return error_of(f);
  int ends[2];
  if (::pipe(ends) != 0) throw std::runtime_error("no pipe");
  const pid_t child = ::fork();
  if (child == 0) {
    constexpr uid_t nobody = 65534;
    set_threads(1);  // OpenMP's other threads are not in the child
    const bool changed = ::setgroups(0, nullptr) == 0 && ::setgid(nobody) == 0 && ::setuid(nobody) == 0;
    const std::string error = changed ? error_of(f) : "the test could not become another user";
    const bool sent = ::write(ends[1], error.data(), error.size()) == static_cast<ssize_t>(error.size());
    ::_exit(sent ? 0 : 1);
  }
  ::close(ends[1]);
  std::array<char, 4096> text;
  const ssize_t length = ::read(ends[0], text.data(), text.size());
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return std::string(text.data(), static_cast<size_t>(std::max<ssize_t>(length, 0)));
}

}  // namespace flame::testing
