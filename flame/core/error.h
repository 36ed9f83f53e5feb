#pragma once

#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>

namespace flame {

// Every failure that FLAME reports: what was asked, what was expected, what came.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The name of an op together with the line that called `require`; made implicitly from a string.
struct Op {
  const char* name;
  std::source_location where;
  constexpr Op(const char* op, std::source_location at = std::source_location::current()) : name(op), where(at) {}
};

// The parts written one after the other: text("rank ", 4) is "rank 4".
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// Throws Error with a message for people: no op, no line.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(text(parts...));
}

// Throws Error "op: message" unless `ok`.
template <class... Parts>
void require(bool ok, Op op, const Parts&... parts) {
  if (ok) return;
  std::string file = op.where.file_name();
  throw Error(text(op.name, ": ", parts..., " (", file.substr(file.rfind('/') + 1), ":", op.where.line(), ")"));
}

}  // namespace flame
