#include "span_attention.h"

#include <algorithm>

namespace doge {

SpanAttention::SpanAttention(const Kernels& kernels, const Slots& slots, const float* columns, int width, int last,
                             float scale)
    : kernels_(kernels),
      slots_(slots),
      columns_(columns),
      width_(width),
      scale_(scale),
      group_(columns == nullptr ? LARGEST_GROUP : kernels.group),
      last_(last),
      stride_(padded(slots.layout.numbers) + slots.layout.floats) {}

void SpanAttention::add(int index, const float* query, int length, Attended* result) {
  if (count_ == group_ || index % group_ == 0) finish();
  queries_[count_] = {query, scores_[count_], result, length};
  count_++;
  if (columns_ != nullptr && count_ == group_) finish_group(index / group_);
}

void SpanAttention::finish() {
  for (int i = 0, count; i < count_; i += count) {
    slots_.length = queries_[i].length;
    for (count = 1; count < AT_ONCE && i + count < count_; count++) {
      if (queries_[i + count].length != slots_.length) break;
    }
    kernels_.attend(queries_ + i, count, slots_, scale_);
    slots_.are_near = true;
  }
  count_ = 0;
}

void SpanAttention::replace(int slot, int index, int length, const std::function<void()>& store) {
  bool in_group = columns_ != nullptr && count_ == index % group_ && index - count_ + group_ <= last_;
  if (!in_group) {
    finish();
    unpacked_length_ = 0;
    return store();
  }
  unpack_up_to(length);
  store();
  if (count_ == 0) return unpack(slot, 1, slot);
  unpack(slot, 1, SPAN + replaced_count_);
  replaced_[replaced_count_++] = {slot, count_};
}

void SpanAttention::finish_group(int index) {
  const float* columns = columns_ + (size_t)index * group_ * width_;
  int longest = queries_[count_ - 1].length;
  unpack_up_to(longest);
  SeenRow rows[PLACES];
  int count = seen_rows(longest, rows);
  float* scores = value(PLACES);
  kernels_.attend_group(queries_, columns, {rows, count, slots_.layout.numbers, slots_.layout.floats, scores}, scale_);
  for (int i = 0; i < replaced_count_; i++) {
    std::copy_n(key(SPAN + i), stride_, key(replaced_[i].slot));
    std::copy_n(value(SPAN + i), stride_, value(replaced_[i].slot));
  }
  count_ = replaced_count_ = 0;
}

// The rows of the first slots, and their number.
int SpanAttention::seen_rows(int length, SeenRow* rows) const {
  int count = 0, too_short = 0;
  for (int slot = 0; slot < length; slot++) {
    while (queries_[too_short].length <= slot) too_short++;
    int first = too_short, place = slot;
    for (int i = 0; i < replaced_count_; i++) {
      if (replaced_[i].slot != slot) continue;
      rows[count++] = {key(place), value(place), slot, first, replaced_[i].first};
      first = replaced_[i].first;
      place = SPAN + i;
    }
    rows[count++] = {key(place), value(place), slot, first, group_};
  }
  return count;
}

// Only those are unpacked that were not before.
void SpanAttention::unpack_up_to(int length) {
  if (memory_ == nullptr) memory_.reset(new float[2 * PLACES * stride_ + PLACES * LARGEST_GROUP]);
  if (length <= unpacked_length_) return;
  unpack(unpacked_length_, length - unpacked_length_, unpacked_length_);
  unpacked_length_ = length;
}

void SpanAttention::unpack(int slot, int length, int place) {
  Slots some = slots_;
  some.length = length;
  size_t bytes = slot * slots_.layout.bytes();
  kernels_.unpack(slots_.keys + bytes, some, key(place));
  kernels_.unpack(slots_.values + bytes, some, value(place));
}

}  // namespace doge
