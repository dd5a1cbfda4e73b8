// Which key leaves a full window: the rule of doge_export/runtime/eviction.py.
#pragma once

#include <cstdint>

namespace doge {

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
int freed_slot(const float* precedence, const int64_t* positions, int sinks, int window, Competitor competitor);

// The same with bonuses: the key with the smallest position + bonus leaves, of equal sums the oldest. Both are whole.
int freed_slot_by_bonus(const float* bonuses, const int64_t* positions, int sinks, int window, Competitor competitor);

// The bonus in tokens that a precedence stands for, at most `most` of them.
float bonus_of(float precedence, int most);

// The same without a mask, where all keys rank alike and the oldest leaves. Slots are taken in turn, so one look finds
// it; else all are searched.
int oldest_slot(const int64_t* positions, int sinks, int window, int64_t newcomer);

}  // namespace doge
