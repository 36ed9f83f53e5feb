#include "flame/ops/gemm_cuda.h"

#include <algorithm>
#include <vector>

#include "flame/ops/cublaslt_cuda.h"
#include "flame/ops/gemm.h"
#include "flame/ops/gemm_epilogue_cuda.h"
#include "flame/ops/layout.h"

namespace flame::cuda {
namespace {

Matrix shifted(Matrix x, int64_t elements) {
  x.data += elements * static_cast<int64_t>(size_of(x.dtype));
  return x;
}

// Matrices [begin, begin + count) of a batch; where it is the same one for all, that.
Matrix some(const Matrix& x, int64_t begin, int64_t count) {
  Matrix result = x.batch == 1 ? x : shifted(x, begin * x.batch_stride);
  if (x.batch == 1 || count == 1) result.batch_stride = 0;
  result.batch = count;
  return result;
}

// Terms [begin, begin + count) of every sum, added to what the terms before them gave.
Product some_terms(Product product, int64_t begin, int64_t count) {
  const auto rows = [&](Matrix& x) {
    x = shifted(x, begin * x.pitch);
    x.rows = count;
  };
  const auto columns = [&](Matrix& x) { x = x.part(begin, count); };
  product.ta ? rows(product.a) : columns(product.a);
  product.tb ? columns(product.b) : rows(product.b);
  if (begin > 0) {
    product.c = product.out;
    product.beta = 1;
    product.bias = nullptr;
  }
  return product;
}

// The library's f32 kernels add term after term, and what is lost grows with the number of them: long sums are made of
// shorter ones, as on the CPU (gemm.cpp). At 640 a step in f32 takes a tenth longer, at 320 a quarter.
bool run(Device device, cudaStream_t stream, const Product& product) {
  constexpr int64_t most = 640, step = 32;
  const int64_t depth = product.depth();
  const bool whole = product.a.dtype != DType::f32 || tf32() || depth <= most;
  const int64_t parts = whole ? 1 : (depth + most - 1) / most;
  const int64_t count = whole ? depth : (depth + parts * step - 1) / (parts * step) * step;
  for (int64_t begin = 0; begin < depth; begin += count)
    if (!CublasLt::on(device).run(stream, some_terms(product, begin, std::min(count, depth - begin)))) {
      require(begin == 0, "product", "cuBLASLt has no algorithm for the rest of a long sum");
      return false;
    }
  return true;
}

// With the sums in f32 in memory of their own.
bool run_in_two_steps(Device device, cudaStream_t stream, const Product& product) {
  const Matrix& out = product.out;
  const Tensor sums = Tensor::empty({out.batch, out.rows, out.columns}, DType::f32, device);
  Product plain = product;
  plain.out = plain.c = matrix(sums);
  plain.beta = 0;
  plain.bias = nullptr;
  if (!CublasLt::on(device).run(stream, plain)) return false;
  finish_product(device, stream, sums.data<float>(), product.beta, product.c, product.bias, out);
  // The first stream, whose next work may be given the place of `sums`, has to wait for the second.
  if (stream != cuda::stream(device)) wait_for(device, mark(device));
  return true;
}

void check_product(const Matrix& a, bool ta, const Matrix& b, bool tb, const Matrix& out, const Epilogue& epilogue) {
  constexpr const char* op = "product";
  const auto shape = [](const Matrix& x) { return text("[", x.batch, ", ", x.rows, ", ", x.columns, "]"); };
  require((ta ? a.columns : a.rows) == out.rows && (tb ? b.rows : b.columns) == out.columns &&
              (ta ? a.rows : a.columns) == (tb ? b.columns : b.rows),
          op, shape(a), ta ? "'" : "", " times ", shape(b), tb ? "'" : "", " does not fit ", shape(out));
  require((a.batch == 1 || a.batch == out.batch) && (b.batch == 1 || b.batch == out.batch), op, "batches of ", a.batch,
          " and ", b.batch, " do not fit one of ", out.batch);
  require(is_floating(a.dtype) && a.dtype == b.dtype, op, "expected one floating dtype, got ", a.dtype, " and ",
          b.dtype);
  require(out.dtype == a.dtype || out.dtype == DType::f32, op, "expected a result in ", a.dtype, " or f32, got ",
          out.dtype);
  if (const Matrix* c = epilogue.residual)
    require(c->rows == out.rows && c->columns == out.columns && (c->batch == 1 || c->batch == out.batch) &&
                c->dtype == out.dtype,
            op, "expected a residual ", shape(out), " ", out.dtype, ", got ", shape(*c), " ", c->dtype);
}

}  // namespace

Matrix matrix(const Tensor& x) {
  const int64_t rows = x.dim(-2), columns = x.dim(-1);
  return {x.raw(), x.dtype(), rows, columns, columns, x.shape().numel(0, x.rank() - 2), rows * columns};
}

Matrix matrix(const Tensor& x, int64_t rows, int64_t columns) {
  require(rows * columns == x.numel(), "matrix", "expected ", rows, " x ", columns, " elements, got ", x.shape());
  return {x.raw(), x.dtype(), rows, columns, columns};
}

Matrix rows_of(const Tensor& x) {
  if (!x.defined()) return {};
  const int64_t columns = x.rank() ? x.dim(-1) : 1;
  return {x.raw(), x.dtype(), columns ? x.numel() / columns : 0, columns, columns};
}

void product(Device device, cudaStream_t stream, const Matrix& a, bool ta, const Matrix& b, bool tb, const Matrix& out,
             const Epilogue& epilogue) {
  constexpr int64_t most = 1 << 15;  // of a batch: the library may give each matrix a block of a grid's third extent
  check_product(a, ta, b, tb, out, epilogue);
  if (out.rows == 0 || out.columns == 0) return;
  const Matrix& added = epilogue.residual ? *epilogue.residual : out;
  const float beta = epilogue.residual ? 1 : epilogue.beta;
  for (int64_t begin = 0; begin < out.batch; begin += most) {
    const int64_t count = std::min(most, out.batch - begin);
    const Product now = {some(a, begin, count),
                         some(b, begin, count),
                         some(added, begin, count),
                         some(out, begin, count),
                         ta,
                         tb,
                         epilogue.alpha,
                         beta,
                         epilogue.bias};
    // With both an addend and a bias the library's kernels round to 16 bits again and again on the way; with a bias
    // and rows of no multiple of 16 bytes some round before they add it.
    const bool in_one_step = out.dtype == DType::f32 || !now.bias || (beta == 0 && now.out.pitch % 8 == 0);
    if (now.depth() == 0) {
      finish_product(device, stream, nullptr, beta, now.c, now.bias, now.out);
    } else if (!(in_one_step && run(device, stream, now)) && !run_in_two_steps(device, stream, now)) {
      fail("product: cuBLASLt has no algorithm for ", out.rows, " x ", out.columns, " sums of ", now.depth(), " in ",
           a.dtype, " on this GPU");
    }
  }
}

namespace {

// An axis of a batch: its extent and how far each tensor's next matrix along it is, in elements; 0: it is broadcast.
struct Axis {
  int64_t extent, a, b, c;
};

// The leading axes of c, those that are one regular sequence joined.
std::vector<Axis> leading_axes(const Tensor& a, const Tensor& b, const Tensor& c) {
  const auto stride = [](const Tensor& x, int from_end) -> int64_t {
    const int axis = x.rank() - from_end;
    return axis < 0 || x.shape()[axis] == 1 ? 0 : x.shape().numel(axis + 1, x.rank());
  };
  std::vector<Axis> axes;
  for (int from_end = 3; from_end <= c.rank(); ++from_end) {  // innermost first
    const Axis axis = {c.shape()[c.rank() - from_end], stride(a, from_end), stride(b, from_end), stride(c, from_end)};
    if (axis.extent == 1) continue;
    Axis* const inner = axes.empty() ? nullptr : &axes.back();
    if (inner && axis.a == inner->a * inner->extent && axis.b == inner->b * inner->extent &&
        axis.c == inner->c * inner->extent)
      inner->extent *= axis.extent;
    else
      axes.push_back(axis);
  }
  return axes;
}

Matrix one_matrix(const Tensor& x) {
  Matrix result = matrix(x);
  result.batch = 1;
  result.batch_stride = 0;
  return result;
}

struct Products {
  Device device;
  Matrix a, b, c;
  bool ta, tb;
  Epilogue epilogue;

