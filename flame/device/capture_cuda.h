#pragma once

#include <cuda_runtime.h>

namespace flame::cuda {

// Whether what the stream is given now is recorded for a graph: then nothing may be waited for.
bool is_capturing(cudaStream_t stream);

}  // namespace flame::cuda
