#include "flame/ops/cudnn_graphs_cuda.h"

#include <cudnn_frontend.h>

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "flame/device/at_end_cuda.h"
#include "flame/device/capture_cuda.h"
#include "flame/device/cuda.h"
#include "flame/device/plan_cache.h"

namespace flame::cuda::cudnn {
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using Operand = std::shared_ptr<fe::graph::Tensor_attributes>;

// Of the numbers in a key and of operands' uids, for plans on disk: count up with every change.
constexpr int meaning = 2;

// All that a plan depends on.
using Key = std::vector<int64_t>;

struct Plan {
  Graph graph;
  int64_t workspace = 0;
  std::string refusal;  // why there is no plan
};

// cuDNN as one device has it.
struct Library {
  explicit Library(Device device);
  ~Library() {
    plans.clear();
    cudnnDestroy(handle);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  std::mutex mutex;  // a handle serves one thread at a time
  cudnnHandle_t handle = nullptr;
  PlanCache& found_before;
  std::map<Key, std::unique_ptr<Plan>> plans;
};

// What is asked of cuDNN: the graph, and an address for each of its operands, whose uids count from 1.
struct Problem {
  Key key;
  std::function<void(Graph&)> describe;
  std::vector<void*> addresses;
  int64_t most_workspace;
};

void check(fe::error_t status) {
  if (status.is_bad()) fail("cuDNN: ", status.get_message());
}

Library::Library(Device device)
    : found_before(PlanCache::open(text("cudnn-", cudnnGetVersion(), "-", meaning, "-", properties(device).name))) {
  const auto check = [](cudnnStatus_t status) {
    if (status != CUDNN_STATUS_SUCCESS) fail("cuDNN: ", cudnnGetErrorString(status));
  };
  check(cudnnCreate(&handle));
  check(cudnnSetStream(handle, stream(device)));
}

Library& library(Device device) {
  static std::mutex mutex;
  static auto* libraries = new std::map<int, std::unique_ptr<Library>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Library>& made = (*libraries)[device.index()];
  if (!made) {
    made = std::make_unique<Library>(device);
    at_end([&made] { made.reset(); });
  }
  return *made;
}

fe::DataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return fe::DataType_t::HALF;
    case DType::bf16:
      return fe::DataType_t::BFLOAT16;
    default:
      return fe::DataType_t::FLOAT;
  }
}

std::string name_of(const Key& key) {
  std::string name;
  for (const int64_t part : key) name += std::to_string(part) + ' ';
  return name;
}

// --- plans ---

