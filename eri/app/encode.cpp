#include <algorithm>
#include <iostream>
#include <map>
#include <sstream>

#include "eri/app/commands.h"
#include "eri/data/t5_tokenizer.h"
#include "eri/data/utf8.h"
#include "eri/models/file_kind.h"
#include "eri/models/t5_encoder.h"
#include "eri/models/text_conditioning.h"
#include "flame/core/error.h"
#include "flame/io/safetensors.h"

namespace eri {
namespace {

using Tensors = std::map<std::string, Tensor>;
namespace fs = std::filesystem;

struct Arguments {
  ModelFiles model;
  fs::path t5xxl, tokenizer, text_file, out;
  std::vector<std::string> texts;
  int64_t max_token_length = 0;
  Machine machine;
};

// The lines of a file, empty ones too.
std::vector<std::string> lines_of(const fs::path& path) {
  std::istringstream in(read_utf8(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(line);
  }
  return lines;
}

// What one CLIP encoder makes of a text; with a length as sd-scripts trains on it, else as ComfyUI draws it.
void encode_clip(const CLIPTextEncoder& encoder, const std::string& name, int32_t pad, const Arguments& arguments,
                 const std::vector<std::string>& texts, Tensors& out) {
  const ClipTokenizer tokenizer;
  const int64_t chunks = arguments.max_token_length / kChunkTokens;
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::span<const std::string> one(&texts[i], 1);
    const std::string place = flame::text(i, ".", name, ".");
    const auto ids = tokenizer.encode(texts[i]);
    if (const int64_t cut = std::ssize(ids) - arguments.max_token_length; chunks > 0 && cut > 0)
      std::cout << "text " << i << ": " << name << " leaves out the last " << cut << " of its " << ids.size()
                << " tokens; --max_token_length may be raised" << std::endl;
    const auto framed = chunks > 0 ? caption_chunks(ids, chunks, pad) : prompt_chunks(tokenizer, texts[i], pad);
    out[place + "ids"] = ids_of(framed, flame::Device::cpu());
    const auto [hidden, pooled] =
        chunks > 0 ? encode_captions(encoder, caption_ids(tokenizer, pad, one, chunks, encoder.device()))
                   : encode_prompts(encoder, tokenizer, pad, one);
    out[place + "context"] = hidden;
    if (pooled.defined()) out[place + "pooled"] = pooled;
  }
}

void encode_t5(const Arguments& arguments, const fs::path& model, const std::vector<std::string>& texts, Tensors& out) {
  const fs::path beside = fs::is_directory(model) ? model : fs::absolute(model).parent_path();
  const auto tokenizer = T5Tokenizer::load(arguments.tokenizer.empty() ? beside : arguments.tokenizer);
  const T5Encoder encoder =
      T5Encoder::from_safetensors(model, arguments.machine.chosen_device(), arguments.machine.chosen_dtype());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = tokenizer->encode(texts[i]);
    if (const int32_t most = *std::max_element(ids.begin(), ids.end()); most >= encoder.vocabulary())
      flame::fail("the tokenizer does not belong to ", model.string(), ": text ", i, " has the id ", most,
                  ", the encoder knows ", encoder.vocabulary());
    const Tensor row = Tensor::from(ids, {1, std::ssize(ids)});
    out[flame::text(i, ".t5.ids")] = row;
    out[flame::text(i, ".t5.context")] = encoder.encode(row.to(encoder.device()));
  }
}

bool is_t5(const fs::path& path) {
  if (path.empty() || fs::exists(path / "model_index.json")) return false;
  return kind_of(WeightFiles(path).entries()).id == "t5";
}

void run(const Arguments& arguments) {
  arguments.machine.apply();
  std::vector<std::string> texts = arguments.texts;
  if (!arguments.text_file.empty()) {
    for (std::string& line : lines_of(arguments.text_file)) texts.push_back(std::move(line));
  }
  if (texts.empty()) flame::fail("there is nothing to encode: give --text TEXT or --text_file FILE");

  Tensors out;
  const fs::path& model = arguments.model.model;
  const bool model_is_t5 = is_t5(model), both = !model.empty() && !model_is_t5;
  ModelFiles clips = arguments.model;
  if (model_is_t5) clips.model.clear();
  const flame::Device device = arguments.machine.chosen_device();
  const auto encode = [&](TextPart part, const char* name, int32_t pad) {
    const auto encoder =
        CLIPTextEncoder::from_checkpoint(Checkpoint(clips), part, device, arguments.machine.chosen_dtype());
    encode_clip(encoder, name, pad, arguments, texts, out);
  };
  if (both || !clips.clip_l.empty()) encode(TextPart::clip_l, "clip_l", ClipTokenizer::kPadL);
  if (both || !clips.clip_g.empty()) encode(TextPart::clip_g, "clip_g", ClipTokenizer::kPadG);
  const fs::path t5 = model_is_t5 ? model : arguments.t5xxl;
  if (!t5.empty()) encode_t5(arguments, t5, texts, out);
  if (out.empty()) flame::fail("there is no encoder: give --model, --clip_l, --clip_g or --t5xxl");

  for (auto& [name, tensor] : out) {
    if (tensor.dtype() != flame::DType::i32) tensor = tensor.to(flame::DType::f32).to(flame::Device::cpu());
    std::cout << "  " << name << " " << tensor.shape() << " " << tensor.dtype() << std::endl;
  }
  flame::write_safetensors(arguments.out, out);
  std::cout << "wrote " << arguments.out.string() << std::endl;
}

}  // namespace

void add_encode(CLI::App& app) {
  auto* command = app.add_subcommand("encode", "Write what text encoders make of texts: ids, contexts, pooled vectors");
  auto a = std::make_shared<Arguments>();
  const auto add = [&](const char* flag, fs::path& path, const char* help) {
    return command->add_option(flag, path, help)->type_name("FILE");
  };
  add("--model", a->model.model, "an SDXL model, for both of its encoders, or a T5 encoder");
  add("--clip_l", a->model.clip_l, "the text encoder CLIP-L, such as clip_l.safetensors");
  add("--clip_g", a->model.clip_g, "the text encoder CLIP-G, such as clip_g.safetensors");
  add("--t5xxl", a->t5xxl, "a T5 encoder, such as t5xxl_fp16.safetensors, or its folder");
  add("--tokenizer", a->tokenizer, "T5's tokenizer.json or spiece.model, if it is not beside the encoder");
  command->add_option("--text", a->texts, "a text; may be given several times")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  add("--text_file", a->text_file, "texts, one a line");
  command
      ->add_option("--max_token_length", a->max_token_length,
                   "CLIP's texts as captions of training, 75, 150, 225 ... tokens long; 0: as prompts, with their "
                   "weights and however long")
      ->check(CLI::Validator(
          [](const std::string& value) {
            return value.find_first_not_of("0123456789") == value.npos && value.size() < 6 &&
                           std::stol(value) % kChunkTokens == 0
                       ? std::string()
                       : "expected 0 or a multiple of 75, got '" + value + "'";
          },
          ""))
      ->capture_default_str();
  add("--out", a->out, "the .safetensors file to write")->required();
  a->machine.add_to(*command);
  command->callback([a] { run(*a); });
}

}  // namespace eri
