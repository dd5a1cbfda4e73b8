// Sums of a matrix's rows of codes, each times a number.
//
// An instruction set gives one more operation, beside those of vector_kernels.h: load(p) of uint8, LANES codes.
#pragma once

#include "vector_kernels.h"

namespace doge {
namespace {

template <class V>
struct RowSums {
  using Floats = typename V::Floats;
  static constexpr int LANES = V::LANES;

  // y += the sums of the first `columns` of a block.
  template <int BITS, int BLOCK>
  static void add_block(const BlockRows& matrix, int block, const int* rows, const float* factors, int count,
                        int columns, float* y) {
    constexpr int VECTORS = BLOCK / LANES, BYTES = BLOCK * BITS / 8;
    Floats totals[VECTORS];
    for (int v = 0; v < VECTORS; v++) totals[v] = V::load_first(y + v * LANES, columns - v * LANES);
    const size_t row_bytes = matrix.row_bytes();
    const uint8_t* codes_of = matrix.codes + (size_t)block * BYTES;
    const float* scales_of = matrix.scales + block;
    for (int k = 0; k < count; k++) {
      const uint8_t* codes = codes_of + rows[k] * row_bytes;
      uint8_t unpacked[BLOCK];
      if constexpr (BITS == 4) {
        for (int i = 0; i < BYTES; i++) unpacked[2 * i] = codes[i] & 15, unpacked[2 * i + 1] = codes[i] >> 4;
        codes = unpacked;
      }
      Floats factor = V::set(factors[k] * scales_of[(size_t)rows[k] * matrix.blocks]);
      Floats zero = V::set((float)zero_point(matrix, rows[k], block));
      for (int v = 0; v < VECTORS; v++) {
        totals[v] = V::multiply_add(V::subtract(V::load(codes + v * LANES), zero), factor, totals[v]);
      }
    }
    for (int v = 0; v < VECTORS; v++) V::store_first(y + v * LANES, columns - v * LANES, totals[v]);
  }

  template <int BITS, int BLOCK>
  static void add_blocks(const BlockRows& matrix, const int* rows, const float* factors, int count, int width,
                         float* y) {
    for (int block = 0, start = 0; start < width; block++, start += BLOCK) {
      add_block<BITS, BLOCK>(matrix, block, rows, factors, count, smaller(BLOCK, width - start), y + start);
    }
  }

  template <int BITS>
  static auto add_blocks_of(int block_size) {
    return block_size == 64 ? add_blocks<BITS, 64> : block_size == 32 ? add_blocks<BITS, 32> : add_blocks<BITS, 16>;
  }

  static void add_block_rows(const BlockRows& matrix, const int* rows, const float* factors, int count, int width,
                             float* y) {
    auto add = matrix.bits == 8 ? add_blocks_of<8>(matrix.block_size) : add_blocks_of<4>(matrix.block_size);
    add(matrix, rows, factors, count, width, y);
  }
};

}  // namespace
}  // namespace doge
