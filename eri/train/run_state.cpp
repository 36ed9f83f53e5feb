#include "eri/train/run_state.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "flame/core/error.h"
#include "flame/io/atomic_file.h"
#include "flame/io/safetensors.h"

namespace eri {
namespace {

namespace fs = std::filesystem;
using flame::fail;

constexpr int format = 1;  // of run.json; a reader refuses any other
constexpr const char* tensors_file = "state.safetensors";

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

// Puts `from` in the place of `to`. Where `to` exists the two change places, so that at no moment there is none.
void replace_folder(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0)
      fail("cannot move the saved state to ", to.string(), ": ", std::strerror(errno));
    fs::remove_all(from);
  }
  sync_folder(fs::absolute(to).parent_path());
}

}  // namespace

void save_state(const fs::path& folder, const RunState& state) {
  nlohmann::json config;
  for (const ConfigKey& key : config_keys()) config[key.name] = value_of(state.config, key);
  const nlohmann::json run = {{"format", format},
                              {"step", state.step},
                              {"dataset", state.dataset},
                              {"base", state.base},
                              {"config", std::move(config)}};

  const fs::path aside = folder.string() + ".partial";
  try {
    fs::remove_all(aside);  // left by a run that was killed while it saved
    fs::create_directories(aside);
    flame::write_safetensors(aside / tensors_file, state.tensors);
    flame::write_file_atomically(aside / "run.json",
                                 run.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    replace_folder(aside, folder);
  } catch (const std::exception& error) {
    std::error_code ignored;
    fs::remove_all(aside, ignored);
    fail("the run's state was not saved to ", folder.string(), ": ", error.what());
  }
}

RunState load_state(const fs::path& folder) {
  const fs::path file = folder / "run.json";
  std::ifstream in(file);
  if (!in) fail("resume: ", file.string(), " cannot be read; expected a ...-state folder that a run has saved");
  RunState state;
  state.config.mixed_precision = "no";  // of runs from before it could be chosen
  try {
    const auto run = nlohmann::json::parse(in);
    if (run.at("format") != format) fail("its format ", run.at("format").dump(), " is not ", format);
    run.at("step").get_to(state.step);
    run.at("dataset").get_to(state.dataset);
    state.base = run.value("base", BaseFingerprint());
    for (const auto& [name, value] : run.at("config").items()) {
      const ConfigKey* key = find_key(name);
      if (!key) fail("its configuration has the unknown key ", name);
      set_value(state.config, *key, value.get<std::string>());
    }
  } catch (const nlohmann::json::exception&) {
    fail("resume: ", file.string(), " is broken, or of another program; take another ...-state folder of the run");
  } catch (const flame::Error& error) {
    fail("resume: ", file.string(), " cannot be used: ", error.what());
  }
  try {
    const flame::SafetensorsFile tensors(folder / tensors_file);
    for (const auto& [name, entry] : tensors.entries()) state.tensors[name] = tensors.tensor(name);
  } catch (const flame::Error& error) {
    fail("resume: ", error.what(), "; take another ...-state folder of the run");
  }
  return state;
}

}  // namespace eri
