#include "flame/optim/adafactor.h"

#include <algorithm>
#include <cstring>

#include "flame/device/parallel.h"
#include "flame/ops/layout_kernels.h"
#include "flame/ops/on.h"

namespace flame {
namespace {

double root_mean_square(const float* x, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * x[i];
  return std::sqrt(sum / static_cast<double>(count));
}

// The second moments take in a matrix of gradients; then the direction is the gradients divided by their root.
void take_in_matrix(const AdafactorRule& rule, const AdafactorShape& shape, const float* gradients, float* rows,
                    float* columns, float* directions) {
  const int64_t height = shape.height, width = shape.width;
  std::vector<double> column_sums(static_cast<size_t>(width));
  double mean_row = 0;
  for (int64_t y = 0; y < height; ++y) {
    double row_sum = 0;
    for (int64_t x = 0; x < width; ++x) {
      const double square = rule.square(rule.scale * gradients[y * width + x]);
      row_sum += square;
      column_sums[static_cast<size_t>(x)] += square;
    }
    rows[y] = rule.blend(rows[y], row_sum / static_cast<double>(width));
    mean_row += rows[y];
  }
  mean_row /= static_cast<double>(height);
  for (int64_t x = 0; x < width; ++x)
    columns[x] = rule.blend(columns[x], column_sums[static_cast<size_t>(x)] / static_cast<double>(height));
  for (int64_t y = 0; y < height; ++y) {
    const float of_row = 1 / std::sqrt(rows[y] / static_cast<float>(mean_row));
    for (int64_t x = 0; x < width; ++x)
      directions[y * width + x] = of_row / std::sqrt(columns[x]) * (rule.scale * gradients[y * width + x]);
  }
}

void move_parameter(const AdafactorBuffers& b, const AdafactorOptions& options, const StepState& state,
                    const AdafactorShape& shape) {
  const auto rule = AdafactorRule::of(options, shape, state);
  const int64_t count = shape.numel();
  const float* gradients = b.gradients.data<float>() + shape.begin;
  float *values = b.values.data<float>() + shape.begin, *directions = b.directions.data<float>() + shape.begin;
  float *rows = b.rows.data<float>() + shape.rows, *columns = b.columns.data<float>() + shape.columns;
  if (shape.height > 0) {
    for (int64_t i = 0; i < shape.matrices; ++i) {
      const int64_t skip = i * shape.height * shape.width;
      take_in_matrix(rule, shape, gradients + skip, rows + i * shape.height, columns + i * shape.width,
                     directions + skip);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const float gradient = rule.scale * gradients[i];
      rows[i] = rule.blend(rows[i], rule.square(gradient));
      directions[i] = gradient / std::sqrt(rows[i]);
    }
  }
  const auto move =
      AdafactorMove::of(options, rule, root_mean_square(values, count), root_mean_square(directions, count));
  float* exp_avg = b.exp_avg.defined() ? b.exp_avg.data<float>() + shape.begin : nullptr;
  for (int64_t i = 0; i < count; ++i) values[i] = move(values[i], directions[i], exp_avg ? exp_avg + i : nullptr);
}

}  // namespace

void cpu::adafactor(const AdafactorBuffers& b, const AdafactorOptions& options, const Tensor& state) {
  const StepState& step = *StepState::in(state);
  if (step.skip) return;
  const auto* shapes = reinterpret_cast<const AdafactorShape*>(b.shapes.raw());
  parallel_for(b.shapes.dim(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) move_parameter(b, options, step, shapes[i]);
  });
  if (b.copy.defined()) cpu::cast(b.values, b.copy);
}

Adafactor::Adafactor(ParameterPack pack, const Options& options) : Optimizer(std::move(pack)), options_(options) {
  require(!options.warmup_init || options.relative_step, "Adafactor", "warmup_init wants relative_step");
  int64_t rows = 0, columns = 0;
  size_t group = 0;
  const auto& groups = this->pack().groups();
  for (const auto& parameter : this->pack().parameters()) {
    while (parameter.offset >= groups[group].begin + groups[group].numel && group + 1 < groups.size()) ++group;
    const Shape& shape = parameter.master.shape();
    require(shape.numel() > 0, "Adafactor", "the parameter ", parameter.name, " has no elements: ", shape);
    const bool factored = shape.rank() >= 2;
    const int64_t width = factored ? shape.dim(-1) : shape.numel(), height = factored ? shape.dim(-2) : 0;
    const int64_t matrices = factored ? shape.numel(0, shape.rank() - 2) : 1;
    shapes_.push_back(
        {parameter.offset, rows, columns, matrices, height, width, groups[group].lr, groups[group].weight_decay});
    most_matrices_ = std::max(most_matrices_, matrices);
    rows += factored ? matrices * height : width;
    columns += factored ? matrices * width : 0;
  }
  PurposeScope purpose(Purpose::optimizer);
  const Device device = this->pack().values().device();
  rows_ = Tensor::zeros({rows}, DType::f32, device);
  columns_ = Tensor::zeros({columns}, DType::f32, device);
  if (options_.beta1 > 0) exp_avg_ = flat_zeros();
  static_assert(sizeof(AdafactorShape) % sizeof(int64_t) == 0);
  const Tensor shapes = Tensor::empty({std::ssize(shapes_), sizeof(AdafactorShape) / sizeof(int64_t)}, DType::i64);
  std::memcpy(shapes.raw(), shapes_.data(), shapes.bytes());
  shapes_there_ = shapes.to(device);
}

std::map<std::string, Tensor> Adafactor::state() const {
  std::map<std::string, Tensor> result;
  for (size_t i = 0; i < shapes_.size(); ++i) {
    const auto& parameter = pack().parameters()[i];
    const auto& [begin, rows, columns, matrices, height, width, lr, decay] = shapes_[i];
    const Shape& shape = parameter.master.shape();
    if (height > 0) {
      result["exp_avg_sq_row." + parameter.name] =
          rows_.rows(rows, matrices * height).view(shape.without(shape.rank() - 1));
      result["exp_avg_sq_col." + parameter.name] =
          columns_.rows(columns, matrices * width).view(shape.without(shape.rank() - 2));
    } else {
      result["exp_avg_sq." + parameter.name] = rows_.rows(rows, width).view(shape);
    }
  }
  if (exp_avg_.defined()) result.merge(views({{"exp_avg", exp_avg_}}));
  return result;
}

void Adafactor::update(const Tensor& state) {
  const Tensor& values = pack().values();
  const Tensor directions = Tensor::empty(values.shape(), DType::f32, values.device());
  on<cpu::adafactor, cuda::adafactor>(values.device(),
                                      AdafactorBuffers{shapes_there_, values, pack().gradients(), directions, rows_,
                                                       columns_, exp_avg_, pack().compute_copy(), most_matrices_},
                                      options_, state);
}

}  // namespace flame
