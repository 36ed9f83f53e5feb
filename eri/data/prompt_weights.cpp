#include "eri/data/prompt_weights.h"

#include <charconv>
#include <cmath>
#include <optional>

namespace eri {
namespace {

constexpr std::string_view kOpen{"\0\2", 2}, kClose{"\0\1", 2};  // escaped parentheses, while the others are read

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (size_t at = text.find(from); at != text.npos; at = text.find(from)) {
    result += text.substr(0, at);
    result += to;
    text.remove_prefix(at + from.size());
  }
  return result += text;
}

// Cuts a text into parentheses of the first level, each with what is in it, and what stands between them.
std::vector<std::string_view> parts_of(std::string_view text) {
  std::vector<std::string_view> parts;
  size_t begin = 0;
  int level = 0;
  const auto cut = [&](size_t end) {
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '(' && level++ == 0) cut(i);
    if (text[i] == ')' && --level == 0) cut(i + 1);
  }
  cut(text.size());
  return parts;
}

std::optional<double> number(std::string_view text) {
  constexpr std::string_view blank = " \t\n\r\f\v";
  const size_t begin = std::min(text.find_first_not_of(blank), text.size());
  text = text.substr(begin, text.find_last_not_of(blank) + 1 - begin);
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

void add_parts(std::string_view text, double weight, std::vector<WeightedText>& result) {
  for (std::string_view part : parts_of(text)) {
    if (part.size() < 2 || part.front() != '(' || part.back() != ')') {
      result.push_back({replaced(replaced(part, kClose, ")"), kOpen, "("), weight});
      continue;
    }
    part = part.substr(1, part.size() - 2);
    double inner = weight * 1.1;
    if (const size_t colon = part.rfind(':'); colon != part.npos && colon > 0) {
      if (const auto given = number(part.substr(colon + 1))) {
        inner = *given;
        part = part.substr(0, colon);
      }
    }
    add_parts(part, inner, result);
  }
}

}  // namespace

std::vector<WeightedText> parse_prompt_weights(std::string_view prompt) {
  const std::string escaped = replaced(replaced(prompt, "\\)", kClose), "\\(", kOpen);
  std::vector<WeightedText> result;
  add_parts(escaped, 1, result);
  return result;
}

}  // namespace eri
