#include "flame/io/mapped_file.h"

#include <gtest/gtest.h>

#include <thread>

#include "flame/io/safetensors.h"
#include "tests/io/files.h"

namespace flame {
namespace {

using testing::error_of;
using testing::TemporaryFolder;
using testing::write_file;

std::string numbers(size_t bytes) {
  std::string result(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) result[i] = static_cast<char>(i * 31 + i / 251);
  return result;
}

TEST(MappedFile, ReadsWhatIsMappedAnywhere) {
  const TemporaryFolder folder;
  const std::string content = numbers(100'003);
  write_file(folder / "file", content);
  const MappedFile file(folder / "file");
  file.read_ahead({});
  EXPECT_EQ(file.view(), content);
  for (const auto& [begin, count] : {std::pair<size_t, size_t>{0, 100'003}, {1, 0}, {4095, 8194}, {100'002, 1}}) {
    std::string copy(count, '\0');
    file.read(reinterpret_cast<std::byte*>(copy.data()), file.data() + begin, count);
    EXPECT_EQ(copy, content.substr(begin, count));
  }
}

TEST(MappedFile, IsReadBySeveralThreadsAtOnce) {
  const TemporaryFolder folder;
  const std::string content = numbers(1 << 20);
  write_file(folder / "file", content);
  const MappedFile file(folder / "file");
  std::string copy(content.size(), '\0');
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < 8; ++i)
      threads.emplace_back([&, begin = i << 17] {
        file.read(reinterpret_cast<std::byte*>(copy.data()) + begin, file.data() + begin, 1 << 17);
      });
  }
  EXPECT_EQ(copy, content);
}

TEST(MappedFile, SaysThatAFileWasCutOffSinceItWasOpened) {
  const TemporaryFolder folder;
  write_file(folder / "file", numbers(10'000));
  const MappedFile file(folder / "file");
  std::filesystem::resize_file(folder / "file", 6000);
  std::string copy(4000, '\0');
  EXPECT_EQ(error_of([&] { file.read(reinterpret_cast<std::byte*>(copy.data()), file.data() + 5000, 4000); }),
            (folder / "file").string() +
                " ends at byte 6000, it had 10000 when it was opened: it was cut off since; copy or download it again");
}

TEST(MappedFile, IsTheSourceOfAFilesTensors) {
  const TemporaryFolder folder;
  const Tensor values = Tensor::arange(1000);
  write_safetensors(folder / "file", {{"a", values}, {"b", Tensor::ones({3})}});
  const Tensor read = SafetensorsFile(folder / "file").tensor("a").rows(10, 500);
  ASSERT_NE(read.buffer()->source(), nullptr);
  const Tensor copy = Tensor::empty({500});
  read.buffer()->source()->read(copy.raw(), read.raw(), copy.bytes());
  EXPECT_EQ(copy.to_host<float>(), values.rows(10, 500).to_host<float>());
  EXPECT_EQ(values.buffer()->source(), nullptr);
}

}  // namespace
}  // namespace flame
