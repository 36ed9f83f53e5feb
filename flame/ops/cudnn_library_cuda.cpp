#include <cudnn.h>
#include <nvrtc.h>

#include "flame/core/error.h"
#include "flame/device/shared_library.h"
#include "flame/ops/libraries_cuda.h"

// cuDNN's functions, as far as cudnn-frontend calls them, under their own names: each finds the library's at its first
// call, so that the program needs no cuDNN to start.
namespace {

flame::SharedLibrary& library() {
  static auto* opened = new flame::SharedLibrary("cuDNN", "ERI_CUDNN", {"libcudnn.so.9"});
  return *opened;
}

// cuDNN compiles some kernels with NVRTC, which it looks for by its name alone: once it is open, it is found.
void open_nvrtc() {
  static auto* opened = new flame::SharedLibrary("NVRTC", "ERI_NVRTC", {"libnvrtc.so.13", "libnvrtc.so.12"});
  opened->available();
}

template <auto function, class... Arguments>
auto forward(const char* name, Arguments... arguments) {
  static const auto found = reinterpret_cast<decltype(function)>(library().symbol(name));
  return found(arguments...);
}

}  // namespace

extern "C" {

size_t cudnnGetVersion() { return forward<cudnnGetVersion>(__func__); }
const char* cudnnGetErrorString(cudnnStatus_t status) { return forward<cudnnGetErrorString>(__func__, status); }
void cudnnGetLastErrorString(char* message, size_t size) {
  return forward<cudnnGetLastErrorString>(__func__, message, size);
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  open_nvrtc();
  return forward<cudnnCreate>(__func__, handle);
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) { return forward<cudnnDestroy>(__func__, handle); }
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  return forward<cudnnSetStream>(__func__, handle, stream);
}
cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t* stream) {
  return forward<cudnnGetStream>(__func__, handle, stream);
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
  return forward<cudnnBackendCreateDescriptor>(__func__, type, descriptor);
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  return forward<cudnnBackendDestroyDescriptor>(__func__, descriptor);
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  return forward<cudnnBackendFinalize>(__func__, descriptor);
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t attribute,
                                       cudnnBackendAttributeType_t type, int64_t count, const void* values) {
  return forward<cudnnBackendSetAttribute>(__func__, descriptor, attribute, type, count, values);
}
cudnnStatus_t cudnnBackendGetAttribute(const cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t attribute,
                                       cudnnBackendAttributeType_t type, int64_t most, int64_t* count, void* values) {
  return forward<cudnnBackendGetAttribute>(__func__, descriptor, attribute, type, most, count, values);
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t operands) {
  return forward<cudnnBackendExecute>(__func__, handle, plan, operands);
}

// Only builds without optimisation refer to these.
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* filter) {
  return forward<cudnnCreateFilterDescriptor>(__func__, filter);
}
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t filter) {
  return forward<cudnnDestroyFilterDescriptor>(__func__, filter);
}
cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t filter, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int rank, const int extents[]) {
  return forward<cudnnSetFilterNdDescriptor>(__func__, filter, type, format, rank, extents);
}
cudnnStatus_t cudnnReorderFilterAndBias(cudnnHandle_t handle, const cudnnFilterDescriptor_t filter,
                                        cudnnReorderType_t type, const void* from, void* to, int with_bias,
                                        const void* bias_from, void* bias_to) {
  return forward<cudnnReorderFilterAndBias>(__func__, handle, filter, type, from, to, with_bias, bias_from, bias_to);
}

// cudnn-frontend would compile normalisations with NVRTC; we ask for none.
nvrtcResult nvrtcCreateProgram(nvrtcProgram*, const char*, const char*, int, const char* const*, const char* const*) {
  return NVRTC_ERROR_INTERNAL_ERROR;
}
nvrtcResult nvrtcCompileProgram(nvrtcProgram, int, const char* const*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcDestroyProgram(nvrtcProgram*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcGetCUBIN(nvrtcProgram, char*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcGetCUBINSize(nvrtcProgram, size_t*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcGetProgramLog(nvrtcProgram, char*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram, size_t*) { return NVRTC_ERROR_INTERNAL_ERROR; }
}

namespace flame::cuda {

std::string cudnn_version() {
  const size_t version = cudnnGetVersion();  // 91400 is 9.14.0
  return text(version / 10000, ".", version / 100 % 100, ".", version % 100, " (", library().path(), ")");
}

}  // namespace flame::cuda
