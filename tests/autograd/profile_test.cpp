#include "flame/autograd/profile.h"

#include <gtest/gtest.h>

#include <thread>

#include "flame/autograd/tape.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

namespace flame {
namespace {

TEST(Profile, CountsOpsAndTheirGradientsWhileItExists) {
  const Tensor x = Tensor::ones({1000});
  exp(x);
  std::map<std::string, Profile::Time> times;
  const auto start = std::chrono::steady_clock::now();
  {
    const Profile profile;
    Tape tape;
    const Tensor loss = (exp(x.requires_grad()) * exp(x)).sum();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    loss.backward();
    std::thread([&] { log(x); }).join();  // not this thread's
    times = profile.times();
  }
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  exp(x);
  double sum = 0;
  for (const auto& [op, time] : times) sum += time.seconds;
  EXPECT_EQ(times.at("exp").calls, 2);
  EXPECT_EQ(times.at("exp backward").calls, 1);
  EXPECT_EQ(times.at("mul").calls, 1);
  EXPECT_EQ(times.at("sum backward").calls, 1);
  EXPECT_FALSE(times.contains("log"));
  EXPECT_GE(times.at("sum backward").seconds, 0.02) << "what lies between two ops counts for the later one";
  EXPECT_LE(sum, passed.count());
}

}  // namespace
}  // namespace flame
