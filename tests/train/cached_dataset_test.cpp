#include "eri/train/cached_dataset.h"

#include <gtest/gtest.h>

#include <set>

#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "tests/io/pictures.h"

namespace eri {
namespace {

using flame::Tensor;
using flame::testing::error_of;
using flame::testing::TemporaryFolder;

// A folder of pictures, two of which have one caption.
class Pictures : public testing::Test {
 protected:
  Pictures() {
    const std::vector<const char*> sources = {"rgb.png", "rgb.jpg", "lossy.webp"};
    for (int i = 0; i < 11; ++i) {
      const std::string name = flame::text("p", 10 + i);
      const std::string source = sources[static_cast<size_t>(i) % 3];
      const std::string ending = source.substr(source.find('.'));
      std::filesystem::copy_file(flame::testing::picture(source), folder_ / (name + ending));
      flame::testing::write_file(folder_ / (name + ".txt"), i % 4 == 3 ? "the same" : flame::text("picture ", name));
    }
  }
  // What the disk has is read each time.
  ImageDataset dataset(int64_t side) const {
    return scan_folder(folder_.path(), {.width = side, .height = side, .keep_bytes = 0});
  }
  TemporaryFolder folder_;
};

std::vector<float> values(const Tensor& tensor) { return tensor.to(flame::DType::f32).to_host<float>(); }

class Tiny : public Pictures {
 protected:
  std::unique_ptr<Family> family_ = load_sdxl(Checkpoint("models/eri-tiny.safetensors"), flame::Device::cpu());
};

TEST_F(Tiny, HoldsWhatTheEncodersMakeOfEachSampleAlone) {
  const ImageDataset dataset = this->dataset(64);
  const CachedDataset cache(dataset, *family_, 7);
  ASSERT_EQ(cache.size(), 11u);
  for (size_t i = 0; i < cache.size(); ++i) {
    flame::Generator generator(7);
    const Tensor noise =
        Tensor::randn(family_->latent_shape(1, 64, 64), generator, flame::Device::cpu(), static_cast<int64_t>(i));
    const auto expected = family_->encode_text({dataset.samples()[i].caption}, {dataset.samples()[i].size});
    const auto [latents, condition] = cache.batch({i});
    EXPECT_EQ(values(latents), values(family_->encode_pictures(dataset.pixels(i), noise))) << i;
    EXPECT_EQ(values(condition.context), values(expected.context)) << i;
    EXPECT_EQ(values(condition.pooled), values(expected.pooled)) << i;
    EXPECT_EQ(values(condition.time_ids), values(expected.time_ids)) << i;
  }
}

TEST_F(Tiny, ReadsAsMuchOfACaptionAsItIsTold) {
  std::string words;
  for (int i = 0; i < 160; ++i) words += "word ";
  EXPECT_EQ(family_->tokens_cut(words), 85u);
  EXPECT_EQ(family_->tokens_cut("a cat"), 0u);
  EXPECT_EQ(family_->encode_text({words}, {{}}).context.dim(1), 77);
  EXPECT_EQ(family_->encode_prompts({words}, {{}}).context.dim(1), 3 * 77);
  const auto longer =
      load_sdxl(Checkpoint("models/eri-tiny.safetensors"), flame::Device::cpu(), {.max_token_length = 150});
  EXPECT_EQ(longer->tokens_cut(words), 10u);
  EXPECT_EQ(longer->encode_text({words}, {{}}).context.dim(1), 152);
  EXPECT_EQ(longer->encode_text({"a cat"}, {{}}).context.dim(1), 152);
}

TEST_F(Tiny, AsksForWhatIsThereOnly) {
  EXPECT_NE(error_of([&] { family_->trained_targets(); }).find("call load_network() before"), std::string::npos);
  family_->load_network();
  EXPECT_GT(family_->all_targets().size(), family_->trained_targets().size());
  family_->release_encoders();
  EXPECT_NE(error_of([&] { family_->all_targets(); }).find("text encoders were released"), std::string::npos);
  EXPECT_NE(error_of([&] { family_->encode_text({"a"}, {{}}); }).find("text encoders were released"),
            std::string::npos);
  EXPECT_FALSE(family_->trained_targets().empty());
}

// Encoders whose results tell what they were given, and which take several samples at a time.
class Telling : public Family {
 public:
  Telling(size_t captions, size_t pictures) : captions_(captions), pictures_(pictures) {}

