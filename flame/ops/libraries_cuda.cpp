#include "flame/ops/libraries_cuda.h"

#include "flame/ops/cublaslt_cuda.h"
#include "flame/ops/cudnn_graphs_cuda.h"

namespace flame::cuda {

void open_libraries(Device device) {
  CublasLt::on(device).warm_up();
  cudnn::warm_up(device);
}

}  // namespace flame::cuda
