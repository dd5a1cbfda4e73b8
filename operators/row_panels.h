// Products of codes with many tokens.
//
// A panel is some blocks of the matrix rows that two vectors have lanes for. Its codes become numbers of 16 bits, less
// their zero points, once for all tokens. A block's sum is exact as in row_tiles.h, and floats are added in the same
// order. So the bits are those of a single row.
//
// An instruction set that has such products gives these operations, beside those of row_tiles.h:
//
//   Pairs                       two neighbouring codes of each row, in 16 bits; both(sums) is each row's number twice
//   load_pairs<BITS, N>(p, s, x)
//                               N codes of each row, 16 or 32, rows s bytes apart, to x[0] ... x[N / 2 - 1]
//   subtract(a, b)              of Pairs
//   add_pairs(sums, x, p)       x times the two numbers int16 at p
//   store_codes(p, x)           of activations, in their order, in 16 bits
//   TOKENS_IN_ORDER             from so many tokens on this is faster than tiles
#pragma once

#include "row_tiles.h"

namespace doge {
namespace {

template <class V>
struct RowPanels {
  using Floats = typename V::Floats;
  using Sums = typename V::Sums;
  using Pairs = typename V::Pairs;
  using Tiles = RowTiles<V>;
  static constexpr int ROWS = V::LANES;
  static constexpr int MOST_VECTORS = 2;  // of rows; so each number of a token meets two
  static constexpr int MOST_TOKENS = 6;
  static constexpr int COLUMNS = 256;  // so a panel and its tokens' codes lie in the first cache
  static constexpr int MOST_BLOCKS = COLUMNS / 16;

  struct Panel {
    Pairs pairs[COLUMNS / 2][MOST_VECTORS];
    Floats scales[MOST_BLOCKS][MOST_VECTORS];
    int first, blocks;
  };

  // Blocks from panel.first on of the rows from i on, into vector v. Those of the next panel are asked for: they lie
  // further along the rows, or else begin `ahead` rows behind these.
  template <int BITS, int N>
  static void unpack(const BlockRows& matrix, int i, int v, int ahead, Panel& panel) {
    const size_t row_bytes = matrix.row_bytes(), block_bytes = (size_t)matrix.block_size * BITS / 8;
    const uint8_t *rows = matrix.codes + i * row_bytes, *codes = rows + panel.first * block_bytes;
    const bool is_last = panel.first + panel.blocks == matrix.blocks;
    const uint8_t* next = is_last ? rows + ahead * row_bytes : codes + panel.blocks * block_bytes;
    Floats scales[BLOCKS_TOGETHER];
    typename Tiles::template Zeros<BITS> zeros(matrix, i);
    for (int b = 0, p = 0; b < panel.blocks; b++) {
      if (b % BLOCKS_TOGETHER == 0) {
        Tiles::scales_of(matrix, i, panel.first + b, scales);
        zeros.read(panel.first + b);
      }
      panel.scales[b][v] = scales[b % BLOCKS_TOGETHER];
      if (b * block_bytes % 64 == 0) {
        for (int m = 0; m < ROWS; m++) __builtin_prefetch(next + m * row_bytes + b * block_bytes);
      }
      const Pairs zero = V::both(zeros.at(panel.first + b));
      for (int piece = 0; piece < matrix.block_size; piece += N, codes += N * BITS / 8) {
        Pairs pairs[N / 2];
        V::template load_pairs<BITS, N>(codes, row_bytes, pairs);
        for (int c = 0; c < N / 2; c++) panel.pairs[p++][v] = V::subtract(pairs[c], zero);
      }
    }
  }

