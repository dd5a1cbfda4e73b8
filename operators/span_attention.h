// Attention of several queries over one span of a cache's slots, which are read once for as many queries as fit.
#pragma once

#include <memory>

#include "kernels.h"

namespace doge {

// Keys are attended to in spans of slots, whose results are then merged in order. So the sum is the same on any number
// of threads, and beside any other rows.
constexpr int SPAN = 128;

inline int spans_of(int length) { return (length + SPAN - 1) / SPAN; }

// Takes queries one after the other, each over all slots of a span or the first of them. They wait until a group of the
// kernels is there, or until the slots are to change.
class SpanAttention {
 public:
  // columns: of all groups, as Kernels::attend_group has them, and each `width` numbers; null where there are none.
  SpanAttention(const Kernels& kernels, const Slots& slots, const float* columns, int width, float scale);

  // index: of the query among all of them, in their order.
  void add(int index, const float* query, int length, Attended* result);

  // Attends to the queries that wait. To be called at the end, and before a slot gets a new key.
  void finish();

  // To be called behind a slot's new key.
  void forget_unpacked() { unpacked_length_ = 0; }

 private:
  static constexpr int AT_ONCE = 4;         // queries without a group that go over the span together

  void finish_group(int index);
  Unpacked unpacked(int length);

  const Kernels& kernels_;
  Slots slots_;
  const float* columns_;
  int width_;
  float scale_;
  int group_;
  Query queries_[LARGEST_GROUP];  // that wait
  float scores_[LARGEST_GROUP][SPAN];
  int count_ = 0;
  std::unique_ptr<float[]> memory_;  // for the span's keys and values, and for scores
  int unpacked_length_ = 0;
};

}  // namespace doge
