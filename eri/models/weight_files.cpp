#include "eri/models/weight_files.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "flame/ops/pointwise.h"

namespace eri {

using namespace flame;
namespace fs = std::filesystem;

namespace {

constexpr const char* kIndex = ".safetensors.index.json";

// What diffusers calls a model's weights in a folder of their own, and transformers.
constexpr const char* names_in_folders[] = {"diffusion_pytorch_model", "model"};
constexpr const char* variants[] = {"", ".fp16"};

bool is_index(const fs::path& path) { return path.filename().string().ends_with(".json"); }

fs::path find_in(const fs::path& folder) {
  for (const std::string variant : variants) {
    for (const std::string name : names_in_folders) {
      const std::string old_index = name + ".safetensors.index" + variant + ".json";
      for (const std::string& file : {name + variant + ".safetensors", name + variant + kIndex, old_index}) {
        if (fs::exists(folder / file)) return folder / file;
      }
    }
  }
  std::string others;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (name.ends_with(".bin") || name.ends_with(".ckpt"))
      fail(folder.string(), ": the weights are in PyTorch's format (", name,
           "), which may run programs: download those ", "in safetensors, or convert them");
    if (name.ends_with(".safetensors")) others += (others.empty() ? "" : ", ") + name;
  }
  fail(folder.string(), ": there are no weights: expected ", names_in_folders[0], ".safetensors or ",
       names_in_folders[1], ".safetensors, or their shards with an index",
       others.empty() ? "" : "; name the file itself: " + others);
}

// Which shard has which tensor.
std::map<std::string, std::string> read_index(const fs::path& path) try {
  std::ifstream file(path);
  if (!file) fail("cannot open ", path.string());
  return nlohmann::json::parse(file).at("weight_map").get<std::map<std::string, std::string>>();
} catch (const nlohmann::json::exception& error) {
  fail(path.string(), ": not an index of shards: ", error.what(), "; download it again");
}

std::vector<SafetensorsFile> open_shards(const fs::path& index, const std::map<std::string, std::string>& shard_of) {
  if (shard_of.empty()) fail(index.string(), ": it names no tensors; download it again");
  std::set<std::string> names;
  std::string missing;
  for (const auto& [tensor, shard] : shard_of) {
    if (fs::path(shard).filename() != shard) fail(index.string(), ": '", shard, "' is no file beside the index");
    if (!names.insert(shard).second || fs::exists(index.parent_path() / shard)) continue;
    missing += (missing.empty() ? "" : ", ") + shard;
  }
  if (!missing.empty())
    fail(index.string(), ": of its ", names.size(), " shards there is no ", missing,
         " beside it; download what is missing");
  std::vector<SafetensorsFile> files;
  for (const std::string& name : names) files.emplace_back(index.parent_path() / name);
  return files;
}

}  // namespace

// ComfyUI's scaled F8: a weight is what is stored of it times one number, in f32. How the names of such numbers end,
// and those of tensors beside them that say nothing of the weights.
constexpr std::string_view scale_endings[] = {".scale_weight", ".weight_scale"};
constexpr std::string_view beside_scales[] = {".scale_input", ".input_scale", "scaled_fp8", ".comfy_quant"};

template <class Endings>
bool ends_with_one(std::string_view name, const Endings& endings) {
  return std::ranges::any_of(endings, [=](std::string_view ending) { return name.ends_with(ending); });
}

struct WeightFiles::State {
  fs::path path;
  std::vector<SafetensorsFile> files;
  Entries entries;
  std::map<std::string, size_t> file_of;
  std::map<std::string, std::string> scale_of;  // weights, by name

  explicit State(const fs::path& where) : path(fs::is_directory(where) ? find_in(where) : where) {
    const auto shard_of = is_index(path) ? read_index(path) : std::map<std::string, std::string>();
    files = is_index(path) ? open_shards(path, shard_of) : std::vector{SafetensorsFile(path)};
    for (size_t i = 0; i < files.size(); ++i) {
      for (const auto& [name, entry] : files[i].entries()) {
        entries.emplace(name, entry);
        file_of.emplace(name, i);
      }
    }
    for (const auto& [name, shard] : shard_of) {
      if (!entries.contains(name))
        fail(path.string(), ": tensor ", name, " should be in ", shard,
             ", which has none of this name; download both again");
    }
    hide_scales();
  }

  // From here on a scaled weight is one of f32.
  void hide_scales() {
    for (const auto& [name, entry] : entries) {
      if (!ends_with_one(name, scale_endings) || entry.shape.numel() != 1) continue;
      const std::string weight = name.substr(0, name.rfind('.')) + ".weight";
      const auto found = entries.find(weight);
      if (found == entries.end() || !found->second.stored.starts_with("F8")) continue;
      scale_of[weight] = name;
      found->second.dtype = DType::f32;
      found->second.stored = found->second.stored == "F8_E4M3" ? "F8_E4M3 scaled" : "F8_E5M2 scaled";
    }
    if (scale_of.empty()) return;
    for (const auto& [weight, scale] : scale_of) entries.erase(scale);
    std::erase_if(entries, [](const auto& entry) { return ends_with_one(entry.first, beside_scales); });
  }

  Tensor stored(const std::string& name) const {
    const auto found = file_of.find(name);
    return files[found == file_of.end() ? 0 : found->second].tensor(name);
  }
};

WeightFiles::WeightFiles(const fs::path& path) : state_(std::make_shared<const State>(path)) {}

const fs::path& WeightFiles::path() const { return state_->path; }
const std::vector<SafetensorsFile>& WeightFiles::files() const { return state_->files; }
const WeightFiles::Entries& WeightFiles::entries() const { return state_->entries; }

Tensor WeightFiles::tensor(const std::string& name) const {
  const auto scale = state_->scale_of.find(name);
  if (scale == state_->scale_of.end()) return state_->stored(name);
  const float factor = state_->stored(scale->second).to(DType::f32).to_host<float>().front();
  return state_->stored(name).to(DType::f32) * factor;
}

size_t WeightFiles::bytes() const {
  size_t sum = 0;
  for (const SafetensorsFile& file : files()) sum += file.data_bytes();
  return sum;
}

void WeightFiles::read_ahead(std::stop_token stop) const {
  for (const SafetensorsFile& file : files()) file.read_ahead(stop);
}

bool WeightFiles::has_below(const std::string& prefix) const {
  const auto next = entries().lower_bound(prefix);
  return next != entries().end() && next->first.starts_with(prefix);
}

namespace {

class Below : public WeightSource {
 public:
  Below(WeightFiles files, std::string prefix) : files_(std::move(files)), prefix_(std::move(prefix)) {}

  std::string describe() const override { return files_.path().string(); }
  std::vector<std::string> names() const override {
    std::vector<std::string> result;
    const auto& entries = files_.entries();
    for (auto it = entries.lower_bound(prefix_); it != entries.end() && it->first.starts_with(prefix_); ++it)
      result.push_back(it->first.substr(prefix_.size()));
    return result;
  }
  std::optional<Shape> find(const std::string& name) const override {
    const auto entry = files_.entries().find(prefix_ + name);
    return entry == files_.entries().end() ? std::nullopt : std::optional(entry->second.shape);
  }
  Tensor read(const std::string& name) const override { return files_.tensor(prefix_ + name); }
  std::string full_name(const std::string& name) const override { return prefix_ + name; }

 private:
  WeightFiles files_;
  std::string prefix_;
};

}  // namespace

std::shared_ptr<const WeightSource> WeightFiles::below(std::string prefix) const {
  return std::make_shared<Below>(*this, std::move(prefix));
}

}  // namespace eri