struct Stopwatch {
  Stopwatch() {
    cuda::check(cudaEventCreate(&begin));
    cuda::check(cudaEventCreate(&end));
  }
  ~Stopwatch() {
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  cudaEvent_t begin = nullptr, end = nullptr;
};

// Infinite for a plan that cannot run.
float milliseconds(Library& library, const Graph& graph, int64_t plan, std::vector<void*> addresses, Device device) {
  constexpr int runs = 3;
  const cudaStream_t on = stream(device);
  const Tensor workspace = Tensor::empty({graph.get_workspace_size_plan_at_index(plan)}, DType::u8, device);
  const auto run = [&] {
    return graph
        .execute_plan_at_index(library.handle, addresses.data(), static_cast<int>(addresses.size()), workspace.raw(),
                               plan)
        .is_good();
  };
  if (!run()) return INFINITY;
  const Stopwatch watch;
  cuda::check(cudaEventRecord(watch.begin, on));
  for (int i = 0; i < runs; ++i) run();
  cuda::check(cudaEventRecord(watch.end, on));
  cuda::check(cudaEventSynchronize(watch.end));
  float time = 0;
  cuda::check(cudaEventElapsedTime(&time, watch.begin, watch.end));
  return time / runs;
}

// cuDNN's own order is right within the noise of a measurement.
int64_t fastest(Library& library, const Graph& graph, const std::vector<int64_t>& plans, const Problem& problem,
                Device device) {
  constexpr float clearly = 0.97f;
  int64_t best = plans.front();
  float least = INFINITY;
  for (const int64_t plan : plans) {
    const float time = milliseconds(library, graph, plan, problem.addresses, device);
    if (time < clearly * least) best = plan, least = time;
  }
  return best;
}

// Sums are in f32 and come out the same each time.
std::unique_ptr<Plan> build(Library& library, const Problem& problem, bool measure, Device device) {
  const size_t most = measure ? 5 : 1;
  auto plan = std::make_unique<Plan>();
  Graph& graph = plan->graph;
  std::vector<int64_t> built;
  try {
    problem.describe(graph);
    check(graph.validate());
    check(graph.build_operation_graph(library.handle));
    check(graph.create_execution_plans({fe::HeurMode_t::A}));
    graph.deselect_workspace_greater_than(problem.most_workspace)
        .deselect_numeric_notes({fe::NumericalNote_t::NONDETERMINISTIC, fe::NumericalNote_t::DOWN_CONVERT_INPUTS,
                                 fe::NumericalNote_t::REDUCED_PRECISION_REDUCTION, fe::NumericalNote_t::FFT,
                                 fe::NumericalNote_t::WINOGRAD});
    std::string reason = "cuDNN: no engine";
    for (int64_t i = 0; i < graph.get_execution_plan_count() && built.size() < most; ++i) {
      fe::error_t status = graph.build_plan_at_index(i);
      if (status.is_good())
        built.push_back(i);
      else
        reason = status.get_message();
    }
    if (built.empty()) fail(reason);
  } catch (const std::exception& error) {
    plan->refusal = error.what();
    return plan;
  }
  const int64_t best = built.size() == 1 ? built.front() : fastest(library, graph, built, problem, device);
  check(graph.build_plan_at_index(best));  // it is built: this chooses it
  check(graph.get_workspace_size(plan->workspace));
  return plan;
}

// Nothing where the bytes are not what this cuDNN wrote.
std::unique_ptr<Plan> load(Library& library, const std::string& bytes) {
  constexpr bool enforce_precompiled = false, warm_up = false;
  auto plan = std::make_unique<Plan>();
  try {
    const std::vector<uint8_t> data(bytes.begin(), bytes.end());
    check(plan->graph.deserialize(library.handle, data, enforce_precompiled, warm_up));
    check(plan->graph.get_workspace_size(plan->workspace));
    return plan;
  } catch (const std::exception&) {
    return nullptr;
  }
}

std::unique_ptr<Plan> make(Library& library, const Problem& problem, Device device) {
  const std::string name = name_of(problem.key);
  if (const auto bytes = library.found_before.find(name)) {
    if (auto plan = load(library, *bytes)) return plan;
  }
  const bool eager = !is_capturing(stream(device));
  auto plan = build(library, problem, eager && !deterministic(), device);
  std::vector<uint8_t> data;
  if (eager && plan->refusal.empty() && plan->graph.serialize(data, false).is_good())
    library.found_before.put(name, std::string(data.begin(), data.end()));
  return plan;
}

const std::string& run(Device device, Problem& problem) {
  stream(device);  // makes the device current
  Library& library = cudnn::library(device);
  const std::lock_guard lock(library.mutex);
  std::unique_ptr<Plan>& plan = library.plans[problem.key];
  if (!plan) plan = make(library, problem, device);
  if (plan->refusal.empty()) {
    const Tensor workspace = Tensor::empty({plan->workspace}, DType::u8, device);
    check(plan->graph.execute(library.handle, problem.addresses.data(), static_cast<int>(problem.addresses.size()),
                              workspace.raw()));
  }
  return plan->refusal;
}

// --- convolutions ---

enum Kind : int64_t { forward, forward_with_bias, input_gradient, weight_gradient, attend, attend_back };

using Extents = std::vector<int64_t>;

// FLAME's [a, h, w, c], which cuDNN calls [a, c, h, w] with c's stride 1.
Extents extents_of(const Shape& shape) { return {shape[0], shape[3], shape[1], shape[2]}; }
Extents strides_of(const Shape& shape) { return {shape[1] * shape[2] * shape[3], 1, shape[2] * shape[3], shape[3]}; }

Operand input(Graph& graph, int64_t uid, const Extents& extents, const Extents& strides) {
  return graph.tensor(fe::graph::Tensor_attributes().set_uid(uid).set_dim(extents).set_stride(strides));
}

void output(const Operand& operand, int64_t uid, const Extents& extents, const Extents& strides) {
  operand->set_output(true).set_uid(uid).set_dim(extents).set_stride(strides);
}

void set_types(Graph& graph, DType dtype) {
  graph.set_io_data_type(type_of(dtype))
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
}

template <class Attributes>
Attributes attributes_of(const Convolution& conv) {
  const auto [top, left, bottom, right] = conv.padding;
  const Extents before = {top, left}, after = {bottom, right}, stride(2, conv.stride), dilation(2, 1);
  Attributes attributes;
  attributes.set_pre_padding(before).set_post_padding(after).set_stride(stride).set_dilation(dilation);
  return attributes;
}

void describe(Graph& graph, Kind kind, const Convolution& conv) {
  const Extents x = extents_of(conv.x), w = extents_of(conv.weight), y = extents_of(conv.result());
  const Extents x_strides = strides_of(conv.x), w_strides = strides_of(conv.weight);
  const Extents y_strides = strides_of(conv.result());
  if (kind == input_gradient) {
    const Operand dy = input(graph, 1, y, y_strides), weight = input(graph, 2, w, w_strides);
    output(graph.conv_dgrad(dy, weight, attributes_of<fe::graph::Conv_dgrad_attributes>(conv)), 3, x, x_strides);
  } else if (kind == weight_gradient) {
    const Operand dy = input(graph, 1, y, y_strides), source = input(graph, 2, x, x_strides);
    output(graph.conv_wgrad(dy, source, attributes_of<fe::graph::Conv_wgrad_attributes>(conv)), 3, w, w_strides);
  } else {
    const Operand source = input(graph, 1, x, x_strides), weight = input(graph, 2, w, w_strides);
    Operand result = graph.conv_fprop(source, weight, attributes_of<fe::graph::Conv_fprop_attributes>(conv));
    if (kind == forward_with_bias) {
      const int64_t channels = conv.weight[0];
      const Operand bias = input(graph, 4, {1, channels, 1, 1}, {channels, 1, channels, channels});
      result->set_dim(y).set_stride(y_strides);
      result = graph.pointwise(result, bias, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD));
    }
    output(result, 3, y, y_strides);
  }
}

}  // namespace

