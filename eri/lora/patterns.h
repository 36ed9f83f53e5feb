#pragma once

#include <memory>
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

  bool match(const LoraSite& site) const;                   // one of them
  const std::string* unused(const LoraSites& sites) const;  // the first that matches none of them; null: all are used

 private:
  struct Pattern;
  std::vector<std::unique_ptr<Pattern>> patterns_;
};

// "such as PATH", or what a path has that looks like the pattern, and the path.
std::string example_for(const std::string& pattern, const LoraSites& sites);

}  // namespace eri
