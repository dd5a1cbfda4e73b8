#include "feed_forward.h"

#include <cmath>

#include "adapted_product.h"

namespace doge {
namespace {

float activated(Activation activation, float x) {
  switch (activation) {
    case Activation::SILU: return x / (1 + std::exp(-x));
    case Activation::GELU: return 0.5f * x * (1 + std::erf(x * 0.70710678f));
    case Activation::GELU_TANH: return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    case Activation::RELU: return std::max(x, 0.0f);
  }
  return x;
}

Rows gated_mlp(const Decoder& d, const Layer& layer, const LayerUpdates& updates, const Rows& x,
               const Products& products) {
  Rows gate_up = adapted_product(layer.gate_up, updates.gate_up, x, products),
       gated(products.memory, x.rows(), d.intermediate);
  products.each_row(x.rows(), [&](int r) {
    const float *gate = gate_up.row(r), *up = gate + d.intermediate;
    float* y = gated.row(r);
    if (d.activation == Activation::SILU) {
      products.kernels.gated_silu(gate, up, d.intermediate, y);
    } else {
      for (int i = 0; i < d.intermediate; i++) y[i] = activated(d.activation, gate[i]) * up[i];
    }
  });
  return adapted_product(layer.down, updates.down, gated, products);
}

// ---- experts

struct Choice {
  float score;
  int index;

  bool operator<(const Choice& other) const {  // the best first, of equals the first
    return score != other.score ? score > other.score : index < other.index;
  }
};

// The `count` best of a half's scores [keys], the best first.
void best_of(const float* scores, int keys, int count, Choice* best) {
  std::vector<Choice> all(keys);
  for (int i = 0; i < keys; i++) all[i] = {scores[i], i};
  std::partial_sort(all.begin(), all.begin() + count, all.end());
  std::copy_n(all.begin(), count, best);
}

// The best experts of a token by the sums of their halves' scores. The i-th best x with the j-th best y is beaten by
// (i + 1) * (j + 1) - 1 others, so few pairs are looked at.
std::vector<Choice> choose(const float* x, const float* y, int keys, int count) {
  int halves = std::min(keys, count);
  std::vector<Choice> best_x(halves), best_y(halves), pairs;
  best_of(x, keys, halves, best_x.data());
  best_of(y, keys, halves, best_y.data());
  for (int i = 0; i < halves; i++) {
    for (int j = 0; j < halves && (i + 1) * (j + 1) <= count; j++) {
      pairs.push_back({best_x[i].score + best_y[j].score, best_x[i].index * keys + best_y[j].index});
    }
  }
  std::partial_sort(pairs.begin(), pairs.begin() + count, pairs.end());
  pairs.resize(count);
  return pairs;
}

// Scores to probabilities.
void softmax(std::vector<Choice>& chosen) {
  float largest = chosen.front().score, total = 0;
  for (Choice& each : chosen) total += each.score = std::exp(each.score - largest);
  for (Choice& each : chosen) each.score /= total;
}

class RoutedExperts {
 public:
  RoutedExperts(const Decoder& d, const Experts& experts, const Rows& x, const Products& products)
      : d(d), experts(experts), x(x), kernels(products.kernels), quantized(quantized_for(products)) {}

  // y [hidden] += sum of probability * act(down . x) * up over the experts of row r
  void add_to(int r, float* y) const {
    std::vector<float> halves(2 * (size_t)experts.keys);
    for (int half = 0; half < 2; half++) {
      float* scores = &halves[half * (size_t)experts.keys];
      kernels.float_products(experts.router[half], d.hidden, 0, experts.keys, x.row(r), x.width, 1, scores, 0);
      for (int i = 0; i < experts.keys && experts.bias[half] != nullptr; i++) scores[i] += experts.bias[half][i];
    }
    std::vector<Choice> chosen = choose(&halves[0], &halves[experts.keys], experts.keys, d.experts_per_token);
    for (const Choice& each : chosen) ask_for(each.index);
    softmax(chosen);
    for (const Choice& each : chosen) {
      add_table_row(experts.up, each.index, each.score * activated(d.activation, dot(each.index, r)), y);
    }
  }

 private:
  std::vector<Quantized> quantized_for(const Products& products) const {
    std::vector<Quantized> one_or_none;
    const Part& part = experts.down.parts.front();
    if (part.weights == nullptr) one_or_none.emplace_back(x, part.blocks, products);
    return one_or_none;
  }

  float dot(int64_t expert, int r) const {
    const Part& part = experts.down.parts.front();
    float y;
    if (part.weights != nullptr) {
      kernels.float_products(part.weights + expert * d.hidden, d.hidden, 0, 1, x.row(r), x.width, 1, &y, 0);
    } else {
      kernels.block_products(row_of(part.blocks, expert), 0, 1, quantized.front().row(r), 1, &y, 0);
    }
    return y;
  }

  // Experts lie anywhere in memory, so their rows are asked for before the first one is used.
  void ask_for(int64_t expert) const {
    for (const Matrix* table : {&experts.down, &experts.up}) {
      const Part& part = table->parts.front();
      if (part.weights != nullptr) continue;
      BlockRows row = row_of(part.blocks, expert);
      for (size_t i = 0; i < row.row_bytes(); i += 64) __builtin_prefetch(row.codes + i);
      __builtin_prefetch(row.scales);
    }
  }

  // The rows from this one on.
  static BlockRows row_of(BlockRows rows, int64_t index) {
    rows.codes += index * rows.row_bytes();
    rows.scales += index * rows.blocks;
    if (rows.zeros != nullptr) rows.zeros += index * ((rows.blocks * rows.bits + 7) / 8);
    return rows;
  }

  const Decoder& d;
  const Experts& experts;
  const Rows& x;
  const Kernels& kernels;
  std::vector<Quantized> quantized;
};

}  // namespace

Rows feed_forward(const Decoder& d, const Layer& layer, const LayerUpdates& updates, const Rows& x,
                  const Products& products) {
  Rows y = gated_mlp(d, layer, updates, x, products);
  if (d.experts_per_token == 0) return y;
  RoutedExperts routed(d, layer.experts, x, products);
  products.each_row(x.rows(), [&](int r) { routed.add_to(r, y.row(r)); });
  return y;
}

}  // namespace doge
