#include "step.h"

#include "adapted_product.h"
#include "attention.h"
#include "feed_forward.h"
#include "workspace.h"

namespace doge {
namespace {

// residual * scale + added, and its norm, of every row
void add_and_norm(const Decoder& d, const float* scale, const Rows& added, const float* weight, Rows& residual,
                  Rows& normed, const Products& products) {
  products.each_row(residual.rows(), [&](int r) {
    float *x = residual.row(r), *y = normed.row(r);
    products.kernels.add(scale, added.row(r), d.hidden, x);
    products.kernels.rms_norm(x, weight, d.hidden, d.epsilon, y);
  });
}

Rows kept_rows(const Tokens& tokens, const Rows& hidden, Memory& memory) {
  Rows kept(memory, tokens.streams * tokens.num_kept, hidden.width);
  for (int i = 0; i < kept.rows(); i++) {
    int r = i / tokens.num_kept * tokens.length + (int)tokens.kept[i % tokens.num_kept];
    std::copy_n(hidden.row(r), hidden.width, kept.row(i));
  }
  return kept;
}

// A layer behind its attention, row by row.
void finish_layer(const Decoder& d, const Layer& layer, const LayerUpdates& updates, const Rows& attended,
                  Rows& residual, Rows& hidden, const Products& products) {
  add_and_norm(d, layer.attention_residual, adapted_product(layer.o, updates.o, attended, products),
               layer.feed_forward_norm, residual, hidden, products);
  add_and_norm(d, layer.feed_forward_residual, feed_forward(d, layer, updates, hidden, products), layer.next_norm,
               residual, hidden, products);
}

// cos and sin of all rows; of sinks in a full window, one row more.
class RotaryTable {
 public:
  RotaryTable(const Decoder& d, const Tokens& tokens, const Products& products)
      : rows_(tokens.rows() + (tokens.is_full() && d.sinks > 0 ? 1 : 0)),
        cos_(products.memory, rows_, d.head_dim / 2),
        sin_(products.memory, rows_, d.head_dim / 2) {
    products.each_row(rows_, [&](int r) {
      d.rotary.write(r < tokens.rows() ? tokens.position(r) : d.window - 1, cos_.row(r), sin_.row(r));
    });
  }

  Rotations rotations() const { return {cos_.row(0), sin_.row(0)}; }

 private:
  int rows_;
  Rows cos_, sin_;
};

// Bytes of keys and values that the tokens see.
size_t seen_bytes(const Decoder& d, const Tokens& tokens) {
  size_t slots = 0;
  for (int i = 0; i < tokens.streams; i++) slots += std::min<int64_t>(tokens.past[i] + tokens.length, d.window);
  return slots * tokens.heads * d.layout.bytes() * 2 * d.layers.size();
}

}  // namespace

void step(const Decoder& d, const Tokens& tokens, const Products& given, float* logits) {
  Memory& memory = given.memory;
  const Products products(given.kernels, given.team, memory, asking_for(d.weight_bytes, seen_bytes(d, tokens)));
  RotaryTable table(d, tokens, products);
  Rotations rotations = table.rotations();
  Attention attention(d, tokens, rotations, products);
  Rows embedded(memory, tokens.rows(), d.hidden), residual(memory, tokens.rows(), d.hidden),
      hidden(memory, tokens.rows(), d.hidden);
  for (int r = 0; r < tokens.rows(); r++) {
    for (Rows* rows : {&embedded, &residual}) std::fill_n(rows->row(r), d.hidden, 0.0f);
    const int id = (int)tokens.ids[r];
    const float one = 1;
    add_table_rows(products.kernels, d.embedding, &id, &one, 1, embedded.row(r));
  }
  add_and_norm(d, nullptr, embedded, d.first_norm, residual, hidden, products);
  for (size_t index = 0; index < d.layers.size(); index++) {
    const Layer& layer = d.layers[index];
    const LayerUpdates& updates = tokens.adapter.of(index);
    Rows projected = adapted_product(layer.qkv, updates.qkv, hidden, products);
    Rows attended(memory, tokens.rows(), d.heads * d.channels);
    attention.attend(layer, tokens.caches[index], projected.row(0), attended.row(0));
    if (index + 1 < d.layers.size()) {
      finish_layer(d, layer, updates, attended, residual, hidden, products);
      continue;
    }
    // behind the last attention nothing but the rows that are wanted
    Rows last_attended = kept_rows(tokens, attended, memory), last_residual = kept_rows(tokens, residual, memory),
         last_hidden(memory, last_residual.rows(), d.hidden);
    finish_layer(d, layer, updates, last_attended, last_residual, last_hidden, products);
    products.product(d.output, last_hidden, logits);
  }
}

}  // namespace doge
