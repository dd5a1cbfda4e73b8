// Products of codes with few tokens, of as many matrix rows as a vector has lanes.
//
// A block's sum is exact, and a row adds its blocks in their order, in a lane of its own. So a single row, whose codes
// stay as they are, has the same bits. A token's results leave as one vector.
//
// An instruction set that has such products gives these operations, beside those of vector_kernels.h:
//
//   Sums                        an int32 for each row; set_sums(n) load_sums(p) add(a, b) multiply(a, b) floats(sums)
//   OFFSETS[bits == 8]          are subtracted from codes before they are multiplied
//   MOST_TOKENS                 that registers hold
//   PIECE                       codes of a row that are multiplied before memory is asked for again; 32 or 64
//   sums_of_piece<BITS, N, TOKENS>(p, s, x, t, sums)
//                               sums[k] += N codes of each row, rows s bytes apart from p on, times activations of token
//                               k, tokens t codes apart from x on
//   block_sum<BITS, BLOCK>(p, x)
//                               the same of one row with one token
//   load_rows(p, s)             the four bytes at p, at p + s and so on; no way through memory, where a load waits for stores
//   bits<N>(sums, i)            N bits of each number from bit i on
//   load_columns(p, s, y)       four neighbouring floats of each row, rows s floats apart, to y[0] ... y[3]
//   HAS_GROUPS<BITS, BLOCK>     whether BLOCKS_TOGETHER at once are faster with one token; then there are these, too
//   sums_of_group(p, s, x, y)   y[b] = codes of block b of each row, rows s bytes apart from p on, times activations at x
//   difference(a, b)            of sums
#pragma once

#include <utility>

#include "vector_kernels.h"

namespace doge {
namespace {

template <class V>
struct RowTiles {
  using Floats = typename V::Floats;
  using Sums = typename V::Sums;
  static constexpr int ROWS = V::LANES;
  static constexpr int MOST_TOKENS = V::MOST_TOKENS;

  // Those of the next rows are asked for: they lie apart from the codes, and a row has too few of them for the processor
  // to see where the reading goes.
  static void ask_for_scales(const BlockRows& matrix, int i, int block) {
    const float* ahead = matrix.scales + (size_t)(i + ROWS) * matrix.blocks + block * ROWS;
    for (int line = 0; line < ROWS * BLOCKS_TOGETHER; line += 64 / sizeof(float)) __builtin_prefetch(ahead + line);
  }

  // Of BLOCKS_TOGETHER from one on, or of as many as are left.
  static void scales_of(const BlockRows& matrix, int i, int block, Floats* scales) {
    const float* from = matrix.scales + (size_t)i * matrix.blocks + block;
    ask_for_scales(matrix, i, block);
    if (matrix.blocks - block >= BLOCKS_TOGETHER) return V::load_columns(from, matrix.blocks, scales);
    for (int b = 0; block + b < matrix.blocks; b++) {
      float of_rows[ROWS];
      for (int m = 0; m < ROWS; m++) of_rows[m] = from[(size_t)m * matrix.blocks + b];
      scales[b] = V::load(of_rows);
    }
  }

  template <int BITS>
  static constexpr int OFFSET = V::OFFSETS[BITS == 8];

  // Zero points of the rows from i on, less the offset of codes. Four bytes of each row are at hand at a time.
  template <int BITS>
  class Zeros {
   public:
    // Those of the next rows are asked for.
    Zeros(const BlockRows& matrix, int i) : stride_(((size_t)matrix.blocks * BITS + 7) / 8) {
      if (matrix.zeros == nullptr) return;
      rows_ = matrix.zeros + i * stride_;
      for (size_t line = 0; line < ROWS * stride_; line += 64) __builtin_prefetch(rows_ + ROWS * stride_ + line);
    }

    // Reads those of BLOCKS_TOGETHER from one on, or of as many as are left.
    void read(int block) {
      if (block >= first_ && block + BLOCKS_TOGETHER <= last_) return;
      first_ = block;
      if (rows_ == nullptr) return;
      if (stride_ < 4) return read_short_rows();
      const int byte = smaller(block * BITS / 8, (int)stride_ - 4);
      packed_ = V::load_rows(rows_ + byte, stride_);
      first_ = byte * 8 / BITS;
      last_ = first_ + 32 / BITS;
    }

    Sums at(int block) const {
      return V::add(V::template bits<BITS>(packed_, (block - first_) * BITS), V::set_sums(-OFFSET<BITS>));
    }

