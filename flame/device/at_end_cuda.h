#pragma once

#include <functional>

namespace flame::cuda {

// With FLAME_CUDA_MALLOC in the environment every buffer is an allocation of the driver's and nothing outlives the
// program, so that compute-sanitizer sees where each begins and ends. Nothing can be captured then.
bool leaves_nothing();

// Calls `close` at the program's end, those given last first, if nothing may be left; else the driver cleans up.
void at_end(std::function<void()> close);

}  // namespace flame::cuda
