#include "flame/ops/cublaslt_cuda.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

#include "flame/device/at_end_cuda.h"
#include "flame/device/capture_cuda.h"
#include "flame/ops/fastest_cuda.h"

namespace flame::cuda {
namespace {

void check(cublasStatus_t status, std::source_location where = std::source_location::current()) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string file = where.file_name();
  fail("cuBLASLt: ", cublasLtGetStatusString(status), " (", file.substr(file.rfind('/') + 1), ":", where.line(), ")");
}

// cuBLASLt's descriptions of things, which are set attribute by attribute.
template <class Handle, auto Destroy, auto SetAttribute>
class Description {
 public:
  template <class Create, class... Args>
  explicit Description(Create create, Args... args) {
    Handle made;
    check(create(&made, args...));
    handle_.reset(made);
  }
  Handle get() const { return handle_.get(); }
  template <class Name, class Value>
  void set(Name name, const Value& value) const {
    check(SetAttribute(get(), name, &value, sizeof value));
  }

 private:
  struct Free {
    void operator()(Handle handle) const { Destroy(handle); }
  };
  std::unique_ptr<std::remove_pointer_t<Handle>, Free> handle_;
};
using Operation = Description<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy, cublasLtMatmulDescSetAttribute>;
using Layout = Description<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy, cublasLtMatrixLayoutSetAttribute>;
using Preference =
    Description<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy, cublasLtMatmulPreferenceSetAttribute>;

cudaDataType type_of(DType dtype) {
  return dtype == DType::f32 ? CUDA_R_32F : dtype == DType::f16 ? CUDA_R_16F : CUDA_R_16BF;
}

// Of an address: 256, which is all that an algorithm may ask for, or a power of two up to 16, which most need.
uint32_t alignment(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  if (at % 256 == 0) return 256;
  return static_cast<uint32_t>(std::min<uintptr_t>(at & -at, 16));
}

// The bias is aligned as the result is said to be.
uint32_t result_alignment(const Product& product) {
  const uint32_t out = alignment(product.out.data);
  return product.bias ? std::min(out, alignment(product.bias)) : out;
}

// The library's matrices are column by column: it sees the transpose of ours.
Layout layout(const Matrix& x, int64_t batch) {
  Layout made(cublasLtMatrixLayoutCreate, type_of(x.dtype), static_cast<uint64_t>(x.columns),
              static_cast<uint64_t>(x.rows), x.pitch);
  made.set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(batch));
  made.set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, x.batch_stride);
  return made;
}

Operation operation(const Product& product) {
  const bool rounded = product.a.dtype == DType::f32 && tf32();
  Operation made(cublasLtMatmulDescCreate, rounded ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F);
  // out' = b' a': our b is the library's first factor.
  made.set(CUBLASLT_MATMUL_DESC_TRANSA, product.tb ? CUBLAS_OP_T : CUBLAS_OP_N);
  made.set(CUBLASLT_MATMUL_DESC_TRANSB, product.ta ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (product.bias) {
    made.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    made.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
  }
  return made;
}

Preference preference(const Product& product, size_t workspace_bytes) {
  Preference made(cublasLtMatmulPreferenceCreate);
  made.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_bytes));
  // Partial sums are added up in f32, one after the other: the same bits in each run, rounded once.
  made.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  made.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(product.b.data));
  made.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(product.a.data));
  made.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(product.c.data));
  made.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, result_alignment(product));
  return made;
}

// Launches that take about a fifth of a millisecond together.
int repeats(const Product& product) {
  const auto count = [](int64_t number) { return static_cast<double>(number); };
  const double sums = count(product.out.rows) * count(product.out.columns) * count(product.out.batch);
  const double rate = product.a.dtype == DType::f32 ? 3e13 : 4e14;
  const double seconds = std::max(2 * sums * count(product.depth()) / rate, sums * 4 / 2e12);
  return static_cast<int>(std::clamp(2e-4 / seconds, 1.0, 20.0));
}

// From its first element to its last.
size_t span_bytes(const Matrix& x) {
  return static_cast<size_t>((x.batch - 1) * x.batch_stride + (x.rows - 1) * x.pitch + x.columns) * size_of(x.dtype);
}

bool search_wanted() {
  static const char* const value = std::getenv("ERI_GEMM_SEARCH");
  return !value || std::string_view(value) != "off";
}

std::string text_of(const auto& key) {
  std::string result = "gemm";
  for (const int64_t number : key) result += ' ' + std::to_string(number);
  return result;
}

}  // namespace

struct CublasLt::Plan {
  Operation operation;
  Layout a, b, c, out;
  std::optional<cublasLtMatmulAlgo_t> algorithm = {};
};

size_t CublasLt::KeyHash::operator()(const Key& key) const {
  uint64_t hash = 0xcbf29ce484222325;
  for (const int64_t number : key) hash = (hash ^ static_cast<uint64_t>(number)) * 0x100000001b3;
  return hash ^ hash >> 32;
}

CublasLt& CublasLt::on(Device device) {
  static std::mutex mutex;
  static auto* made = new std::map<int, CublasLt*>;
  const std::lock_guard lock(mutex);
  CublasLt*& found = (*made)[device.index()];
  if (!found) {
    found = new CublasLt(device);
    at_end([closed = found] { delete closed; });
  }
  return *found;
}

CublasLt::CublasLt(Device device)
    : device_(device), saved_(PlanCache::open(text("cublaslt-", cublasLtGetVersion(), "-", properties(device).name))) {
  check(cublasLtCreate(&handle_));
}

CublasLt::~CublasLt() { cublasLtDestroy(handle_); }

