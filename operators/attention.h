// Dynamic mask attention of new tokens over a cache that they join.
#pragma once

#include "workspace.h"

namespace doge {

// cos and sin of each row's position, float32 [rows][head_dim / 2]; where the window is full and has sinks, one row more,
// of the window's last position.
struct Rotations {
  const float *cos, *sin;
};

class Attention {
 public:
  Attention(const AttentionSizes& sizes, const Tokens& tokens, const Rotations& rotations, const Products& products);

  // y [rows][heads * channels] of projected [rows][d.projected()] of a layer; keys and values join its cache.
  void attend(const AttentionLayer& layer, const Cache& cache, const float* projected, float* y);

 private:
  static constexpr int BAND = 64;  // rows that go over a span together

  struct Range {
    int first, last;
  };

  // Slots that are attended to together, and the queries that see them.
  struct Span {
    int start, end;
    const Rows& queries;
  };

  void finish_row(const AttentionLayer& layer, int r, const float* projected);
  void finish_head(const AttentionLayer& layer, int r, int head, const float* projected);
  void finish_rotated(const AttentionLayer& layer, int r, int head, int rotation, float* y);
  void finish_values(bool looks_up, int r, const float* values, const float* logits);
  void write_column(int r, int head, const float* query);
  void softplus_of(int r, const float* logits);
  float* floats_of(float* row) const { return row + (layout.floats > 0 ? layout.numbers : d.head_dim); }

  void append(const AttentionLayer& layer, const Cache& cache, int r);
  void free_slots(const Cache& cache, Range rows, int head);
  void store(const AttentionLayer& layer, const Cache& cache, int r, int head, int slot);
  void store_row(const float* x, const float* scales, uint8_t* row) const;
  uint8_t* row_of(uint8_t* cache, int r, int head, int slot) const;
  int kv_head_of(int head) const { return head / (tokens.heads / d.kv_heads); }

  void attend_rows(const AttentionLayer& layer, const Cache& cache, Range rows, float* y);
  void attend_span(const AttentionLayer& layer, const Cache& cache, Range rows, int cache_head, int index);
  void add_spans(const AttentionLayer& layer, int r, Range some, float* y);
  void add_part(const Attended& part, Attended& sum) const;
  void finish(const AttentionLayer& layer, int head, Attended& sum) const;
  Attended* parts_of(int r, int head) { return &attended[((size_t)(r % at_once) * d.heads + head) * spans_at_once]; }
  int& freed_by(int r, int head) { return freed[(size_t)(r % BAND) * tokens.heads + head]; }
  Span span_at(int index) const;
  int spans_for(int r) const;
  int most_spans(Range rows) const;
  int most_spans_at_once() const;
  int rows_at_once() const;
  int parts() const { return std::min(tokens.rows(), at_once) * d.heads * spans_at_once; }
  int numbers() const { return std::min(layout.numbers, d.channels); }  // of a value, without what pads its row
  int bands() const { return (tokens.rows() + BAND - 1) / BAND; }
  int visible(int r) const { return tokens.is_full() ? d.window : (int)tokens.position(r) + 1; }

  // Heads that attend to one head of the cache, and the number of such a query among those of its band.
  int heads_of_cache_head() const { return d.heads / tokens.heads; }
  int index_in_band(int r, int head) const { return r % BAND * heads_of_cache_head() + head % heads_of_cache_head(); }

  // Whether a stream's rows fill a group of the kernels.
  bool has_groups() const {
    int group = products.kernels.group;
    return group > 0 && tokens.length * heads_of_cache_head() >= group;
  }
  float* columns_of(int r, int cache_head) {
    int band = r / BAND * tokens.heads + cache_head;
    return columns.row(0) + (size_t)band * BAND * heads_of_cache_head() * width;
  }

  // Behind the window's length every query sees the sinks as from its last position (doge_export/graph/sinks.py).
  bool has_far_sinks() const { return tokens.is_full() && d.sinks > 0; }

  const AttentionSizes& d;
  const Tokens& tokens;
  const Rotations& rotations;
  const Products& products;
  const RowLayout& layout;     // of the cache
  int width;                   // of a query, key or value: numbers, then floats
  Rows softplus;               // [rows][mask width], of the layer at work
  Rows queries, keys, values;  // [rows][heads or kv heads * width], of the layer at work
  Rows columns;                // the queries once more, those of a group side by side; no rows without groups
  Rows sink_queries;           // as queries, rotated for far sinks; no rows where there are none
  std::vector<int> freed;      // [rows of a band][cache heads]: the slot that a row takes in a full window, or -1
  int spans;                   // of the row that has most
  int spans_at_once;           // whose partial results are kept until they are added up
  int at_once;                 // rows, whole bands, of such results
  Rows partial;                // [rows at once * heads * spans at once][numbers]
  std::vector<Attended> attended;
  std::vector<Attended> totals;  // [rows at once * heads], of all spans so far; their sums lie in the result
  float scale;                 // of scores, see Attended
};

}  // namespace doge
