// The experts of every token: single neurons, of which each token has its own few.
#pragma once

#include "workspace.h"

namespace doge {

// Of one number, the function of a decoder's neurons and gates.
float activated(Activation activation, float x);

// The work comes in two kinds of tasks that share the phases of dense products: first all of `choosing`, then all of
// `answering`.
class RoutedExperts {
 public:
  RoutedExperts(const Decoder& d, const Experts& experts, const Rows& x, const Products& products);

  // A task for each row.
  Beside choosing() {
    return {x.rows(), [this](int r) { choose(r); }};
  }

  // A task for a few experts of a row.
  Beside answering() {
    return {x.rows() * groups, [this](int task) { answer(task); }};
  }

  // y [rows][hidden] += sum of probability * act(down . x) * up over the experts of each row
  void add_to(Rows& y) const;

 private:
  static constexpr int GROUP = 16;  // experts that are multiplied together, as many as a tile has rows

  void choose(int r);
  void answer(int task);
  void multiply(const int* chosen, int n, int r, float* y) const;

  const Decoder& d;
  const Experts& experts;
  const Rows& x;
  const Products& products;
  int count, groups;                // experts of a row, and groups of them
  Rows probabilities, answers;      // [rows][count], the best first; [rows * groups][hidden]
  std::vector<int> chosen;          // [rows][count]
  std::vector<Quantized> quantized;  // one, where the experts are codes
};

}  // namespace doge
