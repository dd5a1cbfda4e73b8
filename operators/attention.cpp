#include "attention.h"

#include <cmath>

#include "eviction.h"
#include "span_attention.h"

namespace doge {
namespace {

constexpr size_t MOST_PARTIAL = 1 << 18;  // numbers of partial results, where that is more than a span's

}  // namespace

Attention::Attention(const AttentionSizes& sizes, const Tokens& tokens, const Rotations& rotations,
                     const Products& products)
    : d(sizes),
      tokens(tokens),
      rotations(rotations),
      products(products),
      layout(sizes.layout),
      width(layout.numbers + layout.floats),
      softplus(products.memory, tokens.rows(), std::max(d.mask_width, 1)),
      queries(products.memory, tokens.rows(), d.heads * width),
      keys(products.memory, tokens.rows(), d.kv_heads * width),
      values(products.memory, tokens.rows(), d.kv_heads * width),
      columns(products.memory, has_groups() ? bands() * BAND : 0, d.heads * width),
      sink_queries(products.memory, has_far_sinks() ? tokens.rows() : 0, d.heads * width),
      freed(tokens.is_full() ? (size_t)BAND * tokens.heads : 0),
      spans(most_spans({0, tokens.rows()})),
      spans_at_once(most_spans_at_once()),
      at_once(rows_at_once()),
      partial(products.memory, parts(), layout.numbers),
      attended(parts()),
      totals((size_t)std::min(tokens.rows(), at_once) * d.heads),
      scale(1.44269504f / std::sqrt((float)sizes.head_dim)) {
  for (int i = 0; i < parts(); i++) attended[i].sums = partial.row(i);
}

void Attention::attend(const AttentionLayer& layer, const Cache& cache, const float* projected, float* y) {
  size_t numbers = d.projected(layer.looks_up);
  products.each_row(tokens.rows(), [&](int r) { finish_row(layer, r, projected + r * numbers); });
  if (!tokens.is_full()) {
    products.each_row(tokens.rows(), [&](int r) { append(layer, cache, r); });
  }
  for (int r = 0; r < tokens.rows(); r += at_once) {
    attend_rows(layer, cache, {r, std::min(r + at_once, tokens.rows())}, y);
  }
}

// Few enough that partial results of a band stay in a cache; all of them for a few rows, so threads meet once.
int Attention::most_spans_at_once() const {
  size_t of_span = (size_t)std::min(BAND, tokens.rows()) * d.heads * layout.numbers;
  return std::min((int)std::max<size_t>(MOST_PARTIAL / of_span, 1), spans);
}

// Bands of a stream whose window is not full do not wait for each other. So threads share as many as memory allows.
int Attention::rows_at_once() const {
  if (tokens.is_full() || tokens.streams > 1) return BAND;
  size_t of_band = (size_t)BAND * d.heads * spans_at_once * layout.numbers;
  return BAND * (int)std::max<size_t>(MOST_PARTIAL / of_band, 1);
}

// ---- queries, keys and values of a row

void Attention::finish_row(const AttentionLayer& layer, int r, const float* projected) {
  const float* logits = projected + d.rotated_heads() * d.head_dim;
  const float* after_logits = logits + (layer.looks_up ? 0 : d.mask_width);
  if (layer.looks_up) {
    const float* own = tokens.adapter.first_layer_logits;
    logits = (own == nullptr ? d.first_layer_logits : own) + tokens.ids[r] * d.mask_heads;
  }
  if (layer.exponents != nullptr) softplus_of(r, logits);
  for (int head = 0; head < d.rotated_heads(); head++) finish_head(layer, r, head, projected + head * d.head_dim);
  finish_values(layer.looks_up, r, after_logits, logits);
}

void Attention::softplus_of(int r, const float* logits) {
  for (int m = 0; m < d.mask_width; m++) {
    float z = m < d.mask_heads ? logits[m] : 0;
    softplus.row(r)[m] = std::max(z, 0.0f) + std::log1p(std::exp(-std::fabs(z)));
  }
}

// Norm and rotation, then exp(A softplus(z)) in the extra channels: dt in keys, a constant in queries.
void Attention::finish_head(const AttentionLayer& layer, int r, int head, const float* projected) {
  bool is_query = head < d.heads;
  float* y = is_query ? queries.row(r) + head * width : keys.row(r) + (head - d.heads) * width;
  std::copy_n(projected, d.head_dim, y);
  std::fill_n(y + d.head_dim, width - d.head_dim, 0.0f);
  if (layer.head_norms != nullptr) {
    products.kernels.rms_norm(y, layer.head_norms + head * d.head_dim, d.head_dim, d.epsilon, y);
  }
  if (is_query && has_far_sinks()) {
    float* from_afar = sink_queries.row(r) + head * width;
    std::copy_n(y, width, from_afar);
    finish_rotated(layer, r, head, tokens.rows(), from_afar);
  }
  finish_rotated(layer, r, head, r, y);
  if (is_query && columns.rows() > 0) write_column(r, head, y);
}

// Beside the other queries of its group, which are those of a band's rows that attend to one head of the cache.
void Attention::write_column(int r, int head, const float* query) {
  int group = products.kernels.group, index = index_in_band(r, head);
  float* y = columns_of(r, head / heads_of_cache_head()) + (size_t)(index / group) * group * width + index % group;
  for (int c = 0; c < width; c++) y[(size_t)c * group] = query[c];
}

void Attention::finish_rotated(const AttentionLayer& layer, int r, int head, int rotation, float* y) {
  size_t half = d.head_dim / 2;
  rotate(y, rotations.cos + rotation * half, rotations.sin + rotation * half, d.head_dim / 2);
  if (head < d.heads && layer.key_scales != nullptr) {  // keys are codes
    const float* scales = layer.key_scales + head / (d.heads / d.kv_heads) * d.head_dim;
    for (int c = 0; c < d.head_dim; c++) y[c] *= scales[c];
  }
  if (layer.exponents == nullptr) return;
  float* extra = floats_of(y);
  for (int i = 0; i < d.extra_floats(); i++) {
    int channel = i * d.dt_digits;
    float exponent = 0;
    for (int m = 0; m < d.mask_width; m++) {
      exponent += softplus.row(r)[m] * layer.exponents[((size_t)m * d.rotated_heads() + head) * d.extra() + channel];
    }
    extra[i] = std::exp(exponent);
  }
}

// A value carries the precedence of its key. The first layer's is looked up, that of others is part of the projection.
void Attention::finish_values(bool looks_up, int r, const float* projected, const float* logits) {
  int mask_channels = d.mask_heads / d.kv_heads, channels = looks_up ? d.head_dim : d.channels;
  for (int head = 0; head < d.kv_heads; head++) {
    const float* x = projected + head * channels;
    float* y = values.row(r) + head * width;
    std::copy_n(x, d.head_dim, y);
    std::fill_n(y + d.head_dim, width - d.head_dim, 0.0f);
    for (int m = 0; m < mask_channels; m++) {
      int mask_head = head * mask_channels + m;
      floats_of(y)[m] = looks_up ? logits[mask_head] * d.precedence_factors[mask_head] : x[d.head_dim + m];
    }
  }
}

// ---- the cache

// Behind the keys of its stream.
void Attention::append(const AttentionLayer& layer, const Cache& cache, int r) {
  for (int head = 0; head < tokens.heads; head++) store(layer, cache, r, head, (int)tokens.position(r));
}

// Every row takes the slot of the key that it evicts, if it is kept.
void Attention::free_slots(const Cache& cache, Range rows, int head) {
  int mask_channels = d.mask_heads / d.kv_heads;
  float* precedence = cache.precedence + (size_t)head * d.window;
  int64_t* positions = cache.positions + (size_t)head * d.window;
  Precedences precedences(precedence, d.sinks, d.window);
  for (int r = rows.first; r < rows.last; r++) {
    float own = 0;
    if (mask_channels > 0) own = floats_of(values.row(r) + kv_head_of(head) * width)[head % mask_channels];
    if (d.bonus > 0) own = bonus_of(own, d.bonus);
    int64_t position = tokens.position(r);
    Competitor key = competitor(precedence, positions, d.window, d.recent, own, position);
    int slot = mask_channels == 0 ? oldest_slot(positions, d.sinks, d.window, position)
               : d.bonus > 0 ? freed_slot_by_bonus(precedence, positions, d.sinks, d.window, key)
                             : freed_slot(precedences, positions, d.sinks, d.window, key);
    freed_by(r, head) = slot;
    if (slot < 0) continue;
    precedences.replace(slot, own);
    positions[slot] = position;
  }
}

void Attention::store(const AttentionLayer& layer, const Cache& cache, int r, int head, int slot) {
  int kv_head = kv_head_of(head), scales = kv_head * d.head_dim;
  bool is_int8 = layer.key_scales != nullptr;
  store_row(keys.row(r) + kv_head * width, is_int8 ? layer.key_scales + scales : nullptr,
            row_of(cache.keys, r, head, slot));
  store_row(values.row(r) + kv_head * width, is_int8 ? layer.value_scales + scales : nullptr,
            row_of(cache.values, r, head, slot));
}

void Attention::store_row(const float* x, const float* scales, uint8_t* row) const {
  std::copy_n((const uint8_t*)(x + layout.numbers), layout.floats * sizeof(float), row);
  row += layout.floats * sizeof(float);
  switch (layout.type) {
    case NumberType::FLOAT32:
      std::copy_n((const uint8_t*)x, layout.numbers * sizeof(float), row);
      break;
    case NumberType::FLOAT16:
      products.kernels.to_float16(x, layout.numbers, (Float16*)row);
      break;
    case NumberType::INT8:
      for (int c = 0; c < d.head_dim; c++) {
        ((int8_t*)row)[c] = (int8_t)std::lrint(std::min(std::max(x[c] / scales[c], -128.0f), 127.0f));
      }
      break;
  }
}

uint8_t* Attention::row_of(uint8_t* cache, int r, int head, int slot) const {
  size_t cache_head = (size_t)(r / tokens.length) * tokens.heads + head;
  return cache + (cache_head * tokens.slots + slot) * layout.bytes();
}

// ---- attention

void Attention::attend_rows(const AttentionLayer& layer, const Cache& cache, Range rows, float* y) {
  if (tokens.is_full()) {
    products.team.parallel(tokens.heads, [&](int head) { free_slots(cache, rows, head); });
  }
  // bands of one stream, or streams of one band
  int first = rows.first / tokens.length, streams = (rows.last - 1) / tokens.length - first + 1;
  int ranges = tokens.streams > 1 ? streams : (rows.last - rows.first + BAND - 1) / BAND, all = most_spans(rows);
  for (int start = 0; start < all; start += spans_at_once) {
    Range some{start, std::min(start + spans_at_once, all)};
    int count = some.last - some.first;
    products.team.parallel(ranges * tokens.heads * count, [&](int item) {
      int range = item / count / tokens.heads, begin = rows.first + range * BAND, end = begin + BAND;
      if (tokens.streams > 1) begin = (first + range) * tokens.length, end = begin + tokens.length;
      Range together{std::max(rows.first, begin), std::min(rows.last, end)};
      attend_span(layer, cache, together, item / count % tokens.heads, some.first + item % count);
    });
    products.each_row(rows.last - rows.first, [&](int i) { add_spans(layer, rows.first + i, some, y); });
  }
}

// Rows of one stream in their order, over a span of one head of the cache. In a full window, each row first takes its
// slot, if that lies in the span. So it sees the keys of the rows before it, and none of those behind it.
void Attention::attend_span(const AttentionLayer& layer, const Cache& cache, Range rows, int cache_head, int index) {
  int heads = heads_of_cache_head();
  Span span = span_at(index);
  const uint8_t *span_keys = row_of(cache.keys, rows.first, cache_head, span.start),
                *span_values = row_of(cache.values, rows.first, cache_head, span.start);
  bool has_columns = columns.rows() > 0 && &span.queries == &queries;
  SpanAttention attention(products.kernels, {layout, span_keys, span_values, 0, false, asking_for_rows()},
                          has_columns ? columns_of(rows.first, cache_head) : nullptr, width,
                          index_in_band(rows.last - 1, heads - 1) + 1, scale);
  for (int r = rows.first; r < rows.last; r++) {
    int length = std::min(visible(r), span.end) - span.start;
    if (length <= 0) continue;
    if (tokens.is_full()) {
      int slot = freed_by(r, cache_head);
      if (slot >= span.start && slot < span.end) {
        attention.replace(slot - span.start, index_in_band(r, 0), length, [&] { store(layer, cache, r, cache_head, slot); });
      }
    }
    for (int head = cache_head * heads; head < (cache_head + 1) * heads; head++) {
      Attended* part = parts_of(r, head) + index % spans_at_once;
      attention.add(index_in_band(r, head), span.queries.row(r) + head * width, length, part);
    }
  }
  attention.finish();
}

// Far sinks have spans of their own, before those of all other keys.
Attention::Span Attention::span_at(int index) const {
  int of_sinks = has_far_sinks() ? spans_of(d.sinks) : 0;
  int start = index * SPAN;
  if (index < of_sinks) return {start, std::min(start + SPAN, d.sinks), sink_queries};
  if (of_sinks > 0) start = d.sinks + (index - of_sinks) * SPAN;
  return {start, start + SPAN, queries};
}

int Attention::spans_for(int r) const {
  return has_far_sinks() ? spans_of(d.sinks) + spans_of(d.window - d.sinks) : spans_of(visible(r));
}

int Attention::most_spans(Range rows) const {
  int most = 1;
  for (int r = rows.first; r < rows.last; r++) most = std::max(most, spans_for(r));
  return most;
}

// The results of some spans of a row, those before them being in y. So the sum is the same however many come at once.
void Attention::add_spans(const AttentionLayer& layer, int r, Range some, float* y) {
  int count = spans_for(r);
  for (int head = 0; head < d.heads; head++) {
    Attended& sum = totals[(size_t)(r % at_once) * d.heads + head];
    float* numbers = y + ((size_t)r * d.heads + head) * d.channels;
    if (some.first == 0) {
      sum = {-INFINITY, 0, numbers};
      std::fill_n(numbers, d.channels, 0.0f);
    }
    const Attended* parts = parts_of(r, head);
    for (int i = some.first; i < std::min(some.last, count); i++) add_part(parts[i - some.first], sum);
    if (some.first < count && count <= some.last) finish(layer, head, sum);
  }
}

// A loop of its own, without a choice in it, becomes vectors.
static void weigh_and_add(const float* __restrict x, float weight, int n, float before, float* __restrict y) {
  for (int c = 0; c < n; c++) y[c] = y[c] * before + weight * x[c];
}

// Both in units of the larger weight.
void Attention::add_part(const Attended& part, Attended& sum) const {
  float largest = std::max(part.largest, sum.largest);
  float before = sum.largest == largest ? 1 : std::exp2((sum.largest - largest) * scale);
  float weight = part.largest == largest ? 1 : std::exp2((part.largest - largest) * scale);
  weigh_and_add(part.sums, weight, numbers(), before, sum.sums);
  sum.total = sum.total * before + weight * part.total;
  sum.largest = largest;
}

void Attention::finish(const AttentionLayer& layer, int head, Attended& sum) const {
  for (int c = 0; c < numbers(); c++) sum.sums[c] /= sum.total;
  if (layer.value_scales == nullptr) return;
  const float* scales = layer.value_scales + head / (d.heads / d.kv_heads) * d.head_dim;
  for (int c = 0; c < d.head_dim; c++) sum.sums[c] *= scales[c];
}

}  // namespace doge
