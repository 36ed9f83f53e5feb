#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "lines.h"
#include "plain.h"

namespace flame::test {
std::vector<Line> sum_lines() {
  const Input x = uniform({3, 4, 5});
  const std::vector<Shape> large = {{61, 127, 129}};
  const std::string sum_axes = "sum(Tensor,std::vector<int>,bool)", mean_axes = "mean(Tensor,std::vector<int>,bool)";
  return {
      {.name = "sum",
       .covers = "sum(Tensor)",
       .inputs = {x},
       .f = [](In x) { return x[0].sum(); },
       .tolerance = exact,
       .plain =
           [](In x) {
             return sum(sum(x[0], {2}), {0, 1});
           },
       .large = large},
      {.name = "sum.leading",
       .covers = sum_axes,
       .inputs = {x},
       .f =
           [](In x) {
             return sum(x[0], {0, 1});
           },
       .tolerance = exact,
       .large = large},
      {.name = "sum.trailing",
       .covers = sum_axes,
       .inputs = {x},
       .f = [](In x) { return sum(x[0], {-1}); },
       .tolerance = exact,
       .large = large,
       .bad = {[](In x) { return sum(x[0], {3}); },
               [](In x) {
                 return sum(x[0], {1, -2});
               }}},
      {.name = "sum.middle",
       .covers = sum_axes,
       .inputs = {x},
       .f = [](In x) { return sum(x[0], {1}, true); },
       .tolerance = exact,
       .large = large},
      {.name = "sum.split",
       .covers = sum_axes,
       .inputs = {x},
       .f =
           [](In x) {
             return sum(x[0], {0, 2});
           },
       .tolerance = rounded,
       .plain = [](In x) { return sum(sum(x[0], {2}), {0}); },
       .large = large},
      {.name = "mean",
       .covers = "mean(Tensor)",
       .inputs = {x},
       .f = [](In x) { return x[0].mean(); },
       .tolerance = exact,
       .plain = [](In x) { return sum(x[0]) / static_cast<float>(x[0].numel()); },
       .large = large},
      {.name = "mean.axes",
       .covers = mean_axes,
       .inputs = {x},
       .f =
           [](In x) {
             return mean(x[0], {1, 2}, true);
           },
       .tolerance = exact,
       .plain =
           [](In x) {
             return sum(x[0], {1, 2}, true) / static_cast<float>(x[0].dim(1) * x[0].dim(2));
           },
       .large = large},
      {.name = "sum_to",
       .covers = "sum_to(Tensor,Shape)",
       .inputs = {x},
       .f =
           [](In x) {
             return sum_to(x[0], {4, 1});
           },
       .tolerance = rounded,
       .large = {{61, 4, 1025}},
       .bad = {[](In x) {
         return sum_to(x[0], {2, 1});
       }},
       .differentiable = false},
  };
}

std::vector<Line> layout_lines() {
  std::vector<Line> lines = {
      {.name = "reshape",
       .covers = "reshape(Tensor,Shape)",
       .inputs = {uniform({2, 3, 4})},
       .f =
           [](In x) {
             return x[0].reshape({6, 4});
           },
       .tolerance = moved,
       .misfits = {{{5, 5}}}},
      {.name = "permute",
       .covers = "permute(Tensor,std::vector<int>)",
       .inputs = {uniform({2, 3, 4})},
       .f =
           [](In x) {
             return permute(x[0], {2, 0, 1});
           },
       .tolerance = moved,
       .large = {{61, 63, 65}},
       .misfits = {{{2, 3}}},
       .bad = {[](In x) {
                 return permute(x[0], {0, 1, 3});
               },
               [](In x) {
                 return permute(x[0], {0, 1, 1});
               }}},
      {.name = "permute.transpose",
       .covers = "permute(Tensor,std::vector<int>)",
       .inputs = {uniform({2, 5, 7})},
       .f =
           [](In x) {
             return permute(x[0], {0, 2, 1});
           },
       .tolerance = moved,
       .large = {{5, 257, 129}}},
      {.name = "permute.heads",
       .covers = "permute(Tensor,std::vector<int>)",
       .inputs = {uniform({2, 3, 2, 4})},
       .f =
           [](In x) {
             return permute(x[0], {0, 2, 1, 3});
           },
       .tolerance = moved,
       .large = {{4, 257, 6, 33}}},
      {.name = "permute.reverse",
       .covers = "permute(Tensor,std::vector<int>)",
       .inputs = {uniform({2, 3, 1, 4})},
       .f =
           [](In x) {
             return permute(x[0], {3, 2, 1, 0});
           },
       .tolerance = moved,
       .plain =
           [](In x) {
             return permute(permute(x[0], {0, 3, 2, 1}), {1, 2, 3, 0});
           },
       .large = {{61, 63, 3, 33}}},
      {.name = "permute.member",
       .covers = "permute(Tensor,std::vector<int>)",
       .inputs = {uniform({3, 4})},
       .f =
           [](In x) {
             return x[0].permute({1, 0});
           },
       .tolerance = moved,
       .large = {{513, 257}}},
      {.name = "channels_last",
       .covers = "channels_last(Tensor)",
       .inputs = {uniform({2, 3, 2, 5})},
       .f = [](In x) { return channels_last(x[0]); },
       .tolerance = moved,
       .large = {{4, 3, 129, 257}},
       .misfits = {{{2, 3, 4}}}},
      {.name = "channels_first",
       .covers = "channels_first(Tensor)",
       .inputs = {uniform({2, 2, 5, 3})},
       .f = [](In x) { return channels_first(x[0]); },
       .tolerance = moved,
       .large = {{4, 129, 257, 4}},
       .misfits = {{{2, 3, 4}}}},
      {.name = "narrow",
       .covers = "narrow(Tensor,int,int64_t,int64_t)",
       .inputs = {uniform({2, 4, 3})},
       .f = [](In x) { return x[0].narrow(1, 1, 2); },
       .tolerance = moved,
       .large = {{257, 4, 513}},
       .bad = {[](In x) { return narrow(x[0], 1, 3, 2); }, [](In x) { return narrow(x[0], 3, 0, 1); }}},
      {.name = "narrow.rows",
       .covers = "narrow(Tensor,int,int64_t,int64_t)",
       .inputs = {uniform({4, 3})},
       .f = [](In x) { return narrow(x[0], 0, 1, 2); },
       .tolerance = moved,
       .large = {{4, 131072}},
       .bad = {[](In x) { return narrow(x[0], 0, -1, 2); }}},
      {.name = "concat",
       .covers = "concat(std::vector<Tensor>,int)",
       .inputs = {uniform({2, 3, 2}), uniform({2, 1, 2}), uniform({2, 4, 2})},
       .f = [](In x) { return concat(x, 1); },
       .tolerance = moved,
       .large = {{257, 3, 129}, {257, 1, 129}, {257, 4, 129}},
       .misfits = {{{2, 3, 2}, {2, 1, 3}, {2, 4, 2}}, {{2, 3, 2}, {2, 3}, {2, 4, 2}}},
       .bad = {[](In) { return concat({}, 0); }, [](In x) { return concat(x, 3); }}},
      {.name = "concat.rows",
       .covers = "concat(std::vector<Tensor>,int)",
       .inputs = {uniform({2, 3}), uniform({1, 3})},
       .f = [](In x) { return concat(x, 0); },
       .tolerance = moved,
       .large = {{513, 257}, {129, 257}}},
      {.name = "stack",
       .covers = "stack(std::vector<Tensor>,int)",
       .inputs = {uniform({2, 3}), uniform({2, 3})},
       .f = [](In x) { return stack(x, 1); },
       .tolerance = moved,
       .plain =
           [](In x) {
             return reshape(concat(x, 1), {2, 2, 3});
           },
       .misfits = {{{2, 3}, {2, 4}}},
       .bad = {[](In x) { return stack(x, 3); }, [](In) { return stack({}, 0); }}},
      {.name = "stack.last",
       .covers = "stack(std::vector<Tensor>,int)",
       .inputs = {uniform({2, 3}), uniform({2, 3})},
       .f = [](In x) { return stack(x, -1); },
       .tolerance = moved},
      {.name = "repeat",
       .covers = "repeat(Tensor,int,int64_t)",
       .inputs = {uniform({2, 3, 4})},
       .f = [](In x) { return repeat(x[0], 1, 3); },
       .tolerance = exact,
       .plain =
           [](In x) {
             return concat({x[0], x[0], x[0]}, 1);
           },
       .large = {{65, 63, 61}},
       .bad = {[](In x) { return repeat(x[0], 0, 0); }}},
      {.name = "upsample_nearest2x",
       .covers = "upsample_nearest2x(Tensor)",
       .inputs = {uniform({2, 3, 2, 5})},
       .f = [](In x) { return upsample_nearest2x(x[0]); },
       .tolerance = exact,
       .plain = plain_upsample,
       .large = {{3, 33, 65, 17}},
       .misfits = {{{2, 3, 4}}}},
      {.name = "pad",
       .covers = "pad(Tensor,int,int64_t,int64_t,float)",
       .inputs = {uniform({2, 3, 4})},
       .f = [](In x) { return pad(x[0], 1, 1, 2, 0.5f); },
       .tolerance = moved,
       .large = {{257, 63, 13}},
       .bad = {[](In x) { return pad(x[0], 1, -1, 0); }, [](In x) { return pad(x[0], 4, 0, 0); }}},
      {.name = "embedding",
       .covers = "embedding(Tensor,Tensor)",
       .inputs = {uniform({7, 4}), ids({2, 5}, 7)},
       .f = [](In x) { return embedding(x[0], x[1]); },
       .tolerance = exact,
       .kept = {{1}},
       .plain = plain_embedding,
       .large = {{7, 129}, {513, 3}},
       .misfits = {{{7}, {2, 5}}},
       .bad = {[](In x) { return embedding(narrow(x[0], 0, 0, 1), Tensor::ones({2}, DType::i64)); },
               [](In x) { return embedding(x[0], x[0]); }}},
      {.name = "embedding.i32",
       .covers = "embedding(Tensor,Tensor)",
       .inputs = {uniform({7, 4}), ids({5}, 7, DType::i32)},
       .f = [](In x) { return embedding(x[0], x[1]); },
       .tolerance = exact,
       .kept = {{1}},
       .plain = plain_embedding,
       .large = {{7, 129}, {1025}}},
  };
  for (Line& line : lines) line.any_dtype = true;  // moved or repeated, whatever they are
  for (DType dtype : {DType::f16, DType::bf16}) {
    lines.push_back({.name = text("cast.", dtype),
                     .covers = "cast(Tensor,DType)",
                     .inputs = {uniform({3, 4})},
                     .f = [dtype](In x) { return x[0].to(dtype); },
                     .tolerance = moved,
                     .large = {{257, 513}},
                     .bad = {[](In x) { return cast(x[0].requires_grad(), DType::i32); }},
                     .smooth = false,
                     .any_dtype = true});
  }
  return lines;
}

}  // namespace flame::test
