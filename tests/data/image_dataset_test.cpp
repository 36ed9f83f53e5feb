#include <gtest/gtest.h>

#include <algorithm>

#include "eri/data/caption.h"
#include "eri/data/framing.h"
#include "eri/data/image_data_loader.h"
#include "tests/io/as_nobody.h"
#include "tests/io/pictures.h"

namespace eri {
namespace {

using flame::Image;
using flame::Shape;
using flame::testing::error_as_nobody;
using flame::testing::error_of;
using flame::testing::picture;
using flame::testing::read_file;
using flame::testing::read_ppm;
using flame::testing::TemporaryFolder;
using flame::testing::write_file;
using Strings = std::vector<std::string>;

constexpr FolderOptions tiny = {.width = 8, .height = 8};

// A folder under construction.
class Folder : public TemporaryFolder {
 public:
  void add(const std::string& name, const std::string& caption, const char* source = "rgb.png") const {
    put(name, read_file(picture(source)));
    put(std::filesystem::path(name).replace_extension(".txt"), caption);
  }
  void put(const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories((*this / name).parent_path());
    write_file(*this / name, bytes);
  }
};

Strings names(const ImageDataset& dataset) {
  Strings result;
  for (const Sample& sample : dataset.samples()) result.push_back(sample.name);
  return result;
}

Strings captions(const ImageDataset& dataset) {
  Strings result;
  for (const Sample& sample : dataset.samples()) result.push_back(sample.caption);
  return result;
}

// --- what is read ---

TEST(ScanFolder, ReadsPicturesWithTheirCaptionsInTheOrderOfTheirNames) {
  const Folder folder;
  folder.add("b.jpg", "a boat\n", "rgb.jpg");
  folder.add("a.png", "  an apple \r\n");
  folder.add("c.WEBP", "a cat, größe", "lossy.webp");
  folder.put(".hidden.png", "not read");
  const ImageDataset dataset = scan_folder(folder.path(), {.width = 19, .height = 13});
  EXPECT_EQ(names(dataset), (Strings{"a.png", "b.jpg", "c.WEBP"}));
  EXPECT_EQ(captions(dataset), (Strings{"an apple", "a boat", "a cat, größe"}));
  EXPECT_EQ(dataset.notices(), Strings{});
  EXPECT_EQ(dataset.repeats(), (std::vector<int64_t>{1, 1, 1}));
}

TEST(ScanFolder, ReadsTheFolderOfPlainPictures) {
  const ImageDataset dataset =
      scan_folder(std::filesystem::path(TESTS_DIR) / "data/plain/", {.width = 64, .height = 64});
  ASSERT_EQ(dataset.size(), 24u);
  EXPECT_EQ(dataset.samples()[0].name, "alarm-clock.png");
  EXPECT_EQ(dataset.samples()[0].caption, "alarm clock");
}

TEST(ScanFolder, TakesCaptionsWithAnotherEnding) {
  const Folder folder;
  folder.add("a.png", "not this");
  folder.put("a.caption", "this");
  folder.put("a.more.txt", "or this");
  EXPECT_EQ(captions(scan_folder(folder.path(), {.width = 8, .height = 8, .caption_extension = "caption"})),
            Strings{"this"});
  EXPECT_EQ(captions(scan_folder(folder.path(), {.width = 8, .height = 8, .caption_extension = ".more.txt"})),
            Strings{"or this"});
}

TEST(ScanFolder, CountsPicturesInFoldersNamedWithANumber) {
  const Folder folder;
  folder.add("10_cat/x.png", "a cat");
  folder.add("3/y.png", "a dog");
  folder.add("plain.png", "a plain");
  folder.add("other/z.png", "not read");
  folder.add("0_never/z.png", "not read");
  folder.add("10_cat/deeper/z.png", "not read");
  const ImageDataset dataset = scan_folder(folder.path(), tiny);
  EXPECT_EQ(names(dataset), (Strings{"10_cat/x.png", "3/y.png", "plain.png"}));
  EXPECT_EQ(captions(dataset), (Strings{"a cat", "a dog", "a plain"}));
  EXPECT_EQ(dataset.repeats(), (std::vector<int64_t>{10, 3, 1}));
  EXPECT_EQ(dataset.notices(),
            (Strings{"0_never: not read: its pictures are to be used 0 times",
                     "10_cat/deeper: folders within folders are not read",
                     "other: not read: only folders named N_name are, where N is how often a picture counts"}));
}

TEST(ScanFolder, TakesTheFoldersNameWhereNoPictureHasACaption) {
  const Folder folder;
  folder.put("5_sks dog/a.png", read_file(picture("rgb.png")));
  folder.put("5_sks dog/b.png", read_file(picture("grey.png")));
  const ImageDataset dataset = scan_folder(folder.path(), tiny);
  EXPECT_EQ(captions(dataset), (Strings{"sks dog", "sks dog"}));
  EXPECT_EQ(dataset.notices(), Strings{"5_sks dog: no caption files, each picture's caption is 'sks dog'"});

  folder.put("5_sks dog/a.txt", "a caption");  // now the other one was forgotten
  EXPECT_NE(error_of([&] {
              scan_folder(folder.path(), tiny);
            }).find("\n  5_sks dog/b.png: no caption: write one into 5_sks dog/b.txt"),
            std::string::npos);
}

TEST(ScanFolder, TellsWhatTheUserMayNotExpect) {
  const Folder folder;
  folder.add("a.png", "");
  folder.add("b.jpg", "first\n\nsecond\n", "grey.png");
  folder.add("c.png", "a picture");
  folder.put("d.txt", "nothing");
  folder.put("e.dat", read_file(picture("rgb.jpg")));
  folder.put("notes.md", "# Notes");
  folder.put("cache.npz", "PK");
  const ImageDataset dataset = scan_folder(folder.path(), {.width = 19, .height = 14});
  EXPECT_EQ(captions(dataset), (Strings{"", "first", "a picture"}));
  EXPECT_EQ(
      dataset.notices(),
      (Strings{"a.txt: the caption is empty", "b.txt: only the first line is used",
               "d.txt: a caption without a picture, not used", "b.jpg: a PNG file under another ending; it is used",
               "3 of 3 pictures are smaller than 19 x 14 and are enlarged: a.png, b.jpg, c.png",
               "e.dat: not used, though it holds a JPEG picture: give it the right ending",
               "files not used (2): cache.npz, notes.md"}));
}

// --- what is wrong ---

TEST(ScanFolder, ReportsAllThatIsWrongAtOnce) {
  const Folder folder;
  folder.add("fine.png", "fine");
  folder.put("alone.png", read_file(picture("rgb.png")));
  folder.add("twin.jpg", "twins", "rgb.jpg");
  folder.put("twin.png", read_file(picture("rgb.png")));
  folder.add("text.png", "caption");
  folder.put("text.png", "this is really text");
  folder.add("empty.jpg", "caption");
  folder.put("empty.jpg", "");
  folder.add("cut.jpg", "caption");
  folder.put("cut.jpg", read_file(picture("rgb.jpg")).substr(0, 700));
  folder.add("film.gif", "caption");
  folder.put("film.gif", "GIF89a...");
  folder.add("latin.png",
             "gr\xf6\xdf"
             "e");
  folder.put("3_more/alone.webp", read_file(picture("lossy.webp")));
  folder.put("3_more/other.txt", "caption");
  const std::string error = error_of([&] { scan_folder(folder.path(), tiny); });
  EXPECT_EQ(error, "cannot train on " + folder.path().string() +
                       ", 8 problems:"
                       "\n  3_more/alone.webp: no caption: write one into 3_more/alone.txt"
                       "\n  alone.png: no caption: write one into alone.txt"
                       "\n  cut.jpg: broken JPEG: Premature end of JPEG file; replace or remove the file"
                       "\n  empty.jpg: the file is empty; replace or remove it"
                       "\n  film.gif: GIF is not read: convert the picture to PNG, JPEG or WebP"
                       "\n  latin.txt: not UTF-8 at byte 2: save it as UTF-8 text"
                       "\n  text.png: not a picture: expected a JPEG, PNG or WebP file; replace or remove it"
                       "\n  twin.png: twin.jpg has the same stem, so both have one caption: rename one");
}

TEST(ScanFolder, NamesAFolderThatIsMissingOrHasNoPictures) {
  const Folder folder;
  EXPECT_EQ(error_of([&] { scan_folder(folder / "none"); }),
            "the folder " + (folder / "none").string() + " does not exist");
  EXPECT_EQ(
      error_of([&] { scan_folder(folder.path()); }),
      "no pictures in " + folder.path().string() + ": expected .png, .jpg or .webp files with captions beside them");
  folder.add("cats/a.png", "a cat");
  EXPECT_EQ(error_of([&] { scan_folder(folder.path()); }),
            "no pictures in " + folder.path().string() +
                ": expected .png, .jpg or .webp files with captions beside them; of the folders in it, those named "
                "N_name are read");
  EXPECT_EQ(error_of([&] { scan_folder(folder / "cats/a.png"); }),
            (folder / "cats/a.png").string() + " is not a folder: expected a folder of pictures");
}

TEST(ScanFolder, NamesWhatItMayNotRead) {
  const Folder folder;
  folder.add("a.png", "an apple");
  const auto scan = [&] { scan_folder(folder.path(), tiny); };
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
  std::filesystem::permissions(folder / "a.png", std::filesystem::perms(0));
  EXPECT_NE(
      error_as_nobody(scan).find("a.png: cannot open " + (folder / "a.png").string() + ": no permission to read it"),
      std::string::npos);
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0));
  EXPECT_EQ(error_as_nobody(scan), "cannot read the folder " + folder.path().string() + ": Permission denied");
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
}

