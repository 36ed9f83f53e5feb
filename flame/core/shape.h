#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <span>

#include "flame/core/error.h"

namespace flame {

// Up to six extents, outermost first. A scalar has rank 0.
class Shape {
 public:
  static constexpr int max_rank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) : Shape(std::span(extents.begin(), extents.size())) {}
  explicit Shape(std::span<const int64_t> extents);

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return extents_[axis]; }  // 0 <= axis < rank
  int64_t dim(int axis) const;                                   // checked; negative counts from the end
  int axis(int axis) const;                                      // the same axis as 0..rank-1, checked
  int64_t numel() const;
  int64_t numel(int first, int last) const;  // product of the extents in [first, last)
  const int64_t* begin() const { return extents_.data(); }
  const int64_t* end() const { return extents_.data() + rank_; }

  Shape with(int axis, int64_t extent) const;
  Shape without(int axis) const;
  Shape inserted(int axis, int64_t extent) const;  // axis may be rank: appended
  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<int64_t, max_rank> extents_ = {};
  int rank_ = 0;
};

// The shape of the result of `op` under NumPy's broadcasting rules; throws where they do not fit.
Shape broadcast(const Shape& a, const Shape& b, Op op = "broadcast");

std::ostream& operator<<(std::ostream& out, const Shape& shape);

}  // namespace flame
