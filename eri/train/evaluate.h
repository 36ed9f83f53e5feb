#pragma once

#include "eri/train/cached_dataset.h"

namespace eri {

// The mean squared error of the prediction over a folder's pictures, unweighted, at 16 timesteps spread evenly (31, 93,
// ... 961 of 1000) and with the same noise every time: a number that runs can be compared by.
double fixed_noise_loss(const Family& family, const CachedDataset& dataset);

}  // namespace eri
