#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "flame/core/error.h"

namespace eri {

// The entry of a table whose entries have a `name`. Throws for another name, saying what `kind` of thing there is not
// and which there are.
template <class Table>
const auto& find_named(const Table& table, const char* kind, std::string_view name) {
  std::string known;
  for (const auto& entry : table) {
    if (entry.name == name) return entry;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  flame::fail("there is no ", kind, " '", name, "': expected one of ", known);
}

template <class Table>
std::vector<std::string> names_of(const Table& table) {
  std::vector<std::string> names;
  for (const auto& entry : table) names.emplace_back(entry.name);
  return names;
}

}  // namespace eri
