#include "flame/ops/fused_cuda.h"

#include <cmath>

#include "flame/autograd/tape.h"
#include "flame/ops/layout.h"
#include "flame/ops/norm.h"
#include "flame/ops/pointwise.h"
#include "run.h"

// The kernels over rows of wider buffers against the plain ops, which the CPU runs in f32.
namespace flame::test {
namespace {

constexpr double untouched = -7;

// The dtype, and how many columns of others lie before and after the rows.
struct Form {
  DType dtype;
  int64_t before, after;
};

std::ostream& operator<<(std::ostream& out, const Form& form) {
  return out << form.dtype << ", " << form.before << " columns before, " << form.after << " after";
}

std::vector<Form> forms() {
  std::vector<Form> result;
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (auto [before, after] : {std::pair{0, 0}, {16, 8}, {1, 2}}) result.push_back({dtype, before, after});
  return result;
}

// Rows within a wider buffer on the GPU.
class Wide {
 public:
  Wide(const Form& form, const Tensor& values)  // values: f32 on the CPU
      : before_(form.before), rows_(values.dim(0)), columns_(values.dim(1)) {
    const auto others = [&](int64_t count) { return Tensor::full({rows_, count}, untouched); };
    buffer_ = concat({others(form.before), values, others(form.after)}, 1).to(form.dtype).to(Device::cuda());
  }
  Wide(const Form& form, int64_t rows, int64_t columns) : Wide(form, Tensor::full({rows, columns}, 100)) {}

  cuda::Matrix rows() const { return cuda::rows_of(buffer_).part(before_, columns_); }
  Tensor buffer() const { return buffer_.to(Device::cpu()); }
  // The values in f32, on the CPU; fails where others' columns have changed.
  Tensor read() const {
    const Tensor all = buffer().to(DType::f32);
    const int64_t end = before_ + columns_, after = all.dim(1) - end;
    for (const Tensor& others : {narrow(all, 1, 0, before_), narrow(all, 1, end, after)})
      for (double value : values(others)) EXPECT_EQ(value, untouched);
    return narrow(all, 1, before_, columns_);
  }

 private:
  int64_t before_, rows_, columns_;
  Tensor buffer_;
};

class Fused : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU";
  }
  // Values of the storage type, in f32 on the CPU.
  Tensor draw(const Shape& shape, double low = -2, double high = 2) {
    return (Tensor::rand(shape, generator_) * static_cast<float>(high - low) + static_cast<float>(low))
        .to(dtype_)
        .to(DType::f32);
  }
  Tensor on_gpu(const Tensor& x) const { return x.to(dtype_).to(Device::cuda()); }
  Tensor statistics(int64_t count) const { return Tensor::empty({count}, DType::f32, Device::cuda()); }
  // One rounding to storage; f32 may also sum in another order.
  testing::AssertionResult close(const Tensor& got, const Tensor& expected) const {
    const double bound = dtype_ == DType::f32 ? 1e-5 : dtype_ == DType::f16 ? 0x1p-11 + 1e-5 : 0x1p-8 + 1e-5;
    return near(got, expected, bound, dtype_ == DType::f16 ? 0x1p-25 : 0);
  }

  Generator generator_{11};
  DType dtype_ = DType::f32;
};

TEST_F(Fused, GegluIsThePlainOne) {
  for (const Form& form : forms()) {
    for (auto [rows, columns] : {std::pair{3, 2560}, {5, 5120}, {7, 24}, {9, 5}, {1, 1}}) {
      SCOPED_TRACE(text(form, ", ", rows, " x ", columns));
      dtype_ = form.dtype;
      const Tensor x = draw({rows, 2 * columns}, -5, 5), dy = draw({rows, columns});
      const Outcome plain = evaluate([](const Tensors& in) { return geglu(in[0]); }, {x}, {0}, dy);
      const Wide in(form, x), slope(form, dy), y(form, rows, columns), dx(form, rows, 2 * columns);
      const Wide alone(form, rows, 2 * columns), again(form, rows, columns);
      cuda::geglu_rows(Device::cuda(), in.rows(), y.rows());
      EXPECT_TRUE(close(y.read(), plain.y));
      cuda::geglu_backward_rows(Device::cuda(), slope.rows(), in.rows(), alone.rows());
      EXPECT_TRUE(close(alone.read(), plain.gradients[0]));
      cuda::geglu_backward_rows(Device::cuda(), slope.rows(), in.rows(), dx.rows(), again.rows());
      EXPECT_TRUE(same_bits(dx.buffer(), alone.buffer()));
      EXPECT_TRUE(same_bits(again.buffer(), y.buffer()));
    }
  }
}

struct GroupNormCase {
  int64_t samples, positions, channels;
  int groups;
  bool silu, added;
};

std::ostream& operator<<(std::ostream& out, const GroupNormCase& c) {
  return out << c.samples << " x " << c.positions << " x " << c.channels << ", " << c.groups << " groups"
             << (c.silu ? ", silu" : "") << (c.added ? ", added" : "");
}

