#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "flame/core/error.h"

namespace eri {

// Values 0, 1, .. count-1 that `make` makes, each called once, on threads of its own that stay at most `ahead` values
// in front of who takes them. They come in order whatever the number of threads; where make(i) threw, its turn throws.
template <class Value>
class ReadAhead {
 public:
  ReadAhead(size_t count, int threads, size_t ahead, std::function<Value(size_t)> make)
      : count_(count), ahead_(ahead), make_(std::move(make)) {
    flame::require(threads > 0 && ahead > 0, "ReadAhead", "expected a thread and a value ahead at least, got ", threads,
                   " and ", ahead);
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this](std::stop_token stop) { work(stop); });
  }
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  Value next() {
    flame::require(taken_ < count_, "ReadAhead", "all ", count_, " values were taken");
    std::unique_lock lock(mutex_);
    made_.wait(lock, [&] { return results_.contains(taken_); });
    Result result = std::move(results_.extract(taken_++).mapped());
    lock.unlock();
    room_.notify_one();
    if (result.error) std::rethrow_exception(result.error);
    return std::move(*result.value);
  }

 private:
  struct Result {
    std::optional<Value> value;
    std::exception_ptr error;
  };

  void work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (room_.wait(lock, stop, [&] { return begun_ == count_ || begun_ < taken_ + ahead_; }) && begun_ < count_ &&
           !stop.stop_requested()) {
      const size_t index = begun_++;
      lock.unlock();
      Result result;
      try {
        result.value = make_(index);
      } catch (...) {
        result.error = std::current_exception();
      }
      lock.lock();
      results_.emplace(index, std::move(result));
      made_.notify_one();
    }
  }

  const size_t count_, ahead_;
  const std::function<Value(size_t)> make_;
  std::mutex mutex_;
  std::condition_variable_any room_;
  std::condition_variable made_;
  size_t begun_ = 0, taken_ = 0;
  std::map<size_t, Result> results_;   // made and not yet taken
  std::vector<std::jthread> threads_;  // last: they use all of the above, so they end first
};

}  // namespace eri
