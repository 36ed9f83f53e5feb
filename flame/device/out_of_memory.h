#pragma once

#include "flame/core/error.h"

namespace flame {

// No allocator has more. Who knows what takes the memory catches it and says what would take less.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

}  // namespace flame