const std::string& convolution(Device device, Pass pass, const Convolution& conv, DType dtype, void* x, void* weight,
                               void* bias, void* y) {
  constexpr int64_t most_workspace = int64_t{512} << 20;
  const Kind kind = pass == Pass::input_gradient    ? input_gradient
                    : pass == Pass::weight_gradient ? weight_gradient
                    : bias                          ? forward_with_bias
                                                    : forward;
  Problem problem;
  const auto [top, left, bottom, right] = conv.padding;
  problem.key = {kind, static_cast<int64_t>(dtype), deterministic(), conv.stride, top, left, bottom, right};
  problem.key.insert(problem.key.end(), conv.x.begin(), conv.x.end());
  problem.key.insert(problem.key.end(), conv.weight.begin(), conv.weight.end());
  problem.describe = [&](Graph& graph) {
    set_types(graph, dtype);
    describe(graph, kind, conv);
  };
  if (kind == input_gradient) problem.addresses = {y, weight, x};
  if (kind == weight_gradient) problem.addresses = {y, x, weight};
  if (kind == forward) problem.addresses = {x, weight, y};
  if (kind == forward_with_bias) problem.addresses = {x, weight, y, bias};
  problem.most_workspace = most_workspace;
  return run(device, problem);
}

void warm_up(Device device) {
  stream(device);  // makes the device current
  Library& library = cudnn::library(device);
  Problem problem;
  problem.describe = [](Graph& graph) {
    set_types(graph, DType::bf16);
    describe(graph, forward, {.x = {1, 16, 16, 64}, .weight = {64, 3, 3, 64}, .stride = 1, .padding = 1});
  };
  problem.most_workspace = INT64_MAX;
  const std::lock_guard lock(library.mutex);
  build(library, problem, false, device);
}

