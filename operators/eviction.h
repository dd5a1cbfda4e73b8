// Which key leaves a full window: the rule of doge_export/runtime/eviction.py.
#pragma once

#include <cstdint>

namespace doge {

// The slot that a new key of this precedence takes among `window` keys, the oldest of those that rank lowest. -1 where
// the new key ranks lower itself, and so is not kept.
int freed_slot(const float* precedence, const int64_t* positions, int window, float newcomer);

// The same without a mask, where all keys rank alike and the oldest leaves. It is the key `window` positions before the
// newcomer, and lies where slots are taken in turn, so one look finds it; else all are searched.
int oldest_slot(const int64_t* positions, int window, int64_t newcomer);

}  // namespace doge
