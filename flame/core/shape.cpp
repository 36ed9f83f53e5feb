#include "flame/core/shape.h"

#include <algorithm>
#include <ostream>

#include "flame/core/error.h"

namespace flame {

Shape::Shape(std::span<const int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  require(extents.size() <= max_rank, "Shape", "expected at most ", max_rank, " extents, got ", extents.size());
  for (int64_t extent : extents) require(extent >= 0, "Shape", "expected no negative extent, got ", extent);
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

int Shape::axis(int axis) const {
  require(axis >= -rank_ && axis < rank_, "Shape", "axis ", axis, " of shape ", *this);
  return axis < 0 ? axis + rank_ : axis;
}

int64_t Shape::dim(int index) const { return extents_[axis(index)]; }

int64_t Shape::numel(int first, int last) const {
  int64_t product = 1;
  for (int i = first; i < last; ++i) product *= extents_[i];
  return product;
}

int64_t Shape::numel() const { return numel(0, rank_); }

Shape Shape::with(int index, int64_t extent) const {
  Shape result = *this;
  result.extents_[axis(index)] = extent;
  return result;
}

Shape Shape::without(int index) const {
  Shape result = *this;
  std::copy(extents_.begin() + axis(index) + 1, extents_.begin() + rank_, result.extents_.begin() + axis(index));
  result.extents_[--result.rank_] = 0;
  return result;
}

Shape Shape::inserted(int index, int64_t extent) const {
  require(rank_ < max_rank && index >= 0 && index <= rank_, "Shape", "no room for axis ", index, " in ", *this);
  Shape result = *this;
  std::copy_backward(extents_.begin() + index, extents_.begin() + rank_, result.extents_.begin() + rank_ + 1);
  result.extents_[index] = extent;
  ++result.rank_;
  return result;
}

Shape broadcast(const Shape& a, const Shape& b, Op op) {
  Shape result = a.rank() >= b.rank() ? a : b;
  const int rank = result.rank();
  for (int i = 0; i < rank; ++i) {
    const int64_t m = i < rank - a.rank() ? 1 : a[i - (rank - a.rank())];
    const int64_t n = i < rank - b.rank() ? 1 : b[i - (rank - b.rank())];
    require(m == n || m == 1 || n == 1, op, "shapes ", a, " and ", b, " do not fit together");
    result = result.with(i, m == 1 ? n : m);
  }
  return result;
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << "[";
  for (int i = 0; i < shape.rank(); ++i) out << (i ? ", " : "") << shape[i];
  return out << "]";
}

}  // namespace flame
