#include "compare.h"

#include <cmath>
#include <limits>

namespace eri::parity {
namespace {

// The squares of |actual - expected| and |expected|.
struct Distance {
  double difference = 0, expected = 0;

  double relative() const {
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    if (expected == 0) return difference == 0 ? 0 : std::numeric_limits<double>::infinity();
    return std::sqrt(difference / expected);
  }
};

double value(const Tensor& tensor, int64_t i) {
  return visit_all(tensor.dtype(), [&]<class T>() {
    if constexpr (std::is_arithmetic_v<T>)
      return static_cast<double>(tensor.data<T>()[i]);
    else
      return static_cast<double>(static_cast<float>(tensor.data<T>()[i]));
  });
}

Distance distance(const Tensors& actual, const std::string& name, const Tensor& expected) {
  const auto found = actual.find(name);
  if (found == actual.end() || found->second.shape() != expected.shape())
    return {std::numeric_limits<double>::quiet_NaN(), 0};
  const Tensor host = found->second.to(flame::Device::cpu());
  Distance result;
  for (int64_t i = 0; i < expected.numel(); ++i) {
    const double wanted = value(expected, i), difference = value(host, i) - wanted;
    result.difference += difference * difference;
    result.expected += wanted * wanted;
  }
  return result;
}

double limit(const std::vector<Tolerance>& tolerances, const std::string& name) {
  for (const Tolerance& tolerance : tolerances) {
    if (matches(tolerance.pattern, name)) return tolerance.limit;
  }
  flame::fail("no tolerance for ", name);
}

}  // namespace

std::vector<Finding> compare(const std::vector<Tensors>& draws, const Tensors& expected,
                             const std::vector<Tolerance>& tolerances, const std::vector<Tolerance>& groups) {
  std::vector<Finding> findings;
  for (const auto& [name, tensor] : expected) findings.push_back({name, 0, limit(tolerances, name)});
  for (const auto& [pattern, limit] : groups) findings.push_back({"all:" + pattern, 0, limit});
  for (const Tensors& actual : draws) {
    auto finding = findings.begin();
    const auto add = [&](const Distance& found) {
      finding++->error += found.relative() / static_cast<double>(draws.size());
    };
    std::map<std::string, Distance> distances;
    for (const auto& [name, tensor] : expected) add(distances[name] = distance(actual, name, tensor));
    for (const auto& group : groups) {
      Distance all;
      for (const auto& [name, found] : distances) {
        if (!matches(group.pattern, name)) continue;
        all.difference += found.difference;
        all.expected += found.expected;
      }
      add(all);
    }
  }
  return findings;
}

}  // namespace eri::parity
