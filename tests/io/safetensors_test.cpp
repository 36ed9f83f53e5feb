#include "flame/io/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/io/files.h"

namespace flame {
namespace {

using testing::error_of;
using testing::read_file;
using testing::TemporaryFolder;
using ::testing::TestWithParam;
using testing::write_file;

// Written by the reference implementation, see tests/reference/safetensors_file.py.
const std::filesystem::path mixed = std::filesystem::path(TESTS_DIR) / "io/mixed.safetensors";

std::string file_of(const std::string& header, const std::string& data = "") {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

template <class T>
std::vector<float> floats(const Tensor& tensor) {
  std::vector<float> values;
  for (T value : tensor.to_host<T>()) values.push_back(static_cast<float>(value));
  return values;
}

TEST(SafetensorsFile, ReadsWhatTheReferenceWrote) {
  const SafetensorsFile file(mixed);
  EXPECT_EQ(file.entries().size(), 10u);
  EXPECT_EQ(file.metadata(), (Metadata{{"ss_comment", "a \"quoted\" \\ line\nand größe"}}));
  EXPECT_EQ(file.tensor("weight").shape(), (Shape{2, 3}));
  EXPECT_EQ(file.tensor("weight").to_host<float>(), (std::vector<float>{1.5, -2, 0.25, 3e38f, -0.f, 1e-40f}));
  EXPECT_EQ(floats<f16>(file.tensor("half")), (std::vector<float>{0.5, 65504, -1}));
  EXPECT_EQ(floats<bf16>(file.tensor("brain")), (std::vector<float>{1, -0x1.c4p127f}));
  EXPECT_EQ(file.tensor("alpha").shape(), Shape{});
  EXPECT_EQ(floats<f16>(file.tensor("alpha")), (std::vector<float>{8}));
  EXPECT_EQ(file.tensor("position").to_host<int64_t>(), (std::vector<int64_t>{-1, int64_t{1} << 40}));
  EXPECT_EQ(file.tensor("count").to_host<int32_t>(), (std::vector<int32_t>{-7, 2147483647}));
  EXPECT_EQ(file.tensor("bytes").to_host<uint8_t>(), (std::vector<uint8_t>{0, 127, 255}));
  EXPECT_EQ(file.tensor("flags").to_host<bool>(), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(file.tensor("none").shape(), (Shape{0, 4}));
  EXPECT_EQ(file.tensor("größe \"b\"\n").item(), 2);
}

TEST(SafetensorsFile, WritesTheReferencesBytes) {
  const TemporaryFolder folder;
  const SafetensorsFile file(mixed);
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : file.entries()) tensors[name] = file.tensor(name);
  write_safetensors(folder / "copy.safetensors", tensors, file.metadata());
  EXPECT_EQ(read_file(folder / "copy.safetensors"), read_file(mixed));
  EXPECT_TRUE(read_file(mixed).starts_with(safetensors_header(tensors, file.metadata())));
}

TEST(SafetensorsFile, TensorsOutliveTheFileObject) {
  Tensor weight;
  {
    const SafetensorsFile file(mixed);
    weight = file.tensor("weight");
  }
  EXPECT_EQ(weight.to_host<float>()[1], -2);
}

TEST(SafetensorsFile, BorrowsAlignedTensorsAndCopiesOthers) {
  const TemporaryFolder folder;
  const std::string entry = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                            R"("b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},)"
                            R"("c":{"dtype":"F32","shape":[1],"data_offsets":[5,9]})";
  for (size_t padding = 0; padding < 8; ++padding) {
    const float value = 1.5;
    std::string data(9, '\0');
    std::memcpy(data.data() + 1, &value, 4);
    std::memcpy(data.data() + 5, &value, 4);
    write_file(folder / "odd", file_of("{" + entry + "}" + std::string(padding, ' '), data));
    const SafetensorsFile file(folder / "odd");
    for (const char* name : {"b", "c"}) {
      const Tensor tensor = file.tensor(name);
      EXPECT_EQ(tensor.item(), 1.5);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.raw()) % alignof(float), 0u);
      const std::byte* stored = file.data() + file.entries().at(name).begin;
      EXPECT_EQ(tensor.raw() == stored, reinterpret_cast<uintptr_t>(stored) % alignof(float) == 0);
    }
  }
}

