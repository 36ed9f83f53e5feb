#include <cublasLt.h>

#include "flame/core/error.h"
#include "flame/device/shared_library.h"
#include "flame/ops/libraries_cuda.h"

// The functions of cuBLASLt that we use, under their own names: the library is opened at the first call, so that the
// program starts where there is none.
namespace {

flame::SharedLibrary& library() {
  static auto* opened =
      new flame::SharedLibrary("cuBLASLt (matrix products, a part of CUDA 13)", "ERI_CUBLASLT", {"libcublasLt.so.13"});
  return *opened;
}

template <auto* Function, class... Args>
auto call(const char* name, Args... args) {
  static auto* const found = reinterpret_cast<decltype(Function)>(library().symbol(name));
  return found(args...);
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return call<cublasLtCreate>("cublasLtCreate", handle); }

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return call<cublasLtDestroy>("cublasLtDestroy", handle); }

size_t cublasLtGetVersion() { return call<cublasLtGetVersion>("cublasLtGetVersion"); }

const char* cublasLtGetStatusString(cublasStatus_t status) {
  return call<cublasLtGetStatusString>("cublasLtGetStatusString", status);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t pitch) {
  return call<cublasLtMatrixLayoutCreate>("cublasLtMatrixLayoutCreate", layout, type, rows, columns, pitch);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t name,
                                                const void* value, size_t bytes) {
  return call<cublasLtMatrixLayoutSetAttribute>("cublasLtMatrixLayoutSetAttribute", layout, name, value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return call<cublasLtMatrixLayoutDestroy>("cublasLtMatrixLayoutDestroy", layout);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* product, cublasComputeType_t compute,
                                        cudaDataType scale) {
  return call<cublasLtMatmulDescCreate>("cublasLtMatmulDescCreate", product, compute, scale);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t name,
                                              const void* value, size_t bytes) {
  return call<cublasLtMatmulDescSetAttribute>("cublasLtMatmulDescSetAttribute", product, name, value, bytes);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product) {
  return call<cublasLtMatmulDescDestroy>("cublasLtMatmulDescDestroy", product);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return call<cublasLtMatmulPreferenceCreate>("cublasLtMatmulPreferenceCreate", preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name, const void* value,
                                                    size_t bytes) {
  return call<cublasLtMatmulPreferenceSetAttribute>("cublasLtMatmulPreferenceSetAttribute", preference, name, value,
                                                    bytes);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return call<cublasLtMatmulPreferenceDestroy>("cublasLtMatmulPreferenceDestroy", preference);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  return call<cublasLtMatmulAlgoGetHeuristic>("cublasLtMatmulAlgoGetHeuristic", handle, product, a, b, c, d, preference,
                                              wanted, results, count);
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result) {
  return call<cublasLtMatmulAlgoCheck>("cublasLtMatmulAlgoCheck", handle, product, a, b, c, d, algorithm, result);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  return call<cublasLtMatmul>("cublasLtMatmul", handle, product, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d,
                              d_layout, algorithm, workspace, workspace_bytes, stream);
}

}  // extern "C"

namespace flame::cuda {

std::string cublaslt_version() {
  const size_t version = cublasLtGetVersion();  // 91400 is 9.14.0
  return text(version / 10000, ".", version / 100 % 100, ".", version % 100, " (", library().path(), ")");
}

}  // namespace flame::cuda