   private:
    [[gnu::noinline]] void read_short_rows() {
      int32_t of_rows[ROWS] = {};
      for (int m = 0; m < ROWS; m++) __builtin_memcpy(of_rows + m, rows_ + m * stride_, stride_);
      packed_ = V::load_sums(of_rows);
      first_ = 0;
      last_ = 32 / BITS;
    }

    const uint8_t* rows_ = nullptr;
    size_t stride_;
    Sums packed_ = V::set_sums((int32_t)(BITS == 8 ? 0x80808080 : 0x88888888));
    int first_ = 0, last_ = 0;  // blocks that are at hand
  };

  // ROWS rows from i on with TOKENS tokens from r on.
  template <Asking ASKING, int BITS, int BLOCK, int TOKENS>
  static void tile(const BlockRows& matrix, int i, const Activations& x, int r, float* y, size_t y_stride) {
    constexpr int BYTES = BLOCK * BITS / 8, PIECE = smaller(BLOCK, V::PIECE);
    const size_t row_bytes = matrix.row_bytes();
    const uint8_t* codes = matrix.codes + i * row_bytes;
    const uint8_t* ahead = codes + ROWS * row_bytes + DISTANCE<ASKING>;
    const int16_t* inputs = x.codes + r * x.stride;
    Floats totals[TOKENS];
    for (auto& total : totals) total = V::zero();
    Floats scales[BLOCKS_TOGETHER];
    Zeros<BITS> zeros(matrix, i);
    for (int block = 0; block < matrix.blocks; block++) {
      if (block % BLOCKS_TOGETHER == 0) {
        scales_of(matrix, i, block, scales);
        zeros.read(block);
      }
      const float* x_scales = x.scales + (size_t)r * x.blocks + block;
      const int32_t* x_sums = x.sums + (size_t)r * x.blocks + block;
      Sums sums[TOKENS];
      for (int k = 0; k < TOKENS; k++) {
        const int32_t sum = -x_sums[(size_t)k * x.blocks];
        sums[k] = matrix.zeros == nullptr ? V::set_sums(sum * ((1 << (BITS - 1)) - OFFSET<BITS>))
                                          : V::multiply(V::set_sums(sum), zeros.at(block));
      }
      for (int c = 0; c < BLOCK; c += PIECE, ahead += ROWS * PIECE * BITS / 8) {
        ask_for<ASKING, ROWS * PIECE * BITS / 8>(ahead);
        V::template sums_of_piece<BITS, PIECE, TOKENS>(codes + c * BITS / 8, row_bytes, inputs + c, x.stride, sums);
      }
      for (int k = 0; k < TOKENS; k++) {
        Floats factors = V::multiply(scales[block % BLOCKS_TOGETHER], V::set(x_scales[(size_t)k * x.blocks]));
        totals[k] = V::multiply_add(V::floats(sums[k]), factors, totals[k]);
      }
      codes += BYTES;
      inputs += BLOCK;
    }
    for (int k = 0; k < TOKENS; k++) V::store(y + (r + k) * y_stride + i, totals[k]);
  }

  // The same with one token, by groups of blocks. The last group may meet blocks of the one before it again.
  template <Asking ASKING, int BITS, int BLOCK>
  static void tile_of_groups(const BlockRows& matrix, int i, const Activations& x, int r, float* y) {
    constexpr int BYTES = BLOCK * BITS / 8;
    const size_t row_bytes = matrix.row_bytes();
    const uint8_t* codes = matrix.codes + i * row_bytes;
    const uint8_t* ahead = codes + ROWS * row_bytes + DISTANCE<ASKING>;
    Floats total = V::zero();
    Zeros<BITS> zeros(matrix, i);
    for (int done = 0; done < matrix.blocks; done += BLOCKS_TOGETHER, ahead += ROWS * BLOCKS_TOGETHER * BYTES) {
      const int block = smaller(done, matrix.blocks - BLOCKS_TOGETHER);
      const size_t at = (size_t)r * x.blocks + block;
      Floats scales[BLOCKS_TOGETHER];
      Sums sums[BLOCKS_TOGETHER];
      ask_for_scales(matrix, i, block);
      V::load_columns(matrix.scales + (size_t)i * matrix.blocks + block, matrix.blocks, scales);
      zeros.read(block);
      ask_for<ASKING, ROWS * BLOCKS_TOGETHER * BYTES>(ahead);
      V::sums_of_group(codes + block * BYTES, row_bytes, x.codes + r * x.stride + block * BLOCK, sums);
      for (int b = 0; b < BLOCKS_TOGETHER; b++) {
        if (block + b < done) continue;
        Sums of_zeros = V::multiply(V::set_sums(x.sums[at + b]), zeros.at(block + b));
        Floats factors = V::multiply(scales[b], V::set(x.scales[at + b]));
        total = V::multiply_add(V::floats(V::difference(sums[b], of_zeros)), factors, total);
      }
    }
    V::store(y + i, total);
  }

