#pragma once

#include <array>
#include <dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "flame/core/shape.h"

// oneDNN as the CPU ops use it: primitives are made once for each shape, which takes up to milliseconds, and kept.
namespace flame::onednn {

dnnl::engine& engine();

// The threads worth waking for this much work: all or one. libgomp ends and restarts threads when the count varies.
int threads_for(double operations);

// In this scope oneDNN, and every OpenMP region, has `count` threads.
class ThreadLimit {
 public:
  explicit ThreadLimit(int count);
  ~ThreadLimit();
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  int before_;
};

// A primitive bound to its operands' layouts, run on one piece of memory after the other. One thread may use it.
class Call {
 public:
  Call(dnnl::primitive primitive, int threads, const std::vector<std::pair<int, dnnl::memory::desc>>& operands);
  void operator()(std::initializer_list<const void*> data);  // in the order of `operands`

 private:
  dnnl::primitive primitive_;
  int threads_;
  std::vector<dnnl::memory> memories_;
  std::vector<dnnl_exec_arg_t> arguments_;
};

// What a primitive depends on.
struct Key {
  Shape a, b;
  std::array<int, 8> options = {};
  friend bool operator==(const Key&, const Key&) = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const;
};

template <class Value>
using Cache = std::unordered_map<Key, Value, KeyHash>;

}  // namespace flame::onednn
