#include "attention.h"

#include <cmath>

#include "eviction.h"

namespace doge {
namespace {

// Keys are attended to in chunks of slots, whose results are then merged in order. So the sum is the same on any number
// of threads, and beside any other rows.
constexpr int CHUNK = 128;
constexpr int BLOCK = 32;  // rows whose partial results are kept at once

int chunks_of(int length) { return (length + CHUNK - 1) / CHUNK; }

}  // namespace

Attention::Attention(const Decoder& decoder, const Tokens& tokens, const Products& products)
    : d(decoder),
      tokens(tokens),
      products(products),
      cos(tokens.rows(), d.head_dim / 2),
      sin(tokens.rows(), d.head_dim / 2),
      softplus(tokens.rows(), std::max(d.mask_width, 1)),
      queries(tokens.rows(), d.heads * d.channels),
      keys(tokens.rows(), d.kv_heads * d.channels),
      values(tokens.rows(), d.kv_heads * d.channels),
      sink_cos(1, d.head_dim / 2),
      sink_sin(1, d.head_dim / 2),
      sink_queries(has_far_sinks() ? tokens.rows() : 0, d.heads * d.channels),
      partial(0, d.channels) {
  int most = 1;
  for (int r = 0; r < tokens.rows(); r++) most = std::max(most, chunks(r));
  int parts = std::min(tokens.rows(), BLOCK) * d.heads * most;
  partial = Rows(parts, d.channels);
  attended.resize(parts);
  for (int i = 0; i < parts; i++) attended[i].sums = partial.row(i);
  products.each_row(tokens.rows(), [&](int r) { d.rotary.write(tokens.position(r), cos.row(r), sin.row(r)); });
  if (has_far_sinks()) d.rotary.write(d.window - 1, sink_cos.row(0), sink_sin.row(0));
}

Rows Attention::attend(int index, const Rows& projected) {
  const Cache& cache = tokens.caches[index];
  Rows y(tokens.rows(), d.heads * d.channels);
  products.each_row(tokens.rows(), [&](int r) { finish_row(index, r, projected.row(r)); });
  if (tokens.is_full()) {  // every token sees another set of keys
    for (int r = 0; r < tokens.rows(); r++) {
      replace(cache, r);
      attend_rows(cache, r, r + 1, y);
    }
    return y;
  }
  for (int r = 0; r < tokens.rows(); r++) append(cache, r);
  for (int r = 0; r < tokens.rows(); r += BLOCK) attend_rows(cache, r, std::min(r + BLOCK, tokens.rows()), y);
  return y;
}

// ---- queries, keys and values of a row

void Attention::finish_row(int index, int r, const float* projected) {
  const Layer& layer = d.layers[index];
  bool looks_up = d.mask_heads > 0 && index == 0;  // the first layer's mask logits depend on the token alone
  const float* logits = projected + d.rotated_heads() * d.head_dim;
  const float* after_logits = logits + (looks_up ? 0 : d.mask_width);
  if (looks_up) logits = d.first_layer_logits + tokens.ids[r] * d.mask_heads;
  if (layer.exponents != nullptr) softplus_of(r, logits);
  for (int head = 0; head < d.rotated_heads(); head++) finish_head(layer, r, head, projected + head * d.head_dim);
  finish_values(looks_up, r, after_logits, logits);
}

void Attention::softplus_of(int r, const float* logits) {
  for (int m = 0; m < d.mask_width; m++) {
    float z = m < d.mask_heads ? logits[m] : 0;
    softplus.row(r)[m] = std::max(z, 0.0f) + std::log1p(std::exp(-std::fabs(z)));
  }
}

// Norm and rotation, then exp(A softplus(z)) in the extra channels: dt in keys, a constant in queries.
void Attention::finish_head(const Layer& layer, int r, int head, const float* projected) {
  float* y = head < d.heads ? queries.row(r) + head * d.channels : keys.row(r) + (head - d.heads) * d.channels;
  std::copy_n(projected, d.head_dim, y);
  if (layer.head_norms != nullptr) {
    const float* weight = layer.head_norms + head * d.head_dim;
    float factor = 1 / std::sqrt(products.kernels.sum_of_squares(y, d.head_dim) / d.head_dim + d.epsilon);
    for (int c = 0; c < d.head_dim; c++) y[c] = y[c] * factor * weight[c];
  }
  float* from_afar = has_far_sinks() && head < d.heads ? sink_queries.row(r) + head * d.channels : nullptr;
  if (from_afar != nullptr) {
    std::copy_n(y, d.head_dim, from_afar);
    rotate(from_afar, sink_cos.row(0), sink_sin.row(0), d.head_dim / 2);
  }
  rotate(y, cos.row(r), sin.row(r), d.head_dim / 2);
  finish_extra(layer, r, head, y + d.head_dim);
  if (from_afar != nullptr) std::copy_n(y + d.head_dim, d.extra(), from_afar + d.head_dim);
}

void Attention::finish_extra(const Layer& layer, int r, int head, float* extra) {
  std::fill_n(extra, d.extra(), 0.0f);
  if (layer.exponents == nullptr) return;
  for (int m = 0; m < d.mask_width; m++) {
    const float* exponents = layer.exponents + ((size_t)m * d.rotated_heads() + head) * d.extra();
    for (int c = 0; c < d.extra(); c++) extra[c] += softplus.row(r)[m] * exponents[c];
  }
  for (int c = 0; c < d.extra(); c++) extra[c] = std::exp(extra[c]);
}

// A value carries the precedence of its key. The first layer's is looked up, that of others is part of the projection.
void Attention::finish_values(bool looks_up, int r, const float* projected, const float* logits) {
  if (!looks_up) {
    std::copy_n(projected, d.kv_heads * d.channels, values.row(r));
    return;
  }
  int mask_channels = d.mask_heads / d.kv_heads;
  for (int head = 0; head < d.kv_heads; head++) {
    float* y = values.row(r) + head * d.channels;
    std::copy_n(projected + head * d.head_dim, d.head_dim, y);
    std::fill_n(y + d.head_dim, d.extra(), 0.0f);
    for (int m = 0; m < mask_channels; m++) {
      int mask_head = head * mask_channels + m;
      y[d.head_dim + m] = logits[mask_head] * d.precedence_factors[mask_head];
    }
  }
}

// ---- the cache

// Behind the keys of its stream.
void Attention::append(const Cache& cache, int r) {
  for (int head = 0; head < tokens.heads; head++) store(cache, r, head, (int)tokens.position(r));
}

// In the slot of the key that it evicts, if it is kept.
void Attention::replace(const Cache& cache, int r) {
  int mask_channels = d.mask_heads / d.kv_heads;
  for (int head = 0; head < tokens.heads; head++) {
    float* precedence = cache.precedence + (size_t)head * d.window;
    int64_t* positions = cache.positions + (size_t)head * d.window;
    float own = 0;
    if (mask_channels > 0) {
      own = values.row(r)[kv_head_of(head) * d.channels + d.head_dim + head % mask_channels];
    }
    int slot = freed_slot(precedence, positions, d.sinks, d.window, own);
    if (slot < 0) continue;
    precedence[slot] = own;
    positions[slot] = tokens.position(r);
    store(cache, r, head, slot);
  }
}

void Attention::store(const Cache& cache, int r, int head, int slot) {
  int kv_head = kv_head_of(head);
  std::copy_n(keys.row(r) + kv_head * d.channels, d.channels, slot_of(cache.keys, r, head, slot));
  std::copy_n(values.row(r) + kv_head * d.channels, d.channels, slot_of(cache.values, r, head, slot));
}

float* Attention::slot_of(float* cache, int r, int head, int slot) const {
  size_t cache_head = (size_t)(r / tokens.length) * tokens.heads + head;
  return cache + (cache_head * tokens.slots + slot) * d.channels;
}

// ---- attention

int Attention::chunks(int r) const {
  return has_far_sinks() ? chunks_of(d.sinks) + chunks_of(d.window - d.sinks) : chunks_of(visible(r));
}

void Attention::attend_rows(const Cache& cache, int first, int last, Rows& y) {
  int most = 0;
  for (int r = first; r < last; r++) most = std::max(most, chunks(r));
  int streams = (last - 1) / tokens.length - first / tokens.length + 1;
  auto parts_of = [&](int r, int head) { return &attended[((size_t)(r - first) * d.heads + head) * most]; };
  int heads = d.heads / tokens.heads;  // that attend to one head of the cache
  products.team.parallel(streams * tokens.heads * most, [&](int item) {
    int chunk = item % most, cache_head = item / most % tokens.heads;
    int stream = first / tokens.length + item / most / tokens.heads;
    int end = std::min(last, (stream + 1) * tokens.length);
    for (int r = std::max(first, stream * tokens.length); r < end; r++) {
      for (int head = cache_head * heads; head < (cache_head + 1) * heads; head++) {
        attend_chunk(cache, r, head, chunk, parts_of(r, head));
      }
    }
  });
  for (int r = first; r < last; r++) {
    for (int head = 0; head < d.heads; head++) {
      merge(parts_of(r, head), chunks(r), y.row(r) + head * d.channels);
    }
  }
}

void Attention::attend_chunk(const Cache& cache, int r, int head, int chunk, Attended* parts) {
  int start = chunk * CHUNK, end = visible(r);
  const Rows* seen_by = &queries;
  if (has_far_sinks()) {  // the chunks of the sinks, then those of all other keys
    int of_sinks = chunks_of(d.sinks);
    if (chunk < of_sinks) {
      seen_by = &sink_queries;
      end = d.sinks;
    } else {
      start = d.sinks + (chunk - of_sinks) * CHUNK;
    }
  }
  int length = std::min(end - start, CHUNK);
  if (length <= 0) return;
  int cache_head = head / (d.heads / tokens.heads);
  float scores[CHUNK];
  products.kernels.attend(seen_by->row(r) + head * d.channels, slot_of(cache.keys, r, cache_head, start),
                          slot_of(cache.values, r, cache_head, start), length, d.channels,
                          1 / std::sqrt((float)d.head_dim), scores, parts[chunk]);
}

void Attention::merge(const Attended* parts, int count, float* y) const {
  float largest = parts[0].largest, total = 0;
  for (int i = 1; i < count; i++) largest = std::max(largest, parts[i].largest);
  std::fill_n(y, d.channels, 0.0f);
  for (int i = 0; i < count; i++) {
    float weight = std::exp(parts[i].largest - largest);
    total += weight * parts[i].total;
    for (int c = 0; c < d.channels; c++) y[c] += weight * parts[i].sums[c];
  }
  for (int c = 0; c < d.channels; c++) y[c] /= total;
}

}  // namespace doge