CublasLt::Key CublasLt::key_of(const Product& p) {
  const bool rounded = p.a.dtype == DType::f32 && tf32(), reads_c = p.beta != 0, in_place = p.c.data == p.out.data;
  const bool biased = p.bias != nullptr;
  const int flags = p.ta | p.tb << 1 | reads_c << 2 | in_place << 3 | biased << 4 | rounded << 5;
  return {static_cast<int64_t>(p.a.dtype),
          static_cast<int64_t>(p.out.dtype),
          flags,
          p.out.rows,
          p.out.columns,
          p.depth(),
          p.out.batch,
          p.a.pitch,
          p.a.batch_stride,
          p.b.pitch,
          p.b.batch_stride,
          p.c.pitch,
          p.c.batch_stride,
          p.out.pitch,
          p.out.batch_stride,
          alignment(p.a.data),
          alignment(p.b.data),
          alignment(p.c.data),
          result_alignment(p)};
}

void* CublasLt::workspace(cudaStream_t stream) {
  std::shared_ptr<Buffer>& found = workspaces_[stream];
  if (!found) {
    const LastingScope lasting;
    found = allocate(workspace_bytes, device_);
  }
  return found->data();
}

cublasStatus_t CublasLt::launch(cudaStream_t stream, const Product& p, const Plan& plan,
                                const cublasLtMatmulAlgo_t& algorithm) {
  return cublasLtMatmul(handle_, plan.operation.get(), &p.alpha, p.b.data, plan.b.get(), p.a.data, plan.a.get(),
                        &p.beta, p.c.data, plan.c.get(), p.out.data, plan.out.get(), &algorithm, workspace(stream),
                        workspace_bytes, stream);
}

// An algorithm among the library's guesses, the first or, if `timed`, the quickest; false if it was not timed.
bool CublasLt::search(cudaStream_t stream, const Product& product, Plan& plan, bool timed) {
  std::array<cublasLtMatmulHeuristicResult_t, 8> guesses;
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, plan.operation.get(), plan.b.get(), plan.a.get(), plan.c.get(), plan.out.get(),
      preference(product, workspace_bytes).get(), static_cast<int>(guesses.size()), guesses.data(), &count);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status);
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; ++i) {
    if (guesses[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(guesses[i].algo);
  }
  if (algorithms.empty()) return false;
  plan.algorithm = algorithms.front();
  if (!timed || algorithms.size() == 1) return false;

  // Elsewhere than in out, which may be added to.
  const size_t bytes = span_bytes(product.out);
  const Tensor scratch = Tensor::empty({static_cast<int64_t>(bytes)}, DType::u8, device_);
  cuda::check(cudaMemsetAsync(scratch.raw(), 0, bytes, stream));
  Product trial = product;
  trial.out.data = scratch.raw();
  if (product.c.data == product.out.data) trial.c.data = scratch.raw();
  const auto best = fastest(stream, algorithms.size(), repeats(product), [&](size_t i) {
    return launch(stream, trial, plan, algorithms[i]) == CUBLAS_STATUS_SUCCESS;
  });
  if (best) plan.algorithm = algorithms[*best];
  return best.has_value();
}

bool CublasLt::restore(const std::string& saved, Plan& plan) const {
  cublasLtMatmulAlgo_t algorithm;
  if (saved.size() != sizeof algorithm) return false;
  std::memcpy(&algorithm, saved.data(), sizeof algorithm);
  cublasLtMatmulHeuristicResult_t result;
  const cublasStatus_t status = cublasLtMatmulAlgoCheck(handle_, plan.operation.get(), plan.b.get(), plan.a.get(),
                                                        plan.c.get(), plan.out.get(), &algorithm, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > workspace_bytes) return false;
  plan.algorithm = algorithm;
  return true;
}

CublasLt::Plan CublasLt::make_plan(cudaStream_t stream, const Product& product, const Key& key) {
  const int64_t batch = product.out.batch;
  Plan plan = {operation(product), layout(product.a, batch), layout(product.b, batch), layout(product.c, batch),
               layout(product.out, batch)};
  if (!search_wanted() || deterministic()) {  // what is quickest may not be so the next time
    search(stream, product, plan, false);
    return plan;
  }
  const std::string name = text_of(key);
  if (const auto saved = saved_.find(name); saved && restore(*saved, plan)) return plan;
  if (search(stream, product, plan, !is_capturing(stream)))
    saved_.put(name, std::string(reinterpret_cast<const char*>(&*plan.algorithm), sizeof *plan.algorithm));
  return plan;
}

void CublasLt::warm_up() {
  constexpr int64_t side = 64;
  auto* const nowhere = reinterpret_cast<std::byte*>(uintptr_t{256});  // an address that is aligned, and not used
  const Matrix square = {nowhere, DType::bf16, side, side, side};
  const Product product = {square, square, square, square, false, true, 1, 0, nullptr};
  const std::lock_guard lock(mutex_);
  Plan plan = {operation(product), layout(square, 1), layout(square, 1), layout(square, 1), layout(square, 1)};
  search(stream(device_), product, plan, false);
}

bool CublasLt::run(cudaStream_t stream, const Product& product) {
  const Key key = key_of(product);
  const std::lock_guard lock(mutex_);
  std::unique_ptr<Plan>& plan = plans_[key];
  if (!plan) plan = std::make_unique<Plan>(make_plan(stream, product, key));
  if (!plan->algorithm) return false;
  if (product.bias) plan->operation.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
  check(launch(stream, product, *plan, *plan->algorithm));
  return true;
}

}  // namespace flame::cuda
