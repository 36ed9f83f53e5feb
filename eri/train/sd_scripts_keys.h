#pragma once

#include <string>
#include <string_view>

namespace eri {

// What to do instead of giving a key of sd-scripts (or of LyCORIS, its `network_args`) that eri does not have under
// this name; empty for others. '-' counts as '_'.
std::string instead_of_sd_scripts_key(std::string_view name);

}  // namespace eri
