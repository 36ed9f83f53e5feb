#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace eri {

// A key of sd-scripts, of its networks' arguments or its dataset files, of LyCORIS or of kohya_ss that eri does not
// have under this name, and what to do instead of giving it.
struct SdScriptsKey {
  const char *key, *instead;
};
std::span<const SdScriptsKey> sd_scripts_keys();

std::string instead_of_sd_scripts_key(std::string_view name);  // empty for others; '-' counts as '_'

// The words of a text that are written as keys are: with an underscore.
std::vector<std::string> keys_named_in(std::string_view text);

}  // namespace eri
