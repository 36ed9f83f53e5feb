#include "flame/io/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "flame/io/safetensors.h"
#include "tests/io/as_nobody.h"
#include "tests/io/files.h"

namespace flame {
namespace {

using testing::error_as_nobody;
using testing::error_of;
using testing::names_in;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

TEST(AtomicFile, ReplacesAFile) {
  const TemporaryFolder folder;
  write_file(folder / "f", "old");
  write_file_atomically(folder / "f", "new");
  EXPECT_EQ(read_file(folder / "f"), "new");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

TEST(AtomicFile, KeepsTheOldFileUntilItIsCommitted) {
  const TemporaryFolder folder;
  write_file(folder / "f", "old");
  {
    AtomicFile file(folder / "f", 3);
    file.write("new", 3);
    EXPECT_EQ(read_file(folder / "f"), "old");
  }
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

TEST(AtomicFile, WritesToWhereALinkPoints) {
  const TemporaryFolder folder;
  write_file(folder / "target", "old");
  std::filesystem::create_symlink("target", folder / "link");
  write_file_atomically(folder / "link", "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(read_file(folder / "target"), "new");
}

TEST(AtomicFile, HasThePermissionsOfAnOrdinaryFile) {
  const TemporaryFolder folder;
  write_file(folder / "ordinary", "");
  write_file_atomically(folder / "f", "");
  EXPECT_EQ(std::filesystem::status(folder / "f").permissions(),
            std::filesystem::status(folder / "ordinary").permissions());
}

TEST(AtomicFile, WorksWithoutAFolderInThePath) {
  const TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_file_atomically("f", "new");
  std::filesystem::current_path(before);
  EXPECT_EQ(read_file(folder / "f"), "new");
}

TEST(AtomicFile, NamesAFolderThatIsMissingOrInTheWay) {
  const TemporaryFolder folder;
  const std::string missing = error_of([&] { write_file_atomically(folder / "no" / "f", "new"); });
  EXPECT_EQ(missing, "cannot write " + (folder / "no/f").string() + ": the folder " + (folder / "no").string() +
                         " does not exist");
  const std::string in_the_way = error_of([&] { write_file_atomically(folder.path(), "new"); });
  EXPECT_EQ(in_the_way, "cannot write " + folder.path().string() + ": it is a folder");
  write_file(folder / "file", "");
  const std::string below_a_file = error_of([&] { write_file_atomically(folder / "file" / "f", "new"); });
  EXPECT_EQ(below_a_file,
            "cannot write " + (folder / "file/f").string() + ": " + (folder / "file").string() + " is not a folder");
}

TEST(AtomicFile, SaysWhenItHasNoPermission) {
  const TemporaryFolder folder;
  write_file(folder / "f", "old");
  ::chmod(folder.path().c_str(), 0555);
  const std::string error = error_as_nobody([&] { write_file_atomically(folder / "f", "new"); });
  ::chmod(folder.path().c_str(), 0755);
  EXPECT_EQ(error, "cannot write " + (folder / "f").string() + ": no permission to write in the folder " +
                       folder.path().string());
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

TEST(AtomicFile, RefusesWhatCannotFitBeforeItBegins) {
  const TemporaryFolder folder;
  write_file(folder / "f", "old");
  const std::string error = error_of([&] { AtomicFile(folder / "f", size_t{1} << 60); });
  EXPECT_NE(error.find("the disk is full: 1048576.0 TiB needed, "), std::string::npos) << error;
  EXPECT_NE(error.find(" free in " + folder.path().string()), std::string::npos) << error;
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

// A file system of 1 MiB.
class FullDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
      GTEST_SKIP() << "mounting a small file system needs root: " << std::strerror(errno);
    }
    mounted_ = true;
    write_file(folder_ / "f", "old");
  }
  void TearDown() override {
    if (mounted_) ::umount(folder_.path().c_str());
  }
  void expect_only_the_old_file() {
    EXPECT_EQ(read_file(folder_ / "f"), "old");
    EXPECT_EQ(names_in(folder_.path()), std::vector<std::string>{"f"});
  }

  TemporaryFolder folder_;
  bool mounted_ = false;
};

TEST_F(FullDisk, IsFoundBeforeWritingALora) {
  const std::string error = error_of([&] { write_safetensors(folder_ / "f", {{"a", Tensor::ones({1 << 20})}}); });
  EXPECT_NE(error.find("cannot write " + (folder_ / "f").string() + ": the disk is full: 4.0 MiB needed, "),
            std::string::npos)
      << error;
  expect_only_the_old_file();
}

TEST_F(FullDisk, IsReportedWhenItFillsUpMeanwhile) {
  const std::string error = error_of([&] {
    AtomicFile file(folder_ / "f", 1 << 19);
    write_file(folder_ / "other", std::string(3 << 18, 'x'));
    file.write(std::string(1 << 19, 'x').data(), 1 << 19);
  });
  EXPECT_NE(error.find("the disk is full: 512.0 KiB needed, "), std::string::npos) << error;
  std::filesystem::remove(folder_ / "other");
  expect_only_the_old_file();
}

TEST_F(FullDisk, TakesAFileThatJustFits) {
  write_file_atomically(folder_ / "f", std::string(1 << 19, 'x'));
  EXPECT_EQ(std::filesystem::file_size(folder_ / "f"), size_t{1} << 19);
}

}  // namespace
}  // namespace flame
