#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <vector>

namespace flame {

// A block that is needed from `begin` up to before `end`, counted in any order of events.
struct Lifetime {
  size_t bytes, begin, end;
};

struct Placement {
  std::vector<size_t> offsets;  // of each block
  size_t bytes = 0;             // that all of them need
};

// Offsets for blocks whose times are known, so that no two share bytes at a time and little more is needed than what is
// alive at most: the largest first, each in the lowest gap ("greedy by size", Pisarchyk and Lee, arXiv:2001.03288).
Placement place(const std::vector<Lifetime>& blocks);

// Where each block of a step goes, once it is known what the step asks for: a first run is noted, and whoever asks for
// the same in the same order later is told the place. From where a run differs on, it is told nothing.
class ArenaPlan {
 public:
  void begin();  // a run: to be noted, or to follow the plan
  void note_get(size_t offset, size_t bytes);
  std::optional<size_t> get(size_t bytes);  // once it is settled: the next block's offset
  void put(size_t offset);

  void settle();  // from what was noted since begin()
  bool settled() const { return settled_; }
  size_t bytes() const { return bytes_; }  // that the whole step needs

 private:
  struct Event {
    size_t block;
    bool freed;
  };
  void note_put(size_t offset);
  bool comes(bool freed) const { return next_ < events_.size() && events_[next_].freed == freed; }

  std::vector<Lifetime> blocks_;
  std::vector<Event> events_;
  std::map<size_t, size_t> live_;  // offset -> block, while notes are taken
  std::vector<size_t> offsets_;
  size_t bytes_ = 0, next_ = 0;
  bool settled_ = false;
};

}  // namespace flame