TEST(ReadCaption, FindsTheFirstByteThatIsNotUtf8) {
  EXPECT_EQ(invalid_utf8("größe, 大, 🐈"), std::string::npos);
  EXPECT_EQ(invalid_utf8("a\xff"), 1u);
  EXPECT_EQ(invalid_utf8("ab\xc3"), 2u);            // cut off
  EXPECT_EQ(invalid_utf8("\xe5\xa4"), 0u);          // cut off
  EXPECT_EQ(invalid_utf8("x\x80"), 1u);             // continues nothing
  EXPECT_EQ(invalid_utf8("\xc0\xaf"), 0u);          // overlong
  EXPECT_EQ(invalid_utf8("\xe0\x9f\xbf"), 0u);      // overlong
  EXPECT_EQ(invalid_utf8("\xf0\x8f\xbf\xbf"), 0u);  // overlong
  EXPECT_EQ(invalid_utf8("\xed\xa0\x80"), 0u);      // a surrogate
  EXPECT_EQ(invalid_utf8("\xf4\x90\x80\x80"), 0u);  // above the last character
  EXPECT_EQ(invalid_utf8("\xf4\x8f\xbf\xbf"), std::string::npos);
}

TEST(ReadCaption, DropsAByteOrderMarkAndTakesTheFirstLineThatIsNotBlank) {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& text) {
    write_file(folder / "c.txt", text);
    const Caption caption = read_caption(folder / "c.txt");
    return std::pair(caption.text, caption.more_lines);
  };
  EXPECT_EQ(read("\xEF\xBB\xBF"
                 "a cat"),
            std::pair(std::string("a cat"), false));
  EXPECT_EQ(read("\n \t\na cat \r\n"), std::pair(std::string("a cat"), false));
  EXPECT_EQ(read("a cat  \r\na dog"), std::pair(std::string("a cat"), true));
  EXPECT_EQ(read(" \n"), std::pair(std::string(), false));
}

