#include <cstdlib>
#include <iostream>
#include <span>

#include "compare.h"
#include "kinds.h"

namespace {

using namespace eri::parity;
namespace fs = std::filesystem;

using Kind = Tensors (*)(const Case&);
const std::map<std::string, Kind> kinds = {
    {"text", text},           {"text_lora", text_lora}, {"vae_encode", vae_encode}, {"vae_decode", vae_decode},
    {"unet", unet},           {"unet_lora", unet_lora}, {"schedule", schedule},     {"train", train},
    {"optimizer", optimizer}, {"sampler", sampler},
};

Results run(const Case& c) {
  if (c.kind == "tokenize") return tokenize(c);
  const auto kind = kinds.find(c.kind);
  if (kind == kinds.end()) flame::fail("the kind ", c.kind, " is not built yet");
  return {kind->second(c), read_tensors(c.folder / "expected.safetensors"), {}};
}

// Runs one case and prints what it finds; true if all is well.
bool passes(const fs::path& folder, const fs::path& geometries) try {
  const Case c = load_case(folder, geometries);
  const auto [actual, expected, skipped] = run(c);
  bool passed = !expected.empty();
  for (const Finding& finding : compare(actual, expected, c.tolerances, c.groups)) {
    std::cout << c.name() << " " << finding.tensor << " " << finding.error << " " << finding.limit << " "
              << (finding.ok() ? "ok" : "FAIL") << std::endl;
    passed &= finding.ok();
  }
  for (const std::string& what : skipped) std::cout << c.name() << " " << what << " - - skipped" << std::endl;
  return passed;
} catch (const std::exception& error) {
  std::cout << folder.filename().string() << " - - - FAIL: " << error.what() << std::endl;
  return false;
}

int usage() {
  std::cerr << "usage: parity [--geometries DIR] CASE...\n"
               "Runs the case folders CASE (tests/parity/README.md) and compares every tensor with what is expected.\n";
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  fs::path geometries;
  std::vector<fs::path> folders;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--geometries") {
      if (++i == arguments.size()) return usage();
      geometries = arguments[i];
    } else if (arguments[i].starts_with("-")) {
      return usage();
    } else {
      folders.push_back(fs::absolute(arguments[i]).lexically_normal());
    }
  }
  if (folders.empty()) return usage();
  int passed = 0, failed = 0;
  for (const fs::path& folder : folders) {
    // "cases/unet/" has an empty last part.
    ++(passes(folder.has_filename() ? folder : folder.parent_path(), geometries) ? passed : failed);
    flame::release_cache(flame::Device::cpu());
  }
  std::cout << passed << " passed, " << failed << " failed" << std::endl;
  return failed ? 1 : 0;
}
