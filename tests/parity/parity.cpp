#include <cstdlib>
#include <iostream>
#include <optional>
#include <span>

#include "compare.h"
#include "kinds.h"

namespace {

using namespace eri::parity;
namespace fs = std::filesystem;

using Kind = Tensors (*)(const Case&);
const std::map<std::string, Kind> kinds = {
    {"t5", t5},
    {"prompts", prompts},
    {"captions", captions},
    {"text", text},
    {"text_lora", text_lora},
    {"vae_encode", vae_encode},
    {"vae_decode", vae_decode},
    {"unet", unet},
    {"unet_loss", unet_loss},
    {"text_training", text_training},
    {"schedule", schedule},
    {"train", train},
    {"optimizer", optimizer},
    {"sampler", sampler},
    {"drawing", drawing},
};

Results run(const Case& c) {
  if (c.kind == "tokenize") return tokenize(c);
  const Tensors expected = read_tensors(c.folder / "expected.safetensors");
  if (c.kind == "unet_lora") return {unet_lora(c), expected};
  const auto kind = kinds.find(c.kind);
  if (kind == kinds.end()) flame::fail("the kind ", c.kind, " is not built yet");
  return {{kind->second(c)}, expected};
}

// Runs one case and prints what it finds; true if all is well.
bool passes(const fs::path& folder, const Options& options) try {
  const Case c = load_case(folder, options);
  const auto [actual, expected] = run(c);
  bool passed = !expected.empty();
  for (const Finding& finding : compare(actual, expected, c.tolerances, c.groups)) {
    std::cout << c.name() << " " << finding.tensor << " " << finding.error << " " << finding.limit << " "
              << (finding.ok() ? "ok" : "FAIL") << std::endl;
    passed &= finding.ok();
  }
  return passed;
} catch (const std::exception& error) {
  std::cout << folder.filename().string() << " - - - FAIL: " << error.what() << std::endl;
  return false;
}

int usage() {
  std::cerr << "usage: parity [--geometries DIR] [--checkpoint FILE] [--device cpu|cuda:0] [--dtype f32|f16|bf16]\n"
               "              [--fused] [--allow-tf32] CASE...\n"
               "Runs the case folders CASE (tests/parity/README.md) and compares every tensor with what is expected.\n";
  return 2;
}

struct Arguments {
  Options options;
  std::vector<fs::path> folders;
};

flame::DType parse_dtype(const std::string& name) {
  for (const auto dtype : {flame::DType::f32, flame::DType::f16, flame::DType::bf16})
    if (name == flame::name(dtype)) return dtype;
  flame::fail("--dtype: expected f32, f16 or bf16, got ", name);
}

// None where they cannot be understood.
std::optional<Arguments> parse(std::span<char* const> arguments) {
  Arguments result;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string argument = arguments[i];
    if (!argument.starts_with("-")) {
      const fs::path folder = fs::absolute(argument).lexically_normal();
      result.folders.push_back(folder.has_filename() ? folder : folder.parent_path());  // "cases/unet/" ends in nothing
    } else if (argument == "--allow-tf32") {
      flame::set_tf32(true);
    } else if (argument == "--fused") {
      result.options.fused = true;
    } else if (i + 1 == arguments.size()) {
      return std::nullopt;
    } else if (argument == "--geometries") {
      result.options.geometries = arguments[++i];
    } else if (argument == "--checkpoint") {
      result.options.checkpoint = arguments[++i];
    } else if (argument == "--device") {
      result.options.device = flame::Device::parse(arguments[++i]);
    } else if (argument == "--dtype") {
      result.options.dtype = parse_dtype(arguments[++i]);
    } else {
      return std::nullopt;
    }
  }
  if (result.folders.empty()) return std::nullopt;
  return result;
}

}  // namespace

int main(int argc, char** argv) try {
  const auto arguments = parse(std::span(argv + 1, argv + argc));
  if (!arguments) return usage();
  const auto& [options, folders] = *arguments;
  int passed = 0, failed = 0;
  for (const fs::path& folder : folders) {
    ++(passes(folder, options) ? passed : failed);
    flame::release_cache(options.device);
  }
  std::cout << passed << " passed, " << failed << " failed" << std::endl;
  return failed ? 1 : 0;
} catch (const std::exception& error) {
  std::cerr << "parity: " << error.what() << std::endl;
  return 1;
}
