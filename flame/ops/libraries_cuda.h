#pragma once

#include <string>

// NVIDIA's libraries that the ops open when they first need them.
namespace flame::cuda {

// Version and file, for people: "9.14.0 (/usr/lib/x86_64-linux-gnu/libcudnn.so.9)". They throw the reason and a remedy
// where the library cannot be opened.
std::string cublaslt_version();
std::string cudnn_version();

}  // namespace flame::cuda
