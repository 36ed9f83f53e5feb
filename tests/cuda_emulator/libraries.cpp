#include <dnnl.hpp>
#include <vector>

#include "emulator.h"
#include "flame/core/error.h"
#include "flame/ops/cublaslt_cuda.h"
#include "flame/ops/cudnn_graphs_cuda.h"
#include "flame/ops/libraries_cuda.h"

// NVIDIA's libraries, of which the emulator has no code: matrix products come from oneDNN, and cuDNN refuses all it is
// asked for, so that FLAME computes it otherwise.
namespace flame::cuda {
namespace {

std::vector<float> values_of(const Matrix& x, int64_t i) {
  std::vector<float> values(static_cast<size_t>(x.rows * x.columns));
  visit(x.dtype, [&]<class T>() {
    const T* const from = reinterpret_cast<const T*>(x.data) + i * x.batch_stride;
    for (int64_t row = 0; row < x.rows; ++row)
      for (int64_t column = 0; column < x.columns; ++column)
        values[row * x.columns + column] = static_cast<float>(from[row * x.pitch + column]);
  });
  return values;
}

void compute(const Product& product, int64_t i) {
  const Matrix& out = product.out;
  const std::vector<float> a = values_of(product.a, i), b = values_of(product.b, i);
  std::vector<float> sums(static_cast<size_t>(out.rows * out.columns));
  const auto status =
      dnnl::sgemm(product.ta ? 'T' : 'N', product.tb ? 'T' : 'N', out.rows, out.columns, product.depth(), product.alpha,
                  a.data(), product.a.columns, b.data(), product.b.columns, 0, sums.data(), out.columns);
  require(status == dnnl::status::success, "CUDA emulator", "no product of ", out.rows, " x ", out.columns);
  visit(out.dtype, [&]<class T>() {
    T* const to = reinterpret_cast<T*>(out.data) + i * out.batch_stride;
    const T* const added = reinterpret_cast<const T*>(product.c.data) + i * product.c.batch_stride;
    const T* const bias = reinterpret_cast<const T*>(product.bias);
    for (int64_t row = 0; row < out.rows; ++row)
      for (int64_t column = 0; column < out.columns; ++column) {
        float sum = sums[row * out.columns + column];
        if (product.beta != 0) sum += product.beta * static_cast<float>(added[row * product.c.pitch + column]);
        if (bias) sum += static_cast<float>(bias[column]);
        to[row * out.pitch + column] = T(sum);
      }
  });
}

}  // namespace

struct CublasLt::Plan {};
CublasLt::CublasLt(Device device) : device_(device), saved_(PlanCache::open("emulator")) {}
CublasLt::~CublasLt() = default;
CublasLt& CublasLt::on(Device device) {
  static auto* made = new CublasLt(device);
  return *made;
}
bool CublasLt::run(cudaStream_t stream, const Product& product) {
  cuda_emulator::give(stream, [product] {
    for (int64_t i = 0; i < product.out.batch; ++i) compute(product, i);
  });
  return true;
}
void CublasLt::warm_up() {}

std::string cublaslt_version() { return "none (products by oneDNN)"; }
std::string cudnn_version() { return "none"; }

namespace cudnn {

const std::string refusal = "the emulator has no cuDNN";

void warm_up(Device) {}
const std::string& convolution(Device, Pass, const Convolution&, DType, void*, void*, void*, void*) { return refusal; }
const std::string& attention(Device, const Attention&, const Heads&, const Heads&, const Heads&, const Heads&, void*) {
  return refusal;
}
const std::string& attention_gradient(Device, const Attention&, const Heads&, const Heads&, const Heads&, const Heads&,
                                      const Heads&, void*, const Heads&, const Heads&, const Heads&) {
  return refusal;
}

}  // namespace cudnn
}  // namespace flame::cuda
