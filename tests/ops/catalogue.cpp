#include "catalogue.h"

#include <ostream>

#include "lines.h"

namespace flame::test {

const std::vector<Line>& catalogue() {
  static const std::vector<Line> lines = [] {
    std::vector<Line> all;
    for (const auto part :
         {arithmetic_lines, function_lines, sum_lines, layout_lines, product_lines, norm_lines, loss_lines}) {
      const std::vector<Line> added = part();
      all.insert(all.end(), added.begin(), added.end());
    }
    return all;
  }();
  return lines;
}

std::ostream& operator<<(std::ostream& out, const Line& line) { return out << line.name; }

}  // namespace flame::test
