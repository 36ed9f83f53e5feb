#include "flame/device/plan_cache.h"

#include <unistd.h>

#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string_view>
#include <vector>

namespace flame {
namespace {

namespace fs = std::filesystem;

// The file: this line, a checksum of the rest, then for each plan its key and its bytes, each behind its length.
constexpr std::string_view first_line = "EriDiffusion plans 1\n";

uint64_t checksum(std::string_view bytes) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  return hash;
}

void append_number(std::string& to, uint64_t number) {
  char bytes[sizeof number];
  std::memcpy(bytes, &number, sizeof number);
  to.append(bytes, sizeof number);
}

void append_text(std::string& to, std::string_view text) {
  append_number(to, text.size());
  to += text;
}

// These take their value off the front of `from`; nothing if it is too short.
std::optional<uint64_t> take_number(std::string_view& from) {
  uint64_t number;
  if (from.size() < sizeof number) return {};
  std::memcpy(&number, from.data(), sizeof number);
  from.remove_prefix(sizeof number);
  return number;
}

std::optional<std::string> take_text(std::string_view& from) {
  const auto size = take_number(from);
  if (!size || *size > from.size()) return {};
  std::string text(from.substr(0, *size));
  from.remove_prefix(*size);
  return text;
}

// Where caches lie; empty if nowhere.
fs::path folder() {
  const auto variable = [](const char* name) -> std::string_view {
    const char* value = std::getenv(name);
    return value ? value : "";
  };
  if (const auto chosen = variable("ERI_PLAN_CACHE"); !chosen.empty()) return chosen == "off" ? fs::path() : chosen;
  if (const auto caches = variable("XDG_CACHE_HOME"); caches.starts_with('/')) return fs::path(caches) / "eridiffusion";
  if (const auto home = variable("HOME"); home.starts_with('/')) return fs::path(home) / ".cache" / "eridiffusion";
  return {};
}

std::string file_name(std::string title) {
  for (char& letter : title) {
    if (!std::isalnum(static_cast<unsigned char>(letter)) && letter != '.' && letter != '_') letter = '-';
  }
  return "plans-" + title + ".bin";
}

struct Opened {
  std::mutex mutex;
  std::map<std::pair<fs::path, std::string>, std::unique_ptr<PlanCache>> caches;
};

Opened& opened() {
  static auto* all = new Opened;
  return *all;
}

}  // namespace

PlanCache& PlanCache::open(const std::string& title) {
  const fs::path in = folder();
  Opened& all = opened();
  const std::lock_guard lock(all.mutex);
  std::unique_ptr<PlanCache>& cache = all.caches[{in, title}];
  if (!cache) cache = std::make_unique<PlanCache>(in.empty() ? in : in / file_name(title));
  return *cache;
}

PlanCache::PlanCache(fs::path file) : file_(std::move(file)), plans_(read(file_)) {}

std::optional<std::string> PlanCache::find(const std::string& key) const {
  const std::lock_guard lock(mutex_);
  const auto found = plans_.find(key);
  if (found == plans_.end()) return {};
  return found->second;
}

void PlanCache::put(const std::string& key, std::string plan) {
  const std::lock_guard lock(mutex_);
  unsaved_[key] = plan;
  plans_[key] = std::move(plan);
}

bool PlanCache::save() {
  const std::lock_guard lock(mutex_);
  if (unsaved_.empty()) return true;
  if (file_.empty()) return false;
  Plans together = read(file_);
  for (const auto& [key, plan] : unsaved_) together[key] = plan;
  if (!write(file_, together)) return false;
  unsaved_.clear();
  return true;
}

PlanCache::Plans PlanCache::read(const fs::path& file) {
  std::error_code error;
  if (file.empty() || !fs::is_regular_file(file, error)) return {};
  std::ifstream stream(file, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  std::string_view rest = bytes;
  if (!rest.starts_with(first_line)) return {};
  rest.remove_prefix(first_line.size());
  if (const auto expected = take_number(rest); !expected || *expected != checksum(rest)) return {};
  Plans plans;
  while (!rest.empty()) {
    auto key = take_text(rest), plan = take_text(rest);
    if (!key || !plan) return {};
    plans[*std::move(key)] = *std::move(plan);
  }
  return plans;
}

// Through a file of this process beside it, so that a reader finds the old file or the new one, never a part.
bool PlanCache::write(const fs::path& file, const Plans& plans) {
  std::string body;
  for (const auto& [key, plan] : plans) {
    append_text(body, key);
    append_text(body, plan);
  }
  std::string head(first_line);
  append_number(head, checksum(body));

  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  const fs::path temporary = file.string() + "." + std::to_string(::getpid()) + ".tmp";
  std::ofstream stream(temporary, std::ios::binary | std::ios::trunc);
  stream << head << body;
  stream.close();
  if (stream) {
    fs::rename(temporary, file, error);
    if (!error) return true;
  }
  fs::remove(temporary, error);
  return false;
}

void save_plans() {
  Opened& all = opened();
  const std::lock_guard lock(all.mutex);
  for (const auto& [name, cache] : all.caches) cache->save();
}

}  // namespace flame
