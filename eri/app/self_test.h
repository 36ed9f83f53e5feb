#pragma once

#include <iosfwd>

#include "flame/device/device.h"

namespace eri {

// In some seconds: whether ops give the right numbers (on a GPU: the CPU's), and how fast the device is. Prints a line
// for each; false if a number is wrong.
bool self_test(flame::Device device, std::ostream& out);

}  // namespace eri
