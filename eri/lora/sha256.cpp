#include "eri/lora/sha256.h"

#include <openssl/evp.h>

#include "flame/core/error.h"

namespace eri {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  flame::require(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1, "Sha256", "OpenSSL has no SHA-256");
}

Sha256::~Sha256() = default;

void Sha256::add(const void* data, size_t bytes) {
  flame::require(EVP_DigestUpdate(state_->context, data, bytes) == 1, "Sha256", "OpenSSL failed");
}

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  flame::require(EVP_DigestFinal_ex(state_->context, digest, &size) == 1, "Sha256", "OpenSSL failed");
  std::string result;
  for (unsigned int i = 0; i < size; ++i) {
    result += "0123456789abcdef"[digest[i] >> 4];
    result += "0123456789abcdef"[digest[i] & 15];
  }
  return result;
}

}  // namespace eri
