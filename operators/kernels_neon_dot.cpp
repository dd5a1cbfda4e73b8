// 64-bit ARM with the dot product of signed bytes: a Raspberry Pi 5, telephones, Apple's processors.
//
// An activation is 256 * high + low, high from -127 to 127 and low from -128 on; 16 of them lie as 16 bytes of `high` and 16 of `low`.
// Codes of 8 bits become signed by -128, which the block's start makes up for.
#include "vector_neon.h"

namespace doge {
namespace {

struct NeonDot : Neon {
  static constexpr int LARGEST_CODE = 127 * 256 + 127;
  static constexpr int MOST_TOKENS = 4;
  static constexpr int PIECE = 64;
  static constexpr int OFFSETS[2] = {0, 128};

  static void store_4(int8_t* to, int32x4_t x) {
    int16x4_t halves = vmovn_s32(x);
    int8x8_t bytes = vmovn_s16(vcombine_s16(halves, halves));
    vst1_lane_s32((int32_t*)to, vreinterpret_s32_s8(bytes), 0);
  }

  static void store_inputs(int16_t* block, int i, Integers x, int, int) {
    int8_t* to = (int8_t*)(block + i / 16 * 16) + i % 16;
    store_4(to, vrshrq_n_s32(x, 8));
    store_4(to + 16, x);  // the lowest byte of x is `low`
  }

  // A block of one row in signed bytes.
  template <int BITS, int BLOCK>
  static void load_block(const uint8_t* codes, int8x16_t* y) {
    if constexpr (BITS == 8) {
      for (int c = 0; c < BLOCK; c += 16) {
        y[c / 16] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes + c), vdupq_n_u8(128)));
      }
    } else if constexpr (BLOCK == 16) {
      y[0] = vreinterpretq_s8_u8(halves_of_8(codes));
    } else {
      for (int c = 0; c < BLOCK; c += 32) {
        uint8x16_t bytes = vld1q_u8(codes + c / 2), low = vandq_u8(bytes, vdupq_n_u8(15)), high = vshrq_n_u8(bytes, 4);
        y[c / 16] = vreinterpretq_s8_u8(vzip1q_u8(low, high));
        y[c / 16 + 1] = vreinterpretq_s8_u8(vzip2q_u8(low, high));
      }
    }
  }

  // Products with the bytes of `high`, or of `low` from 16 bytes behind them on.
  template <int BLOCK>
  static Sums multiplied(const int8x16_t* codes, const int8_t* x) {
    Sums sums = vdupq_n_s32(0);
    for (int c = 0; c < BLOCK; c += 16) sums = vdotq_s32(sums, codes[c / 16], vld1q_s8(x + 2 * c));
    return sums;
  }

  template <int BITS, int BLOCK, int TOKENS>
  static void sums_of_piece(const uint8_t* codes, size_t row_bytes, const int16_t* x, size_t stride, Sums* sums) {
    Sums high[TOKENS][LANES], low[TOKENS][LANES];
    for (int m = 0; m < LANES; m++) {
      int8x16_t block[BLOCK / 16];
      load_block<BITS, BLOCK>(codes + m * row_bytes, block);
      for (int k = 0; k < TOKENS; k++) {
        high[k][m] = multiplied<BLOCK>(block, (const int8_t*)(x + k * stride));
        low[k][m] = multiplied<BLOCK>(block, (const int8_t*)(x + k * stride) + 16);
      }
    }
    for (int k = 0; k < TOKENS; k++) {
      sums[k] = vaddq_s32(sums[k], vaddq_s32(vshlq_n_s32(lanes_added(high[k]), 8), lanes_added(low[k])));
    }
  }

  template <int BITS, int BLOCK>
  static int32_t block_sum(const uint8_t* codes, const int16_t* x) {
    int8x16_t block[BLOCK / 16];
    load_block<BITS, BLOCK>(codes, block);
    return 256 * total(multiplied<BLOCK>(block, (const int8_t*)x)) + total(multiplied<BLOCK>(block, (const int8_t*)x + 16));
  }
};

}  // namespace

const Kernels neon_dot_kernels = vector_kernels<NeonDot>("NEON-dot");

}  // namespace doge
