// Which key leaves a full window: the rule of doge_export/runtime/eviction.py.
#pragma once

#include <cstdint>

namespace doge {

// The slot that a new key of this precedence takes among `window` keys, the oldest of those that rank lowest. -1 where
// the new key ranks lower itself, and so is not kept. The keys in the first `sinks` slots never leave.
int freed_slot(const float* precedence, const int64_t* positions, int sinks, int window, float newcomer);

// The same with bonuses: the key with the smallest position + bonus leaves, of equal sums the oldest. Both are whole.
int freed_slot_by_bonus(const float* bonuses, const int64_t* positions, int sinks, int window, float newcomer,
                        int64_t position);

// The bonus in tokens that a precedence stands for, at most `most` of them.
float bonus_of(float precedence, int most);

// The same without a mask, where all keys rank alike and the oldest leaves. Slots are taken in turn, so one look finds
// it; else all are searched.
int oldest_slot(const int64_t* positions, int sinks, int window, int64_t newcomer);

}  // namespace doge
