#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "eri/lora/targets.h"

namespace eri {

// Regular expressions (ICU's, which are Python's in all that names of layers need) for layers: each has to match a
// layer's whole path, or the whole name of its module in a file.
class LayerPatterns {
 public:
  // `option` is what messages call them. Throws for one that is no regular expression, saying where it is wrong.
  LayerPatterns(const char* option, const std::vector<std::string>& patterns);
  ~LayerPatterns();

  bool match(const LoraSite& site) const;                                 // one of them
  std::optional<std::string> first_unused(const LoraSites& sites) const;  // that matches none of them
  // Throws for one that matches none of the sites, which messages call `of`: with one of `all` that it does match, or
  // the closest path.
  void require_use(const LoraSites& sites, const std::string& of, const LoraSites& all) const;

 private:
  struct Pattern;
  const Pattern* unused(const LoraSites& sites) const;

  const char* option_;
  std::vector<std::unique_ptr<Pattern>> patterns_;
};

}  // namespace eri