const GroupNormCase group_norm_cases[] = {
    {1, 64 * 64, 320, 32, true, true},  {2, 32 * 32, 960, 32, true, false}, {3, 100, 640, 32, false, false},
    {2, 17 * 15, 1920, 32, true, true}, {1, 70, 2560, 32, true, false},     {2, 500, 128, 32, true, false},
    {2, 31 * 33, 12, 3, true, true},    {2, 5, 12, 12, false, true},        {1, 1, 33, 1, false, false},
    {1, 300, 5120, 2, true, true},      {2, 40, 2000, 4, false, true},      {65, 9, 32, 8, true, false},
};

TEST_F(Fused, GroupNormIsThePlainOne) {
  for (const Form& form : forms()) {
    for (const GroupNormCase& c : group_norm_cases) {
      SCOPED_TRACE(text(form, ", ", c));
      dtype_ = form.dtype;
      const int64_t rows = c.samples * c.positions;
      const Tensor x = draw({c.samples, c.positions, c.channels}, 1, 2), weight = draw({c.channels}),
                   bias = draw({c.channels}), shift = draw({c.samples, 1, c.channels}, -1, 1);
      const auto norm = [&](const Tensors& in) {
        return c.silu ? group_norm_silu(in[0], c.groups, in[1], in[2], 1e-5f)
                      : group_norm(in[0], c.groups, in[1], in[2], 1e-5f);
      };
      const auto flat = [&](const Tensor& t) { return t.reshape({rows, c.channels}); };
      const Wide in(form, flat(x)), y(form, rows, c.channels), extra(form, shift.reshape({c.samples, c.channels}));
      cuda::GroupNormRows task = {.x = in.rows(),
                                  .samples = c.samples,
                                  .groups = c.groups,
                                  .silu = c.silu,
                                  .weight = on_gpu(weight),
                                  .bias = on_gpu(bias),
                                  .mean = statistics(c.samples * c.groups),
                                  .rstd = statistics(c.samples * c.groups),
                                  .added = c.added ? extra.rows() : cuda::Matrix()};
      cuda::group_norm_rows(task, 1e-5f, y.rows());
      EXPECT_TRUE(close(y.read(), flat(norm({c.added ? x + shift : x, weight, bias}))));
      if (c.added) {  // the same in f32
        const Tensor vector = shift.reshape({c.samples, c.channels}).to(Device::cuda());
        const Wide other(form, rows, c.channels);
        task.added = cuda::rows_of(vector);
        cuda::group_norm_rows(task, 1e-5f, other.rows());
        EXPECT_TRUE(same_bits(other.buffer(), y.buffer()));
      }
      if (form.before) continue;
      const Tensor dy = draw(x.shape());
      const Outcome plain = evaluate(norm, {x, weight, bias}, {0, 1, 2}, dy);
      const Outcome got = evaluate(norm, {on_gpu(x), on_gpu(weight), on_gpu(bias)}, {0, 1, 2}, on_gpu(dy));
      for (size_t i = 0; i < plain.gradients.size(); ++i)
        EXPECT_TRUE(close(got.gradients[i].to(Device::cpu()).to(DType::f32), plain.gradients[i])) << "gradient " << i;
    }
  }
}

TEST_F(Fused, LayerNormTakesAnyWidth) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (auto [rows, columns] : {std::pair{5, 640}, {3, 768}, {37, 1280}, {2, 3328}, {9, 11}, {1, 1}}) {
      SCOPED_TRACE(text(dtype, ", ", rows, " x ", columns));
      dtype_ = dtype;
      const auto norm = [](const Tensors& in) { return layer_norm(in[0], in[1], in[2], 1e-5f); };
      const Tensor x = draw({rows, columns}, 3, 5), weight = draw({columns}), bias = draw({columns});
      const Tensor dy = draw({rows, columns});
      const Outcome plain = evaluate(norm, {x, weight, bias}, {0}, dy);
      const Outcome got = evaluate(norm, {on_gpu(x), on_gpu(weight), on_gpu(bias)}, {0}, on_gpu(dy));
      EXPECT_TRUE(close(got.y.to(Device::cpu()).to(DType::f32), plain.y));
      EXPECT_TRUE(close(got.gradients[0].to(Device::cpu()).to(DType::f32), plain.gradients[0]));
    }
  }
}

struct PictureCase {
  int64_t samples, height, width, channels;
  int groups;
  bool silu;
};

const PictureCase picture_cases[] = {{1, 6, 8, 128, 32, true},   {2, 64, 48, 64, 32, true}, {1, 32, 34, 512, 32, false},
                                     {3, 2, 2, 40, 4, true},     {2, 14, 10, 9, 3, true},   {1, 128, 96, 256, 32, true},
                                     {1, 16, 16, 4096, 8, false}};

// Pixels [N, H, W, C] in the order in which convolutions leave the quarters of a picture.
Tensor in_quarters(const Tensor& x) {
  const int64_t n = x.dim(0), height = x.dim(1), width = x.dim(2), channels = x.dim(3);
  const Tensor squares = x.reshape({n, height / 2, 2, width / 2, 2, channels});
  return squares.permute({0, 2, 4, 1, 3, 5}).reshape({n * height * width, channels});
}