// --- pixels ---

TEST(Cover, FillsTheTargetAndCutsAroundTheCentre) {
  const auto expect = [](const Framing& framing, int64_t width, int64_t height, int left, int top) {
    EXPECT_EQ(framing.width, width);
    EXPECT_EQ(framing.height, height);
    EXPECT_EQ(framing.part.left, left);
    EXPECT_EQ(framing.part.top, top);
  };
  expect(cover(128, 128, 64, 64), 64, 64, 0, 0);
  expect(cover(200, 100, 64, 64), 128, 64, 32, 0);
  expect(cover(100, 300, 64, 64), 64, 192, 0, 64);
  expect(cover(30, 20, 64, 64), 96, 64, 16, 0);
  expect(cover(1000, 333, 64, 64), 192, 64, 64, 0);  // 192.19
  expect(cover(1000, 331, 64, 64), 193, 64, 64, 0);  // 193.35
  expect(cover(101, 67, 96, 64), 96, 64, 0, 0);      // 96.48
  expect(cover(64, 64, 64, 128), 128, 128, 32, 0);
  EXPECT_EQ(error_of([] { cover(1, 20000, 1024, 1024); }),
            "a picture of 1 x 20000 is too narrow to fill 1024 x 1024: crop it");
}

// 50 x 37 covers 83 x 61 exactly, so that the dataset's pixels are Pillow's.
TEST(ImageDataset, GivesThePixelsOfTheResizedPicture) {
  const Folder folder;
  read_ppm(picture("resize.ppm")).save(folder / "a.png");
  folder.put("a.txt", "a");
  const ImageDataset dataset = scan_folder(folder.path(), {.width = 83, .height = 61});
  const std::vector<Image> pixels = flame::from_tensor(dataset.pixels(0));
  EXPECT_TRUE(pixels.at(0) == read_ppm(picture("resize_83x61.ppm")));
}

