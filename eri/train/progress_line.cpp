#include "eri/train/progress_line.h"

#include <unistd.h>

#include <iostream>

namespace eri {

ProgressLine::ProgressLine() : terminal_(::isatty(STDERR_FILENO)), shown_(Clock::now()) {}

bool ProgressLine::due() const {
  const std::chrono::duration<double> since = Clock::now() - shown_;
  return since.count() > (terminal_ ? 0.1 : 10.0);
}

void ProgressLine::show(const std::string& line) {
  shown_ = Clock::now();
  if (terminal_) {
    std::cerr << "\r\033[K" << line << std::flush;
    open_ = true;
  } else {
    std::cerr << line << std::endl;
  }
}

void ProgressLine::end() {
  if (open_) std::cerr << std::endl;
  open_ = false;
}

void ProgressLine::say(const std::string& message) {
  end();
  std::cerr << message << std::endl;
}

}  // namespace eri
