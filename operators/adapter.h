// An adapter as a run brings it along: thin matrices whose product is added to that of a decoder's matrix.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels.h"

namespace doge {

// Rows of a fused matrix that have a thin matrix of their own.
struct UpdatePart {
  Thin up;  // [rank][rows]
  int rows;
};

// y += (x down) up. Each part of a fused matrix has its own `rank` columns of down.
struct Update {
  static constexpr int MOST_PARTS = 3;

  int rank;   // of every part; 0: nothing is added
  int count;  // of parts
  Thin down;  // [width of x][count * rank]
  UpdatePart parts[MOST_PARTS];
};

struct LayerUpdates {
  Update qkv, o, gate_up, down;
};

struct Adapter {
  const float* first_layer_logits;   // [vocabulary][mask heads] in the place of the decoder's; null: the decoder's
  std::vector<LayerUpdates> layers;  // none without an adapter

  const LayerUpdates& of(size_t layer) const {
    static const LayerUpdates nothing{};
    return layers.empty() ? nothing : layers[layer];
  }
};

}  // namespace doge
