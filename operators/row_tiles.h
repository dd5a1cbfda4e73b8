// Products of codes with as many matrix rows side by side as a vector has lanes.
//
// A lane is a row of the matrix: the whole numbers of a block are added up without crossing lanes, and a token's
// results leave as one vector. Codes of a tile are turned into this order once for up to 8 tokens. A block's sum is
// exact, and a row adds its blocks in their order. So a single row, whose codes stay as they are, has the same bits.
//
// An instruction set that has such products gives these operations, beside those of vector_kernels.h:
//
//   Fours                       four neighbouring codes of each row; Sums has an int32 for each row
//   load_fours<BITS, N, TOKENS>(p, s, x)
//                               N codes of each row, 16 or 32, rows s bytes apart, to x[0] ... x[N / 4 - 1]; TOKENS
//                               will be multiplied by them. They come in the order of activations for such BITS
//   add_products(sums, x, p)    x times the four numbers int8 at p
//   set_sums(n) load_sums(p) multiply(a, b) times_256(sums), floats(sums)
//   load_rows<N>(p, s)          the N bytes at p, at p + s and so on; no way through memory, where a load waits for stores
//   bits<N>(sums, i)            N bits of each number from bit i on
//   load_columns(p, s, y)       four neighbouring floats of each row, rows s floats apart, to y[0] ... y[3]
//   sum_of_products<BITS>(codes, x, n)
//                               of n codes of one row and of activations, n a multiple of 16
//
// An activation is 256 * high + low, both int8. 16 of them lie as 16 bytes of `high` and then 16 of `low`.
#pragma once

#include "vector_kernels.h"

namespace doge {
namespace {

template <class V>
struct RowTiles {
  using Floats = typename V::Floats;
  using Sums = typename V::Sums;
  static constexpr int ROWS = V::LANES;
  static constexpr int MOST_TOKENS = 8;

  // Of GROUP blocks from one on, or of as many as are left. Those of the next rows are asked for: they lie apart from the
  // codes, and a row has too few of them for the processor to see where the reading goes.
  static void scales_of(const BlockRows& matrix, int i, int block, Floats* scales) {
    const float* from = matrix.scales + (size_t)i * matrix.blocks + block;
    const float* ahead = matrix.scales + (size_t)(i + ROWS) * matrix.blocks + block * ROWS;
    for (int line = 0; line < ROWS * GROUP; line += 64 / sizeof(float)) __builtin_prefetch(ahead + line);
    int count = smaller(GROUP, matrix.blocks - block);
    if (count == GROUP) return V::load_columns(from, matrix.blocks, scales);
    float copy[ROWS][GROUP] = {};
    for (int m = 0; m < ROWS; m++) {
      for (int b = 0; b < count; b++) copy[m][b] = from[(size_t)m * matrix.blocks + b];
    }
    V::load_columns(copy[0], GROUP, scales);
  }

  // The same of zero points.
  template <int BITS>
  static void zeros_of(const BlockRows& matrix, int i, int block, Sums* zeros) {
    const size_t stride = ((size_t)matrix.blocks * BITS + 7) / 8;
    const uint8_t* from = matrix.zeros + i * stride + block * BITS / 8;
    if (block == 0) {
      for (size_t line = 0; line < ROWS * stride; line += 64) __builtin_prefetch(from + ROWS * stride + line);
    }
    if (matrix.blocks - block >= GROUP) {
      Sums packed = V::template load_rows<GROUP * BITS / 8>(from, stride);
      for (int b = 0; b < GROUP; b++) zeros[b] = V::template bits<BITS>(packed, b * BITS);
      return;
    }
    for (int b = 0; block + b < matrix.blocks; b++) {
      int32_t of_rows[ROWS];
      for (int m = 0; m < ROWS; m++) of_rows[m] = zero_point(matrix, i + m, block + b);
      zeros[b] = V::load_sums(of_rows);
    }
  }

