#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "catalogue.h"

namespace flame::test {
namespace {

// Headers of flame/ops that declare no ops, but what ops are made of.
bool is_internal(const std::string& file) {
  static const std::set<std::string> names = {"on.h", "as_f32.h", "gemm.h", "onednn.h"};
  return names.contains(file) || file.ends_with("_kernels.h") || file.ends_with("_cpu.h");
}

// "Tensor sum(const Tensor& x, bool keepdim = false);" as "sum(Tensor,bool)".
std::string signature(const std::string& name, const std::string& parameters) {
  std::string types;
  std::stringstream list(parameters);
  for (std::string parameter; std::getline(list, parameter, ',');) {
    parameter = std::regex_replace(parameter, std::regex(R"(=.*|\bconst\b|&)"), "");
    std::smatch words;
    std::regex_search(parameter, words, std::regex(R"(\S+)"));
    if (!types.empty()) types += ',';
    types += words.str();
  }
  return text(name, "(", types, ")");
}

std::set<std::string> declared() {
  std::set<std::string> result;
  for (const auto& entry : std::filesystem::directory_iterator(TESTS_DIR "/../flame/ops")) {
    const std::string file = entry.path().filename();
    if (entry.path().extension() != ".h" || is_internal(file)) continue;
    std::stringstream content;
    content << std::ifstream(entry.path()).rdbuf();
    const std::string code = std::regex_replace(content.str(), std::regex("//[^\n]*"), "");
    const std::regex declaration(R"(\n(?:Tensor|void) (operator\S+?|\w+)\(([^;]*)\);)");
    for (std::sregex_iterator match(code.begin(), code.end(), declaration), end; match != end; ++match)
      result.insert(signature((*match)[1], (*match)[2]));
  }
  return result;
}

TEST(Completeness, EveryDeclaredOpHasALine) {
  std::set<std::string> covered;
  for (const Line& line : catalogue()) covered.insert(line.covers);
  const std::set<std::string> ops = declared();
  EXPECT_GT(ops.size(), 60u) << "the headers were not understood";
  for (const std::string& op : ops) EXPECT_TRUE(covered.contains(op)) << op << " has no line in the catalogue";
  for (const std::string& op : covered) EXPECT_TRUE(ops.contains(op)) << op << " is not declared";
}

TEST(Completeness, NamesAreUnique) {
  std::set<std::string> names;
  for (const Line& line : catalogue()) EXPECT_TRUE(names.insert(line.name).second) << line.name;
}

}  // namespace
}  // namespace flame::test
