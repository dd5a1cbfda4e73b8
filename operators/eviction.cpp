#include "eviction.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace doge {
namespace {

constexpr float TIE = 0x1p-57f;  // precedences that are closer count as equal (doge_export/runtime/eviction.py)
constexpr float MOST_BONUS = 0x1p20f;  // that `keep_bonus` may be
constexpr int LANES = 32;              // looked at together, in loops that compilers turn into vectors

float least_of(const float* x, int n) {
  float lanes[LANES];
  std::fill_n(lanes, LANES, std::numeric_limits<float>::infinity());
  int i = 0;
  for (; i + LANES <= n; i += LANES) {
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = x[i + lane] < lanes[lane] ? x[i + lane] : lanes[lane];
  }
  for (; i < n; i++) lanes[0] = x[i] < lanes[0] ? x[i] : lanes[0];
  return *std::min_element(lanes, lanes + LANES);
}

float least_of_older(const Precedences& precedences, const int64_t* positions, int sinks, int window, int64_t than) {
  float least = std::numeric_limits<float>::infinity();
  for (int i = sinks; i < window; i++) {
    if (positions[i] < than) least = std::min(least, precedences[i]);
  }
  return least;
}

// The slot of [first, last), a block at most, with the smallest position below `oldest`, which becomes that; else `slot`.
// Which keys rank low enough is found for many at once. Few do, so most groups of 8 are passed over.
int older_up_to(const float* precedence, float limit, const int64_t* positions, int first, int last, int64_t& oldest,
                int slot) {
  constexpr int GROUP = 8;
  uint8_t is_low[Precedences::BLOCK] = {};
  for (int i = first; i < last; i++) is_low[i - first] = precedence[i] <= limit;
  for (int group = first; group < last; group += GROUP) {
    uint64_t any;
    std::memcpy(&any, is_low + group - first, sizeof any);
    for (int i = group; any != 0 && i < group + GROUP; i++) {
      if (!is_low[i - first] || positions[i] >= oldest) continue;
      oldest = positions[i];
      slot = i;
    }
  }
  return slot;
}

}  // namespace

Precedences::Precedences(float* of_slots, int first, int last)
    : of_slots_(of_slots), first_(first), last_(last), least_((std::max(last - first, 0) + BLOCK - 1) / BLOCK) {
  for (int block = 0; block < (int)least_.size(); block++) look_at(block);
}

void Precedences::look_at(int block) {
  least_[block] = least_of(of_slots_ + first_of(block), last_of(block) - first_of(block));
}

float Precedences::least() const { return least_of(least_.data(), (int)least_.size()); }

void Precedences::replace(int slot, float precedence) {
  of_slots_[slot] = precedence;
  if (slot >= first_) look_at((slot - first_) / BLOCK);  // positions of no stream can lead to another one
}

int Precedences::oldest_up_to(float limit, const int64_t* positions, int64_t oldest) const {
  int slot = -1;
  for (int block = 0; block < (int)least_.size(); block++) {
    if (!(least_[block] <= limit)) continue;
    slot = older_up_to(of_slots_, limit, positions, first_of(block), last_of(block), oldest, slot);
  }
  return slot;
}

Competitor competitor(const float* precedence, const int64_t* positions, int window, int recent, float newcomer,
                      int64_t position) {
  if (recent == 0) return {newcomer, position, -1};
  int slot = (int)(std::find(positions, positions + window, position - recent) - positions);
  if (slot == window) return {newcomer, position, -1};  // no stream leads to such positions
  return {precedence[slot], position - recent, slot};
}

int freed_slot(const Precedences& precedences, const int64_t* positions, int sinks, int window, Competitor competitor) {
  float least = competitor.slot < 0 ? precedences.least()  // all are older
                                    : least_of_older(precedences, positions, sinks, window, competitor.position);
  int slot = precedences.oldest_up_to(least + TIE, positions, competitor.position);
  if (slot < 0) return competitor.slot;  // it is the oldest, or no number is among them
  return competitor.precedence >= precedences[slot] - TIE ? slot : competitor.slot;
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
