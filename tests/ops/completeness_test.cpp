#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "catalogue.h"

namespace flame::test {
namespace {

// Headers of flame/ops that declare no ops, but what ops are made of.
bool is_internal(const std::string& file) {
  static const std::set<std::string> names = {"on.h", "as_f32.h", "gemm.h", "onednn.h"};
  return names.contains(file) || file.ends_with("_kernels.h") || file.ends_with("_cpu.h") || file.ends_with("_cuda.h");
}

// "const std::vector<int>& axes = {}" as "std::vector<int>": the first word that is not const.
std::string type_of(const std::string& parameter) {
  std::stringstream words(parameter);
  std::string type;
  while (words >> type && type == "const") {
  }
  return type.substr(0, type.find('&'));
}

// "sum(const Tensor& x, bool keepdim = false)" as "sum(Tensor,bool)".
std::string signature(const std::string& declaration) {
  const size_t open = declaration.find('(');
  std::stringstream parameters(declaration.substr(open + 1, declaration.rfind(')') - open - 1));
  std::string types;
  for (std::string parameter; std::getline(parameters, parameter, ',');) {
    if (!types.empty()) types += ',';
    types += type_of(parameter);
  }
  return text(declaration.substr(0, open), "(", types, ")");
}

// What begins a line with "Tensor name(" or "void name(" and ends with ";".
void add_declarations(const std::filesystem::path& header, std::set<std::string>& result) {
  std::ifstream file(header);
  std::string declaration;
  for (std::string line; std::getline(file, line);) {
    line = line.substr(0, line.find("//"));
    for (const std::string start : {"Tensor ", "void "})
      if (line.starts_with(start) && line.find('(') != line.npos) declaration = line.substr(start.size()), line = "";
    if (declaration.empty()) continue;
    declaration += line;
    if (declaration.find(';') == declaration.npos) continue;
    result.insert(signature(declaration));
    declaration.clear();
  }
}

std::set<std::string> declared() {
  std::set<std::string> result;
  for (const auto& entry : std::filesystem::directory_iterator(TESTS_DIR "/../flame/ops"))
    if (entry.path().extension() == ".h" && !is_internal(entry.path().filename()))
      add_declarations(entry.path(), result);
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
