#include "eri/models/fused_unet.h"

#include <array>
#include <utility>

#include "flame/core/error.h"

namespace eri {

MemoryPolicy parse_memory_policy(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, MemoryPolicy>, 4> policies = {{{"lean", MemoryPolicy::lean},
                                                                                  {"ff", MemoryPolicy::ff},
                                                                                  {"attn_ff", MemoryPolicy::attn_ff},
                                                                                  {"block", MemoryPolicy::block}}};
  for (const auto& [known, policy] : policies) {
    if (name == known) return policy;
  }
  flame::fail("unknown memory policy '", name, "': expected lean, ff, attn_ff or block");
}

}  // namespace eri
