#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace flame {

// What was found by a search that takes long, kept between runs: bytes under a text. It is a convenience: a file that
// is missing, damaged or not ours counts as empty, one that cannot be written is left, and no call throws for that.
class PlanCache {
 public:
  // The cache of `title`, which names whatever makes plans unusable for another: library, version, card. It lies in
  // $ERI_PLAN_CACHE ("off": in memory only), else $XDG_CACHE_HOME/eridiffusion or ~/.cache/eridiffusion. One for each
  // file, never destroyed.
  static PlanCache& open(const std::string& title);

  explicit PlanCache(std::filesystem::path file);  // an empty path: in memory only

  // Any thread may call these.
  std::optional<std::string> find(const std::string& key) const;
  void put(const std::string& key, std::string plan);
  bool save();  // adds what is new to what is in the file by now; false if that was not possible

 private:
  using Plans = std::map<std::string, std::string>;
  static Plans read(const std::filesystem::path& file);
  static bool write(const std::filesystem::path& file, const Plans& plans);

  const std::filesystem::path file_;
  mutable std::mutex mutex_;
  Plans plans_, unsaved_;
};

void save_plans();  // saves every opened cache that has something new

}  // namespace flame
