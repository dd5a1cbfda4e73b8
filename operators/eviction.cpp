#include "eviction.h"

#include <algorithm>

namespace doge {
namespace {

constexpr float TIE = 0x1p-57f;  // precedences that are closer count as equal (doge_export/runtime/eviction.py)

}  // namespace

int freed_slot(const float* precedence, const int64_t* positions, int window, float newcomer) {
  float least = precedence[0];
  for (int i = 1; i < window; i++) least = std::min(least, precedence[i]);
  float highest_tied = least + TIE;
  int slot = -1;
  for (int i = 0; i < window; i++) {
    if (precedence[i] <= highest_tied && (slot < 0 || positions[i] < positions[slot])) slot = i;
  }
  if (slot < 0) return -1;  // no number
  return newcomer >= precedence[slot] - TIE ? slot : -1;
}

}  // namespace doge
