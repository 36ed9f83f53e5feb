#pragma once

#include <cublasLt.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "flame/device/plan_cache.h"
#include "flame/ops/gemm_cuda.h"

namespace flame::cuda {

// out = alpha a b + beta c + bias; shapes fit, nothing is empty, and each matrix has a batch_stride of 0 or out's
// batch.
struct Product {
  Matrix a, b, c, out;
  bool ta, tb;
  float alpha, beta;
  const std::byte* bias;  // or null

  int64_t depth() const { return ta ? a.rows : a.columns; }
};

// The library on one GPU: its handle, a workspace for each stream, and the algorithm chosen for each form of product.
class CublasLt {
 public:
  static CublasLt& on(Device device);  // made at the first call, lasts to the program's end
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  bool run(cudaStream_t stream, const Product& product);  // false where the library has no algorithm for it
  void warm_up();                                         // asks it for an algorithm, which makes it ready

 private:
  static constexpr size_t workspace_bytes = size_t{8}
                                            << 20;  // of each stream; what is faster with more is not worth it
  using Key = std::array<int64_t, 19>;              // all that the choice of an algorithm may depend on
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };
  struct Plan;

  explicit CublasLt(Device device);
  static Key key_of(const Product& product);
  Plan make_plan(cudaStream_t stream, const Product& product, const Key& key);
  bool search(cudaStream_t stream, const Product& product, Plan& plan, bool timed);
  bool restore(const std::string& saved, Plan& plan) const;
  cublasStatus_t launch(cudaStream_t stream, const Product& product, const Plan& plan,
                        const cublasLtMatmulAlgo_t& algorithm);
  void* workspace(cudaStream_t stream);

  const Device device_;
  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  PlanCache& saved_;
  std::unordered_map<Key, std::unique_ptr<Plan>, KeyHash> plans_;
  std::map<cudaStream_t, std::shared_ptr<Buffer>> workspaces_;
};

}  // namespace flame::cuda
