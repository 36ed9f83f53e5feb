#pragma once

#include <string>

#include "flame/device/device.h"

// NVIDIA's libraries that the ops open when they first need them.
namespace flame::cuda {

// Version and file, for people: "9.14.0 (/usr/lib/x86_64-linux-gnu/libcudnn.so.9)". They throw the reason and a remedy
// where the library cannot be opened.
std::string cublaslt_version();
std::string cudnn_version();

// Opens them and has them choose a plan, without running anything: what takes seconds at the first use, for another
// thread to do meanwhile.
void open_libraries(Device device);

}  // namespace flame::cuda
