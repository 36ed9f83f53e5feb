#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace eri {

// numpy.random.SeedSequence(entropy, spawn_key=spawn_key, pool_size=pool_size).generate_state(1)[0]: O'Neill's
// seed_seq_fe, words of hashed entropy.
uint32_t seed_sequence(uint64_t entropy, const std::vector<uint64_t>& spawn_key, std::size_t pool_size);

}  // namespace eri
