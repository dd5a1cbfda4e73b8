// Vectors of 128 bits of any 64-bit ARM, except for products of codes.
#pragma once

#include <arm_neon.h>

#include "kernel_table.h"

namespace doge {
namespace {

struct Neon {
  using Floats = float32x4_t;
  using Integers = int32x4_t;
  static constexpr int LANES = 4;

  static constexpr int QUERIES = 2;
  static constexpr int ACCUMULATORS = 20;
  static constexpr int GROUP_VECTORS = 0;
  template <int BITS, int BLOCK>
  static constexpr bool HAS_GROUPS = false;
  static constexpr bool HAS_PANELS = false;

  static Floats zero() { return vdupq_n_f32(0); }
  static Floats set(float x) { return vdupq_n_f32(x); }
  static Floats load(const float* p) { return vld1q_f32(p); }
  static Floats load(const Float16* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)p))); }
  static Floats load(const int8_t* p) {  // of 4 bytes, wherever they lie
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four)))));
  }
  static Floats load(const uint8_t* p) {
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))));
  }
  static void store(float* p, Floats x) { vst1q_f32(p, x); }

  static Floats load_first(const float* p, int n) {
    if (n >= LANES) return load(p);
    float lanes[LANES] = {};
    for (int i = 0; i < n; i++) lanes[i] = p[i];
    return load(lanes);
  }

  template <class Number>
  static Floats load_first(const Number* p, int) {  // never fewer than all lanes
    return load(p);
  }

  static void store_first(float* p, int n, Floats x) {
    if (n >= LANES) return store(p, x);
    float lanes[LANES];
    store(lanes, x);
    for (int i = 0; i < n; i++) p[i] = lanes[i];
  }

  static void store_first(Float16* p, int, Floats x) {  // never fewer than all lanes
    vst1_u16((uint16_t*)p, vreinterpret_u16_f16(vcvt_f16_f32(x)));
  }

  static Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
  static Floats subtract(Floats a, Floats b) { return vsubq_f32(a, b); }
  static Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
  static Floats divide(Floats a, Floats b) { return vdivq_f32(a, b); }
  static Floats largest(Floats a, Floats b) { return vmaxq_f32(a, b); }
  static Floats smallest(Floats a, Floats b) { return vminq_f32(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
  static Floats absolute(Floats x) { return vabsq_f32(x); }
  static Floats rounded(Floats x) { return vrndnq_f32(x); }
  static float largest_lane(Floats x) { return vmaxvq_f32(x); }

  static Floats fraction(Floats x) { return vsubq_f32(x, vrndmq_f32(x)); }

  static Floats times_power_of_2(Floats x, Floats n) {
    Integers power = vshlq_n_s32(vaddq_s32(vcvtmq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vmulq_f32(x, vreinterpretq_f32_s32(power));
  }

  static void store_sums(const Floats* x, float* sums) {
    store(sums, vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3])));
  }

  static Integers to_integers(Floats x) { return vcvtnq_s32_f32(x); }
  static Integers add(Integers a, Integers b) { return vaddq_s32(a, b); }
  static int32_t total(Integers x) { return vaddvq_s32(x); }

  // ---- sums of blocks; see row_tiles.h

  using Sums = int32x4_t;

  static Sums set_sums(int32_t x) { return vdupq_n_s32(x); }
  static Sums load_sums(const int32_t* p) { return vld1q_s32(p); }
  static Sums multiply(Sums a, Sums b) { return vmulq_s32(a, b); }
  static Floats floats(Sums x) { return vcvtq_f32_s32(x); }

  // The sums of the lanes of x[0], of x[1] and so on.
  static Sums lanes_added(const Sums* x) { return vpaddq_s32(vpaddq_s32(x[0], x[1]), vpaddq_s32(x[2], x[3])); }

  static Sums load_rows(const uint8_t* p, size_t stride) {
    int32_t rows[LANES];
    for (int m = 0; m < LANES; m++) __builtin_memcpy(&rows[m], p + m * stride, sizeof rows[m]);
    return vld1q_s32(rows);
  }

  template <int N>
  static Sums bits(Sums x, int i) {
    return vandq_s32(vshlq_s32(x, vdupq_n_s32(-i)), vdupq_n_s32((1 << N) - 1));
  }

  static void load_columns(const float* p, size_t stride, Floats* y) {
    Floats x[4];
    for (int m = 0; m < LANES; m++) x[m] = vld1q_f32(p + m * stride);
    float64x2_t low_a = vreinterpretq_f64_f32(vtrn1q_f32(x[0], x[1])), low_b = vreinterpretq_f64_f32(vtrn1q_f32(x[2], x[3]));
    float64x2_t high_a = vreinterpretq_f64_f32(vtrn2q_f32(x[0], x[1]));
    float64x2_t high_b = vreinterpretq_f64_f32(vtrn2q_f32(x[2], x[3]));
    y[0] = vreinterpretq_f32_f64(vtrn1q_f64(low_a, low_b));
    y[1] = vreinterpretq_f32_f64(vtrn1q_f64(high_a, high_b));
    y[2] = vreinterpretq_f32_f64(vtrn2q_f64(low_a, low_b));
    y[3] = vreinterpretq_f32_f64(vtrn2q_f64(high_a, high_b));
  }

  // 16 codes of 4 bits in bytes, in order
  static uint8x16_t halves_of_8(const uint8_t* codes) {
    uint8x16_t bytes = vcombine_u8(vld1_u8(codes), vdup_n_u8(0));
    return vandq_u8(vzip1q_u8(bytes, vshrq_n_u8(bytes, 4)), vdupq_n_u8(15));
  }
};

}  // namespace
}  // namespace doge
