// What a LoRA file says of its training: all that sd-scripts notes, nothing that is not true, little where that is
// asked.
#include "eri/train/training_metadata.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "eri/lora/sdxl_lora.h"
#include "eri/lora/verify.h"
#include "eri/models/synthetic.h"
#include "eri/train/dataset_metadata.h"
#include "eri/train/trainer.h"
#include "tests/io/pictures.h"
#include "tests/train/tiny_run.h"

namespace eri {
namespace {

using flame::Metadata;
using flame::SafetensorsFile;
using flame::Tensor;
using flame::testing::error_of;
using flame::testing::TemporaryFolder;
using nlohmann::json;

// sd-scripts' train_network.py, and what its networks add: every key of a LoRA for SDXL.
constexpr const char* sd_scripts_keys[] = {"ss_session_id",
                                           "ss_training_started_at",
                                           "ss_training_finished_at",
                                           "ss_output_name",
                                           "ss_learning_rate",
                                           "ss_unet_lr",
                                           "ss_text_encoder_lr",
                                           "ss_num_train_images",
                                           "ss_num_reg_images",
                                           "ss_num_batches_per_epoch",
                                           "ss_num_epochs",
                                           "ss_steps",
                                           "ss_epoch",
                                           "ss_gradient_checkpointing",
                                           "ss_gradient_accumulation_steps",
                                           "ss_max_train_steps",
                                           "ss_lr_warmup_steps",
                                           "ss_lr_scheduler",
                                           "ss_network_module",
                                           "ss_network_dim",
                                           "ss_network_alpha",
                                           "ss_network_args",
                                           "ss_network_dropout",
                                           "ss_mixed_precision",
                                           "ss_full_fp16",
                                           "ss_v2",
                                           "ss_base_model_version",
                                           "ss_clip_skip",
                                           "ss_max_token_length",
                                           "ss_cache_latents",
                                           "ss_seed",
                                           "ss_lowram",
                                           "ss_noise_offset",
                                           "ss_multires_noise_iterations",
                                           "ss_multires_noise_discount",
                                           "ss_adaptive_noise_scale",
                                           "ss_zero_terminal_snr",
                                           "ss_training_comment",
                                           "ss_optimizer",
                                           "ss_max_grad_norm",
                                           "ss_caption_dropout_rate",
                                           "ss_caption_dropout_every_n_epochs",
                                           "ss_caption_tag_dropout_rate",
                                           "ss_face_crop_aug_range",
                                           "ss_min_snr_gamma",
                                           "ss_scale_weight_norms",
                                           "ss_ip_noise_gamma",
                                           "ss_debiased_estimation",
                                           "ss_noise_offset_random_strength",
                                           "ss_ip_noise_gamma_random_strength",
                                           "ss_loss_type",
                                           "ss_huber_schedule",
                                           "ss_huber_scale",
                                           "ss_huber_c",
                                           "ss_fp8_base",
                                           "ss_fp8_base_unet",
                                           "ss_resize_interpolation",
                                           "ss_batch_size_per_device",
                                           "ss_total_batch_size",
                                           "ss_resolution",
                                           "ss_color_aug",
                                           "ss_flip_aug",
                                           "ss_random_crop",
                                           "ss_shuffle_caption",
                                           "ss_enable_bucket",
                                           "ss_bucket_no_upscale",
                                           "ss_min_bucket_reso",
                                           "ss_max_bucket_reso",
                                           "ss_keep_tokens",
                                           "ss_dataset_dirs",
                                           "ss_reg_dataset_dirs",
                                           "ss_tag_frequency",
                                           "ss_bucket_info",
                                           "ss_sd_model_name",
                                           "ss_sd_model_hash",
                                           "ss_new_sd_model_hash",
                                           "sshs_model_hash",
                                           "sshs_legacy_hash",
                                           "modelspec.sai_model_spec",
                                           "modelspec.architecture",
                                           "modelspec.implementation",
                                           "modelspec.title",
                                           "modelspec.date",
                                           "modelspec.resolution",
                                           "modelspec.prediction_type",
                                           "modelspec.timestep_range"};

// And those of its keys that say nothing here, or what is not so.
constexpr std::pair<const char*, const char*> left_out[] = {
    {"ss_sd_scripts_commit_hash", "it is not sd-scripts"},
    {"modelspec.implementation_version", "the same"},
    {"ss_datasets",
     "of several data sets in one configuration, in place of ss_dataset_dirs, ss_bucket_info and others"},
    {"ss_prior_loss_weight", "weighs regularisation pictures, which there are not"},
    {"ss_num_validation_images", "there is no validation"},
    {"ss_validation_seed", "the same"},
    {"ss_validation_split", "the same"},
    {"ss_max_validation_steps", "the same"},
    {"ss_validate_every_n_epochs", "the same"},
    {"ss_validate_every_n_steps", "the same"},
    {"modelspec.encoder_layer", "is ss_clip_skip, which SDXL's training does not have"},
    {"modelspec.hash_sha256", "sd-scripts leaves it out; sshs_model_hash is the same number"},
};

Metadata saved_by(const TrainConfig& config, const std::filesystem::path& file, int steps = 1) {
  Trainer trainer(config);
  for (int i = 0; i < steps; ++i) trainer.step();
  trainer.save_lora(file);
  return SafetensorsFile(file).metadata();
}

TEST(TrainingMetadata, HasEveryKeyOfSdScriptsThatIsTrueHere) {
  const TemporaryFolder folder;
  TrainConfig config = tiny_run(folder.path());
  config.metadata_author = "Ada";
  config.metadata_title = "Blueprints \"v1\"";
  config.training_comment = "the first of them";
  const Metadata metadata = saved_by(config, folder / "prints.safetensors");
  for (const char* key : sd_scripts_keys) EXPECT_TRUE(metadata.contains(key)) << key;
  for (const auto& [key, reason] : left_out) EXPECT_FALSE(metadata.contains(key)) << key << ": " << reason;

  const std::pair<const char*, const char*> values[] = {{"ss_output_name", "prints"},
                                                        {"modelspec.title", "Blueprints \"v1\""},
                                                        {"modelspec.author", "Ada"},
                                                        {"ss_training_comment", "the first of them"},
                                                        {"ss_steps", "1"},
                                                        {"ss_num_train_images", "24"},
                                                        {"ss_num_batches_per_epoch", "24"},
                                                        {"ss_num_epochs", "1"},
                                                        {"ss_resolution", "(128, 128)"},
                                                        {"modelspec.resolution", "128x128"},
                                                        {"modelspec.timestep_range", "0,1000"},
                                                        {"ss_gradient_checkpointing", "False"},
                                                        {"ss_cache_latents", "True"},
                                                        {"ss_clip_skip", "None"},
                                                        {"ss_network_alpha", "4.0"},
                                                        {"ss_sd_model_name", "eri-tiny.safetensors"}};
  for (const auto& [key, value] : values) EXPECT_EQ(metadata.at(key), value) << key;
  EXPECT_FALSE(metadata.contains("modelspec.license"));  // of which nothing was said

  // What other programs parse: objects, whose items are objects or numbers.
  EXPECT_EQ(json::parse(metadata.at("ss_dataset_dirs")),
            json::parse(R"({"blueprint":{"n_repeats":1,"img_count":24}})"));
  EXPECT_EQ(json::parse(metadata.at("ss_reg_dataset_dirs")), json::object());
  EXPECT_EQ(json::parse(metadata.at("ss_bucket_info")),
            json::parse(R"({"buckets":{"0":{"resolution":[128,128],"count":24}},"mean_img_ar_error":0.0})"));
  EXPECT_EQ(json::parse(metadata.at("ss_tag_frequency")).at("blueprint").at("blueprint of a bear"), 1);
  EXPECT_GT(std::stod(metadata.at("ss_training_started_at")), 1.7e9);
  EXPECT_GE(std::stod(metadata.at("ss_training_finished_at")), std::stod(metadata.at("ss_training_started_at")));
  EXPECT_LE(std::stoull(metadata.at("ss_session_id")), 1ull << 32);
}

TEST(TrainingMetadata, SaysWhichLayersLearnAndHowFast) {
  const TemporaryFolder folder;
  TrainConfig config = tiny_run(folder.path());
  EXPECT_EQ(saved_by(config, folder / "plain.safetensors").at("ss_network_args"), "{}");
  config.conv_dim = 2;
  config.block_dims = std::vector<int64_t>(23, 4);
  config.block_dims[12] = 3;
  config.block_lr_weight = std::vector<double>(23, 0.5);
  config.block_lr_weight[9] = config.block_lr_weight[12] = config.block_lr_weight[21] = 2;
  config.unet_lr = 2e-5;
  config.lora_preset = "full";
  config.exclude_patterns = R"(.*attn2.* .*\.ff\..*)";
  config.include_patterns = R"(.*attn2\.to_q)";
  const Metadata metadata = saved_by(config, folder / "blocks.safetensors");
  EXPECT_EQ(metadata.at("ss_unet_lr"), "2e-05");
  EXPECT_EQ(metadata.at("ss_network_dim"), "Dynamic");
  EXPECT_EQ(metadata.at("ss_network_alpha"), "4.0");
  const json arguments = json::parse(metadata.at("ss_network_args"));
  EXPECT_EQ(arguments.size(), 9);
  const std::pair<const char*, const char*> values[] = {{"conv_dim", "2"},
                                                        {"conv_alpha", "1"},
                                                        {"preset", "full"},
                                                        {"block_dims", "4,4,4,4,4,4,4,4,4,4,4,4,3,4,4,4,4,4,4,4,4,4,4"},
                                                        {"down_lr_weight", "0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,2.0"},
                                                        {"mid_lr_weight", "0.5,0.5,2.0"},
                                                        {"up_lr_weight", "0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,2.0"},
                                                        {"exclude_patterns", R"([r'.*attn2.*', r'.*\.ff\..*'])"},
                                                        {"include_patterns", R"([r'.*attn2\.to_q'])"}};
  for (const auto& [key, value] : values) EXPECT_EQ(arguments.at(key), value) << key;
}

TEST(TrainingMetadata, MinimalSaysNothingOfPicturesModelsAndDates) {
  const TemporaryFolder folder;
  TrainConfig config = tiny_run(folder.path());
  config.minimal_metadata = true;
  config.training_comment = "not for others";
  config.exclude_patterns = ".*attn1.*";
  const std::set<std::string> needed = {"ss_v2",
                                        "ss_base_model_version",
                                        "ss_network_module",
                                        "ss_network_dim",
                                        "ss_network_alpha",
                                        "ss_network_args",
                                        "modelspec.sai_model_spec",
                                        "modelspec.architecture",
                                        "modelspec.implementation",
                                        "modelspec.title",
                                        "sshs_model_hash",
                                        "sshs_legacy_hash"};
  const auto keys_of = [](const Metadata& metadata) {
    std::set<std::string> keys;
    for (const auto& [key, value] : metadata) keys.insert(key);
    return keys;
  };
  const Metadata metadata = saved_by(config, folder / "secret.safetensors");
  EXPECT_EQ(keys_of(metadata), needed);
  EXPECT_EQ(metadata.at("modelspec.title"), "LoRA");  // not the file's name
  EXPECT_EQ(metadata.at("ss_network_args"), "{}");
  const Checkpoint checkpoint(config.pretrained_model_name_or_path);
  const LoraTargets targets = sdxl_lora_targets(checkpoint, false);
  EXPECT_EQ(verify_lora(folder / "secret.safetensors", targets).complaints, std::vector<std::string>());

  // What people write of the file themselves is theirs to say.
  config.metadata_title = "Blue";
  config.metadata_description = "lines on blue";
  std::set<std::string> more = needed;
  more.insert("modelspec.description");
  const Metadata own = saved_by(config, folder / "secret.safetensors");
  EXPECT_EQ(keys_of(own), more);
  EXPECT_EQ(own.at("modelspec.title"), "Blue");
}

TEST(TrainingMetadata, OfALoraThatWasNotTrainedSaysSo) {
  const TemporaryFolder folder;
  const Checkpoint checkpoint("models/eri-tiny.safetensors");
  const LoraTargets targets = sdxl_lora_targets(checkpoint, true);
  random_lora(targets, {}).save(folder / "random.safetensors", untrained_metadata(checkpoint, 7, 1.7e9));
  const Metadata metadata = SafetensorsFile(folder / "random.safetensors").metadata();
  EXPECT_EQ(metadata.at("ss_steps"), "0");
  EXPECT_EQ(metadata.at("ss_seed"), "7");
  EXPECT_EQ(metadata.at("modelspec.date"), "2023-11-14T22:13:20");
  EXPECT_EQ(metadata.at("ss_sd_model_name"), "eri-tiny.safetensors");
  EXPECT_EQ(verify_lora(folder / "random.safetensors", targets).complaints, std::vector<std::string>());
}

// As of sd-scripts, in whose train_util.py model_hash() and calculate_sha256() say so.
TEST(TrainingMetadata, OfAFolderHasAWordForItsHashes) {
  const TemporaryFolder folder;
  TrainConfig config = tiny_run(folder.path());
  config.pretrained_model_name_or_path = (folder / "sdxl-base").string() + "/";
  write_synthetic_checkpoint(folder / "sdxl-base", Geometry::load("models/eri-tiny.json"), 1, flame::DType::f16,
                             ModelLayout::diffusers);
  const Metadata trained = saved_by(config, folder / "trained.safetensors");
  const Metadata untrained = untrained_metadata(Checkpoint(config.pretrained_model_name_or_path), 7, 1.7e9);
  for (const char* key : sd_scripts_keys) EXPECT_TRUE(trained.contains(key)) << key;
  for (const Metadata& metadata : {trained, untrained}) {
    EXPECT_EQ(metadata.at("ss_sd_model_name"), "sdxl-base");
    EXPECT_EQ(metadata.at("ss_sd_model_hash"), "IsADirectory");
    EXPECT_EQ(metadata.at("ss_new_sd_model_hash"), "IsADirectory");
  }
}

// --- Pictures ---

ImageDataset pictures(const TemporaryFolder& folder, const std::vector<std::pair<std::string, std::string>>& files) {
  const std::string png = flame::testing::read_file(flame::testing::picture("rgb.png"));
  for (const auto& [name, caption] : files) {
    const std::filesystem::path file = folder / name;
    std::filesystem::create_directories(file.parent_path());
    flame::testing::write_file(file.string() + ".png", png);
    flame::testing::write_file(file.string() + ".txt", caption);
  }
  return scan_folder(folder.path(), {.width = 8, .height = 8});
}

TrainConfig of_folder(const std::filesystem::path& folder) {
  TrainConfig config;
  config.train_data_dir = folder.string() + "/";
  config.resolution = {8, 8};
  config.train_batch_size = 4;
  config.gradient_accumulation_steps = 2;
  config.max_train_steps = 10;
  return config;
}

TEST(DatasetMetadata, CountsFoldersRepeatsAndTags) {
  const TemporaryFolder folder;
  const ImageDataset dataset = pictures(
      folder, {{"10_cat/a", "Cat, sitting ,, \"quoted\""}, {"10_cat/b", "cat"}, {"3_dog/a", "DOG"}, {"c", "a tree"}});
  const Metadata metadata = dataset_metadata(dataset, of_folder(folder.path()));
  const std::string own = folder.path().filename();
  EXPECT_EQ(json::parse(metadata.at("ss_dataset_dirs")), json({{"10_cat", {{"n_repeats", 10}, {"img_count", 2}}},
                                                               {"3_dog", {{"n_repeats", 3}, {"img_count", 1}}},
                                                               {own, {{"n_repeats", 1}, {"img_count", 1}}}}));
  EXPECT_EQ(json::parse(metadata.at("ss_tag_frequency")),
            json({{"10_cat", {{"cat", 2}, {"sitting", 1}, {"\"quoted\"", 1}}},
                  {"3_dog", {{"dog", 1}}},
                  {own, {{"a tree", 1}}}}));
  EXPECT_EQ(metadata.at("ss_num_train_images"), "24");
  EXPECT_EQ(metadata.at("ss_num_batches_per_epoch"), "6");
  EXPECT_EQ(metadata.at("ss_total_batch_size"), "8");
  EXPECT_EQ(metadata.at("ss_num_epochs"), "4");  // 80 pictures
  EXPECT_NEAR(json::parse(metadata.at("ss_bucket_info")).at("mean_img_ar_error").get<double>(), 19.0 / 13 - 1, 1e-12);
}

TEST(DatasetMetadata, OfMoreFoldersThanPeopleReadCountsThemAsOne) {
  const TemporaryFolder folder;
  std::vector<std::pair<std::string, std::string>> files;
  for (int i = 0; i < 101; ++i) files.push_back({"1_" + std::to_string(i) + "/a", "tag"});
  const Metadata metadata = dataset_metadata(pictures(folder, files), of_folder(folder.path()));
  const std::string own = folder.path().filename();
  EXPECT_EQ(json::parse(metadata.at("ss_dataset_dirs")), json({{own, {{"n_repeats", 1}, {"img_count", 101}}}}));
  EXPECT_EQ(json::parse(metadata.at("ss_tag_frequency")), json({{own, {{"tag", 101}}}}));
}

// ComfyUI shows metadata of headers below 1 MiB. All modules that SDXL has, 5,000 pictures of 75 tags, and all that
// people may write themselves, in quotes: the rarest tags give way.
TEST(DatasetMetadata, LeavesTheHeaderBelowAMebibyte) {
  constexpr int count = 5000;
  const TemporaryFolder folder;
  std::vector<std::pair<std::string, std::string>> files;
  for (int i = 0; i < count; ++i) {
    std::string caption = "a common tag";
    for (int tag = 1; tag < 75; ++tag) caption += ", \"rare tag\" " + std::to_string(i * 75 + tag);
    files.push_back({"picture" + std::to_string(i), caption});
  }
  const ImageDataset dataset = pictures(folder, files);
  TrainConfig config = of_folder(folder.path());
  const std::string words(16 << 10, '"');
  for (std::string* own :
       {&config.metadata_title, &config.metadata_author, &config.metadata_description, &config.metadata_license,
        &config.metadata_tags, &config.metadata_usage_hint, &config.metadata_trigger_phrase, &config.training_comment})
    *own = words;
  const Metadata about = training_metadata(config, dataset, {});

  LoRA::Modules modules;
  for (const char* list : {"/lora/sdxl_modules.tsv", "/lora/sdxl_conv_modules.tsv"}) {
    std::ifstream file(std::string(TESTS_DIR) + list);
    std::string line;
    for (std::getline(file, line); std::getline(file, line);)
      modules[line.substr(0, line.find('\t'))] = {Tensor::zeros({1, 1280}), Tensor::zeros({1280, 1}), 1};
  }
  ASSERT_EQ(modules.size(), 1052);
  LoRA(modules).save(folder / "large.safetensors", about);
  const SafetensorsFile file(folder / "large.safetensors");
  const size_t header = std::filesystem::file_size(folder / "large.safetensors") - file.data_bytes();
  EXPECT_LT(header, size_t{1} << 20);
  EXPECT_GT(header, size_t{1} << 19);
  const json tags = json::parse(file.metadata().at("ss_tag_frequency")).at(folder.path().filename());
  EXPECT_EQ(tags.at("a common tag"), count);
  EXPECT_GT(tags.size(), 5000);
  EXPECT_EQ(json::parse(file.metadata().at("ss_dataset_dirs")).at(folder.path().filename()).at("img_count"), count);
}

TEST(TrainingMetadata, OwnWordsHaveALimitAndAreUtf8) {
  TrainConfig config = tiny_run("output");
  config.metadata_description = std::string(16385, 'x');
  config.training_comment = "caf\xE9";
  const std::string message = error_of([&] { validate(config); });
  EXPECT_NE(message.find("metadata_description: expected at most 16384 bytes, got 16385"), message.npos) << message;
  EXPECT_NE(message.find("training_comment: not UTF-8 at byte 3"), message.npos) << message;
}

// Files and folders may be called anything; a run must not end where it saves.
TEST(TrainingMetadata, TakesNamesThatAreNotUtf8) {
  const TemporaryFolder folder;
  TrainConfig config = tiny_run(folder.path());
  config.train_data_dir = folder / "caf\xE9";
  config.pretrained_model_name_or_path = folder / "mod\xE8le.safetensors";
  std::filesystem::copy("examples/blueprint", config.train_data_dir);
  std::filesystem::create_symlink(std::filesystem::absolute("models/eri-tiny.safetensors"),
                                  config.pretrained_model_name_or_path);
  config.max_train_steps = 1;
  Trainer trainer(config);
  trainer.run(false);
  const Metadata metadata = SafetensorsFile(folder / "lora.safetensors").metadata();
  EXPECT_EQ(metadata.at("ss_sd_model_name"), "mod\xEF\xBF\xBDle.safetensors");
  EXPECT_TRUE(json::parse(metadata.at("ss_dataset_dirs")).contains("caf\xEF\xBF\xBD"));
  EXPECT_TRUE(std::filesystem::exists(folder / "lora-state/run.json"));
}

}  // namespace
}  // namespace eri
