// Attention of several queries over one span of a cache's slots, which are read once for as many queries as fit.
#pragma once

#include <functional>
#include <memory>

#include "kernels.h"

namespace doge {

// Keys are attended to in spans of slots, whose results are then merged in order. So the sum is the same on any number
// of threads, and beside any other rows.
constexpr int SPAN = 128;

inline int spans_of(int length) { return (length + SPAN - 1) / SPAN; }

// Takes queries one after the other, each over all slots of a span or the first of them. Later ones see as many or more.
// They wait until a group of the kernels is there. Queries that find no group wait until the slots are to change.
class SpanAttention {
 public:
  // columns: of all groups, as Kernels::attend_group has them, and each `width` numbers; null where there are none.
  // last: index behind that of the last query.
  SpanAttention(const Kernels& kernels, const Slots& slots, const float* columns, int width, int last, float scale);

  // index: of the query among all that have columns, in their order.
  void add(int index, const float* query, int length, Attended* result);

  // Calls `store`, which gives a slot a new key. The queries that wait see the old one. Query `index` and those behind it
  // see the new one, and `length` slots.
  void replace(int slot, int index, int length, const std::function<void()>& store);

  // Attends to the queries that wait. To be called at the end.
  void finish();

 private:
  static constexpr int AT_ONCE = 4;                   // queries without a group that go over the span together
  static constexpr int PLACES = SPAN + LARGEST_GROUP;  // of unpacked keys: those of slots, then newer ones

  struct Replaced {
    int slot, first;  // query that sees the newer key
  };

  void finish_group(int index);
  void unpack_up_to(int length);
  void unpack(int slot, int length, int place);
  int seen_rows(int length, SeenRow* rows) const;
  float* key(int place) const { return memory_.get() + place * stride_; }
  float* value(int place) const { return key(PLACES + place); }

  const Kernels& kernels_;
  Slots slots_;
  const float* columns_;
  int width_;
  float scale_;
  int group_, last_;
  size_t stride_;  // of unpacked keys and values
  Query queries_[LARGEST_GROUP];  // that wait
  float scores_[LARGEST_GROUP][SPAN];
  int count_ = 0;
  std::unique_ptr<float[]> memory_;  // unpacked keys, then values, then scores
  int unpacked_length_ = 0;
  Replaced replaced_[LARGEST_GROUP];  // since the group began; the newer keys lie behind those of slots
  int replaced_count_ = 0;
};

}  // namespace doge
