#include "flame/core/tensor.h"

#include <gtest/gtest.h>

#include <cmath>

namespace flame {
namespace {

TEST(Tensor, IsMadeFromValues) {
  EXPECT_EQ(Tensor::zeros({2, 2}).to_host<float>(), (std::vector<float>{0, 0, 0, 0}));
  EXPECT_EQ(Tensor::ones({2}, DType::i64).to_host<int64_t>(), (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(Tensor::full({2}, 2.5).to_host<float>(), (std::vector<float>{2.5, 2.5}));
  EXPECT_EQ(Tensor::arange(3, DType::i32).to_host<int32_t>(), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(Tensor::full({1}, 1.5, DType::bf16).to_host<bf16>()[0].bits, 0x3FC0);
  EXPECT_EQ(Tensor::ones({1}, DType::boolean).to_host<bool>()[0], true);
  EXPECT_THROW(Tensor::from({1.0f, 2.0f}, {3}), Error);
  EXPECT_THROW(Tensor::arange(-1), Error);
}

TEST(Tensor, ItemIsTheOneElement) {
  EXPECT_EQ(Tensor::full({}, 2.5).item(), 2.5f);
  EXPECT_EQ(Tensor::full({1, 1}, 7, DType::u8).item(), 7);
  EXPECT_THROW(Tensor::ones({2}).item(), Error);
  EXPECT_THROW(Tensor().item(), Error);
}

TEST(Tensor, CopiesShareAndClonesDoNot) {
  const Tensor x = Tensor::arange(4), copy = x, clone = x.clone();
  x.fill(9);
  EXPECT_EQ(copy.to_host<float>(), (std::vector<float>{9, 9, 9, 9}));
  EXPECT_EQ(clone.to_host<float>(), (std::vector<float>{0, 1, 2, 3}));
  EXPECT_FALSE(x.sole_owner());
  EXPECT_TRUE(clone.sole_owner());
}

TEST(Tensor, ViewsAreTheSameBytes) {
  const Tensor x = Tensor::arange(6).view({3, 2}), rows = x.rows(1, 2);
  EXPECT_EQ(rows.to_host<float>(), (std::vector<float>{2, 3, 4, 5}));
  EXPECT_EQ(rows.view({4}).rows(3, 1).item(), 5);
  rows.rows(0, 1).fill(-1);
  EXPECT_EQ(x.to_host<float>(), (std::vector<float>{0, 1, -1, -1, 4, 5}));
  EXPECT_THROW(x.view({5}), Error);
  EXPECT_THROW(x.rows(2, 2), Error);
  EXPECT_THROW(x.rows(-1, 1), Error);
  EXPECT_EQ(x.rows(3, 0).numel(), 0);
}

TEST(Tensor, CopyFromAndDataCheckWhatTheyGet) {
  const Tensor x = Tensor::zeros({2});
  x.copy_from(Tensor::ones({2}));
  EXPECT_EQ(x.to_host<float>(), (std::vector<float>{1, 1}));
  EXPECT_THROW(x.copy_from(Tensor::ones({3})), Error);
  EXPECT_THROW(x.copy_from(Tensor::ones({2}, DType::f16)), Error);
  EXPECT_THROW(x.data<f16>(), Error);
  EXPECT_THROW(x.to_host<int32_t>(), Error);
}

TEST(Tensor, AFrozenOneRefusesWrites) {
  const Tensor x = Tensor::ones({2, 2});
  x.rows(0, 1).freeze();
  EXPECT_TRUE(x.frozen()) << "a promise about the buffer";
  EXPECT_THROW(x.fill(0), Error);
  EXPECT_THROW(x.copy_from(Tensor::zeros({2, 2})), Error);
  EXPECT_FALSE(x.clone().frozen());
}

TEST(Tensor, BorrowsBytesAndKeepsTheirOwner) {
  auto owner = std::make_shared<std::vector<float>>(3, 1.5f);
  const std::weak_ptr<std::vector<float>> watch = owner;
  {
    Tensor rows;
    {
      const Tensor x = Tensor::borrowed(owner->data(), {3}, DType::f32, owner);
      owner.reset();
      rows = x.rows(1, 2);
    }
    EXPECT_FALSE(watch.expired());
    EXPECT_EQ(rows.to_host<float>(), (std::vector<float>{1.5, 1.5}));
  }
  EXPECT_TRUE(watch.expired());
}

TEST(Tensor, PrintsItself) {
  EXPECT_EQ(text(Tensor::arange(3)), "[3] f32 cpu {0, 1, 2}");
  EXPECT_EQ(text(Tensor::zeros({3, 3}, DType::bf16)), "[3, 3] bf16 cpu {0, 0, 0, 0, 0, 0, 0, 0, ...}");
  EXPECT_EQ(text(Tensor()), "no tensor");
}

TEST(Device, Names) {
  EXPECT_EQ(Device::parse("cpu"), Device::cpu());
  EXPECT_EQ(Device::cpu().name(), "cpu");
  for (const char* name : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1111111"})
    EXPECT_THROW(Device::parse(name), Error) << name;
  EXPECT_THROW(set_threads(0), Error);
}

}  // namespace
}  // namespace flame
