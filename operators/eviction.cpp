#include "eviction.h"

#include <algorithm>

namespace doge {
namespace {

constexpr float TIE = 0x1p-57f;  // precedences that are closer count as equal (doge_export/runtime/eviction.py)

}  // namespace

int freed_slot(const float* precedence, const int64_t* positions, int sinks, int window, float newcomer) {
  float least = precedence[sinks];
  for (int i = sinks + 1; i < window; i++) least = std::min(least, precedence[i]);
  float highest_tied = least + TIE;
  int slot = -1;
  for (int i = sinks; i < window; i++) {
    if (precedence[i] <= highest_tied && (slot < 0 || positions[i] < positions[slot])) slot = i;
  }
  if (slot < 0) return -1;  // no number
  return newcomer >= precedence[slot] - TIE ? slot : -1;
}

}  // namespace doge
