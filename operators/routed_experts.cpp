#include "routed_experts.h"

#include <cmath>
#include <memory>

namespace doge {
namespace {

struct Choice {
  float score;
  int index;
};

// The `count` best of n scores, the best first; of equals that of the smallest index comes first. Each one is compared
// with all: for the few dozens that there are, vectors do that sooner than branches can sort.
std::vector<Choice> best_of(const float* scores, int n, int count) {
  std::vector<int> better(n);
  for (int i = 0; i < n; i++) {
    for (int j = 0; j < n; j++) better[i] += scores[j] > scores[i];
  }
  std::vector<Choice> best(n, {0, -1});
  for (int i = 0; i < n; i++) {
    int place = better[i];
    while (best[place].index >= 0) place++;  // equals, or no numbers, that came before
    best[place] = {scores[i], i};
  }
  best.resize(count);
  return best;
}

// Into `best`, which has at most `count`, the best first; of equals that of the smallest index comes first.
void insert(Choice each, int count, std::vector<Choice>& best) {
  auto place = best.end();
  while (place != best.begin() && place[-1].score == each.score && place[-1].index > each.index) --place;
  best.insert(place, each);
  if ((int)best.size() > count) best.pop_back();
}

// The best experts of a token by the sums of their halves' scores.
//
// The i-th best x with the j-th best y is beaten by (i + 1) * (j + 1) - 1 others, so few pairs are looked at. The sums of
// an x fall along y, and those of the next x are no larger, so an x begins when the one before it has had its first.
std::vector<Choice> best_pairs(const std::vector<Choice>& x, const std::vector<Choice>& y, int keys, int count) {
  struct Run {
    float sum;
    int x, y, length;  // the next pair of this x, and how many there are
  };
  std::vector<Run> runs;
  std::vector<Choice> best;
  runs.reserve(x.size());
  best.reserve(count + 1);
  auto begin = [&](int i) { runs.push_back({x[i].score + y[0].score, i, 0, std::min((int)y.size(), count / (i + 1))}); };
  begin(0);
  while (!runs.empty()) {
    Run* run = &runs.front();
    for (Run& each : runs) run = each.sum > run->sum ? &each : run;
    if ((int)best.size() == count && !(run->sum >= best.back().score)) break;  // the last one has no equal any more
    insert({run->sum, x[run->x].index * keys + y[run->y].index}, count, best);
    if (run->y == 0 && run->x + 1 < (int)x.size()) begin(run->x + 1);
    if (++run->y < run->length) {
      run->sum = x[run->x].score + y[run->y].score;
    } else {
      *run = runs.back();
      runs.pop_back();
    }
  }
  return best;
}

size_t zero_bytes(const BlockRows& rows) { return rows.zeros == nullptr ? 0 : (rows.blocks * rows.bits + 7) / 8; }

// Copies of some rows of a matrix, one after the other.
class GatheredRows {
 public:
  GatheredRows(const BlockRows& from, const int* rows, int n) : view(from) {
    size_t codes = from.row_bytes(), zeros = zero_bytes(from), blocks = from.blocks;
    memory_.reset(new float[n * (blocks + (codes + zeros + 3) / 4)]);
    float* scales_of = memory_.get();
    uint8_t *codes_of = (uint8_t*)(scales_of + n * blocks), *zeros_of = codes_of + n * codes;
    for (int i = 0; i < n; i++) {
      std::copy_n(from.scales + rows[i] * blocks, blocks, scales_of + i * blocks);
      std::copy_n(from.codes + rows[i] * codes, codes, codes_of + i * codes);
      if (zeros > 0) std::copy_n(from.zeros + rows[i] * zeros, zeros, zeros_of + i * zeros);
    }
    view.codes = codes_of;
    view.scales = scales_of;
    if (zeros > 0) view.zeros = zeros_of;
  }

  BlockRows view;