TEST(ImageDataset, KeepsPixelsOrReadsThemAgain) {
  const Folder folder;
  folder.add("a.png", "a");
  folder.add("b.jpg", "b", "turned6.jpg");
  const ImageDataset kept = scan_folder(folder.path(), tiny);
  const ImageDataset read_again = scan_folder(folder.path(), {.width = 8, .height = 8, .keep_bytes = 0});
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(kept.pixels(i).shape(), (Shape{1, 3, 8, 8}));
    EXPECT_EQ(kept.pixels(i).to_host<float>(), read_again.pixels(i).to_host<float>());
  }
  std::filesystem::remove(folder / "a.png");
  EXPECT_NO_THROW(kept.pixels(0));
  EXPECT_THROW(read_again.pixels(0), flame::Error);
  EXPECT_THROW(kept.pixels(2), flame::Error);
}

TEST(ImageDataset, MeasuresAPictureUpright) {
  const Folder folder;
  folder.add("a.jpg", "a", "turned6.jpg");  // 19 x 13, lying on its side
  const SizeConditioning size = scan_folder(folder.path(), {.width = 26, .height = 26}).samples()[0].size;
  EXPECT_EQ(size.original_height, 19);
  EXPECT_EQ(size.original_width, 13);
  EXPECT_EQ(size.crop_top, 6);  // of 26 x 38
  EXPECT_EQ(size.crop_left, 0);
  EXPECT_EQ(size.target_height, 26);
  EXPECT_EQ(size.target_width, 26);
}

TEST(ImageDataset, HasAFingerprintOfWhatIsTrained) {
  const auto fingerprint = [](const auto& change) {
    const Folder folder;
    folder.add("3_x/a.png", "a");
    folder.add("b.png", "b", "grey.png");
    change(folder);
    return scan_folder(folder.path(), tiny).fingerprint();
  };
  const std::string original = fingerprint([](const Folder&) {});
  EXPECT_EQ(original.size(), 16u);
  EXPECT_EQ(fingerprint([](const Folder&) {}), original);  // wherever the folder is
  EXPECT_NE(fingerprint([](const Folder& f) { f.add("b.png", "c", "grey.png"); }), original);
  EXPECT_NE(fingerprint([](const Folder& f) { f.add("b.png", "b", "rgb.png"); }), original);
  EXPECT_NE(fingerprint([](const Folder& f) { f.add("c.png", "c"); }), original);
  EXPECT_NE(fingerprint([](const Folder& f) { std::filesystem::rename(f / "3_x", f / "4_x"); }), original);
}

// --- batches ---

TEST(ImageDataLoader, GivesFullBatchesThatDependOnTheStepAlone) {
  const LoaderOptions options = {.width = 16, .height = 8, .batch_size = 5, .seed = 11};
  const auto folder = std::filesystem::path(TESTS_DIR) / "data/plain";
  ImageDataLoader loader(folder, options), resumed(folder, options);
  for (int i = 0; i < 7; ++i) loader.next();  // into the second epoch
  resumed.seek(7);
  const ImageBatch batch = loader.next(), same = resumed.next();
  EXPECT_EQ(loader.step(), 8u);
  EXPECT_EQ(batch.indices, loader.batch_indices(7));
  EXPECT_EQ(batch.indices, same.indices);
  ASSERT_EQ(batch.pixels.shape(), (Shape{5, 3, 8, 16}));
  EXPECT_EQ(batch.pixels.to_host<float>(), same.pixels.to_host<float>());
  for (size_t i = 0; i < 5; ++i) {
    const Sample& sample = loader.dataset().samples()[batch.indices[i]];
    EXPECT_EQ(batch.captions[i], sample.caption);
    EXPECT_EQ(batch.sizes[i].original_height, 128);
    EXPECT_EQ(batch.sizes[i].crop_top, 4);
    EXPECT_EQ(batch.pixels.rows(static_cast<int64_t>(i), 1).to_host<float>(),
              loader.dataset().pixels(batch.indices[i]).to_host<float>());
  }
}

TEST(ImageDataLoader, SeesEveryPictureOnceAnEpoch) {
  ImageDataLoader loader(std::filesystem::path(TESTS_DIR) / "data/plain", {.width = 8, .height = 8, .batch_size = 6});
  std::vector<size_t> seen;
  for (int i = 0; i < 4; ++i) {
    for (size_t index : loader.next().indices) seen.push_back(index);
  }
  EXPECT_FALSE(std::ranges::is_sorted(seen));
  std::ranges::sort(seen);
  for (size_t i = 0; i < 24; ++i) EXPECT_EQ(seen[i], i);
}

}  // namespace
}  // namespace eri
