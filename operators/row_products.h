// Products of codes, some rows of the matrix with some tokens at a time, each in a sum of its own.
//
// Neighbouring codes of one row lie in a vector. Its lanes are added up at the row's end alone. NEON has these products.
//
// An instruction set that has such products gives these operations, beside those of vector_kernels.h:
//
//   CODES                       that are multiplied at once: 8, 16 or 32
//   Weights, Inputs             that many codes of a matrix, of activations
//   Sums                        of a block; first_sums(x) adds up to x
//   bytes<N>(p)                 the next N codes of a matrix in 8 bits, N at most CODES
//   nibbles<BLOCK, N>(p, c)     codes c to c + N - 1 of a block in 4 bits that begins at p, in the order of its activations
//   OFFSETS[bits == 8]          are subtracted from the codes in Weights; less(weights, x) subtracts x more
//   inputs<N>(p)                the codes of activations from p on
//   add_products<N>(sums, weights, inputs), floats(sums)
//   TOKENS, matrix_rows(tokens) of a tile, as many as registers hold: most tokens; rows for so many of them
#pragma once

#include "vector_kernels.h"

namespace doge {
namespace {

using Four = uint32_t __attribute__((vector_size(16)));  // GCC and Clang calculate with vectors in any instructions

template <class V>
struct RowProducts {
  using Floats = typename V::Floats;
  static constexpr int LANES = V::LANES;

  // Products of MATRIX_ROWS rows from i on with TOKENS tokens from r on.
  // ZEROS: whether the matrix has zero points; else the usual one is subtracted from all codes.
  template <int BITS, int BLOCK, bool ZEROS, int MATRIX_ROWS, int TOKENS>
  struct Tile {
    static constexpr int SUBTRACTED = ZEROS ? V::OFFSETS[BITS == 8] : 1 << (BITS - 1);
    static constexpr int PAIRS = MATRIX_ROWS * TOKENS;
    static constexpr int STEP = smaller(BLOCK, V::CODES);

    // Of a matrix row and a token: what each block's sum begins with, for the zero point, and is multiplied by.
    struct Group {
      int32_t starts[GROUP];
      float factors[GROUP];
    };

    const BlockRows& matrix;
    int i;
    const Activations& x;
    int r;

    // Zero points of row m for a whole group of blocks, less what is subtracted from its codes.
    Four zero_points(int m, int block) const {
      const uint8_t* at = matrix.zeros + (size_t)(i + m) * ((matrix.blocks * BITS + 7) / 8) + block * BITS / 8;
      uint32_t packed = at[0] | at[1] << 8;
      if (BITS == 8) packed |= at[2] << 16 | (uint32_t)at[3] << 24;
      Four zeros = (Four{} + packed) >> Four{0, BITS, 2 * BITS, 3 * BITS};
      return (zeros & ((1u << BITS) - 1)) - (uint32_t)SUBTRACTED;
    }

    void read_group(int block, Group* groups) const {
      for (int m = 0; m < MATRIX_ROWS; m++) {
        Four zeros = ZEROS ? zero_points(m, block) : Four{};
        const float* scales = matrix.scales + (size_t)(i + m) * matrix.blocks + block;
        for (int k = 0; k < TOKENS; k++) {
          size_t at = (size_t)(r + k) * x.blocks + block;
          Group& group = groups[m * TOKENS + k];
          if constexpr (ZEROS) {
            Four sums;
            __builtin_memcpy(&sums, x.sums + at, sizeof sums);
            sums *= -zeros;
            __builtin_memcpy(group.starts, &sums, sizeof sums);
          }
          for (int b = 0; b < GROUP; b++) group.factors[b] = scales[b] * x.scales[at + b];
        }
      }
    }

    // The same for one block.
    void read_block(int block, Group* groups) const {
      for (int m = 0; m < MATRIX_ROWS; m++) {
        int zero = zero_point(matrix, i + m, block) - SUBTRACTED;
        float scale = matrix.scales[(size_t)(i + m) * matrix.blocks + block];
        for (int k = 0; k < TOKENS; k++) {
          size_t at = (size_t)(r + k) * x.blocks + block;
          groups[m * TOKENS + k].starts[0] = -zero * x.sums[at];
          groups[m * TOKENS + k].factors[0] = scale * x.scales[at];
        }
      }
    }

