#include "eri/data/read_ahead.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>

#include "tests/io/files.h"

namespace eri {
namespace {

using flame::testing::error_of;

// Later values are made sooner.
int made_slowly(size_t i) {
  std::this_thread::sleep_for(std::chrono::microseconds(200 * (7 - i % 8)));
  return static_cast<int>(i * i);
}

TEST(ReadAhead, GivesValuesInOrderWhateverTheThreads) {
  for (int threads : {1, 2, 5}) {
    ReadAhead<int> values(50, threads, 8, made_slowly);
    for (int i = 0; i < 50; ++i) ASSERT_EQ(values.next(), i * i) << threads << " threads";
    EXPECT_TRUE(error_of([&] { values.next(); }).starts_with("ReadAhead: all 50 values were taken"));
  }
}

TEST(ReadAhead, MakesNoMoreThanItWasAllowedAhead) {
  std::atomic<size_t> begun = 0;
  ReadAhead<size_t> values(100, 4, 6, [&](size_t i) {
    ++begun;
    return i;
  });
  for (size_t taken = 0; taken < 20; ++taken) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_LE(begun, taken + 6);
    EXPECT_EQ(values.next(), taken);
  }
}

TEST(ReadAhead, ThrowsWhenItIsTheBrokenValuesTurn) {
  for (int threads : {1, 4}) {
    ReadAhead<int> values(12, threads, 8, [](size_t i) {
      if (i == 5 || i == 7) flame::fail("value ", i, " is broken");
      return made_slowly(i);
    });
    for (int i = 0; i < 5; ++i) EXPECT_EQ(values.next(), i * i);
    EXPECT_EQ(error_of([&] { values.next(); }), "value 5 is broken");
    EXPECT_EQ(values.next(), 36);
    EXPECT_EQ(error_of([&] { values.next(); }), "value 7 is broken");
    EXPECT_EQ(values.next(), 64);
  }
}

TEST(ReadAhead, EndsBeforeAllIsTaken) {
  for (size_t taken : {0, 1, 9}) {
    ReadAhead<int> values(1000, 3, 4, made_slowly);
    for (size_t i = 0; i < taken; ++i) values.next();
  }
  const ReadAhead<int> nothing(0, 3, 4, made_slowly);
}

}  // namespace
}  // namespace eri