  // Again for each step along the first `loops` axes.
  void run(const std::vector<Axis>& axes, size_t loops) const {
    if (loops == 0) return product(device, stream(device), a, ta, b, tb, c, epilogue);
    const Axis& axis = axes[loops - 1];
    for (int64_t i = 0; i < axis.extent; ++i)
      Products{device, shifted(a, i * axis.a), shifted(b, i * axis.b), shifted(c, i * axis.c), ta, tb, epilogue}.run(
          axes, loops - 1);
  }
};

}  // namespace

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options, const Tensor& bias) {
  const Tensor row = bias.defined() ? cast(bias.detach(), c.dtype()) : Tensor();
  Products products = {c.device(),
                       one_matrix(a),
                       one_matrix(b),
                       one_matrix(c),
                       options.transpose_a,
                       options.transpose_b,
                       {options.alpha, options.accumulate ? 1.0f : 0.0f, nullptr, row.defined() ? row.raw() : nullptr}};
  std::vector<Axis> axes = leading_axes(a, b, c);
  if (!axes.empty()) {  // the longest as the batch, the others as loops
    const auto longest =
        std::max_element(axes.begin(), axes.end(), [](const Axis& x, const Axis& y) { return x.extent < y.extent; });
    products.a.batch = products.b.batch = products.c.batch = longest->extent;
    products.a.batch_stride = longest->a;
    products.b.batch_stride = longest->b;
    products.c.batch_stride = longest->c;
    axes.erase(longest);
  }
  products.run(axes, axes.size());
}

}  // namespace flame::cuda
