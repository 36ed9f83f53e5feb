#pragma once

#include <cstdint>
#include <string_view>

namespace eri {

// FNV-1a of 64 bits: tells whether data is what it was, not whether somebody forged it. `hash` is what came before.
inline uint64_t hash_bytes(std::string_view bytes, uint64_t hash = 0xcbf29ce484222325) {
  for (unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

}  // namespace eri
