#include "attention_reader.h"

#include <algorithm>

namespace doge::ort {
namespace {

constexpr int64_t MOST_TOKENS = (int64_t)1 << 32;  // of a stream (doge_export/runtime/eviction.py)

}  // namespace

AttentionAttributes::AttentionAttributes(const Api& api, const KernelInfo* info)
    : num_heads(api.integer(info, "num_heads")),
      num_kv_heads(api.integer(info, "kv_num_heads")),
      head_dim(api.integer(info, "head_dim")),
      channels(api.integer(info, "channels")),
      num_mask_heads(api.integer(info, "num_mask_heads")),
      keep_window_size(api.integer(info, "keep_window_size")),
      keep_sinks(api.integer_or_0(info, "keep_sinks")),
      keep_bonus(api.integer_or_0(info, "keep_bonus")),
      keep_recent(api.integer_or_0(info, "keep_recent")),
      qk_norm(api.integer(info, "qk_norm")),
      cache_type(api.integer_or_0(info, "cache_type")),
      dt_digits(api.integer_or_0(info, "dt_digits")),
      epsilon(api.real(info, "epsilon")) {
  for (int64_t size : {num_heads, num_kv_heads, head_dim, channels, num_mask_heads, keep_window_size}) {
    check(size >= 0 && size <= 1 << 24, "every size must be from 0 to 2 ** 24");
  }
  check(num_heads >= 1 && num_kv_heads >= 1 && num_heads % num_kv_heads == 0,
        "num_heads must be a multiple of kv_num_heads");
  check(head_dim >= 2 && head_dim % 2 == 0 && channels >= head_dim && channels % 8 == 0,
        "head_dim must be even, and channels a multiple of 8 that is no less");
  check((num_heads + 2 * num_kv_heads) * channels + num_mask_heads <= 1 << 28,
        "the numbers that a token is projected to must be at most 2 ** 28");
  check(num_mask_heads % num_kv_heads == 0, "num_mask_heads must be a multiple of kv_num_heads");
  check(num_mask_heads == 0 || num_heads % num_mask_heads == 0, "num_heads must be a multiple of num_mask_heads");
  check(dt_digits >= 0 && dt_digits <= 2, "dt_digits must be 1 or 2, or left out");
  dt_digits = std::max<int64_t>(dt_digits, 1);
  check(dt_digits * (num_mask_heads / num_kv_heads) <= channels - head_dim,
        "channels must have room for the mask heads");
  check(cache_type >= 0 && cache_type <= 2, "cache_type must be from 0 to 2");
  check(cache_type > 0 || dt_digits == 1, "dt_digits must be 1 for a float32 cache");
  check(keep_window_size >= 1, "keep_window_size must be at least 1");
  check(keep_sinks >= 0 && keep_sinks < keep_window_size, "keep_sinks must be from 0 to below keep_window_size");
  check(keep_bonus >= 0 && keep_bonus <= 1 << 20, "keep_bonus must be from 0 to 2 ** 20");
  check(keep_recent >= 0 && keep_recent < keep_window_size - keep_sinks,
        "keep_recent must be from 0 to below keep_window_size - keep_sinks");
  check((keep_bonus == 0 && keep_recent == 0) || num_mask_heads > 0,
        "keep_bonus and keep_recent must be 0 without a mask");
}

// A float32 row has the extra channels behind those of the head. Other rows begin with the mask's numbers in float32.
RowLayout AttentionAttributes::layout() const {
  auto type = (NumberType)cache_type;
  if (type == NumberType::FLOAT32) return {type, 0, (int)channels};
  return {type, (int)(num_mask_heads / num_kv_heads), (int)(head_dim + 7) / 8 * 8};
}

void AttentionAttributes::write(AttentionSizes& sizes) const {
  sizes.heads = (int)num_heads;
  sizes.kv_heads = (int)num_kv_heads;
  sizes.head_dim = (int)head_dim;
  sizes.channels = (int)channels;
  sizes.mask_heads = (int)num_mask_heads;
  sizes.window = (int)keep_window_size;
  sizes.sinks = (int)keep_sinks;
  sizes.bonus = (int)keep_bonus;
  sizes.recent = (int)keep_recent;
  sizes.dt_digits = (int)dt_digits;
  sizes.layout = layout();
  sizes.epsilon = epsilon;
}

void check_ids(const Tokens& tokens, int64_t vocabulary) {
  for (int i = 0; i < tokens.rows(); i++) {
    if (tokens.ids[i] < 0 || tokens.ids[i] >= vocabulary) {
      throw refused("input_ids has " + std::to_string(tokens.ids[i]) + "; tokens are from 0 to " +
                    std::to_string(vocabulary - 1));
    }
  }
}

void check_window(const Tokens& tokens, int64_t heads, int64_t keys, const AttentionSizes& sizes) {
  bool full = heads * keys > 0;
  if (full && (tokens.streams != 1 || heads != sizes.recurrent_heads() || keys != sizes.window)) {
    throw refused("past_precedence must be of one stream, of " + std::to_string(sizes.recurrent_heads()) +
                  " heads and " + std::to_string(sizes.window) + " keys, or empty");
  }
  check(!full || tokens.slots >= sizes.window, "past must have a slot for every key of a full window");
  int wanted = full ? sizes.recurrent_heads() : sizes.kv_heads;
  if (tokens.heads != wanted) {
    throw refused("past has " + std::to_string(tokens.heads) + " heads; it must have " + std::to_string(wanted));
  }
  for (int i = 0; i < tokens.streams; i++) {
    int64_t past = tokens.past[i], room = full ? MOST_TOKENS : std::min(tokens.slots, sizes.window);
    if (full && past < sizes.window) {
      throw refused("past_lengths has " + std::to_string(past) + "; with a full window it is at least " +
                    std::to_string(sizes.window));
    }
    if (past < 0 || past > room - tokens.length) {
      throw refused("past_lengths has " + std::to_string(past) + "; with " + std::to_string(tokens.length) +
                    " new tokens a stream has room for " + std::to_string(room));
    }
  }
}

}  // namespace doge::ort
