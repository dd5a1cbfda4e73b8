#include "feed_forward.h"

#include <optional>

#include "adapted_product.h"
#include "routed_experts.h"

namespace doge {
namespace {

void gate(const Decoder& d, const float* gate_up, const Kernels& kernels, float* y) {
  const float* up = gate_up + d.intermediate;
  if (d.activation == Activation::SILU) return kernels.gated_silu(gate_up, up, d.intermediate, y);
  for (int i = 0; i < d.intermediate; i++) y[i] = activated(d.activation, gate_up[i]) * up[i];
}

}  // namespace

Rows feed_forward(const Decoder& d, const Layer& layer, const LayerUpdates& updates, const Rows& x,
                  const Products& products) {
  std::optional<RoutedExperts> routed;
  if (d.experts_per_token > 0) routed.emplace(d, layer.experts, x, products);
  Rows gate_up = adapted_product(layer.gate_up, updates.gate_up, x, products, routed ? routed->choosing() : Beside{}),
       gated(products.memory, x.rows(), d.intermediate);
  products.each_row(x.rows(), [&](int r) { gate(d, gate_up.row(r), products.kernels, gated.row(r)); });
  Rows y = adapted_product(layer.down, updates.down, gated, products, routed ? routed->answering() : Beside{});
  if (routed) routed->add_to(y);
  return y;
}

}  // namespace doge
