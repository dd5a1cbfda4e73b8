#include "span_attention.h"

namespace doge {

SpanAttention::SpanAttention(const Kernels& kernels, const Slots& slots, const float* columns, int width, float scale)
    : kernels_(kernels), slots_(slots), columns_(columns), width_(width), scale_(scale) {
  group_ = columns == nullptr ? LARGEST_GROUP : kernels.group;
}

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

void SpanAttention::finish_group(int index) {
  const float* columns = columns_ + (size_t)index * group_ * width_;
  int longest = queries_[count_ - 1].length;  // later rows see as many slots or more
  kernels_.attend_group(queries_, columns, unpacked(longest), scale_);
  count_ = 0;
}

// The first slots in float32, of which only those are unpacked that were not before.
Unpacked SpanAttention::unpacked(int length) {
  size_t stride = padded(slots_.layout.numbers) + slots_.layout.floats, numbers = SPAN * stride;
  if (memory_ == nullptr) memory_.reset(new float[2 * numbers + SPAN * LARGEST_GROUP]);
  float *keys = memory_.get(), *values = keys + numbers;
  slots_.length = length;
  if (unpacked_length_ < length) {
    Slots more = slots_;
    more.length -= unpacked_length_;
    size_t bytes = unpacked_length_ * slots_.layout.bytes(), start = unpacked_length_ * stride;
    kernels_.unpack(slots_.keys + bytes, more, keys + start);
    kernels_.unpack(slots_.values + bytes, more, values + start);
    unpacked_length_ = length;
  }
  return {keys, values, slots_.layout.numbers, slots_.layout.floats, (int)stride, length, values + numbers};
}

}  // namespace doge