// --- attention ---

namespace {

Extents strides_of(const Heads& x) { return {x.sample, x.head, x.token, 1}; }

float scale_of(const Attention& shape) { return 1 / std::sqrt(static_cast<float>(shape.width)); }

// Operands are named 1, 2, ... in the order of the arguments, log_sum last.
void describe(Graph& graph, const Attention& shape, const Heads& q, const Heads& k, const Heads& v, const Heads& out) {
  const auto [dtype, batch, heads, queries, keys, width, causal] = shape;
  const Extents tall = {batch, heads, queries, width}, wide = {batch, heads, keys, width};
  set_types(graph, dtype);
  const auto [result, sums] = graph.sdpa(
      input(graph, 1, tall, strides_of(q)), input(graph, 2, wide, strides_of(k)), input(graph, 3, wide, strides_of(v)),
      fe::graph::SDPA_attributes().set_generate_stats(true).set_attn_scale(scale_of(shape)).set_causal_mask(causal));
  output(result, 4, tall, strides_of(out));
  output(sums, 5, {batch, heads, queries, 1}, {heads * queries, queries, 1, 1});
  sums->set_data_type(fe::DataType_t::FLOAT);
}

void describe(Graph& graph, const Attention& shape, bool repeatable, const Heads& q, const Heads& k, const Heads& v,
              const Heads& out, const Heads& dy, const Heads& dq, const Heads& dk, const Heads& dv) {
  const auto [dtype, batch, heads, queries, keys, width, causal] = shape;
  const Extents tall = {batch, heads, queries, width}, wide = {batch, heads, keys, width};
  set_types(graph, dtype);
  const Operand sums = input(graph, 9, {batch, heads, queries, 1}, {heads * queries, queries, 1, 1});
  sums->set_data_type(fe::DataType_t::FLOAT);
  const auto [to_q, to_k, to_v] = graph.sdpa_backward(
      input(graph, 1, tall, strides_of(q)), input(graph, 2, wide, strides_of(k)), input(graph, 3, wide, strides_of(v)),
      input(graph, 4, tall, strides_of(out)), input(graph, 5, tall, strides_of(dy)), sums,
      fe::graph::SDPA_backward_attributes()
          .set_attn_scale(scale_of(shape))
          .set_causal_mask(causal)
          .set_deterministic_algorithm(repeatable));
  output(to_q, 6, tall, strides_of(dq));
  output(to_k, 7, wide, strides_of(dk));
  output(to_v, 8, wide, strides_of(dv));
}

Problem problem_of(Kind kind, const Attention& shape, std::initializer_list<Heads> operands, void* log_sum) {
  Problem problem;
  problem.key = {kind,
                 static_cast<int64_t>(shape.dtype),
                 deterministic(),
                 shape.batch,
                 shape.heads,
                 shape.queries,
                 shape.keys,
                 shape.width,
                 shape.causal};
  for (const Heads& operand : operands) {
    problem.key.insert(problem.key.end(), {operand.sample, operand.token, operand.head});
    problem.addresses.push_back(operand.data);
  }
  problem.addresses.push_back(log_sum);
  problem.most_workspace = INT64_MAX;
  return problem;
}

}  // namespace

const std::string& attention(Device device, const Attention& shape, const Heads& q, const Heads& k, const Heads& v,
                             const Heads& out, void* log_sum) {
  Problem problem = problem_of(attend, shape, {q, k, v, out}, log_sum);
  problem.describe = [&](Graph& graph) { describe(graph, shape, q, k, v, out); };
  return run(device, problem);
}

const std::string& attention_gradient(Device device, const Attention& shape, const Heads& q, const Heads& k,
                                      const Heads& v, const Heads& out, const Heads& dy, void* log_sum, const Heads& dq,
                                      const Heads& dk, const Heads& dv) {
  Problem problem = problem_of(attend_back, shape, {q, k, v, out, dy, dq, dk, dv}, log_sum);
  problem.describe = [&](Graph& graph) { describe(graph, shape, deterministic(), q, k, v, out, dy, dq, dk, dv); };
  return run(device, problem);
}

}  // namespace flame::cuda::cudnn
