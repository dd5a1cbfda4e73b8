// Which key leaves a full window: the rule of doge_export/runtime/eviction.py.
#pragma once

#include <cstdint>
#include <vector>

namespace doge {

// A head's precedences of the keys that may leave, in the slots [first, last), and the least of each block of them. So
// every further row of a prompt looks at one block, and not at the whole window.
class Precedences {
 public:
  static constexpr int BLOCK = 64;

  Precedences(float* of_slots, int first, int last);

  float operator[](int slot) const { return of_slots_[slot]; }
  float least() const;  // infinity where there is no number
  void replace(int slot, float precedence);

  // The slot of the smallest position below `oldest`, of the keys whose precedence is at most `limit`; -1 where none is.
  int oldest_up_to(float limit, const int64_t* positions, int64_t oldest) const;

 private:
  int first_of(int block) const { return first_ + block * BLOCK; }
  int last_of(int block) const { return first_of(block) + BLOCK < last_ ? first_of(block) + BLOCK : last_; }
  void look_at(int block);

  float* of_slots_;
  int first_, last_;
  std::vector<float> least_;  // of each block
};

// The key that competes with all older ones at a step.
struct Competitor {
  float precedence;
  int64_t position;
  int slot;  // -1: the new key, which has none yet
};

// It is the new key. Where the last `recent` tokens are safe, it is the key that many tokens before, of `window` keys.
Competitor competitor(const float* precedence, const int64_t* positions, int window, int recent, float newcomer,
                      int64_t position);

// The slot that is freed: of the oldest key of those that rank lowest, or the competitor's own where that ranks lower.
// -1 there says that the new key is not kept. The keys in the first `sinks` slots never leave.
int freed_slot(const Precedences& precedences, const int64_t* positions, int sinks, int window, Competitor competitor);

// The same with bonuses: the key with the smallest position + bonus leaves, of equal sums the oldest. Both are whole.
int freed_slot_by_bonus(const float* bonuses, const int64_t* positions, int sinks, int window, Competitor competitor);

// The bonus in tokens that a precedence stands for, at most `most` of them.
float bonus_of(float precedence, int most);

// The same without a mask, where all keys rank alike and the oldest leaves. Slots are taken in turn, so one look finds
// it; else all are searched.
int oldest_slot(const int64_t* positions, int sinks, int window, int64_t newcomer);

}  // namespace doge
