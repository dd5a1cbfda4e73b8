// Vectors of 256 bits: AVX2, FMA.
#pragma once

#include <immintrin.h>

#include "kernel_table.h"

namespace doge {
namespace {

struct Avx2 {
  using Floats = __m256;
  using Integers = __m256i;
  static constexpr int LANES = 8;

  static __m256i first(int n) {  // a mask
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }

  static constexpr int QUERIES = 2;
  static constexpr int ACCUMULATORS = 10;
  static constexpr int GROUP_VECTORS = 0;
  static constexpr bool HAS_ROW_TILES = false;

  static Floats zero() { return _mm256_setzero_ps(); }
  static Floats set(float x) { return _mm256_set1_ps(x); }
  static Floats load(const float* p) { return _mm256_loadu_ps(p); }
  static Floats load(const Float16* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
  static Floats load(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
  }
  static Floats load_first(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  template <class Number>
  static Floats load_first(const Number* p, int) {  // 8 is all lanes
    return load(p);
  }
  static void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
  static void store_first(float* p, int n, Floats x) { _mm256_maskstore_ps(p, first(n), x); }
  static void store_first(Float16* p, int, Floats x) {  // 8 is all lanes
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }

  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
  static Floats largest(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  static Floats smallest(Floats a, Floats b) { return _mm256_min_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static Floats absolute(Floats x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static Floats rounded(Floats x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

  static Floats times_power_of_2(Floats x, Floats n) {  // for n from -126 to 127
    Integers power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(power));
  }

  static float largest_lane(Floats x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }

  static void store_sums(const Floats* x, float* sums) {
    Floats all = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
  }

  static Integers to_integers(Floats x) { return _mm256_cvtps_epi32(x); }
  static Integers add(Integers a, Integers b) { return _mm256_add_epi32(a, b); }

  static int32_t total(Integers x) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
  }

  // ---- codes, in 16 bits

  static constexpr int LARGEST_CODE = 32767;
  static constexpr int CODES = 16;
  static constexpr int OFFSETS[2] = {0, 0};
  using Weights = __m256i;
  using Inputs = __m256i;
  using Sums = __m256i;

  static constexpr int TOKENS = 6;
  static constexpr int matrix_rows(int tokens) { return tokens == 1 ? 4 : tokens == 2 ? 3 : 1; }

  // Of 4 bits, 32 codes come from 16 bytes: those of the lower halves, 0, 2, 4 and so on, then those of the upper ones.
  static constexpr bool halves_apart(int block_size) { return block_size >= 32; }

  static void store_inputs(int16_t* block, int i, Integers x, int bits, int block_size) {
    __m128i codes = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    if (bits == 8 || !halves_apart(block_size)) return _mm_storeu_si128((__m128i*)(block + i), codes);
    codes = _mm_shuffle_epi8(codes, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    block += i / 32 * 32 + i % 32 / 2;
    _mm_storel_epi64((__m128i*)block, codes);
    _mm_storel_epi64((__m128i*)(block + 16), _mm_unpackhi_epi64(codes, codes));
  }

  template <int N>
  static Inputs inputs(const int16_t* codes) {
    return _mm256_loadu_si256((const __m256i*)codes);
  }

  template <int N>
  static Weights bytes(const uint8_t* codes) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)codes));
  }

  template <int BLOCK, int N>
  static Weights nibbles(const uint8_t* block, int c) {
    if constexpr (halves_apart(BLOCK)) {
      __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(block + c / 32 * 16)));
      return c % 32 == 0 ? _mm256_and_si256(pairs, _mm256_set1_epi16(15)) : _mm256_srli_epi16(pairs, 4);
    }
    // a byte's upper half moves to the upper half of 32 bits
    __m256i pairs = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(block + c / 2)));
    return _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi32(pairs, 12)), _mm256_set1_epi32(0x000F000F));
  }

  static Weights less(Weights a, int x) { return _mm256_sub_epi16(a, _mm256_set1_epi16((int16_t)x)); }

  template <int N>
  static Sums add_products(Sums sums, Weights a, Inputs b) {
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
    asm("" : "+x"(sums));  // GCC would change the order of sums, and run out of registers
    return sums;
  }

  static Sums first_sums(int32_t x) { return _mm256_setr_epi32(x, 0, 0, 0, 0, 0, 0, 0); }
  static Floats floats(Sums sums) { return _mm256_cvtepi32_ps(sums); }
};

}  // namespace
}  // namespace doge