  // ROWS rows from i on with TOKENS tokens from r on. COLUMNS are multiplied at once.
  template <int BITS, int COLUMNS, int TOKENS>
  static void tile(const BlockRows& matrix, int i, const Activations& x, int r, float* y, size_t y_stride) {
    const size_t row_bytes = matrix.row_bytes();
    const uint8_t* codes = matrix.codes + i * row_bytes;
    const uint8_t* ahead = codes + ROWS * row_bytes + AHEAD;
    const int8_t* inputs = (const int8_t*)(x.codes + r * x.stride);
    const size_t input_bytes = x.stride * sizeof(int16_t);
    const int pieces = matrix.block_size / COLUMNS;
    Floats totals[TOKENS];
    for (auto& total : totals) total = V::zero();
    Floats scales[GROUP];
    Sums zeros[GROUP];
    for (int block = 0; block < matrix.blocks; block++) {
      if (block % GROUP == 0) {
        scales_of(matrix, i, block, scales);
        if (matrix.zeros != nullptr) zeros_of<BITS>(matrix, i, block, zeros);
      }
      const float* x_scales = x.scales + (size_t)r * x.blocks + block;
      const int32_t* x_sums = x.sums + (size_t)r * x.blocks + block;
      Sums high[TOKENS], low[TOKENS];
      for (int k = 0; k < TOKENS; k++) {
        high[k] = V::set_sums(0);
        low[k] = V::set_sums(matrix.zeros == nullptr ? -x_sums[(size_t)k * x.blocks] * (1 << (BITS - 1)) : 0);
      }
#pragma GCC unroll 1
      for (int piece = 0; piece < pieces; piece++) {
        constexpr int BYTES = ROWS * COLUMNS * BITS / 8;
        for (int line = 0; line < BYTES; line += 64) __builtin_prefetch(ahead + line);
        if (matrix.far > 0) {
          for (int line = 0; line < BYTES; line += 64) __builtin_prefetch(ahead + matrix.far + line, 0, 2);
        }
        typename V::Fours fours[COLUMNS / 4];
        V::template load_fours<BITS, COLUMNS, TOKENS>(codes, row_bytes, fours);
#pragma GCC unroll 8
        for (int c = 0; c < COLUMNS; c += 4) {
#pragma GCC unroll 8
          for (int k = 0; k < TOKENS; k++) {
            const int8_t* at = inputs + k * input_bytes + c / 16 * 32 + c % 16;
            high[k] = V::add_products(high[k], fours[c / 4], at);
            low[k] = V::add_products(low[k], fours[c / 4], at + 16);
          }
        }
        codes += COLUMNS * BITS / 8;
        ahead += BYTES;
        inputs += 2 * COLUMNS;
      }
      for (int k = 0; k < TOKENS; k++) {
        Sums sums = V::add(V::times_256(high[k]), low[k]);
        if (matrix.zeros != nullptr) {
          sums = V::add(sums, V::multiply(V::set_sums(-x_sums[(size_t)k * x.blocks]), zeros[block % GROUP]));
        }
        Floats products = V::multiply(V::floats(sums), V::set(x_scales[(size_t)k * x.blocks]));
        totals[k] = V::multiply_add(products, scales[block % GROUP], totals[k]);
      }
    }
    for (int k = 0; k < TOKENS; k++) V::store(y + (r + k) * y_stride + i, totals[k]);
  }

  // One row with one token.
  template <int BITS>
  static float product(const BlockRows& matrix, int i, const Activations& x, int r) {
    const uint8_t* codes = matrix.codes + i * matrix.row_bytes();
    const int8_t* inputs = (const int8_t*)(x.codes + r * x.stride);
    Floats total = V::zero();
    for (int block = 0; block < matrix.blocks; block++) {
      size_t at = (size_t)r * x.blocks + block;
      int32_t sum = V::template sum_of_products<BITS>(codes, inputs, matrix.block_size) -
                    zero_point(matrix, i, block) * x.sums[at];
      Floats product = V::multiply(V::floats(V::set_sums(sum)), V::set(x.scales[at]));
      total = V::multiply_add(product, V::set(matrix.scales[(size_t)i * matrix.blocks + block]), total);
      codes += matrix.block_size * BITS / 8;
      inputs += 2 * matrix.block_size;
    }
    float y;
    V::store_first(&y, 1, total);
    return y;
  }

  // All rows from `first` on with TOKENS tokens; the last tile may meet rows of the one before it again.
  template <int BITS, int COLUMNS, int TOKENS>
  static void tiles(const BlockRows& matrix, int first, int last, const Activations& x, int r, float* y,
                    size_t y_stride) {
    for (int i = first; i < last; i += ROWS) {
      tile<BITS, COLUMNS, TOKENS>(matrix, smaller(i, last - ROWS), x, r, y, y_stride);
    }
  }

  template <int BITS, int COLUMNS, int... TOKENS>
  static auto tiles_of(int tokens, std::integer_sequence<int, TOKENS...>) {
    decltype(&tiles<BITS, COLUMNS, 1>) const of_tokens[] = {tiles<BITS, COLUMNS, TOKENS + 1>...};
    return of_tokens[tokens - 1];
  }

  template <int BITS, int COLUMNS>
  static void products_of(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                          size_t y_stride) {
    for (int r = 0; r < rows; r += MOST_TOKENS) {
      int tokens = smaller(MOST_TOKENS, rows - r);
      auto multiply = tiles_of<BITS, COLUMNS>(tokens, std::make_integer_sequence<int, MOST_TOKENS>());
      multiply(matrix, first, last, x, r, y, y_stride);
    }
  }

  static void block_products(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                             size_t y_stride) {
    if (last - first < ROWS) {
      auto product_of = matrix.bits == 8 ? product<8> : product<4>;
      for (int r = 0; r < rows; r++) {
        for (int i = first; i < last; i++) y[r * y_stride + i] = product_of(matrix, i, x, r);
      }
      return;
    }
    auto products = matrix.bits == 8 ? (matrix.block_size == 16 ? products_of<8, 16> : products_of<8, 32>)
                                     : (matrix.block_size == 16 ? products_of<4, 16> : products_of<4, 32>);
    products(matrix, first, last, x, rows, y, y_stride);
  }
};

}  // namespace
}  // namespace doge