// All 256 codes of both kinds of F8, and F64, beside what torch makes of them: foreign_dtypes.safetensors.
TEST(SafetensorsFile, ConvertsWhatHasNoDtypeHere) {
  const SafetensorsFile file(std::filesystem::path(TESTS_DIR) / "io/foreign_dtypes.safetensors");
  const auto compare = [&]<class T>(const std::string& name, const char* stored, T) {
    EXPECT_EQ(file.entries().at(name).stored, stored);
    EXPECT_EQ(file.entries().at(name).dtype, dtype_of<T>());
    const auto values = floats<T>(file.tensor(name)), expected = file.tensor(name + ".f32").to_host<float>();
    ASSERT_EQ(values.size(), expected.size());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_TRUE(values[i] == expected[i] || (std::isnan(values[i]) && std::isnan(expected[i]))) << name << " " << i;
      EXPECT_EQ(std::signbit(values[i]), std::signbit(expected[i])) << name << " " << i;
    }
  };
  compare("f8_e4m3", "F8_E4M3", f16());
  compare("f8_e5m2", "F8_E5M2", f16());
  compare("f64", "F64", float());
}

// Bytes of a converted dtype may begin anywhere, and a tensor's pages are there again after they were given back.
TEST(SafetensorsFile, ReadsATensorAgain) {
  const TemporaryFolder folder;
  const size_t count = 5000;
  std::string data(1 + 8 * count, '\1');
  for (size_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(i) / 4;
    std::memcpy(data.data() + 1 + 8 * i, &value, sizeof value);
  }
  write_file(folder / "f", file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                   R"("b":{"dtype":"F64","shape":[5000],"data_offsets":[1,40001]}})",
                                   data));
  const SafetensorsFile file(folder / "f");
  const auto first = file.tensor("b").to_host<float>();
  EXPECT_EQ(first[4999], 4999 / 4.0f);
  EXPECT_EQ(file.tensor("b").to_host<float>(), first);
}

TEST(SafetensorsFile, NamesTheClosestTensor) {
  const std::string error = error_of([] { SafetensorsFile(mixed).tensor("wieght"); });
  EXPECT_NE(error.find("mixed.safetensors: there is no tensor wieght; the closest is weight"), std::string::npos)
      << error;
}

