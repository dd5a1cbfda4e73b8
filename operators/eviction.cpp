#include "eviction.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace doge {
namespace {

constexpr float TIE = 0x1p-57f;  // precedences that are closer count as equal (doge_export/runtime/eviction.py)
constexpr float MOST_BONUS = 0x1p20f;  // that `keep_bonus` may be
constexpr int LANES = 16;        // looked at together, in loops that compilers turn into vectors

float least_of(const float* x, int n) {
  float lanes[LANES];
  std::fill_n(lanes, LANES, std::numeric_limits<float>::infinity());
  int i = 0;
  for (; i + LANES <= n; i += LANES) {
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = x[i + lane] < lanes[lane] ? x[i + lane] : lanes[lane];
  }
  for (; i < n; i++) lanes[0] = std::min(lanes[0], x[i]);
  return *std::min_element(lanes, lanes + LANES);
}

float least_of_older(const float* precedence, const int64_t* positions, int sinks, int window, int64_t than) {
  float least = std::numeric_limits<float>::infinity();
  for (int i = sinks; i < window; i++) {
    if (positions[i] < than) least = std::min(least, precedence[i]);
  }
  return least;
}

bool any_up_to(const float* x, int n, float limit) {
  int found = 0;
  for (int i = 0; i < n; i++) found |= x[i] <= limit;
  return found;
}

}  // namespace

Competitor competitor(const float* precedence, const int64_t* positions, int window, int recent, float newcomer,
                      int64_t position) {
  if (recent == 0) return {newcomer, position, -1};
  int slot = (int)(std::find(positions, positions + window, position - recent) - positions);
  if (slot == window) return {newcomer, position, -1};  // no stream leads to such positions
  return {precedence[slot], position - recent, slot};
}

int freed_slot(const float* precedence, const int64_t* positions, int sinks, int window, Competitor competitor) {
  float least = competitor.slot < 0
                    ? least_of(precedence + sinks, window - sinks)  // all are older
                    : least_of_older(precedence, positions, sinks, window, competitor.position);
  float highest_tied = least + TIE;
  int slot = -1;
  int64_t oldest = competitor.position;
  for (int start = sinks; start < window; start += LANES) {
    int end = std::min(start + LANES, window);
    if (end - start == LANES && !any_up_to(precedence + start, LANES, highest_tied)) continue;
    for (int i = start; i < end; i++) {
      bool older = precedence[i] <= highest_tied && positions[i] < oldest;
      oldest = older ? positions[i] : oldest;
      slot = older ? i : slot;
    }
  }
  if (slot < 0) return competitor.slot;  // it is the oldest, or no number is among them
  return competitor.precedence >= precedence[slot] - TIE ? slot : competitor.slot;
}

int freed_slot_by_bonus(const float* bonuses, const int64_t* positions, int sinks, int window, Competitor competitor) {
  // The sum first, then the age: of equal sums, the oldest has the largest bonus. A state may hold any numbers: bonuses
  // are cut, and positions wrap around.
  auto rank = [](float bonus, int64_t position) {
    uint64_t tokens = bonus > 0 ? (uint64_t)std::min(bonus, MOST_BONUS) : 0;
    return (int64_t)(((uint64_t)position + tokens) * ((uint64_t)2 << 20) - tokens);
  };
  int64_t least = rank(competitor.precedence, competitor.position);
  int slot = competitor.slot;
  for (int i = sinks; i < window; i++) {
    int64_t own = rank(bonuses[i], positions[i]);
    bool lower = own < least && positions[i] < competitor.position;
    slot = lower ? i : slot;
    least = lower ? own : least;
  }
  return slot;
}

float bonus_of(float precedence, int most) {
  float tokens = std::nearbyint(precedence * 0x1p40f);  // scaled as in doge_export/graph/mask_numbers.py
  return tokens > 0 ? std::min(tokens, (float)most) : 0;  // 0 of no number
}

int oldest_slot(const int64_t* positions, int sinks, int window, int64_t newcomer) {
  int in_turn = window - sinks, slot = sinks + (int)((newcomer - sinks) % in_turn);
  if (positions[slot] == newcomer - in_turn) return slot;
  return (int)(std::min_element(positions + sinks, positions + window) - positions);
}

}  // namespace doge
