// Any 64-bit ARM: codes are widened to 16 bits and multiplied there.
#include "vector_neon.h"

namespace doge {
namespace {

struct NeonProducts : Neon {
  static constexpr int LARGEST_CODE = 32767;
  static constexpr int CODES = 16;
  static constexpr int OFFSETS[2] = {0, 0};
  using Weights = int16x8x2_t;
  using Inputs = int16x8x2_t;
  using Sums = int32x4_t;

  static constexpr int TOKENS = 6;
  static constexpr int matrix_rows(int tokens) { return tokens <= 2 ? 4 : 2; }

  static void store_inputs(int16_t* block, int i, Integers x, int, int) { vst1_s16(block + i, vqmovn_s32(x)); }

  template <int N>
  static Inputs inputs(const int16_t* codes) {
    return {{vld1q_s16(codes), vld1q_s16(codes + 8)}};
  }

  static Weights widened(uint8x16_t codes) {
    uint16x8_t low = vmovl_u8(vget_low_u8(codes)), high = vmovl_high_u8(codes);
    return {{vreinterpretq_s16_u16(low), vreinterpretq_s16_u16(high)}};
  }

  template <int N>
  static Weights bytes(const uint8_t* codes) {
    return widened(vld1q_u8(codes));
  }

  template <int BLOCK, int N>
  static Weights nibbles(const uint8_t* block, int c) {
    return widened(halves_of_8(block + c / 2));
  }

  static Weights less(Weights a, int x) {
    return {{vsubq_s16(a.val[0], vdupq_n_s16((int16_t)x)), vsubq_s16(a.val[1], vdupq_n_s16((int16_t)x))}};
  }

  static Sums first_sums(int32_t x) { return first(x); }

  template <int N>
  static Sums add_products(Sums sums, Weights a, Inputs b) {
    for (int i = 0; i < 2; i++) {
      sums = vmlal_s16(sums, vget_low_s16(a.val[i]), vget_low_s16(b.val[i]));
      sums = vmlal_high_s16(sums, a.val[i], b.val[i]);
    }
    return sums;
  }

  static Floats floats(Sums sums) { return vcvtq_f32_s32(sums); }
};

}  // namespace

const Kernels neon_kernels = vector_kernels<NeonProducts>("NEON");

}  // namespace doge