TEST(SafetensorsFile, RefusesBooleansThatAreNot) {
  const TemporaryFolder folder;
  write_file(folder / "f", file_of(R"({"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", "\x01\x02"));
  const std::string error = error_of([&] { SafetensorsFile(folder / "f").tensor("a"); });
  EXPECT_NE(error.find("tensor 'a' is BOOL and holds bytes other than 0 and 1"), std::string::npos) << error;
}

// --- files that are no safetensors ---

struct BadFile {
  const char* name;
  std::string bytes;
  const char* expected;  // part of the message
};

std::string one(const std::string& fields) { return file_of("{\"a\":{" + fields + "}}", std::string(8, '\0')); }

const BadFile bad_files[] = {
    {"Empty", "", "it has only 0 bytes; copy or download it again"},
    {"Seven", "1234567", "it has only 7 bytes"},
    {"HeaderCutShort", file_of(R"({"a":{"dtype")").substr(0, 15), "announces a header of 13 bytes and has 7"},
    {"HeaderTooLarge", std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10), "a header of 100000001 bytes, at most 100000000"},
    {"HeaderLengthHuge", std::string(8, '\xff') + "{}", "a header of 18446744073709551615 bytes"},
    {"EmptyHeader", file_of(""), "does not begin with '{'"},
    {"LeadingSpace", file_of(" {}"), "does not begin with '{'"},
    {"List", file_of("[1,2]"), "does not begin with '{'"},
    {"NotJson", file_of("{hello}"), "the header is not valid JSON (byte 2 of it)"},
    {"Unclosed", file_of("{\"a\":{"), "the header is not valid JSON"},
    {"TwoValues", file_of("{}{}"), "the header is not valid JSON"},
    {"TrailingZeros", file_of(std::string("{}\0\0", 4)), "the header contains a zero byte"},
    {"NotUtf8", file_of("{\"\xff\":{}}"), "the header is not valid UTF-8 (byte 3 of it)"},
    {"DepthBomb", file_of("{\"a\":" + std::string(1'000'000, '[')), "has a list for 'a', expected an object"},
    {"DepthBombOfObjects", file_of("{\"a\":{\"shape\":{\"b\":{"), "shape of tensor 'a' holds an object"},
    {"DepthBombInShape", file_of("{\"a\":{\"shape\":[[[["), "shape of tensor 'a' holds a list"},
    {"EntryIsNumber", file_of(R"({"a":3})"), "has a number for 'a', expected an object"},
    {"EntryIsNull", file_of(R"({"a":null})"), "has null for 'a', expected an object"},
    {"EntryIsString", file_of(R"({"a":"F32"})"), "has a string for 'a', expected an object"},
    {"MetadataNumber", file_of(R"({"__metadata__":{"k":3}})"), "metadata 'k' is a number, expected a string"},
    {"MetadataList", file_of(R"({"__metadata__":["k"]})"), "has a list for '__metadata__', expected an object"},
    {"MetadataTwice", file_of(R"({"__metadata__":{},"__metadata__":{}})"), "names '__metadata__' twice"},
    {"MetadataKeyTwice", file_of(R"({"__metadata__":{"k":"1","k":"2"}})"), "metadata names 'k' twice"},
    {"NameTwice",
     file_of(
         R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
     "names 'a' twice"},
    {"NoDtype", one(R"("shape":[2],"data_offsets":[0,8])"), "tensor 'a' has no dtype"},
    {"NoShape", one(R"("dtype":"F32","data_offsets":[0,8])"), "tensor 'a' has no shape"},
    {"NoOffsets", one(R"("dtype":"F32","shape":[2])"), "tensor 'a' has no data_offsets"},
    {"FieldTwice", one(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"),
     "tensor 'a' has the field dtype twice"},
    {"ShapeTwice", one(R"("dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8])"),
     "tensor 'a' has the field shape twice"},
    {"UnknownField", one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"stride":[1])"),
     "tensor 'a' has an unknown field 'stride'"},
    {"I8", one(R"("dtype":"I8","shape":[8],"data_offsets":[0,8])"),
     "tensor 'a' has the dtype 'I8', which is not supported; expected F32, F16, BF16, F8_E4M3, F8_E5M2, F64, I64, I32, "
     "U8 or BOOL: convert"},
    {"F4", one(R"("dtype":"F4","shape":[16],"data_offsets":[0,8])"), "dtype 'F4', which is not supported"},
    {"F8BytesOfF16", one(R"("dtype":"F8_E4M3","shape":[4],"data_offsets":[0,8])"),
     "tensor 'a' of shape [4] and dtype F8_E4M3 needs 4 bytes, its data_offsets hold 8"},
    {"UnknownDtype", one(R"("dtype":"float","shape":[2],"data_offsets":[0,8])"), "dtype 'float'; expected F32"},
    {"DtypeNumber", one(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"), "dtype of tensor 'a' holds a number"},
    {"DtypeList", one(R"("dtype":["F32"],"shape":[2],"data_offsets":[0,8])"), "dtype of tensor 'a' holds a list"},
    {"NegativeExtent", one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"),
     "shape of tensor 'a' holds a negative"},
    {"FractionalExtent", one(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"),
     "shape of tensor 'a' holds a fraction"},
    {"ExtentAbove64Bits", one(R"("dtype":"F32","shape":[36893488147419103232],"data_offsets":[0,8])"),
     "shape of tensor 'a' holds a number above 2^64"},
    {"ExtentAbove63Bits", one(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8])"),
     "the shape of tensor 'a' is too large"},
    {"ShapeOverflow", one(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0])"),
     "the shape of tensor 'a' is too large"},
    {"ShapeOverflowHiddenByZero", one(R"("dtype":"F32","shape":[4611686018427387904,4,0],"data_offsets":[0,0])"),
     "the shape of tensor 'a' is too large"},
    {"BytesOverflow", one(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])"),
     "the shape of tensor 'a' is too large"},
    {"SevenExtents", one(R"("dtype":"F32","shape":[1,1,1,1,1,1,2],"data_offsets":[0,8])"),
     "tensor 'a' has 7 extents, at most 6"},
    {"ShapeIsNumber", one(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), "shape of tensor 'a' holds a number"},
    {"OneOffset", one(R"("dtype":"F32","shape":[2],"data_offsets":[8])"), "tensor 'a' must be [begin, end]"},
    {"ThreeOffsets", one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"), "tensor 'a' must be [begin, end]"},
    {"BackwardOffsets", one(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), "tensor 'a' must be [begin, end]"},
    {"SizeDoesNotMatch", one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"),
     "tensor 'a' of shape [3] and dtype F32 needs 12 bytes, its data_offsets hold 8"},
    {"DataCutShort", one(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])"),
     "cut short: tensor 'a' ends at byte 12 of the data, the file has 8; copy or download it again"},
    {"OffsetsFarOut", one(R"("dtype":"F32","shape":[2],"data_offsets":[18446744073709551607,18446744073709551615])"),
     "cut short: tensor 'a' ends at byte 18446744073709551615"},
    {"GapBefore", one(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), "4 bytes before tensor 'a' belong to no"},
    {"TailAfter", one(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), "4 bytes after the last tensor"},
    {"TailWithoutTensors", file_of("{}", "x"), "1 bytes after the last tensor belong to no tensor"},
    {"Overlap",
     file_of(
         R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
         "12345678"),
     "tensor 'b' overlaps the tensor before it"},
    {"SharedBytes",
     file_of(
         R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
         "12345678"),
     "tensor 'b' overlaps the tensor before it"},
    {"PyTorchZip", std::string("PK\x03\x04\x14\0\x08\x08\0\0 archive", 18), "it is a PyTorch checkpoint"},
    {"PyTorchPickle", "\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.", "it is a PyTorch checkpoint"},
    {"LfsPointer", "version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"},
    {"WebPage", "<!DOCTYPE html><html>", "it is a web page"},
};

class BadSafetensors : public TestWithParam<BadFile> {};

TEST_P(BadSafetensors, IsRefusedWithAReason) {
  const TemporaryFolder folder;
  write_file(folder / "bad.safetensors", GetParam().bytes);
  const std::string error = error_of([&] { SafetensorsFile{folder / "bad.safetensors"}; });
  EXPECT_TRUE(error.starts_with((folder / "bad.safetensors").string() + ": ")) << error;
  EXPECT_NE(error.find(GetParam().expected), std::string::npos) << error;
}

INSTANTIATE_TEST_SUITE_P(, BadSafetensors, ::testing::ValuesIn(bad_files),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(SafetensorsFile, RefusesEveryBeginningOfAFile) {
  const std::string whole = read_file(mixed);
  EXPECT_NO_THROW(parse_safetensors_header(whole, whole.size(), "f"));
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    EXPECT_THROW(parse_safetensors_header(whole.substr(0, bytes), bytes, "f"), Error) << bytes;
  }
}

TEST(SafetensorsFile, SaysWhyAFileCannotBeOpened) {
  const TemporaryFolder folder;
  EXPECT_NE(error_of([&] { SafetensorsFile{folder / "none"}; }).find("there is no such file"), std::string::npos);
  EXPECT_NE(error_of([&] { SafetensorsFile{folder.path()}; }).find("it is a folder"), std::string::npos);
  EXPECT_NE(error_of([&] { SafetensorsFile{"/dev/null"}; }).find("not a regular file"), std::string::npos);
}

// --- writing ---

TEST(WriteSafetensors, WritesAFileWithoutTensors) {
  const TemporaryFolder folder;
  write_safetensors(folder / "f", {});
  EXPECT_EQ(read_file(folder / "f"), file_of("{}      "));
  EXPECT_TRUE(SafetensorsFile(folder / "f").entries().empty());
}

TEST(WriteSafetensors, RefusesNamesThatTheFormatHasNot) {
  const TemporaryFolder folder;
  const Tensor one = Tensor::ones({1});
  EXPECT_THROW(write_safetensors(folder / "f", {{"__metadata__", one}}), Error);
  EXPECT_THROW(write_safetensors(folder / "f", {{"\xff", one}}), Error);
  EXPECT_THROW(write_safetensors(folder / "f", {{"a", one}}, {{"k", "\xc3"}}), Error);
  EXPECT_THROW(write_safetensors(folder / "f", {{"a", Tensor()}}), Error);
  EXPECT_TRUE(testing::names_in(folder.path()).empty());
}

}  // namespace
}  // namespace flame
