// Vectors of 512 bits, except for products of codes: x86-64 with AVX-512 F, BW, DQ and VL.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own header warns before version 13: its bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "kernel_table.h"

namespace doge {
namespace {

struct Vectors512 {
  using Floats = __m512;
  using Integers = __m512i;
  static constexpr int LANES = 16;

  static __mmask16 first(int n) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(n), lanes);
  }

  static constexpr int QUERIES = 4;
  static constexpr int ACCUMULATORS = 20;
  static constexpr int GROUP_VECTORS = 2;
  static constexpr bool HAS_PANELS = true;

  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats set(float x) { return _mm512_set1_ps(x); }
  static Floats load(const float* p) { return _mm512_loadu_ps(p); }
  static Floats load(const Float16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
  static Floats load(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
  }
  static Floats load(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)));
  }
  static Floats load_first(const Float16* p, int n) {
    if (n == LANES) return load(p);
    return _mm512_cvtph_ps(_mm256_zextsi128_si256(_mm_loadu_si128((const __m128i*)p)));
  }
  static Floats load_first(const int8_t* p, int n) {
    if (n == LANES) return load(p);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
  }
  static Floats load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
  static void store_first(float* p, int n, Floats x) { _mm512_mask_storeu_ps(p, first(n), x); }
  static void store_first(Float16* p, int n, Floats x) {
    __m256i halves = _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
    if (n >= LANES) return _mm256_storeu_si256((__m256i*)p, halves);
    _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(halves));
  }

  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  static Floats largest(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static Floats smallest(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats absolute(Floats x) { return _mm512_abs_ps(x); }
  static Floats rounded(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Floats fraction(Floats x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  static Floats times_power_of_2(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }
  static float largest_lane(Floats x) { return _mm512_reduce_max_ps(x); }
  static Floats where_less(Floats a, Floats b, Floats x, Floats y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
  }

  static __m512 halves_added(Floats a, Floats b) {  // of each vector; a's first
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  }

  static void store_sums(const Floats* x, float* sums) {
    __m512 first = halves_added(x[0], x[1]), second = halves_added(x[2], x[3]);
    // lanes of 128 bits: twice of x[0] and x[2], twice of x[1] and x[3]
    __m512 pairs = _mm512_add_ps(_mm512_shuffle_ps(first, second, 0x88), _mm512_shuffle_ps(first, second, 0xDD));
    __m512 fours = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xB1));
    __m512 all = _mm512_add_ps(fours, _mm512_shuffle_f32x4(fours, fours, 0xB1));
    _mm_storeu_ps(sums, _mm_blend_ps(_mm512_castps512_ps128(all), _mm512_extractf32x4_ps(all, 2), 0b1010));
  }

  static Integers to_integers(Floats x) { return _mm512_cvtps_epi32(x); }
  static Integers add(Integers a, Integers b) { return _mm512_add_epi32(a, b); }
  static int32_t total(Integers x) { return _mm512_reduce_add_epi32(x); }

  // ---- sums of blocks; see row_tiles.h

  using Sums = __m512i;

  static Sums set_sums(int32_t x) { return _mm512_set1_epi32(x); }
  static Sums load_sums(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Sums multiply(Sums a, Sums b) { return _mm512_mullo_epi32(a, b); }
  static Sums difference(Sums a, Sums b) { return _mm512_sub_epi32(a, b); }

  // x[j] has four numbers of each of the rows j, j + 4, j + 8, j + 12; y[c] number c of all 16 rows.
  static void transpose(const __m512i* x, __m512i* y) {
    __m512i low_a = _mm512_unpacklo_epi32(x[0], x[1]), low_b = _mm512_unpacklo_epi32(x[2], x[3]);
    __m512i high_a = _mm512_unpackhi_epi32(x[0], x[1]), high_b = _mm512_unpackhi_epi32(x[2], x[3]);
    y[0] = _mm512_unpacklo_epi64(low_a, low_b);
    y[1] = _mm512_unpackhi_epi64(low_a, low_b);
    y[2] = _mm512_unpacklo_epi64(high_a, high_b);
    y[3] = _mm512_unpackhi_epi64(high_a, high_b);
  }

  // 16 bytes of each row. It takes many loads and few of the instructions that only one port has.
  [[gnu::always_inline]] static void load_16_bytes(const uint8_t* p, size_t stride, __m512i* y) {
    __m512i x[4];
    for (int j = 0; j < 4; j++, p += stride) {
      x[j] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)p));
      x[j] = _mm512_inserti32x4(x[j], _mm_loadu_si128((const __m128i*)(p + 4 * stride)), 1);
      x[j] = _mm512_inserti32x4(x[j], _mm_loadu_si128((const __m128i*)(p + 8 * stride)), 2);
      x[j] = _mm512_inserti32x4(x[j], _mm_loadu_si128((const __m128i*)(p + 12 * stride)), 3);
    }
    transpose(x, y);
  }

  // Lane b of 128 bits of x[a] becomes lane a of y[b].
  static void lanes_transposed(const __m512i* x, __m512i* y) {
    __m512i low_a = _mm512_shuffle_i32x4(x[0], x[1], 0x44), low_b = _mm512_shuffle_i32x4(x[2], x[3], 0x44);
    __m512i high_a = _mm512_shuffle_i32x4(x[0], x[1], 0xEE), high_b = _mm512_shuffle_i32x4(x[2], x[3], 0xEE);
    y[0] = _mm512_shuffle_i32x4(low_a, low_b, 0x88);
    y[1] = _mm512_shuffle_i32x4(low_a, low_b, 0xDD);
    y[2] = _mm512_shuffle_i32x4(high_a, high_b, 0x88);
    y[3] = _mm512_shuffle_i32x4(high_a, high_b, 0xDD);
  }

  static __m128i load_4_rows(const uint8_t* p, size_t stride) {
    int32_t x[4];
    for (int m = 0; m < 4; m++) __builtin_memcpy(x + m, p + m * stride, sizeof x[m]);
    __m128i y = _mm_insert_epi32(_mm_cvtsi32_si128(x[0]), x[1], 1);
    return _mm_insert_epi32(_mm_insert_epi32(y, x[2], 2), x[3], 3);
  }

  static Sums load_rows(const uint8_t* p, size_t stride) {
    __m512i x = _mm512_castsi128_si512(load_4_rows(p, stride));
    x = _mm512_inserti32x4(x, load_4_rows(p + 4 * stride, stride), 1);
    x = _mm512_inserti32x4(x, load_4_rows(p + 8 * stride, stride), 2);
    return _mm512_inserti32x4(x, load_4_rows(p + 12 * stride, stride), 3);
  }

  template <int N>
  static Sums bits(Sums x, int i) {
    return _mm512_and_si512(_mm512_srli_epi32(x, i), _mm512_set1_epi32((1 << N) - 1));
  }
  static Floats floats(Sums x) { return _mm512_cvtepi32_ps(x); }

  static void load_columns(const float* p, size_t stride, Floats* y) {
    __m512i columns[4];
    load_16_bytes((const uint8_t*)p, stride * sizeof(float), columns);
    for (int c = 0; c < 4; c++) y[c] = _mm512_castsi512_ps(columns[c]);
  }
};

}  // namespace
}  // namespace doge
