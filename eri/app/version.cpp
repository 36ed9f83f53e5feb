#include "eri/app/version.h"

#include "built_commit.h"
#include "flame/core/error.h"
#include "flame/device/device.h"

namespace eri {

const char* commit() { return built_commit; }

std::string version() {
  return flame::text("eri " ERI_VERSION ", commit ", commit(), flame::cuda_build ? ", with CUDA" : ", without CUDA");
}

}  // namespace eri
