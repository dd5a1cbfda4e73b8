// Dynamic mask attention of new tokens over a cache that they join.
#pragma once

#include "workspace.h"

namespace doge {

class Attention {
 public:
  Attention(const Decoder& decoder, const Tokens& tokens, const Products& products);

  // projected [rows][qkv rows] of layer `index` -> [rows][heads * channels]; keys and values join the layer's cache.
  Rows attend(int index, const Rows& projected);

 private:
  void finish_row(int index, int r, const float* projected);
  void finish_head(const Layer& layer, int r, int head, const float* projected);
  void finish_extra(const Layer& layer, int r, int head, float* extra);
  void finish_values(bool looks_up, int r, const float* values, const float* logits);
  void softplus_of(int r, const float* logits);

  void append(const Cache& cache, int r);
  void replace(const Cache& cache, int r);
  void store(const Cache& cache, int r, int head, int slot);
  float* slot_of(float* cache, int r, int head, int slot) const;
  int kv_head_of(int head) const { return head / (tokens.heads / d.kv_heads); }

  void attend_rows(const Cache& cache, int first, int last, Rows& y);
  void attend_chunk(const Cache& cache, int r, int head, int chunk, Attended* parts);
  void merge(const Attended* parts, int count, float* y) const;
  int visible(int r) const { return tokens.is_full() ? d.window : (int)tokens.position(r) + 1; }

  // Behind the window's length every query sees the sinks as from its last position (doge_export/graph/sinks.py).
  bool has_far_sinks() const { return tokens.is_full() && d.sinks > 0; }
  int chunks(int r) const;

  const Decoder& d;
  const Tokens& tokens;
  const Products& products;
  Rows cos, sin;               // [rows][head_dim / 2]
  Rows softplus;               // [rows][mask width], of the layer at work
  Rows queries, keys, values;  // [rows][heads or kv heads * channels], of the layer at work
  Rows sink_cos, sink_sin;     // [1][head_dim / 2], of the window's last position
  Rows sink_queries;           // as queries, rotated by them; no rows where there are no far sinks
  Rows partial;                // [rows of a block * heads * chunks][channels]
  std::vector<Attended> attended;
};

}  // namespace doge
