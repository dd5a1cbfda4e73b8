// The kernels of an instruction set, in terms of its vectors.
#pragma once

#include "float_products.h"
#include "group_attention.h"
#include "query_attention.h"
#include "row_panels.h"
#include "row_sums.h"
#include "row_tiles.h"
#include "vector_kernels.h"

namespace doge {
namespace {

template <class V>
void tiles_or_panels(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                     size_t y_stride) {
  auto products = x.in_order ? RowPanels<V>::block_products : RowTiles<V>::block_products;
  products(matrix, first, last, x, rows, y, y_stride);
}

template <class V>
constexpr Kernels vector_kernels(const char* name) {
  using K = VectorKernels<V>;
  using F = FloatProducts<V>;
  Kernels kernels{name, 0, K::quantize, nullptr, F::float_products, F::add_weighted_rows, RowSums<V>::add_block_rows,
                  QueryAttention<V>::attend, 0, nullptr, nullptr, K::add, K::rms_norm, K::to_float16, K::gated_silu};
  if constexpr (V::HAS_PANELS) {
    kernels.tokens_in_order = V::TOKENS_IN_ORDER;
    kernels.block_products = tiles_or_panels<V>;
  } else {
    kernels.block_products = RowTiles<V>::block_products;
  }
  if constexpr (V::GROUP_VECTORS > 0) {
    using G = GroupAttention<V>;
    static_assert(G::GROUP <= LARGEST_GROUP);
    kernels.group = G::GROUP;
    kernels.unpack = G::unpack;
    kernels.attend_group = G::attend;
  }
  return kernels;
}

}  // namespace
}  // namespace doge
