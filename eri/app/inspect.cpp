#include <iostream>
#include <nlohmann/json.hpp>

#include "eri/app/commands.h"
#include "eri/lora/lora.h"
#include "eri/lora/lora_inventory.h"
#include "eri/lora/unknown_tensors.h"
#include "eri/models/inventory.h"

namespace eri {
namespace {

using nlohmann::json;

struct Seen {
  std::filesystem::path path;
  Inventory inventory;
  std::optional<LoraInventory> lora;
};

Seen look_at(const std::filesystem::path& path) {
  Seen seen{path, inventory_of(path), {}};
  if (seen.inventory.kind.use == FileKind::Use::lora) seen.lora = lora_inventory_of(WeightFiles(path));
  return seen;
}

// --- For people ---

std::string grouped(int64_t number) {
  std::string digits = std::to_string(number);
  for (int64_t at = std::ssize(digits) - 3; at > 0; at -= 3) digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

std::string size_of(size_t bytes) {
  const auto size = static_cast<double>(bytes);
  char text[32];
  if (size < 1e6)
    std::snprintf(text, sizeof text, "%.2f kB", size / 1e3);
  else
    std::snprintf(text, sizeof text, size < 1e9 ? "%.2f MB" : "%.2f GB", size < 1e9 ? size / 1e6 : size / 1e9);
  return text;
}

// "1 module", "2 modules"
std::string several(int64_t number, const std::string& things) {
  return grouped(number) + " " + things + (number == 1 ? "" : "s");
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

// "F16", or of several "F16 (99.1 %), F32 (0.9 %)".
std::string precisions_of(const Inventory::Count& count) {
  std::string result;
  for (const auto& [name, parameters] : count.precisions) {
    char share[32];
    std::snprintf(share, sizeof share, " (%.1f %%)",
                  100 * static_cast<double>(parameters) / static_cast<double>(count.parameters));
    result += (result.empty() ? "" : ", ") + name + (count.precisions.size() > 1 ? share : "");
  }
  return result;
}

std::string padded(const std::string& text, size_t width) {
  return text + std::string(width - std::min(width, text.size()), ' ');
}

// The beginning of a value, cut between characters of UTF-8.
std::string on_one_line(const std::string& value) {
  constexpr size_t most = 100;
  size_t size = std::min(most, value.size());
  while (size > 0 && size < value.size() && (static_cast<unsigned char>(value[size]) & 0xC0) == 0x80) --size;
  std::string line;
  for (const char c : value.substr(0, size)) line += c == '\n' ? "\\n" : std::string(1, c);
  return size < value.size() ? line + "..." : line;
}

void print_count(const std::string& part, const Inventory::Count& count) {
  const std::string parameters = grouped(count.parameters);
  std::cout << "  " << padded(part, 22) << std::string(16 - std::min<size_t>(16, parameters.size()), ' ') << parameters
            << " parameters in " << several(count.tensors, "tensor") << "  " << precisions_of(count) << "\n";
}

// "16 (722 modules), 4 (66 modules)"
template <class Number>
std::string counted(const std::map<Number, int64_t>& numbers) {
  constexpr size_t most = 6;
  std::string result;
  size_t shown = 0;
  for (const auto& [number, modules] : numbers) {
    if (shown++ == most) return result + " and " + several(std::ssize(numbers) - most, "other");
    const std::string of = flame::text(" (", several(modules, "module"), ")");
    result += (result.empty() ? "" : ", ") + short_number(static_cast<double>(number)) + (numbers.size() > 1 ? of : "");
  }
  return result;
}

void print(const LoraInventory& lora) {
  std::cout << "  names are " << lora.naming << "\n  rank " << counted(lora.ranks) << "\n  alpha "
            << counted(lora.alphas);
  if (lora.without_alpha)
    std::cout << "; " << several(lora.without_alpha, "module") << " without, so that the scale is 1";
  std::cout << "\n  " << several(lora.modules(), "module")
            << ", |alpha / rank up down| = " << short_number(lora.effect()) << "\n";
  for (const auto& [name, block] : lora.blocks)
    std::cout << "    " << padded(name, 28) << padded(several(block.modules, "module"), 12)
              << short_number(block.effect) << "\n";
  for (const UnknownTensors& others : sort_unknown(lora.others))
    std::cout << "  " << others.what << ": " << listed(others.names) << "\n";
}

void print(const Seen& seen) {
  const Inventory& inventory = seen.inventory;
  std::cout << seen.path.string() << ": this is " << inventory.kind.what << "\n";
  std::cout << "  " << size_of(inventory.bytes) << " in " << several(std::ssize(inventory.files), "file") << "\n";
  for (const auto& [part, count] : inventory.parts) print_count(part, count);
  if (inventory.parts.size() > 1) print_count("all", inventory.whole);
  if (!inventory.parametrization.empty()) std::cout << "  " << inventory.parametrization << "\n";
  if (seen.lora) print(*seen.lora);
  for (const auto& [key, value] : inventory.metadata) std::cout << "  " << key << " = " << on_one_line(value) << "\n";
  std::cout << std::flush;
}

// --- For programs ---

json to_json(const Inventory::Count& count) {
  return {{"parameters", count.parameters}, {"tensors", count.tensors}, {"precisions", count.precisions}};
}

json to_json(const LoraInventory& lora) {
  json ranks = json::object(), alphas = json::array(), blocks = json::object();
  for (const auto& [rank, modules] : lora.ranks) ranks[std::to_string(rank)] = modules;
  for (const auto& [alpha, modules] : lora.alphas) alphas.push_back({{"alpha", alpha}, {"modules", modules}});
  for (const auto& [name, block] : lora.blocks) blocks[name] = {{"modules", block.modules}, {"effect", block.effect}};
  return {{"naming", lora.naming},
          {"modules", lora.modules()},
          {"ranks", ranks},
          {"alphas", alphas},
          {"effect", lora.effect()},
          {"blocks", blocks},
          {"without_alpha", lora.without_alpha},
          {"others", lora.others}};
}

json to_json(const Seen& seen) {
  const Inventory& inventory = seen.inventory;
  json parts = json::object(), files = json::array();
  for (const auto& [name, count] : inventory.parts) parts[name] = to_json(count);
  for (const auto& file : inventory.files) files.push_back(file.string());
  json result = {{"path", seen.path.string()},      {"family", inventory.kind.id},
                 {"what", inventory.kind.what},     {"files", files},
                 {"bytes", inventory.bytes},        {"parts", parts},
                 {"all", to_json(inventory.whole)}, {"metadata", inventory.metadata}};
  if (!inventory.parametrization.empty()) result["parametrization"] = inventory.parametrization;
  if (seen.lora) result["lora"] = to_json(*seen.lora);
  return result;
}

}  // namespace

void add_inspect(CLI::App& app) {
  struct Arguments {
    std::vector<std::filesystem::path> files;
    bool json = false;
  };
  auto* command = app.add_subcommand("inspect", "Say what safetensors files are: models, parts of models, LoRAs");
  auto a = std::make_shared<Arguments>();
  command->add_option("files", a->files, "safetensors files, or folders of diffusers")->type_name("FILE")->required();
  command->add_flag("--json", a->json, "one JSON object for each file");
  command->callback([a] {
    for (const auto& path : a->files) {
      const Seen seen = look_at(path);
      if (a->json) {
        std::cout << to_json(seen).dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
      } else {
        print(seen);
      }
    }
  });
}

}  // namespace eri
