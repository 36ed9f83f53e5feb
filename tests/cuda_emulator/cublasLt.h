#pragma once

// The names that flame/ops/cublaslt_cuda.h needs to be read; the products themselves are in libraries.cpp.
enum cublasStatus_t {};
struct cublasLtMatmulAlgo_t {};
using cublasLtHandle_t = void*;
