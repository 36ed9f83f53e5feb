#include "case.h"

#include <algorithm>
#include <fstream>
#include <limits>

#include "flame/io/safetensors.h"

namespace eri::parity {
namespace {

namespace fs = std::filesystem;

// Keys stay in the file's order: of the tolerances the first match counts.
nlohmann::ordered_json read_json(const fs::path& path) {
  std::ifstream file(path);
  if (!file) flame::fail("cannot open ", path.string());
  return nlohmann::ordered_json::parse(file);
}

std::vector<Tolerance> read_tolerances(const nlohmann::ordered_json& json) {
  std::vector<Tolerance> result;
  for (const auto& [pattern, limit] : json.items()) result.push_back({pattern, limit});
  return result;
}

// Without one, only what is missing or not a number fails.
double read_tolerance(const nlohmann::ordered_json& json) {
  return json.is_null() ? std::numeric_limits<double>::max() : json.get<double>();
}

bool is_pattern(std::string_view name) { return name.find('*') != name.npos; }

// A dtype's own limits are multiples of how far the reference itself is from `expected` when it computes in that dtype.
// A single tensor of a group is up to chance: its limit only shows that it is not missing, misplaced or of another
// size.
void judge_by_reference(Case& c, const nlohmann::ordered_json& distances) {
  constexpr double as_far = 1.1, of_a_group = 3;
  c.tolerances.clear();
  c.groups.clear();
  for (const auto& [name, distance] : distances.items()) {
    if (is_pattern(name)) c.groups.push_back({name, as_far * distance.get<double>()});
  }
  for (const auto& [name, distance] : distances.items()) {
    const bool in_group = std::any_of(c.groups.begin(), c.groups.end(),
                                      [&](const Tolerance& group) { return matches(group.pattern, name); });
    if (!is_pattern(name)) c.tolerances.push_back({name, (in_group ? of_a_group : as_far) * distance.get<double>()});
  }
}

}  // namespace

const Tensor& Case::input(const std::string& tensor) const {
  const auto found = inputs.find(tensor);
  if (found == inputs.end()) flame::fail("there is no input ", tensor);
  return found->second;
}

Case load_case(const fs::path& folder, const Options& options) {
  const auto json = read_json(folder / "case.json");
  Case result;
  result.device = options.device;
  result.dtype = options.dtype;
  result.checkpoint = options.checkpoint;
  result.fused = options.fused;
  result.folder = folder;
  result.kind = json.at("kind");
  result.params = json.at("params");
  result.frequencies =
      json.value("device", "cpu").starts_with("cuda") ? Frequencies::as_on_gpu : Frequencies::as_on_cpu;
  if (const auto& name = json.at("geometry"); !name.is_null()) {
    const fs::path& given = options.geometries;
    const fs::path where = given.empty() ? folder / ".." / ".." / "geometries" : given;
    result.geometry = Geometry::load(where / (name.get<std::string>() + ".json"));
    if (const auto& seed = json.at("seed"); !seed.is_null())
      result.seed = seed;
    else if (options.checkpoint.empty())
      flame::fail("the case was made with the weights of a file: name it with --checkpoint");
  }
  result.tolerances = read_tolerances(json.at("tolerances"));
  result.tolerances.push_back({"*", read_tolerance(json.at("tolerance"))});
  result.groups = read_tolerances(json.at("groups"));
  if (const std::string dtype(flame::name(options.dtype)); json.contains(dtype)) {
    judge_by_reference(result, json.at(dtype));
    result.draws = json.value("draws", 1);
    if (result.draws != 1 && (result.draws < 1 || result.kind != "unet_lora"))
      flame::fail("draws: expected a number above 0, and only for unet_lora, got ", result.draws);
  }
  if (const fs::path inputs = folder / "inputs.safetensors"; fs::exists(inputs)) result.inputs = read_tensors(inputs);
  for (auto& [name, tensor] : result.inputs) tensor = tensor.to(options.device);
  return result;
}

Tensors read_tensors(const fs::path& path) {
  const flame::SafetensorsFile file(path);
  Tensors tensors;
  for (const auto& [name, entry] : file.entries()) tensors[name] = file.tensor(name).clone();
  return tensors;
}

bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] != '*') return !name.empty() && name[0] == pattern[0] && matches(pattern.substr(1), name.substr(1));
  for (size_t skipped = 0; skipped <= name.size(); ++skipped) {
    if (matches(pattern.substr(1), name.substr(skipped))) return true;
  }
  return false;
}

}  // namespace eri::parity
