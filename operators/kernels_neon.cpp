// Any 64-bit ARM: codes are widened to 16 bits and multiplied there.
#include "vector_neon.h"

namespace doge {
namespace {

struct NeonProducts : Neon {
  static constexpr int LARGEST_CODE = 32767;
  static constexpr int MOST_TOKENS = 4;
  static constexpr int PIECE = 64;
  static constexpr int OFFSETS[2] = {0, 0};

  static void store_inputs(int16_t* block, int i, Integers x, int, int) { vst1_s16(block + i, vqmovn_s32(x)); }

  // A block of one row in 16 bits.
  template <int BITS, int BLOCK>
  static void load_block(const uint8_t* codes, int16x8_t* y) {
    for (int c = 0; c < BLOCK; c += 16, codes += 2 * BITS) {
      uint8x16_t bytes;
      if constexpr (BITS == 8) bytes = vld1q_u8(codes);
      if constexpr (BITS == 4) bytes = halves_of_8(codes);
      y[c / 8] = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
      y[c / 8 + 1] = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
    }
  }

  template <int BLOCK>
  static Sums multiplied(const int16x8_t* codes, const int16_t* x) {
    Sums sums = vdupq_n_s32(0);
    for (int c = 0; c < BLOCK; c += 8) {
      int16x8_t inputs = vld1q_s16(x + c);
      sums = vmlal_s16(sums, vget_low_s16(codes[c / 8]), vget_low_s16(inputs));
      sums = vmlal_high_s16(sums, codes[c / 8], inputs);
    }
    return sums;
  }

  template <int BITS, int BLOCK, int TOKENS>
  static void sums_of_piece(const uint8_t* codes, size_t row_bytes, const int16_t* x, size_t stride, Sums* sums) {
    Sums of_rows[TOKENS][LANES];
    for (int m = 0; m < LANES; m++) {
      int16x8_t block[BLOCK / 8];
      load_block<BITS, BLOCK>(codes + m * row_bytes, block);
      for (int k = 0; k < TOKENS; k++) of_rows[k][m] = multiplied<BLOCK>(block, x + k * stride);
    }
    for (int k = 0; k < TOKENS; k++) sums[k] = vaddq_s32(sums[k], lanes_added(of_rows[k]));
  }

  template <int BITS, int BLOCK>
  static int32_t block_sum(const uint8_t* codes, const int16_t* x) {
    int16x8_t block[BLOCK / 8];
    load_block<BITS, BLOCK>(codes, block);
    return total(multiplied<BLOCK>(block, x));
  }
};

}  // namespace

const Kernels neon_kernels = vector_kernels<NeonProducts>("NEON");

}  // namespace doge
