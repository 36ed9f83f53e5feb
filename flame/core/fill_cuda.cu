#include "flame/core/dtype.h"
#include "flame/device/launch_cuda.h"

namespace flame::cuda {
namespace {

template <class T>
__global__ void fill_kernel(T* data, int64_t count, T value) {
  take_turn();
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x)
    data[i] = value;
}

}  // namespace

template <class T>
void fill(Device device, T* data, int64_t count, T value) {
  if (count == 0) return;
  launch(fill_kernel<T>, {blocks_for(device, count, 256), 256, 0, stream(device)}, data, count, value);
}

template void fill(Device, float*, int64_t, float);
template void fill(Device, f16*, int64_t, f16);
template void fill(Device, bf16*, int64_t, bf16);
template void fill(Device, int64_t*, int64_t, int64_t);
template void fill(Device, int32_t*, int64_t, int32_t);
template void fill(Device, uint8_t*, int64_t, uint8_t);
template void fill(Device, bool*, int64_t, bool);

}  // namespace flame::cuda
