#include "eri/sampling/seed_sequence.h"

namespace eri {
namespace {

uint32_t fold(uint32_t x) { return x ^ x >> 16; }

// Each use of it changes the constant, so that equal words hash to different ones.
class Hash {
 public:
  Hash(uint32_t first, uint32_t multiplier) : constant_(first), multiplier_(multiplier) {}
  uint32_t operator()(uint32_t word) {
    word ^= constant_;
    constant_ *= multiplier_;
    return fold(word * constant_);
  }

 private:
  uint32_t constant_, multiplier_;
};

uint32_t mix(uint32_t x, uint32_t y) { return fold(0xca01f9ddu * x - 0x4973f715u * y); }

void append(uint64_t number, std::vector<uint32_t>& words) {
  words.push_back(static_cast<uint32_t>(number));
  if (number >> 32) words.push_back(static_cast<uint32_t>(number >> 32));
}

}  // namespace

uint32_t seed_sequence(uint64_t entropy, const std::vector<uint64_t>& spawn_key, std::size_t pool_size) {
  std::vector<uint32_t> words;
  append(entropy, words);
  if (words.size() < pool_size) words.resize(pool_size);
  for (uint64_t key : spawn_key) append(key, words);

  Hash hash(0x43b0d7e5, 0x931e8875);
  std::vector<uint32_t> pool;
  for (std::size_t i = 0; i < pool_size; ++i) pool.push_back(hash(words[i]));
  for (std::size_t from = 0; from < pool_size; ++from) {
    for (std::size_t to = 0; to < pool_size; ++to)
      if (from != to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  for (std::size_t from = pool_size; from < words.size(); ++from) {
    for (uint32_t& to : pool) to = mix(to, hash(words[from]));
  }
  return Hash(0x8b51f9dd, 0x58f38ded)(pool[0]);
}

}  // namespace eri
