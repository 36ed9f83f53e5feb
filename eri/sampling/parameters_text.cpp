#include "eri/sampling/parameters_text.h"

#include <charconv>
#include <map>

#include "eri/lora/sha256.h"
#include "flame/core/error.h"
#include "flame/io/safetensors.h"

namespace eri {
namespace {

// A1111's names; its UniPC is one.
const std::map<std::string, std::string> sampler_labels = {
    {"euler", "Euler"},       {"euler_ancestral", "Euler a"},   {"heun", "Heun"}, {"ddim", "DDIM"},
    {"dpmpp_2m", "DPM++ 2M"}, {"dpmpp_2m_sde", "DPM++ 2M SDE"}, {"lcm", "LCM"},   {"dpmpp_sde", "DPM++ SDE"},
    {"uni_pc", "UniPC"},      {"uni_pc_bh2", "UniPC"},
};
const std::map<std::string, std::string> scheduler_labels = {
    {"normal", "Normal"},
    {"karras", "Karras"},
    {"exponential", "Exponential"},
    {"sgm_uniform", "SGM Uniform"},
    {"simple", "Simple"},
    {"ddim_uniform", "DDIM"},
    {"beta", "Beta"},
};

std::string shortest(double value) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
}

// A value in which a comma, a colon or the end of a line would be read as something else is quoted, as JSON.
std::string as_json(const std::string& value) {
  if (value.find_first_of(",:\n\"") == value.npos) return value;
  std::string result = "\"";
  for (char c : value) {
    if (c == '"' || c == '\\') result += '\\';
    if (c == '\n')
      result += "\\n";
    else
      result += c;
  }
  return result + "\"";
}

}  // namespace

UsedLora used_lora(const std::filesystem::path& file, double strength) {
  constexpr size_t digits = 12;
  const flame::SafetensorsFile opened(file);
  std::string hash;
  if (const auto noted = opened.metadata().find("sshs_model_hash"); noted != opened.metadata().end()) {
    hash = noted->second;
  } else {
    Sha256 sum;
    sum.add(opened.data(), opened.data_bytes());
    hash = sum.hex();
  }
  return {file.stem().string(), strength, hash.substr(0, digits)};
}

std::string parameters_text(const SampleRequest& request, const std::string& model, const std::vector<UsedLora>& loras,
                            NoiseSource noise) {
  const auto& [prompt, steps, options] = request;
  std::string text = prompt, hashes;
  for (const UsedLora& lora : loras) {
    text += " <lora:" + lora.name + ":" + shortest(lora.strength) + ">";
    hashes += (hashes.empty() ? "" : ", ") + lora.name + ": " + lora.hash;
  }
  text += "\n";
  if (!options.negative_prompt.empty()) text += "Negative prompt: " + options.negative_prompt + "\n";
  text += flame::text("Steps: ", steps, ", Sampler: ", sampler_labels.at(options.sampler),
                      ", Schedule type: ", scheduler_labels.at(options.scheduler),
                      ", CFG scale: ", shortest(options.cfg), ", Seed: ", options.seed, ", Size: ", options.width, "x",
                      options.height, ", Model: ", as_json(model));
  if (options.cfg_rescale != 0) text += ", CFG rescale: " + shortest(options.cfg_rescale);
  if (noise == NoiseSource::comfy) text += ", RNG: CPU";
  if (!hashes.empty()) text += ", Lora hashes: " + as_json(hashes);
  return text + ", Version: EriDiffusion";
}

}  // namespace eri
