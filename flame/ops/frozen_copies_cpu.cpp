#include "flame/ops/frozen_copies_cpu.h"

#include <mutex>

namespace flame::cpu {
namespace {

// Attached to the buffer that the copies were made from.
struct Copies {
  struct Copy {
    const std::byte* source;
    Form form;
    dnnl::memory::desc layout;
    Tensor data;
  };
  std::vector<Copy> all;
};

}  // namespace

Tensor copy_of(const Tensor& weight, Form form, const dnnl::memory::desc& layout, const std::function<Tensor()>& make) {
  if (!weight.frozen()) return make();
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  std::shared_ptr<void>& attachment = weight.buffer()->attachment();
  if (!attachment) attachment = std::make_shared<Copies>();
  auto& copies = static_cast<Copies*>(attachment.get())->all;
  for (const auto& copy : copies)
    if (copy.source == weight.raw() && copy.form == form && copy.layout == layout) return copy.data;
  const PurposeScope purpose(Purpose::weights);
  copies.push_back({weight.raw(), form, layout, make()});
  return copies.back().data;
}

}  // namespace flame::cpu