  Conditioning encode_text(const std::vector<std::string>& captions,
                           const std::vector<SizeConditioning>& sizes) const override {
    caption_batches.push_back(captions);
    std::vector<float> lengths, hashes;
    for (const std::string& caption : captions) {
      lengths.push_back(static_cast<float>(caption.size()));
      hashes.push_back(static_cast<float>(std::hash<std::string>()(caption) % 4096));
    }
    const int64_t count = std::ssize(captions);
    return {Tensor::from(lengths, {count, 1, 1}), Tensor::from(hashes, {count, 1}), time_ids(sizes)};
  }
  Conditioning encode_prompts(const std::vector<std::string>&, const std::vector<SizeConditioning>&) const override {
    return {};
  }
  Tensor time_ids(const std::vector<SizeConditioning>& sizes) const override {
    return Tensor::full({std::ssize(sizes), 6}, static_cast<double>(sizes.front().original_width));
  }
  Tensor encode_pictures(const Tensor& pixels, const Tensor& noise) const override {
    picture_batches.push_back(pixels.dim(0));
    return flame::concat({pixels.narrow(2, 0, 4).narrow(3, 0, 4), noise}, 1);  // [N, 4, 4, 4]
  }
  size_t captions_at_once() const override { return captions_; }
  size_t pictures_at_once(int64_t, int64_t) const override { return pictures_; }
  flame::Shape latent_shape(int64_t batch, int64_t, int64_t) const override { return {batch, 1, 4, 4}; }
  int64_t size_multiple() const override { return 1; }
  bool trains_text() const override { return false; }
  void release_encoders() override {}
  void load_network() override {}
  flame::Device device() const override { return flame::Device::cpu(); }
  std::vector<flame::Image> decode(const std::vector<Tensor>&) const override { return {}; }
  size_t tokens_cut(const std::string&) const override { return 0; }
  LoraSites lora_sites() const override { return {}; }
  void train(const LoraPlan&) override {}
  LoraTargets trained_targets() const override { return {}; }
  LoraTargets all_targets() const override { return {}; }
  bool can_fuse() const override { return false; }
  void fuse(MemoryPolicy) override {}
  void refresh() const override {}
  std::string prediction_type() const override { return "epsilon"; }
  Denoiser denoiser() const override { flame::fail("not asked for"); }
  Tensor predict(const Tensor&, const Tensor&, const Conditioning&) const override { return {}; }
  DiffusionLoss loss_of(const LossOptions&) const override { return DiffusionLoss(); }
  Tensor loss(const Tensor&, const TrainingNoise&, const Conditioning&, const DiffusionLoss&) const override {
    return {};
  }
  int64_t timesteps() const override { return 1; }

  mutable std::vector<std::vector<std::string>> caption_batches;
  mutable std::vector<int64_t> picture_batches;

 private:
  size_t captions_, pictures_;
};

TEST_F(Pictures, AreTheSameHoweverManyAreEncodedAtOnce) {
  const ImageDataset dataset = this->dataset(8);
  const Telling one(1, 1);
  const CachedDataset expected(dataset, one, 5);
  EXPECT_EQ(one.picture_batches, std::vector<int64_t>(11, 1));
  EXPECT_EQ(one.caption_batches.size(), 10u) << "one caption is there twice";
  for (size_t at_once : {2, 4, 16}) {
    const Telling many(at_once, at_once);
    const CachedDataset cache(dataset, many, 5);
    EXPECT_EQ(std::set(many.picture_batches.begin(), many.picture_batches.end()).size(), 1u) << "one shape for all";
    for (size_t i = 0; i < 11; ++i) {
      const auto [latents, condition] = cache.batch({i});
      const auto [latents_alone, condition_alone] = expected.batch({i});
      EXPECT_EQ(values(latents), values(latents_alone)) << i << ", " << at_once << " at once";
      EXPECT_EQ(values(condition.context), values(condition_alone.context)) << i;
      EXPECT_EQ(values(condition.pooled), values(condition_alone.pooled)) << i;
      EXPECT_EQ(values(condition.time_ids), values(condition_alone.time_ids)) << i;
    }
  }
}

TEST_F(Pictures, MakeBatchesInTheOrderAskedFor) {
  const Telling family(4, 4);
  const CachedDataset cache(dataset(8), family, 5);
  const std::vector<size_t> indices = {9, 0, 3, 7, 3};
  const CachedDataset::Batch batch = cache.batch(indices);
  EXPECT_EQ(batch.latents.shape(), (flame::Shape{5, 4, 4, 4}));
  EXPECT_EQ(batch.condition.context.shape(), (flame::Shape{5, 1, 1}));
  EXPECT_EQ(values(batch.condition.pooled.rows(2, 1)), values(batch.condition.pooled.rows(3, 1))) << "one caption";
  for (size_t i = 0; i < indices.size(); ++i)
    EXPECT_EQ(values(batch.latents.rows(static_cast<int64_t>(i), 1)), values(cache.batch({indices[i]}).latents)) << i;
}

TEST_F(Pictures, TellHowFarTheyAre) {
  std::vector<size_t> done;
  const CachedDataset cache(dataset(8), Telling(1, 4), 5, [&](size_t pictures) { done.push_back(pictures); });
  EXPECT_EQ(done, (std::vector<size_t>{4, 8, 11}));
}

TEST_F(Pictures, NameTheFirstThatHasBrokenSinceTheyWereRead) {
  const ImageDataset dataset = this->dataset(8);
  flame::testing::write_file(folder_ / "p18.webp", "no picture any more");
  flame::testing::write_file(folder_ / "p16.png", "nor this");
  const std::string message = error_of([&] { CachedDataset(dataset, Telling(1, 1), 5); });
  EXPECT_NE(message.find("p16.png"), message.npos) << message;
  const std::string same = error_of([&] { CachedDataset(dataset, Telling(4, 4), 5); });
  EXPECT_EQ(same, message);
}

}  // namespace
}  // namespace eri
