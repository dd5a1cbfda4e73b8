// 64-bit ARM with the dot product of signed bytes: a Raspberry Pi 5, telephones, Apple's processors.
//
// An activation is 256 * high + low, high from -127 to 127 and low from -128 on; 16 of them lie as 16 bytes of `high` and 16 of `low`.
// Codes of 8 bits become signed by -128, which the block's start makes up for.
#include "vector_neon.h"

namespace doge {
namespace {

struct NeonDot : Neon {
  static constexpr int LARGEST_CODE = 127 * 256 + 127;
  static constexpr int CODES = 32;
  static constexpr int OFFSETS[2] = {0, 128};

  struct Weights {
    int8x16_t of[2];
  };
  struct Inputs {
    int8x16_t high[2], low[2];
  };
  struct Sums {
    int32x4_t high, low;
  };

  static constexpr int TOKENS = 6;
  static constexpr int matrix_rows(int tokens) { return tokens == 1 ? 4 : tokens == 2 ? 2 : 1; }

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

  template <int N>
  static Inputs inputs(const int16_t* codes) {
    const int8_t* at = (const int8_t*)codes;
    Inputs x;
    for (int i = 0; i < N / 16; i++) x.high[i] = vld1q_s8(at + 32 * i);
    for (int i = 0; i < N / 16; i++) x.low[i] = vld1q_s8(at + 32 * i + 16);
    return x;
  }

  template <int N>
  static Weights bytes(const uint8_t* codes) {
    Weights weights;
    for (int i = 0; i < N / 16; i++) {
      weights.of[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes + 16 * i), vdupq_n_u8(128)));
    }
    return weights;
  }

  template <int BLOCK, int N>
  static Weights nibbles(const uint8_t* block, int c) {
    const uint8_t* codes = block + c / 2;
    if constexpr (N == 16) return {{vreinterpretq_s8_u8(halves_of_8(codes))}};
    uint8x16_t bytes = vld1q_u8(codes), low = vandq_u8(bytes, vdupq_n_u8(15)), high = vshrq_n_u8(bytes, 4);
    return {{vreinterpretq_s8_u8(vzip1q_u8(low, high)), vreinterpretq_s8_u8(vzip2q_u8(low, high))}};
  }

  static Weights less(Weights a, int x) {
    for (int8x16_t& codes : a.of) codes = vsubq_s8(codes, vdupq_n_s8((int8_t)x));
    return a;
  }

  static Sums first_sums(int32_t x) { return {vdupq_n_s32(0), first(x)}; }

  template <int N>
  static Sums add_products(Sums sums, const Weights& a, const Inputs& b) {
    for (int i = 0; i < N / 16; i++) {
      sums.high = vdotq_s32(sums.high, a.of[i], b.high[i]);
      sums.low = vdotq_s32(sums.low, a.of[i], b.low[i]);
    }
    return sums;
  }

  static Floats floats(Sums sums) { return vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(sums.high, 8), sums.low)); }
};

}  // namespace

const Kernels neon_dot_kernels = vector_kernels<NeonDot>("NEON-dot");

}  // namespace doge
