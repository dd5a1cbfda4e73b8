#include "feed_forward.h"

#include <algorithm>
#include <cmath>
#include <numeric>

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
};

// The places of the `count` best of scores, the best first; of equals that of the smallest index comes first. Each one
// is compared with all: for the few dozens that there are, vectors do that sooner than branches can sort.
std::vector<int> best_of(const std::vector<float>& scores, const std::vector<int>& indices, int count) {
  int n = (int)scores.size();
  std::vector<int> best(count);
  for (int i = 0; i < n; i++) {
    float score = scores[i];
    int index = indices[i], better = 0;
    for (int j = 0; j < n; j++) {
      int above = scores[j] > score, equal = scores[j] == score, earlier = indices[j] < index;
      better += above | (equal & earlier);
    }
    if (better < count) best[better] = i;
  }
  return best;
}

// The best experts of a token by the sums of their halves' scores. The i-th best x with the j-th best y is beaten by
// (i + 1) * (j + 1) - 1 others, so few pairs are looked at.
std::vector<Choice> choose(const std::vector<float>& x, const std::vector<float>& y, int count) {
  int keys = (int)x.size(), halves = std::min(keys, count);
  std::vector<int> all(keys), experts;
  std::iota(all.begin(), all.end(), 0);
  std::vector<int> best_x = best_of(x, all, halves), best_y = best_of(y, all, halves);
  std::vector<float> scores;
  for (int i = 0; i < halves; i++) {
    for (int j = 0; j < halves && (i + 1) * (j + 1) <= count; j++) {
      scores.push_back(x[best_x[i]] + y[best_y[j]]);
      experts.push_back(best_x[i] * keys + best_y[j]);
    }
  }
  std::vector<Choice> chosen;
  for (int place : best_of(scores, experts, count)) chosen.push_back({scores[place], experts[place]});
  return chosen;
}

// Scores to probabilities.
void softmax(std::vector<Choice>& chosen) {
  float largest = chosen.front().score, total = 0;
  for (Choice& each : chosen) total += each.score = std::exp(each.score - largest);
  for (Choice& each : chosen) each.score /= total;
}

// The experts of every row of x. They are chosen when this is made, and their rows asked for, as they lie anywhere in
// memory: other work may come between.
class RoutedExperts {
 public:
  RoutedExperts(const Decoder& d, const Experts& experts, const Rows& x, const Products& products)
      : d(d), experts(experts), x(x), products(products), count(d.experts_per_token), chosen((size_t)x.rows() * count) {
    std::vector<std::vector<float>> halves(2 * (size_t)x.rows());
    products.team.parallel(2 * x.rows(), [&](int i) { halves[i] = scores_of(i % 2, i / 2); });
    products.each_row(x.rows(), [&](int r) {
      std::vector<Choice> of_row = choose(halves[2 * r], halves[2 * r + 1], count);
      for (const Choice& each : of_row) ask_for(each.index);
      softmax(of_row);
      std::copy(of_row.begin(), of_row.end(), chosen.begin() + (size_t)r * count);
    });
  }

  // y [rows][hidden] += sum of probability * act(down . x) * up over the experts of each row
  void add_to(Rows& y) const {
    const Part& down = experts.down.parts.front();
    std::vector<Quantized> quantized;  // one, of codes
    if (down.weights == nullptr) quantized.emplace_back(x, down.blocks, false, products);
    std::vector<float> factors(chosen.size());
    constexpr int TOGETHER = 8, COLUMNS = 256;  // work that is worth a task
    products.team.parallel(((int)chosen.size() + TOGETHER - 1) / TOGETHER, [&](int task) {
      for (int i = task * TOGETHER; i < std::min((task + 1) * TOGETHER, (int)chosen.size()); i++) {
        float product = dot(chosen[i].index, i / count, quantized);
        factors[i] = chosen[i].score * activated(d.activation, product);
      }
    });
    int slices = (d.hidden + COLUMNS - 1) / COLUMNS;
    products.team.parallel(x.rows() * slices, [&](int task) {
      int r = task / slices, first = task % slices * COLUMNS, last = std::min(first + COLUMNS, d.hidden);
      for (int i = r * count; i < (r + 1) * count; i++) {
        add_table_row(experts.up, chosen[i].index, factors[i], first, last, y.row(r));
      }
    });
  }

 private:
  std::vector<float> scores_of(int half, int r) const {
    std::vector<float> scores(experts.keys);
    products.kernels.float_products(experts.router[half], d.hidden, 0, experts.keys, x.row(r), x.width, 1,
                                    scores.data(), 0);
    for (int i = 0; i < experts.keys && experts.bias[half] != nullptr; i++) scores[i] += experts.bias[half][i];
    return scores;
  }

  float dot(int64_t expert, int r, const std::vector<Quantized>& quantized) const {
    const Part& part = experts.down.parts.front();
    float y;
    if (part.weights != nullptr) {
      products.kernels.float_products(part.weights + expert * d.hidden, d.hidden, 0, 1, x.row(r), x.width, 1, &y, 0);
    } else {
      products.kernels.block_products(row_of(part.blocks, expert), 0, 1, quantized.front().row(r), 1, &y, 0);
    }
    return y;
  }

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
  const Products& products;
  int count;  // of a row
  std::vector<Choice> chosen;
};

}  // namespace

Rows feed_forward(const Decoder& d, const Layer& layer, const LayerUpdates& updates, const Rows& x,
                  const Products& products) {
  if (d.experts_per_token == 0) return gated_mlp(d, layer, updates, x, products);
  RoutedExperts routed(d, layer.experts, x, products);
  Rows y = gated_mlp(d, layer, updates, x, products);
  routed.add_to(y);
  return y;
}

}  // namespace doge