 private:
  std::unique_ptr<float[]> memory_;
};

// A row of codes. Rows of experts lie anywhere in memory, so no processor sees where the reading goes. Always inlined:
// GCC leaves out calls of functions that do nothing but ask.
[[gnu::always_inline]] inline void ask_for(const Part& part, int row) {
  if (part.weights != nullptr) return;
  const BlockRows& rows = part.blocks;
  const uint8_t* codes = rows.codes + row * rows.row_bytes();
  for (size_t i = 0; i < rows.row_bytes(); i += 64) __builtin_prefetch(codes + i);
  __builtin_prefetch(rows.scales + (size_t)row * rows.blocks);
}

}  // namespace

float activated(Activation activation, float x) {
  switch (activation) {
    case Activation::SILU: return x / (1 + std::exp(-x));
    case Activation::GELU: return 0.5f * x * (1 + std::erf(x * 0.70710678f));
    case Activation::GELU_TANH: return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    case Activation::RELU: return std::max(x, 0.0f);
  }
  return x;
}

RoutedExperts::RoutedExperts(const Decoder& d, const Experts& experts, const Rows& x, const Products& products)
    : d(d),
      experts(experts),
      x(x),
      products(products),
      count(d.experts_per_token),
      groups((count + GROUP - 1) / GROUP),
      probabilities(products.memory, x.rows(), count),
      answers(products.memory, x.rows() * groups, d.hidden),
      chosen((size_t)x.rows() * count) {
  const Part& down = experts.down.parts.front();
  if (down.weights == nullptr) quantized.emplace_back(x, down.blocks, false, products);
}

void RoutedExperts::choose(int r) {
  std::vector<Choice> halves[2];
  std::vector<float> scores(experts.keys);
  const Asking asking = r == 0 ? products.asking : Asking::FIRST;  // routers are at hand for later rows
  for (int half = 0; half < 2; half++) {
    products.kernels.float_products(experts.router[half], d.hidden, 0, experts.keys, x.row(r), x.width, 1,
                                    scores.data(), 0, asking);
    for (int i = 0; i < experts.keys && experts.bias[half] != nullptr; i++) scores[i] += experts.bias[half][i];
    halves[half] = best_of(scores.data(), experts.keys, std::min(experts.keys, count));
  }
  std::vector<Choice> best = best_pairs(halves[0], halves[1], experts.keys, count);
  float total = 0, *y = probabilities.row(r);
  for (int i = 0; i < count; i++) {
    chosen[(size_t)r * count + i] = best[i].index;
    total += y[i] = std::exp(best[i].score - best[0].score);
  }
  for (int i = 0; i < count; i++) y[i] /= total;
}

void RoutedExperts::answer(int task) {
  int r = task / groups, first = task % groups * GROUP, n = std::min(GROUP, count - first);
  const int* own = &chosen[(size_t)r * count + first];
  const float* shares = probabilities.row(r) + first;
  float dots[GROUP], factors[GROUP], *y = answers.row(task);
  for (int i = 0; i < n; i++) ask_for(experts.up.parts.front(), own[i]);
  multiply(own, n, r, dots);
  if (d.activation == Activation::SILU) {
    products.kernels.gated_silu(dots, shares, n, factors);
  } else {
    for (int i = 0; i < n; i++) factors[i] = shares[i] * activated(d.activation, dots[i]);
  }
  std::fill_n(y, d.hidden, 0.0f);
  add_table_rows(products.kernels, experts.up, own, factors, n, y);
}

// Products of n experts with row r. Rows of codes come together first, so that a tile can multiply them.
void RoutedExperts::multiply(const int* chosen, int n, int r, float* y) const {
  const Part& part = experts.down.parts.front();
  if (part.weights == nullptr) {
    GatheredRows rows(part.blocks, chosen, n);
    return products.kernels.block_products(rows.view, 0, n, quantized.front().row(r), 1, y, 0);
  }
  for (int i = 0; i < n; i++) {
    const float* row = part.weights + (size_t)chosen[i] * d.hidden;
    products.kernels.float_products(row, d.hidden, 0, 1, x.row(r), x.width, 1, y + i, 0,
                                    Asking::FIRST);  // a row alone asks for nothing
  }
}

void RoutedExperts::add_to(Rows& y) const {
  products.each_row(y.rows(), [&](int r) {
    for (int i = 0; i < groups; i++) products.kernels.add(nullptr, answers.row(r * groups + i), d.hidden, y.row(r));
  });
}

}  // namespace doge
