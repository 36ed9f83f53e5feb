// Prompts as sd-scripts' files have them.
#include "eri/sampling/sample_request.h"

#include <gtest/gtest.h>

#include "tests/io/files.h"

namespace eri {
namespace {

using flame::testing::error_of;
using flame::testing::TemporaryFolder;
using flame::testing::write_file;

TEST(SampleRequests, ALineSaysWhatDiffers) {
  SampleRequest usual{.steps = 30};
  usual.options = {.seed = 5, .cfg = 7.5, .width = 640, .height = 512};
  const SampleRequest bare = parse_prompt("a cat -a-cat", usual);
  EXPECT_EQ(bare.prompt, "a cat -a-cat");
  EXPECT_EQ(bare.steps, 30);
  EXPECT_EQ(bare.options.seed, 5u);
  EXPECT_EQ(bare.options.width, 640);
  EXPECT_EQ(bare.texts(), (std::vector<std::string>{"a cat -a-cat", ""}));

  const SampleRequest all =
      parse_prompt("a cat --n low quality, blurry --w 768 --h 1024 --d 7 --l 2.5 --s 12 --ss k_euler_a", usual);
  EXPECT_EQ(all.prompt, "a cat");
  EXPECT_EQ(all.options.negative_prompt, "low quality, blurry");
  EXPECT_EQ(all.options.width, 768);
  EXPECT_EQ(all.options.height, 1024);
  EXPECT_EQ(all.options.seed, 7u);
  EXPECT_EQ(all.options.cfg, 2.5);
  EXPECT_EQ(all.steps, 12);
  EXPECT_EQ(all.options.sampler, "euler_ancestral");
  EXPECT_EQ(parse_prompt("a cat --l 1 --n blurry", usual).texts(), std::vector<std::string>{"a cat"});
}

TEST(SampleRequests, AFileGivesEachPromptASeed) {
  const TemporaryFolder folder;
  write_file(folder / "prompts.txt", "# what to draw\n\na cat\r\n  a dog --d 70\na bird\n");
  SampleRequest usual;
  usual.options.seed = 5;
  const std::vector<SampleRequest> requests = read_prompts(folder / "prompts.txt", usual);
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[0].prompt, "a cat");
  EXPECT_EQ(requests[0].options.seed, 5u);
  EXPECT_EQ(requests[1].options.seed, 70u);
  EXPECT_EQ(requests[2].options.seed, 7u);
  EXPECT_EQ(read_prompts(folder / "prompts.txt", usual, 4)[2].options.seed, 13u);
}

TEST(SampleRequests, MistakesAreNamedWithTheirLine) {
  const TemporaryFolder folder;
  const auto expect = [&](const std::string& text, const std::vector<std::string>& parts) {
    write_file(folder / "prompts.txt", text);
    const std::string message = error_of([&] { read_prompts(folder / "prompts.txt", {}); });
    for (const std::string& part : parts)
      EXPECT_NE(message.find(part), message.npos) << part << " is not in: " << message;
  };
  expect("a cat\na dog --x 3\n", {"prompts.txt, line 2", "--x", "--n (negative prompt)"});
  expect("a cat --w wide\n", {"line 1", "--w", "'wide'"});
  expect("a cat --s 0\n", {"--s", "1 to 1000"});
  expect("a cat --d -1\n", {"--d", "'-1'"});
  expect("a cat --ss pndm\n", {"line 1", "'pndm'", "dpmpp_2m"});
  expect("a cat --l 3,5\n", {"--l", "'3,5'"});
  expect("# nothing\n\n", {"no prompt"});
  expect("a cat\ncaf\xe9\n", {"not UTF-8 at byte 9"});
  const std::string message = error_of([&] { read_prompts(folder / "nowhere.txt", {}); });
  EXPECT_NE(message.find("nowhere.txt"), message.npos);
}

}  // namespace
}  // namespace eri
