// Attributes of attention, read from an operator, and the checks of tokens and windows that its operators share.
#pragma once

#include "decoder.h"
#include "inputs.h"

namespace doge::ort {

struct AttentionAttributes {
  int64_t num_heads, num_kv_heads, head_dim, channels, num_mask_heads, keep_window_size, keep_sinks, keep_bonus,
      keep_recent;
  int64_t qk_norm, cache_type, dt_digits;
  float epsilon;

  AttentionAttributes(const Api& api, const KernelInfo* info);

  RowLayout layout() const;  // of the cache
  int64_t row_width() const { return cache_type == 0 ? channels : (int64_t)layout().bytes(); }  // elements
  Type row_type() const { return cache_type == 0 ? FLOAT : UINT8; }
  size_t element_bytes() const { return cache_type == 0 ? sizeof(float) : 1; }

  void write(AttentionSizes& sizes) const;  // all that is no input
};

// Every token has a row in a table of so many.
void check_ids(const Tokens& tokens, int64_t vocabulary);

// A full window of `heads` and `keys`, or one with room for the tokens. Throws `refused` otherwise.
void check_window(const Tokens& tokens, int64_t heads, int64_t keys, const AttentionSizes& sizes);

}  // namespace doge::ort
