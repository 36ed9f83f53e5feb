#pragma once

#include <string>
#include <vector>

namespace eri {

// Tensors of one kind that are no part of a LoRA for the model at hand.
struct UnknownTensors {
  std::string what;    // "LoHa modules, which eri does not read"
  std::string remedy;  // "merge ..."
  std::vector<std::string> names;
};

// Which kinds there are among the tensors that a file has and no layer of the model takes; where their names say that
// the whole file is for another family of models, that alone.
std::vector<UnknownTensors> sort_unknown(const std::vector<std::string>& tensors);

// "it has LoHa modules, which eri does not read (a, b, c): merge ...; it has ..."
std::string sentences(const std::vector<UnknownTensors>& kinds);

}  // namespace eri
