#include "eri/lora/patterns.h"

#include <unicode/regex.h>

#include <algorithm>
#include <cctype>
#include <map>

#include "flame/core/closest.h"
#include "flame/core/error.h"

namespace eri {

struct LayerPatterns::Pattern {
  std::string text;
  std::unique_ptr<icu::RegexPattern> compiled;

  bool matches(const std::string& name) const {
    UErrorCode status = U_ZERO_ERROR;
    const icu::UnicodeString whole = icu::UnicodeString::fromUTF8(name);
    const std::unique_ptr<icu::RegexMatcher> matcher(compiled->matcher(whole, status));
    constexpr int32_t most_steps = 1000;  // of ICU's, a few hundred of a processor's each: some ms
    if (U_SUCCESS(status)) matcher->setTimeLimit(most_steps, status);
    const bool found = U_SUCCESS(status) && matcher->matches(status);
    if (U_FAILURE(status)) flame::fail("the pattern '", text, "' takes too long: ", u_errorName(status));
    return found;
  }
  bool matches(const LoraSite& site) const { return matches(site.path) || matches(site.name); }
};

LayerPatterns::LayerPatterns(const char* option, const std::vector<std::string>& patterns) {
  for (const std::string& text : patterns) {
    UErrorCode status = U_ZERO_ERROR;
    UParseError where;
    std::unique_ptr<icu::RegexPattern> compiled(
        icu::RegexPattern::compile(icu::UnicodeString::fromUTF8(text), where, status));
    if (U_FAILURE(status))
      flame::fail(option, ": '", text, "' is no regular expression: ", u_errorName(status), " at character ",
                  where.offset);
    patterns_.push_back(std::make_unique<Pattern>(text, std::move(compiled)));
  }
}

LayerPatterns::~LayerPatterns() = default;

bool LayerPatterns::match(const LoraSite& site) const {
  return std::any_of(patterns_.begin(), patterns_.end(), [&](const auto& pattern) { return pattern->matches(site); });
}

const std::string* LayerPatterns::unused(const LoraSites& sites) const {
  for (const auto& pattern : patterns_) {
    const auto fits = [&](const LoraSite& site) { return pattern->matches(site); };
    if (std::none_of(sites.begin(), sites.end(), fits)) return &pattern->text;
  }
  return nullptr;
}

std::string example_for(const std::string& pattern, const LoraSites& sites) {
  std::map<std::string, std::string> paths;  // by each of the pieces between some of their dots
  for (const LoraSite& site : sites) {
    const std::string& path = site.path;
    for (size_t begin = 0; begin < path.size(); begin = std::min(path.find('.', begin), path.size()) + 1) {
      for (size_t end = begin; end < path.size(); ++end) {
        end = std::min(path.find('.', end), path.size());
        paths.emplace(path.substr(begin, end - begin), path);
      }
    }
  }
  std::string letters;
  std::copy_if(pattern.begin(), pattern.end(), std::back_inserter(letters),
               [](unsigned char c) { return std::isalnum(c) || c == '_'; });
  std::vector<std::string> pieces;
  for (const auto& [piece, path] : paths) pieces.push_back(piece);
  const std::string closest = flame::closest(letters, pieces);
  if (closest.empty()) return "such as " + sites.front().path;
  return "and the closest in one is '" + closest + "' in " + paths[closest];
}

}  // namespace eri