    // totals += products of block b of its group, whose codes begin at rows and inputs
    void add(const uint8_t* const* rows, const int16_t* const* inputs, size_t block, int b, const Group* groups,
             Floats* totals) const {
      typename V::Sums sums[PAIRS];
      for (int p = 0; p < PAIRS; p++) sums[p] = V::first_sums(ZEROS ? groups[p].starts[b] : 0);
      // the rows lie one behind the other: memory behind them is asked for in its own order, line by line
      const uint8_t* ahead = rows[0] + MATRIX_ROWS * matrix.row_bytes() + AHEAD + block * (MATRIX_ROWS * BLOCK * BITS / 8);
      for (int m = 0; m < MATRIX_ROWS; m++) __builtin_prefetch(ahead + m * (BLOCK * BITS / 8));
      for (int c = 0; c < BLOCK; c += STEP) {
        typename V::Weights weights[MATRIX_ROWS];
        for (int m = 0; m < MATRIX_ROWS; m++) {
          const uint8_t* codes = rows[m] + block * (BLOCK * BITS / 8);
          if constexpr (BITS == 8) weights[m] = V::template bytes<STEP>(codes + c);
          if constexpr (BITS == 4) weights[m] = V::template nibbles<BLOCK, STEP>(codes, c);
          constexpr int REST = SUBTRACTED - V::OFFSETS[BITS == 8];
          if constexpr (REST != 0) weights[m] = V::less(weights[m], REST);
        }
        for (int k = 0; k < TOKENS; k++) {
          auto values = V::template inputs<STEP>(inputs[k] + block * BLOCK + c);
          for (int m = 0; m < MATRIX_ROWS; m++) {
            auto& sum = sums[m * TOKENS + k];
            sum = V::template add_products<STEP>(sum, weights[m], values);
          }
        }
      }
      for (int p = 0; p < PAIRS; p++) {
        totals[p] = V::multiply_add(V::floats(sums[p]), V::set(groups[p].factors[b]), totals[p]);
      }
    }

    // Always inlined: called, it reads every pointer from memory again.
    [[gnu::always_inline]] void write(float* y, size_t y_stride) const {
      const uint8_t* rows[MATRIX_ROWS];
      for (int m = 0; m < MATRIX_ROWS; m++) rows[m] = matrix.codes + (i + m) * matrix.row_bytes();
      const int16_t* inputs[TOKENS];
      for (int k = 0; k < TOKENS; k++) inputs[k] = x.codes + (r + k) * x.stride;
      Floats totals[(PAIRS + 3) / 4 * 4];
      for (auto& total : totals) total = V::zero();
      Group groups[PAIRS];
      int block = 0;
      for (; block + GROUP <= matrix.blocks; block += GROUP) {
        read_group(block, groups);
#pragma GCC unroll 1
        for (int b = 0; b < GROUP; b++) add(rows, inputs, block + b, b, groups, totals);
      }
      for (; block < matrix.blocks; block++) {
        read_block(block, groups);
        add(rows, inputs, block, 0, groups, totals);
      }
      float sums[(PAIRS + 3) / 4 * 4];
      for (int p = 0; p < PAIRS; p += 4) V::store_sums(totals + p, sums + p);
      for (int k = 0; k < TOKENS; k++) {
        for (int m = 0; m < MATRIX_ROWS; m++) y[(r + k) * y_stride + i + m] = sums[m * TOKENS + k];
      }
    }
  };

  // All matrix rows with TOKENS tokens.
  template <int BITS, int BLOCK, bool ZEROS, int TOKENS>
  static void tiles(const BlockRows& matrix, int first, int last, const Activations& x, int r, float* y,
                    size_t y_stride) {
    constexpr int MATRIX_ROWS = V::matrix_rows(TOKENS);
    int i = first;
    for (; i + MATRIX_ROWS <= last; i += MATRIX_ROWS) {
      Tile<BITS, BLOCK, ZEROS, MATRIX_ROWS, TOKENS>{matrix, i, x, r}.write(y, y_stride);
    }
    if constexpr (MATRIX_ROWS > 1) {
      for (; i < last; i++) Tile<BITS, BLOCK, ZEROS, 1, TOKENS>{matrix, i, x, r}.write(y, y_stride);
    }
  }

  template <int BITS, int BLOCK, bool ZEROS>
  static void products_of(const BlockRows& matrix, int first, int last, const Activations& x, int rows,
                                 float* y, size_t y_stride) {
    int r = 0;
    constexpr int MOST = V::TOKENS;
    for (; r + MOST <= rows; r += MOST) tiles<BITS, BLOCK, ZEROS, MOST>(matrix, first, last, x, r, y, y_stride);
    for (; r + 2 <= rows; r += 2) tiles<BITS, BLOCK, ZEROS, 2>(matrix, first, last, x, r, y, y_stride);
    for (; r < rows; r++) tiles<BITS, BLOCK, ZEROS, 1>(matrix, first, last, x, r, y, y_stride);
  }

  template <int BITS, int BLOCK>
  static void products_in_blocks(const BlockRows& matrix, int first, int last, const Activations& x, int rows,
                                 float* y, size_t y_stride) {
    auto products = matrix.zeros == nullptr ? products_of<BITS, BLOCK, false> : products_of<BITS, BLOCK, true>;
    products(matrix, first, last, x, rows, y, y_stride);
  }

  static void block_products(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                             size_t y_stride) {
    auto products = matrix.bits == 8
                        ? (matrix.block_size == 64   ? products_in_blocks<8, 64>
                           : matrix.block_size == 32 ? products_in_blocks<8, 32>
                                                     : products_in_blocks<8, 16>)
                        : (matrix.block_size == 64   ? products_in_blocks<4, 64>
                           : matrix.block_size == 32 ? products_in_blocks<4, 32>
                                                     : products_in_blocks<4, 16>);
    products(matrix, first, last, x, rows, y, y_stride);
  }
};

}  // namespace
}  // namespace doge
