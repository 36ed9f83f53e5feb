// Weights on their way to a GPU: what arrives is what the CPU would have. Skipped where there is no GPU.
#include <gtest/gtest.h>

#include <bit>

#include "flame/io/safetensors.h"
#include "flame/nn/layers.h"
#include "tests/io/files.h"
#include "tests/nn/weight_map.h"

namespace flame {
namespace {

using testing::TemporaryFolder;

class CudaLoading : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
  }
  TemporaryFolder folder_;
};

std::vector<std::byte> bytes_of(const Tensor& tensor) {
  const Tensor host = tensor.to(Device::cpu());
  return {host.raw(), host.raw() + host.bytes()};
}

Tensor random_bytes(int64_t count, uint64_t seed) {
  Generator generator(seed);
  const Tensor words = Tensor::randint(0, int64_t{1} << 32, {(count + 3) / 4}, generator);
  const Tensor result = Tensor::empty({count}, DType::u8);
  for (int64_t i = 0; i < count; ++i)
    result.data<uint8_t>()[i] = static_cast<uint8_t>(words.data<int64_t>()[i / 4] >> 8 * (i % 4));
  return result;
}

constexpr int64_t kib = 1 << 10, mib = 1 << 20;
constexpr int64_t sizes[] = {0,           1,           7,       64 * kib,     64 * kib + 1, 512 * kib,    mib + 5,
                             2 * mib - 1, 2 * mib + 1, 4 * mib, 31 * mib + 3, 65 * mib,     150 * mib + 1};

TEST_F(CudaLoading, BytesOfAnySizeArriveFromMemoryAndFromAFile) {
  const int before = threads();
  const Tensor all = random_bytes(sizes[std::size(sizes) - 1], 1);
  write_safetensors(folder_ / "file", {{"all", all}});
  const Tensor mapped = SafetensorsFile(folder_ / "file").tensor("all");
  for (int count : {1, 3, 16}) {
    set_threads(count);
    for (int64_t size : sizes) {
      const Tensor part = all.rows(all.numel() - size, size);
      EXPECT_TRUE(bytes_of(part.to(Device::cuda())) == bytes_of(part)) << size << " bytes, " << count << " threads";
      EXPECT_TRUE(bytes_of(mapped.rows(all.numel() - size, size).to(Device::cuda())) == bytes_of(part))
          << size << " bytes of a file, " << count << " threads";
    }
  }
  set_threads(before);
}

// More of them than there is pinned memory for, none waited for.
TEST_F(CudaLoading, ManyCopiesInARowKeepTheirOrderAndTheirBytes) {
  for (int64_t size : {8, 30'000, 700'000}) {
    const Tensor target = Tensor::zeros({size}, DType::u8, Device::cuda());
    std::vector<Tensor> arrived;
    for (uint64_t i = 0; i < 200; ++i) {
      const Tensor source = Tensor::full({size}, static_cast<double>(i), DType::u8);
      target.copy_from(source);
      source.fill(255);  // it was read when copy_from returned
      arrived.push_back(target.clone());
    }
    for (uint64_t i = 0; i < 200; ++i)
      ASSERT_TRUE(bytes_of(arrived[i]) == std::vector<std::byte>(static_cast<size_t>(size), std::byte(i)))
          << "copy " << i << " of " << size << " bytes";
  }
}

TEST_F(CudaLoading, WeightsOfEveryKindAreThoseOfTheCpu) {
  Generator generator(3);
  const std::map<std::string, Shape> shapes = {
      {"linear", {96, 40}},      {"wide", {1280, 1024}},   {"conv", {64, 24, 3, 3}}, {"large", {640, 320, 3, 3}},
      {"point", {48, 56, 1, 1}}, {"narrow", {8, 4, 3, 3}}, {"vector", {1280}}};
  for (DType stored : {DType::f32, DType::f16, DType::bf16}) {
    std::map<std::string, Tensor> tensors;
    for (const auto& [name, shape] : shapes) tensors[name] = Tensor::randn(shape, generator).to(stored);
    write_safetensors(folder_ / "file", tensors);
    const SafetensorsFile file(folder_ / "file");
    std::map<std::string, Tensor> mapped;
    for (const auto& [name, shape] : shapes) mapped[name] = file.tensor(name);
    const WeightMap source(mapped);
    for (DType wanted : {DType::f32, DType::f16, DType::bf16}) {
      const Scope cpu(source, wanted, Device::cpu()), gpu(source, wanted, Device::cuda());
      for (const auto& [name, shape] : shapes) {
        const auto load = [&](const Scope& scope) {
          return shape.rank() == 4 ? scope.conv_weight(name, shape) : scope.weight(name, shape);
        };
        const Tensor expected = load(cpu), got = load(gpu);
        EXPECT_EQ(got.shape(), expected.shape()) << name;
        EXPECT_TRUE(bytes_of(got) == bytes_of(expected)) << name << " from " << stored << " to " << wanted;
      }
    }
  }
}

TEST_F(CudaLoading, AFileThatWasCutOffIsNamed) {
  write_safetensors(folder_ / "file", {{"a", Tensor::zeros({4 * mib})}});
  const Tensor mapped = SafetensorsFile(folder_ / "file").tensor("a");
  std::filesystem::resize_file(folder_ / "file", 9 * mib);
  const std::string message = error_of([&] { mapped.to(Device::cuda()); });
  EXPECT_NE(message.find((folder_ / "file").string() + " ends at byte 9437184"), message.npos) << message;
  EXPECT_NE(message.find("copy or download it again"), message.npos) << message;
}

}  // namespace
}  // namespace flame
