#pragma once

#include <array>

#include "flame/core/tensor.h"

namespace eri {

// What a prediction is conditioned on, one row a sample.
struct Conditioning {
  flame::Tensor context = {};   // [N, tokens, width]
  flame::Tensor pooled = {};    // [N, width]
  flame::Tensor time_ids = {};  // [N, 6] f32
  flame::Tensor ids = {};       // [N, ...] i32: in place of context and pooled, a text that a step encodes anew

  static constexpr auto parts() {
    return std::array{&Conditioning::context, &Conditioning::pooled, &Conditioning::time_ids, &Conditioning::ids};
  }
  // f of each part that is there.
  template <class F>
  Conditioning map(const F& f) const {
    Conditioning result;
    for (const auto part : parts())
      if ((this->*part).defined()) result.*part = f(this->*part);
    return result;
  }
  // Overwrites what is there with a condition of the same shapes.
  void copy_from(const Conditioning& source) const {
    for (const auto part : parts())
      if ((this->*part).defined()) (this->*part).copy_from(source.*part);
  }
};

}  // namespace eri
