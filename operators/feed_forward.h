// The gated MLP, and the mixture of single-neuron experts that joins it.
#pragma once

#include "adapter.h"
#include "workspace.h"

namespace doge {

// down(act(gate x) * up x), gate and up as one matrix; and the experts of each token where there are any.
Rows feed_forward(const Decoder& d, const Layer& layer, const LayerUpdates& updates, const Rows& x,
                  const Products& products);

}  // namespace doge
