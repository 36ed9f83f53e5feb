#include "flame/core/shape.h"

#include <gtest/gtest.h>

#include "flame/core/error.h"

namespace flame {
namespace {

TEST(Shape, CountsAndIndexes) {
  const Shape shape = {2, 3, 4};
  EXPECT_EQ(shape.rank(), 3);
  EXPECT_EQ(shape.numel(), 24);
  EXPECT_EQ(shape.numel(1, 3), 12);
  EXPECT_EQ(shape.numel(1, 1), 1);
  EXPECT_EQ(shape.dim(-1), 4);
  EXPECT_EQ(shape.dim(0), 2);
  EXPECT_EQ(shape.axis(-3), 0);
  EXPECT_EQ(Shape().numel(), 1);
  EXPECT_EQ((Shape{3, 0}).numel(), 0);
  EXPECT_EQ(text(shape, Shape()), "[2, 3, 4][]");
}

TEST(Shape, Changes) {
  const Shape shape = {2, 3, 4};
  EXPECT_EQ(shape.with(-1, 7), (Shape{2, 3, 7}));
  EXPECT_EQ(shape.without(1), (Shape{2, 4}));
  EXPECT_EQ(shape.without(-1), (Shape{2, 3}));
  EXPECT_EQ(shape.inserted(0, 9), (Shape{9, 2, 3, 4}));
  EXPECT_EQ(shape.inserted(3, 9), (Shape{2, 3, 4, 9}));
  EXPECT_EQ(shape.without(2), (Shape{2, 3})) << "extents beyond the rank must not count";
  EXPECT_NE((Shape{2, 3}), (Shape{2, 3, 1}));
}

TEST(Shape, RefusesWhatIsOutside) {
  const Shape shape = {2, 3};
  EXPECT_THROW(shape.dim(2), Error);
  EXPECT_THROW(shape.dim(-3), Error);
  EXPECT_THROW(shape.with(2, 1), Error);
  EXPECT_THROW(shape.inserted(3, 1), Error);
  EXPECT_THROW((Shape{2, -1}), Error);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1, 1}), Error);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1}).inserted(0, 1), Error);
}

TEST(Shape, Broadcasts) {
  EXPECT_EQ(broadcast({2, 1, 4}, {3, 1}), (Shape{2, 3, 4}));
  EXPECT_EQ(broadcast({}, {2, 3}), (Shape{2, 3}));
  EXPECT_EQ(broadcast({5}, {1}), (Shape{5}));
  EXPECT_EQ(broadcast({0}, {1}), (Shape{0}));
  try {
    broadcast({2, 3}, {4}, "add");
    FAIL();
  } catch (const Error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("add: shapes [2, 3] and [4] do not fit together"))
        << error.what();
  }
}

}  // namespace
}  // namespace flame
