#pragma once

#include <functional>
#include <optional>

#include "flame/device/cuda.h"

namespace flame::cuda {

// Which of `count` ways to do the same is the quickest on the GPU; nothing if none works. launch(i) puts way i on the
// stream, does not throw, and says whether it could. Ways are timed in captured graphs of `repeats` launches, where the
// CPU's share does not count. They stand in the order of a good guess: a later one has to be clearly faster, so that
// chance seldom decides. Waits for the GPU.
std::optional<size_t> fastest(cudaStream_t stream, size_t count, int repeats,
                              const std::function<bool(size_t)>& launch);

}  // namespace flame::cuda
