#include "eri/train/sd_scripts_keys.h"

#include <algorithm>

namespace eri {
namespace {

constexpr const char* block_weights =
    "block_lr_weight has those of all blocks; numbers 1 to 9, 10 to 12 and 13 to 21 are down, mid and up";
constexpr const char* attention = "delete it: there is one implementation of attention; the result is the same";
constexpr const char* latents =
    "delete it: pictures are always encoded once, and kept in memory; the result is the same";
constexpr const char* texts =
    "delete it: captions are encoded once where no text encoder is trained, and kept in memory; the result is the same";
constexpr const char* buckets =
    "eri has no buckets, each picture is resized and cut to resolution; delete it: where enable_bucket is true the "
    "result is another";
constexpr const char* captions =
    "eri has nothing like it, captions are used as they are; delete it: where it is in use the result is another";
constexpr const char* around_captions = "eri has nothing like it: delete it, and write it into the caption files";
constexpr const char* augmentation =
    "eri has nothing like it, pictures are used as they are, cut around their centre; delete it: where it is in use "
    "the result is another";
constexpr const char* masks =
    "eri has no masks, all of a picture counts; delete it: where masks are in use the result is another";
constexpr const char* dataset =
    "eri reads no datasets, but one folder: give train_data_dir, where a subfolder 10_cats counts ten times, and "
    "resolution, train_batch_size and caption_extension as keys of their own";
constexpr const char* repeats =
    "delete it: the name of a subfolder of train_data_dir says how often it counts, such as 10_cats";
constexpr const char* held_back =
    "eri holds no pictures back, all are trained on; delete it: for others, in a folder of their own, there is eri "
    "evaluate";
constexpr const char* dropout =
    "eri has nothing like it, all of the LoRA learns in each step; delete it: where it is above 0 the result is "
    "another";
constexpr const char* lora_plus =
    "eri has nothing like it, both factors of a layer learn at one rate; delete it: where it is in use the result is "
    "another";
constexpr const char* merged =
    "eri merges nothing into the model: give one that has it merged, pretrained_model_name_or_path";
constexpr const char* in_16_bits =
    "delete it: the LoRA, its gradients and the optimiser stay in f32, and the result is more exact; mixed_precision "
    "is the model's";
constexpr const char* in_8_bits =
    "delete it: eri computes in mixed_precision, and the result is more exact; max_vram and memory_policy save memory";
constexpr const char* saves_memory =
    "delete it: it saves memory, for which there is memory_policy; the result is the same";
constexpr const char* machinery = "delete it: it is about how sd-scripts does its work; the result is the same";
constexpr const char* many_gpus =
    "delete it: eri trains on one GPU; what several do in a step takes gradient_accumulation_steps";
constexpr const char* log = "delete it: the log is OUTPUT_NAME-log.jsonl in output_dir; the result is the same";
constexpr const char* upload = "delete it: eri sends nothing anywhere; the result is the same";
constexpr const char* all_are_kept = "delete it: all that is saved stays; the result is the same";
constexpr const char* going_on = "delete it, and give resume the folder of a saved state, which knows its step";
constexpr const char* schedules =
    "delete it: it is of schedules that lr_scheduler does not have, and without effect with those that it has";
constexpr const char* in_steps = "count in steps: max_train_steps";
constexpr const char* no_field = "delete it: the file has no such field; the result is the same";

constexpr SdScriptsKey remedies[] = {
    // The LoRA
    {"network_module",
     "delete it: eri trains LoRA, as networks.lora does, and lycoris.kohya with algo=lora; conv_dim and lora_preset "
     "choose the layers"},
    {"network_args",
     "its arguments are keys of their own: conv_dim, conv_alpha, block_dims, block_alphas, conv_block_dims, "
     "conv_block_alphas, exclude_patterns, include_patterns; preset is lora_preset, and down_lr_weight, mid_lr_weight "
     "and up_lr_weight are block_lr_weight"},
    {"network_train_unet_only",
     "delete it: without text_encoder_lr the UNet alone is trained; where it is false, give text_encoder_lr"},
    {"network_train_text_encoder_only", "give unet_lr = 0 and text_encoder_lr; where it is false, delete it"},
    {"network_dropout", dropout},
    {"rank_dropout", dropout},
    {"module_dropout", dropout},
    {"network_weights",
     "eri starts each LoRA anew, resume alone goes on with one of its own runs; delete it: the result is another"},
    {"dim_from_weights", "give network_dim: there are no network_weights to take it from"},
    {"scale_weight_norms", "eri has nothing like it, factors grow as they do; delete it: the result is another"},
    {"base_weights", merged},
    {"base_weights_multiplier", merged},
    {"preset", "it is lora_preset"},
    {"algo", "delete it: there is LoRA alone, which LyCORIS calls lora or locon"},
    {"down_lr_weight", block_weights},
    {"mid_lr_weight", block_weights},
    {"up_lr_weight", block_weights},
    {"block_lr_zero_threshold", "give 0 in block_lr_weight for blocks that get no LoRA"},
    {"loraplus_lr_ratio", lora_plus},
    {"loraplus_unet_lr_ratio", lora_plus},
    {"loraplus_text_encoder_lr_ratio", lora_plus},
    // The model
    {"v2", "delete it: it is of Stable Diffusion 2, and eri trains SDXL"},
    {"clip_skip",
     "delete it: SDXL takes its text encoders' last layer but one, in sd-scripts too, whatever it says; the result is "
     "the same"},
    {"full_fp16", in_16_bits},
    {"full_bf16", in_16_bits},
    {"fp8_base", in_8_bits},
    {"fp8_base_unet", in_8_bits},
    {"weighted_captions", captions},
    {"tokenizer_cache_dir", "delete it: the tokenizer is part of eri; the result is the same"},
    // Pictures and captions
    {"dataset_config", dataset},
    {"datasets", dataset},
    {"dataset_class", dataset},
    {"subsets", dataset},
    {"image_dir", "it is train_data_dir"},
    {"batch_size", "it is train_batch_size"},
    {"num_repeats", repeats},
    {"dataset_repeats", repeats},
    {"in_json", "eri reads no JSON of captions: delete it, and put a caption file beside each picture"},
    {"class_tokens", "delete it: captions are read from files, one for each picture"},
    {"caption_extention", "it is caption_extension"},
    {"cache_info", machinery},
    {"debug_dataset", "delete it: eri shows no pictures; with it sd-scripts trains nothing"},
    {"reg_data_dir",
     "eri has no regularisation pictures; delete it: the result is another. With prior_loss_weight = 1 they may be a "
     "subfolder of train_data_dir, with repeats for as many pictures as the others have"},
    {"is_reg", "eri has no regularisation pictures; delete it: where it is true the result is another"},
    {"prior_loss_weight",
     "delete it: it weighs regularisation pictures, which eri does not have; without these the result is the same"},
    {"enable_bucket", buckets},
    {"min_bucket_reso", buckets},
    {"max_bucket_reso", buckets},
    {"bucket_reso_steps", buckets},
    {"bucket_no_upscale", buckets},
    {"resize_interpolation",
     "delete it: there is one way of resizing; where it is in use the result is a little different"},
    {"flip_aug",
     "eri mirrors nothing: delete it, and put mirrored pictures with their captions into train_data_dir, which does "
     "much the same"},
    {"color_aug", augmentation},
    {"random_crop", augmentation},
    {"face_crop_aug_range", augmentation},
    {"alpha_mask", masks},
    {"masked_loss", masks},
    {"conditioning_data_dir", masks},
    {"shuffle_caption", captions},
    {"keep_tokens", captions},
    {"keep_tokens_separator", captions},
    {"caption_separator", captions},
    {"secondary_separator", captions},
    {"enable_wildcard", captions},
    {"caption_dropout_rate", captions},
    {"caption_dropout_every_n_epochs", captions},
    {"caption_tag_dropout_rate", captions},
    {"token_warmup_min", captions},
    {"token_warmup_step", captions},
    {"caption_prefix", around_captions},
    {"caption_suffix", around_captions},
    {"validation_split", held_back},
    {"validation_seed", held_back},
    {"validate_every_n_steps", held_back},
    {"validate_every_n_epochs", held_back},
    {"max_validation_steps", held_back},
    // The run
    {"config_file", "delete it, and give the file itself: eri train FILE.toml"},
    {"output_config", "delete it: eri writes no config file, but the settings into the LoRA; the result is the same"},
    {"max_train_epochs", in_steps},
    {"epoch", in_steps},
    {"save_every_n_epochs", "count in steps: save_every_n_steps"},
    {"save_n_epoch_ratio", "count in steps: save_every_n_steps"},
    {"sample_every_n_epochs", "count in steps: sample_every_n_steps"},
    {"use_8bit_adam", "it is optimizer_type = \"AdamW8bit\""},
    {"use_lion_optimizer", "it is optimizer_type = \"Lion\""},
    {"lr_scheduler_type", "eri has the schedules of lr_scheduler alone; where it is empty, delete it"},
    {"lr_scheduler_args", "give lr_scheduler_num_cycles or lr_scheduler_power; where it is empty, delete it"},
    {"lr_decay_steps", schedules},
    {"lr_scheduler_timescale", schedules},
    {"lr_scheduler_min_lr_ratio", schedules},
    {"noise_offset_type", "delete it: noise_offset above 0 is Original, multires_noise_iterations above 0 is Multires"},
    {"initial_epoch", going_on},
    {"initial_step", going_on},
    {"skip_until_initial_step", going_on},
    // What it writes
    {"no_metadata", "it is minimal_metadata"},
    {"metadata_thumbnail", no_field},
    {"metadata_merged_from", no_field},
    {"metadata_preprocessor", no_field},
    {"metadata_is_negative_embedding", no_field},
    {"save_model_as", "delete it: files are .safetensors"},
    {"use_safetensors", "delete it: files are .safetensors"},
    {"save_precision", "delete it: files are fp16"},
    {"save_last_n_epochs", all_are_kept},
    {"save_last_n_epochs_state", all_are_kept},
    {"save_last_n_steps", all_are_kept},
    {"save_last_n_steps_state", all_are_kept},
    {"save_state_on_train_end", "delete it: save_state does so at the end, too; the result is the same"},
    {"logging_dir", log},
    {"log_with", log},
    {"console_log_level", log},
    {"console_log_file", log},
    {"console_log_simple", log},
    {"log_prefix", log},
    {"log_config", log},
    {"log_tracker_name", log},
    {"log_tracker_config", log},
    {"wandb_run_name", log},
    {"wandb_api_key", log},
    {"huggingface_repo_id", upload},
    {"huggingface_repo_type", upload},
    {"huggingface_repo_visibility", upload},
    {"huggingface_path_in_repo", upload},
    {"huggingface_token", upload},
    {"async_upload", upload},
    {"save_state_to_huggingface", upload},
    {"resume_from_huggingface", "delete it: eri fetches nothing; give resume a folder of this machine"},
    // Memory and speed
    {"gradient_checkpointing", "it is memory_policy = \"block\"; where it is false, delete it"},
    {"cpu_offload_checkpointing", saves_memory},
    {"fused_backward_pass", saves_memory},
    {"lowram", machinery},
    {"highvram", machinery},
    {"cache_latents", latents},
    {"cache_latents_to_disk", latents},
    {"cache_text_encoder_outputs", texts},
    {"cache_text_encoder_outputs_to_disk", texts},
    {"skip_cache_check", machinery},
    {"vae_batch_size", machinery},
    {"max_data_loader_n_workers", machinery},
    {"persistent_data_loader_workers", machinery},
    {"disable_mmap_load_safetensors", machinery},
    {"torch_compile", machinery},
    {"dynamo_backend", machinery},
    {"xformers", attention},
    {"sdpa", attention},
    {"mem_eff_attn", attention},
    {"ddp_timeout", many_gpus},
    {"ddp_gradient_as_bucket_view", many_gpus},
    {"ddp_static_graph", many_gpus},
    {"deepspeed", many_gpus},
    {"zero_stage", many_gpus},
    {"zero3_init_flag", many_gpus},
    {"zero3_save_16bit_model", many_gpus},
    {"offload_optimizer_device", many_gpus},
    {"offload_optimizer_nvme_path", many_gpus},
    {"offload_param_device", many_gpus},
    {"offload_param_nvme_path", many_gpus},
    {"fp16_master_weights_and_gradients", many_gpus},
};

}  // namespace

std::span<const SdScriptsKey> sd_scripts_keys() { return remedies; }

std::string instead_of_sd_scripts_key(std::string_view name) {
  std::string wanted(name);
  std::replace(wanted.begin(), wanted.end(), '-', '_');
  for (const auto& [key, text] : remedies)
    if (key == wanted) return text;
  return "";
}

std::vector<std::string> keys_named_in(std::string_view text) {
  std::vector<std::string> keys;
  const auto in_word = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; };
  for (auto begin = text.begin(); begin != text.end();) {
    const auto end = std::find_if_not(begin, text.end(), in_word);
    const std::string word(begin, end);
    if (word.find('_') != word.npos && word.front() >= 'a') keys.push_back(word);
    begin = std::find_if(end, text.end(), in_word);
  }
  return keys;
}

}  // namespace eri
