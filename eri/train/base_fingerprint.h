#pragma once

#include <map>
#include <string>

#include "eri/models/checkpoint.h"

namespace eri {

// Of each part that training uses, "UNet", "VAE", "CLIP-L" and "CLIP-G", which weights these are, and "prediction",
// what the UNet predicts: the same wherever the files are and in whatever layout. It reads a little of 64
// weights of each: fine-tunes differ in nearly all.
using BaseFingerprint = std::map<std::string, std::string>;
BaseFingerprint base_fingerprint(const Checkpoint& checkpoint);
std::string prediction_of(const Checkpoint& checkpoint);  // in words

}  // namespace eri