TEST_F(Fused, GroupNormTakesQuartersAndResiduals) {
  for (const Form& form : forms()) {
    for (const PictureCase& c : picture_cases) {
      SCOPED_TRACE(text(form, ", ", c.samples, " x ", c.height, " x ", c.width, " x ", c.channels));
      dtype_ = form.dtype;
      const Shape shape = {c.samples, c.height, c.width, c.channels};
      const int64_t rows = c.samples * c.height * c.width;
      const Tensor x = draw(shape, 1, 2), residual = draw(shape), bias = draw({c.channels});
      const Tensor gain = draw({c.channels}), offset = draw({c.channels});
      const auto flat = [&](const Tensor& t) { return t.reshape({rows, c.channels}); };
      const auto norm = [&](const Tensor& t) {
        return flat(c.silu ? group_norm_silu(t, c.groups, gain, offset, 1e-6f)
                           : group_norm(t, c.groups, gain, offset, 1e-6f));
      };
      const Tensor bias_in_f32 = bias.to(Device::cuda());
      cuda::Matrix added = cuda::rows_of(bias_in_f32);
      added.rows = c.samples;
      added.pitch = 0;
      const Wide quartered(form, in_quarters(x)), y(form, rows, c.channels);
      cuda::GroupNormRows task = {.x = quartered.rows(),
                                  .samples = c.samples,
                                  .groups = c.groups,
                                  .silu = c.silu,
                                  .weight = on_gpu(gain),
                                  .bias = on_gpu(offset),
                                  .mean = statistics(c.samples * c.groups),
                                  .rstd = statistics(c.samples * c.groups),
                                  .added = added,
                                  .quartered_width = c.width};
      cuda::group_norm_rows(task, 1e-6f, y.rows());
      EXPECT_TRUE(close(y.read(), norm(x + bias)));

      const Tensor whole = x + bias + residual;
      const Wide in(form, flat(x)), other(form, flat(residual)), other_quartered(form, in_quarters(residual));
      for (const bool quarters : {false, true}) {
        const Wide sum(form, rows, c.channels), alone(form, rows, c.channels), out(form, rows, c.channels);
        task.x = in.rows();
        task.quartered_width = quarters ? c.width : 0;
        const cuda::Matrix more = quarters ? other_quartered.rows() : other.rows();
        cuda::add_group_norm_rows(task, more, 1e-6f, sum.rows(), out.rows());
        EXPECT_TRUE(close(sum.read(), flat(whole)));
        EXPECT_TRUE(close(out.read(), norm(sum.read().reshape(shape))));
        cuda::add_group_norm_rows(task, more, 1e-6f, alone.rows());
        EXPECT_TRUE(same_bits(alone.buffer(), sum.buffer()));
      }
    }
  }
}

// The deviation of values that lie far from 0 is not lost, nor is that of values next to an outlier.
TEST_F(Fused, NormsAreStable) {
  const int64_t rows = 1000, channels = 64;
  Tensor x = draw({rows, channels}, 1000, 1001);
  x.data<float>()[5 * channels + 3] = 1300;
  const Tensor weight = Tensor::ones({channels}), bias = Tensor::zeros({channels});
  const auto expect_same = [&](const Tensor& got, int64_t first_row, int64_t count, int64_t first, int64_t width) {
    const std::vector<double> all = values(x), out = values(got);
    double sum = 0, squares = 0;
    const auto each = [&](const auto& f) {
      for (int64_t r = first_row; r < first_row + count; ++r)
        for (int64_t c = first; c < first + width; ++c) f(static_cast<size_t>(r * channels + c));
    };
    each([&](size_t i) { sum += all[i]; });
    const double mean = sum / static_cast<double>(count * width);
    each([&](size_t i) { squares += (all[i] - mean) * (all[i] - mean); });
    const double deviation = std::sqrt(squares / static_cast<double>(count * width) + 1e-5);
    each([&](size_t i) {
      const double expected = (all[i] - mean) / deviation;
      EXPECT_NEAR(out[i], expected, 1e-5 * (1 + std::abs(expected))) << i;
    });
  };
  const Tensor in = x.to(Device::cuda()), y = Tensor::empty(x.shape(), DType::f32, Device::cuda());
  const Tensor by_rows = layer_norm(in, on_gpu(weight), on_gpu(bias), 1e-5f).to(Device::cpu());
  for (int64_t r : {0, 5}) expect_same(by_rows, r, 1, 0, channels);
  cuda::group_norm_rows({.x = cuda::rows_of(in),
                         .samples = 1,
                         .groups = 8,
                         .weight = on_gpu(weight),
                         .bias = on_gpu(bias),
                         .mean = statistics(8),
                         .rstd = statistics(8)},
                        1e-5f, cuda::rows_of(y));
  for (int64_t group = 0; group < 2; ++group) expect_same(y.to(Device::cpu()), 0, rows, group * 8, 8);
}

}  // namespace
}  // namespace flame::test
