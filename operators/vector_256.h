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
  template <int BITS, int BLOCK>
  static constexpr bool HAS_GROUPS = false;
  static constexpr bool HAS_PANELS = true;

  static Floats zero() { return _mm256_setzero_ps(); }
  static Floats set(float x) { return _mm256_set1_ps(x); }
  static Floats load(const float* p) { return _mm256_loadu_ps(p); }
  static Floats load(const Float16* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
  static Floats load(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
  }
  static Floats load(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)));
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

  static Floats fraction(Floats x) { return _mm256_sub_ps(x, _mm256_floor_ps(x)); }

  static Floats times_power_of_2(Floats x, Floats n) {
    Integers whole = _mm256_cvtps_epi32(_mm256_floor_ps(n));
    Integers power = _mm256_slli_epi32(_mm256_add_epi32(whole, _mm256_set1_epi32(127)), 23);
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

  // ---- codes, in 16 bits; see row_tiles.h and row_panels.h

  static constexpr int LARGEST_CODE = 32767;
  static constexpr int MOST_TOKENS = 4;
  static constexpr int PIECE = 64;
  static constexpr int OFFSETS[2] = {0, 0};
  using Sums = __m256i;

  // Of 4 bits, 32 codes come from 16 bytes: those of the lower halves, 0, 2, 4 and so on, then those of the upper ones.
  static constexpr bool halves_apart(int block_size) { return block_size >= 32; }

  static void store_codes(int16_t* p, Integers x) { _mm_storeu_si128((__m128i*)p, in_16_bits(x)); }

  static __m128i in_16_bits(Integers x) {
    return _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  }

  static void store_inputs(int16_t* block, int i, Integers x, int bits, int block_size) {
    if (bits == 8 || !halves_apart(block_size)) return store_codes(block + i, x);
    __m128i codes = _mm_shuffle_epi8(in_16_bits(x), _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    block += i / 32 * 32 + i % 32 / 2;
    _mm_storel_epi64((__m128i*)block, codes);
    _mm_storel_epi64((__m128i*)(block + 16), _mm_unpackhi_epi64(codes, codes));
  }

  // A block of one row, in the order of activations.
  template <int BITS, int BLOCK>
  static void load_block(const uint8_t* codes, __m256i* y) {
    if constexpr (BITS == 8) {
      for (int c = 0; c < BLOCK; c += 16) y[c / 16] = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(codes + c)));
    } else if constexpr (halves_apart(BLOCK)) {
      for (int c = 0; c < BLOCK; c += 32) {
        __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(codes + c / 2)));
        y[c / 16] = _mm256_and_si256(pairs, _mm256_set1_epi16(15));
        y[c / 16 + 1] = _mm256_srli_epi16(pairs, 4);
      }
    } else {  // a byte's upper half moves to the upper half of 32 bits
      __m256i pairs = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)codes));
      y[0] = _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi32(pairs, 12)), _mm256_set1_epi32(0x000F000F));
    }
  }

  static Sums multiplied(const __m256i* codes, const int16_t* x, int block) {
    Sums sums = _mm256_madd_epi16(codes[0], _mm256_loadu_si256((const __m256i*)x));
    for (int c = 16; c < block; c += 16) {
      __m256i inputs = _mm256_loadu_si256((const __m256i*)(x + c));
      sums = _mm256_add_epi32(sums, _mm256_madd_epi16(codes[c / 16], inputs));
    }
    return sums;
  }

  // Rows add their lanes four at a time: registers hold no more of them.
  template <class V, int BITS, int BLOCK, int TOKENS>
  static void sums_of_piece_by(const uint8_t* codes, size_t row_bytes, const int16_t* x, size_t stride, Sums* sums) {
    Sums fours[2][TOKENS];  // of rows: the sums of their lower lanes, then of their upper ones
    for (auto& four : fours) {
      Sums of_rows[4][TOKENS];
      for (auto& of_row : of_rows) {
        __m256i block[BLOCK / 16];
        load_block<BITS, BLOCK>(codes, block);
        for (int k = 0; k < TOKENS; k++) of_row[k] = V::multiplied(block, x + k * stride, BLOCK);
        codes += row_bytes;
      }
      for (int k = 0; k < TOKENS; k++) {
        Sums first = _mm256_hadd_epi32(of_rows[0][k], of_rows[1][k]);
        four[k] = _mm256_hadd_epi32(first, _mm256_hadd_epi32(of_rows[2][k], of_rows[3][k]));
      }
    }
    for (int k = 0; k < TOKENS; k++) {
      Sums straight = _mm256_blend_epi32(fours[0][k], fours[1][k], 0xF0);
      Sums crossed = _mm256_permute2x128_si256(fours[0][k], fours[1][k], 0x21);
      sums[k] = _mm256_add_epi32(sums[k], _mm256_add_epi32(straight, crossed));
    }
  }

  template <int BITS, int BLOCK, int TOKENS>
  static void sums_of_piece(const uint8_t* codes, size_t row_bytes, const int16_t* x, size_t stride, Sums* sums) {
    sums_of_piece_by<Avx2, BITS, BLOCK, TOKENS>(codes, row_bytes, x, stride, sums);
  }

  template <int BITS, int BLOCK>
  static int32_t block_sum(const uint8_t* codes, const int16_t* x) {
    __m256i block[BLOCK / 16];
    load_block<BITS, BLOCK>(codes, block);
    return total(multiplied(block, x, BLOCK));
  }

  static __m256i two(__m128i low, __m128i high) { return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1); }

  // 16 bytes of each row: four to each lane of y[0] and so on.
  static void load_16_bytes(const uint8_t* p, size_t stride, __m256i* y) {
    __m256i x[4];
    for (int j = 0; j < 4; j++, p += stride) {
      x[j] = two(_mm_loadu_si128((const __m128i*)p), _mm_loadu_si128((const __m128i*)(p + 4 * stride)));
    }
    __m256i low_a = _mm256_unpacklo_epi32(x[0], x[1]), low_b = _mm256_unpacklo_epi32(x[2], x[3]);
    __m256i high_a = _mm256_unpackhi_epi32(x[0], x[1]), high_b = _mm256_unpackhi_epi32(x[2], x[3]);
    y[0] = _mm256_unpacklo_epi64(low_a, low_b);
    y[1] = _mm256_unpackhi_epi64(low_a, low_b);
    y[2] = _mm256_unpacklo_epi64(high_a, high_b);
    y[3] = _mm256_unpackhi_epi64(high_a, high_b);
  }

  // N codes of each row, 16 or 32: four bytes to each lane of y[0] and so on.
  template <int BITS, int N>
  static void load_fours(const uint8_t* p, size_t stride, __m256i* y) {
    constexpr int BYTES = N * BITS / 8;
    if constexpr (BYTES == 8) {
      __m128i rows[LANES];
      for (int m = 0; m < LANES; m++) rows[m] = _mm_loadl_epi64((const __m128i*)(p + m * stride));
      __m256i fours[4];  // the last two of them empty
      load_16_bytes((const uint8_t*)rows, sizeof rows[0], fours);
      y[0] = fours[0];
      y[1] = fours[1];
    } else {
      for (int c = 0; c < BYTES; c += 16) load_16_bytes(p + c, stride, y + c / 4);
    }
  }

  using Pairs = __m256i;
  static constexpr int TOKENS_IN_ORDER = 5;

  static Pairs both(Sums x) { return _mm256_or_si256(x, _mm256_slli_epi32(x, 16)); }
  static Pairs subtract(Pairs a, Pairs b) { return _mm256_sub_epi16(a, b); }

  // Bytes i and j of each lane of 32 bits, in 16 bits.
  static __m256i bytes_in_16_bits(__m256i x, int i, int j) {
    const __m256i lanes = _mm256_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12);
    const __m256i bytes = _mm256_set1_epi32(i | 0x80 << 8 | j << 16 | (int)0x80000000);
    return _mm256_shuffle_epi8(x, _mm256_or_si256(bytes, _mm256_mullo_epi32(lanes, _mm256_set1_epi32(0x00010001))));
  }

  template <int BITS, int N>
  static void load_pairs(const uint8_t* p, size_t stride, Pairs* y) {
    __m256i fours[N * BITS / 32];
    load_fours<BITS, N>(p, stride, fours);
    for (int i = 0; i < N * BITS / 32; i++) {
      if constexpr (BITS == 8) {
        y[2 * i] = bytes_in_16_bits(fours[i], 0, 1);
        y[2 * i + 1] = bytes_in_16_bits(fours[i], 2, 3);
      } else {
        for (int byte = 0; byte < 4; byte++) {
          __m256i twice = bytes_in_16_bits(fours[i], byte, byte);
          __m256i halves = _mm256_blend_epi16(twice, _mm256_srli_epi16(twice, 4), 0xAA);
          y[4 * i + byte] = _mm256_and_si256(halves, _mm256_set1_epi16(15));
        }
      }
    }
  }

  static __m256i pair_everywhere(const int16_t* pair) {
    int32_t numbers;
    __builtin_memcpy(&numbers, pair, sizeof numbers);
    return _mm256_set1_epi32(numbers);
  }

  static Sums add_pairs(Sums sums, Pairs x, const int16_t* pair) {
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(x, pair_everywhere(pair)));
    asm("" : "+x"(sums));  // GCC would change the order of sums, and run out of registers
    return sums;
  }

  static Sums set_sums(int32_t x) { return _mm256_set1_epi32(x); }
  static Sums load_sums(const int32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
  static Sums multiply(Sums a, Sums b) { return _mm256_mullo_epi32(a, b); }
  static Floats floats(Sums x) { return _mm256_cvtepi32_ps(x); }

  static Sums load_rows(const uint8_t* p, size_t stride) {
    auto at = [&](int m) {
      int32_t x;
      __builtin_memcpy(&x, p + m * stride, sizeof x);
      return x;
    };
    return _mm256_setr_epi32(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
  }

  template <int N>
  static Sums bits(Sums x, int i) {
    return _mm256_and_si256(_mm256_srli_epi32(x, i), _mm256_set1_epi32((1 << N) - 1));
  }

  static void load_columns(const float* p, size_t stride, Floats* y) {
    __m256i columns[4];
    load_16_bytes((const uint8_t*)p, stride * sizeof(float), columns);
    for (int c = 0; c < 4; c++) y[c] = _mm256_castsi256_ps(columns[c]);
  }
};

}  // namespace
}  // namespace doge