  // The panel's part of the products of VECTORS * ROWS rows with TOKENS tokens from r on; y of the first of both.
  template <int VECTORS, int TOKENS>
  static void multiply(const Panel& panel, const Activations& x, int r, int block_size, float* y, size_t y_stride) {
    Floats totals[TOKENS][VECTORS];
    for (int k = 0; k < TOKENS; k++) {
      for (int v = 0; v < VECTORS; v++) {
        totals[k][v] = panel.first == 0 ? V::zero() : V::load(y + k * y_stride + v * ROWS);
      }
    }
    const int16_t* inputs = x.codes + r * x.stride + (size_t)panel.first * block_size;
    const float* x_scales = x.scales + (size_t)r * x.blocks + panel.first;
    const Pairs(*pairs)[MOST_VECTORS] = panel.pairs;
    for (int b = 0; b < panel.blocks; b++) {
      Sums sums[TOKENS][VECTORS];
      for (auto& of_token : sums) {
        for (auto& sum : of_token) sum = V::set_sums(0);
      }
      for (int end = block_size; end > 0; end -= 16, inputs += 16, pairs += 8) {
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++) {
#pragma GCC unroll 8
          for (int k = 0; k < TOKENS; k++) {
            for (int v = 0; v < VECTORS; v++) {
              sums[k][v] = V::add_pairs(sums[k][v], pairs[c][v], inputs + k * x.stride + 2 * c);
            }
          }
        }
      }
      for (int k = 0; k < TOKENS; k++) {
        Floats scale = V::set(x_scales[(size_t)k * x.blocks + b]);
        for (int v = 0; v < VECTORS; v++) {
          totals[k][v] = V::multiply_add(V::floats(sums[k][v]), V::multiply(panel.scales[b][v], scale), totals[k][v]);
        }
      }
    }
    for (int k = 0; k < TOKENS; k++) {
      for (int v = 0; v < VECTORS; v++) V::store(y + k * y_stride + v * ROWS, totals[k][v]);
    }
  }

  template <int VECTORS, int... TOKENS>
  static auto multiply_of(int tokens, std::integer_sequence<int, TOKENS...>) {
    decltype(&multiply<VECTORS, 1>) const of_tokens[] = {multiply<VECTORS, TOKENS + 1>...};
    return of_tokens[tokens - 1];
  }

  // VECTORS * ROWS rows from i on with all tokens.
  template <int BITS, int N, int VECTORS>
  static void products_of_rows(const BlockRows& matrix, int i, const Activations& x, int rows, float* y,
                               size_t y_stride) {
    Panel panel;
    const int step = COLUMNS / matrix.block_size;
    const int groups = (rows + MOST_TOKENS - 1) / MOST_TOKENS, most = (rows + groups - 1) / groups;  // of equal ones
    for (panel.first = 0; panel.first < matrix.blocks; panel.first += step) {
      panel.blocks = smaller(step, matrix.blocks - panel.first);
      for (int v = 0; v < VECTORS; v++) unpack<BITS, N>(matrix, i + v * ROWS, v, VECTORS * ROWS, panel);
      for (int r = 0; r < rows; r += most) {
        int tokens = smaller(most, rows - r);
        auto part = multiply_of<VECTORS>(tokens, std::make_integer_sequence<int, MOST_TOKENS>());
        part(panel, x, r, matrix.block_size, y + r * y_stride + i, y_stride);
      }
    }
  }

  // All rows from `first` on, ROWS at least; the last panel may meet rows of the one before it again.
  template <int BITS, int N>
  static void products_of(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                          size_t y_stride) {
    int i = first;
    for (; i + MOST_VECTORS * ROWS <= last; i += MOST_VECTORS * ROWS) {
      products_of_rows<BITS, N, MOST_VECTORS>(matrix, i, x, rows, y, y_stride);
    }
    for (; i < last; i += ROWS) products_of_rows<BITS, N, 1>(matrix, smaller(i, last - ROWS), x, rows, y, y_stride);
  }

  static void block_products(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                             size_t y_stride) {
    auto products = matrix.bits == 8 ? (matrix.block_size == 16 ? products_of<8, 16> : products_of<8, 32>)
                                     : (matrix.block_size == 16 ? products_of<4, 16> : products_of<4, 32>);
    products(matrix, first, last, x, rows, y, y_stride);
  }
};

}  // namespace
}  // namespace doge