  // One row with one token.
  template <int BITS, int BLOCK>
  static float product(const BlockRows& matrix, int i, const Activations& x, int r) {
    const uint8_t* codes = matrix.codes + i * matrix.row_bytes();
    const int16_t* inputs = x.codes + r * x.stride;
    Floats total = V::zero();
    for (int block = 0; block < matrix.blocks; block++) {
      size_t at = (size_t)r * x.blocks + block;
      int32_t zero = zero_point(matrix, i, block) - OFFSET<BITS>;
      int32_t sum = V::template block_sum<BITS, BLOCK>(codes, inputs) - zero * x.sums[at];
      Floats factor = V::set(matrix.scales[(size_t)i * matrix.blocks + block] * x.scales[at]);
      total = V::multiply_add(V::floats(V::set_sums(sum)), factor, total);
      codes += BLOCK * BITS / 8;
      inputs += BLOCK;
    }
    float y;
    V::store_first(&y, 1, total);
    return y;
  }

  // All rows from `first` on with TOKENS tokens; the last tile may meet rows of the one before it again.
  template <Asking ASKING, int BITS, int BLOCK, int TOKENS>
  static void tiles(const BlockRows& matrix, int first, int last, const Activations& x, int r, float* y,
                    size_t y_stride) {
    for (int i = first; i < last; i += ROWS) {
      const int row = smaller(i, last - ROWS);
      if constexpr (TOKENS == 1 && V::template HAS_GROUPS<BITS, BLOCK>) {
        if (matrix.blocks >= BLOCKS_TOGETHER) {
          tile_of_groups<ASKING, BITS, BLOCK>(matrix, row, x, r, y + r * y_stride);
          continue;
        }
      }
      tile<ASKING, BITS, BLOCK, TOKENS>(matrix, row, x, r, y, y_stride);
    }
  }

  template <Asking ASKING, int BITS, int BLOCK, int... TOKENS>
  static auto tiles_of(int tokens, std::integer_sequence<int, TOKENS...>) {
    decltype(&tiles<ASKING, BITS, BLOCK, 1>) const of_tokens[] = {tiles<ASKING, BITS, BLOCK, TOKENS + 1>...};
    return of_tokens[tokens - 1];
  }

  template <int BITS, int BLOCK>
  static auto tiles_of(int tokens, Asking asking) {
    const auto counts = std::make_integer_sequence<int, MOST_TOKENS>();
    return asking == Asking::FIRST  ? tiles_of<Asking::FIRST, BITS, BLOCK>(tokens, counts)
           : asking == Asking::BOTH ? tiles_of<Asking::BOTH, BITS, BLOCK>(tokens, counts)
                                    : tiles_of<Asking::SECOND, BITS, BLOCK>(tokens, counts);
  }

  template <int BITS, int BLOCK>
  static void products_of(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                          size_t y_stride) {
    if (last - first < ROWS) {
      for (int r = 0; r < rows; r++) {
        for (int i = first; i < last; i++) y[r * y_stride + i] = product<BITS, BLOCK>(matrix, i, x, r);
      }
      return;
    }
    for (int r = 0; r < rows; r += MOST_TOKENS) {
      int tokens = smaller(MOST_TOKENS, rows - r);
      auto multiply = tiles_of<BITS, BLOCK>(tokens, matrix.asking);
      multiply(matrix, first, last, x, r, y, y_stride);
    }
  }

  template <int BITS>
  static void products_of_bits(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                               size_t y_stride) {
    auto products = matrix.block_size == 64   ? products_of<BITS, 64>
                    : matrix.block_size == 32 ? products_of<BITS, 32>
                                              : products_of<BITS, 16>;
    products(matrix, first, last, x, rows, y, y_stride);
  }

  static void block_products(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                             size_t y_stride) {
    auto products = matrix.bits == 8 ? products_of_bits<8> : products_of_bits<4>;
    products(matrix, first, last, x, rows, y, y_stride);
  }
};

}  // namespace
}  // namespace doge
