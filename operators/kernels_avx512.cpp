// x86-64 with AVX-512 F, BW, DQ, VL and VNNI: vectors of 512 bits.
#if defined(__GNUC__) && !defined(__clang__)
// GCC's own header warns before version 13: its bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "kernel_table.h"

namespace doge {
namespace {

struct Avx512 {
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

  // ---- codes; see row_tiles.h
  //
  // An activation is 256 * high + low, both int8. 16 of them lie as 16 bytes of `high` and then 16 of `low`.

  static constexpr int LARGEST_CODE = 127 * 256 + 127;
  static constexpr int MOST_TOKENS = 8;
  static constexpr int PIECE = 32;
  static constexpr int OFFSETS[2] = {0, 0};
  using Sums = __m512i;

  // Of 4 bits, 8 codes come from 4 bytes: those of the lower halves, 0, 2, 4, 6, then those of the upper ones.
  static void store_inputs(int16_t* block, int i, Integers x, int bits, int) {
    int8_t* at = (int8_t*)(block + i);
    const __m512i halves = _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    if (bits == 4) x = _mm512_permutexvar_epi32(halves, x);
    __m512i high = _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(128)), 8);
    _mm_storeu_si128((__m128i*)at, _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128((__m128i*)(at + 16), _mm512_cvtepi32_epi8(x));  // the lowest byte of x is `low`
  }

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
  static void load_16_bytes(const uint8_t* p, size_t stride, __m512i* y) {
    __m512i x[4];
    for (int j = 0; j < 4; j++, p += stride) {
      x[j] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)p));
      x[j] = _mm512_inserti32x4(x[j], _mm_loadu_si128((const __m128i*)(p + 4 * stride)), 1);
      x[j] = _mm512_inserti32x4(x[j], _mm_loadu_si128((const __m128i*)(p + 8 * stride)), 2);
      x[j] = _mm512_inserti32x4(x[j], _mm_loadu_si128((const __m128i*)(p + 12 * stride)), 3);
    }
    transpose(x, y);
  }

  static __m512i load_32_bytes_of_two(const uint8_t* low, const uint8_t* high) {
    __m512i x = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)low));
    return _mm512_inserti64x4(x, _mm256_loadu_si256((const __m256i*)high), 1);
  }

  // 32 bytes of each row, by half as many loads.
  static void load_32_bytes(const uint8_t* p, size_t stride, __m512i* y) {
    __m512i first[4], second[4];
    for (int j = 0; j < 4; j++, p += stride) {
      __m512i near = load_32_bytes_of_two(p, p + 4 * stride);
      __m512i far = load_32_bytes_of_two(p + 8 * stride, p + 12 * stride);
      first[j] = _mm512_shuffle_i32x4(near, far, 0x88);
      second[j] = _mm512_shuffle_i32x4(near, far, 0xDD);
    }
    transpose(first, y);
    transpose(second, y + 4);
  }

  // 8 bytes of each row; the second half of y stays empty
  static void load_8_bytes(const uint8_t* p, size_t stride, __m512i* y) {
    uint64_t copy[LANES][2] = {};
    for (int m = 0; m < LANES; m++) __builtin_memcpy(copy[m], p + m * stride, 8);
    load_16_bytes((const uint8_t*)copy, sizeof copy[0], y);
  }

  // N codes of each row, 16 or 32, in the order of activations: four to each lane of y[0] and so on.
  template <int BITS, int N, int TOKENS>
  static void load_fours(const uint8_t* p, size_t stride, __m512i* y) {
    if constexpr (BITS == 8 && N == 16) load_16_bytes(p, stride, y);
    if constexpr (BITS == 8 && N == 32 && TOKENS <= 3) load_32_bytes(p, stride, y);  // a tile that waits for loads
    if constexpr (BITS == 8 && N == 32 && TOKENS > 3) {
      load_16_bytes(p, stride, y);
      load_16_bytes(p + 16, stride, y + 4);
    }
    if constexpr (BITS == 4) {
      __m512i packed[4];
      if constexpr (N == 32) load_16_bytes(p, stride, packed);
      if constexpr (N == 16) load_8_bytes(p, stride, packed);
      for (int i = 0; i < N / 8; i++) {
        y[2 * i] = _mm512_and_si512(packed[i], _mm512_set1_epi8(15));
        y[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(packed[i], 4), _mm512_set1_epi8(15));
      }
    }
  }

  static __m512i four_everywhere(const int8_t* four) {
    int32_t numbers;
    __builtin_memcpy(&numbers, four, sizeof numbers);
    return _mm512_set1_epi32(numbers);
  }

  // Rows side by side, so no sum crosses a lane.
  template <int BITS, int N, int TOKENS>
  static void sums_of_piece(const uint8_t* codes, size_t row_bytes, const int16_t* x, size_t stride, Sums* sums) {
    __m512i fours[N / 4];
    load_fours<BITS, N, TOKENS>(codes, row_bytes, fours);
    Sums high[TOKENS];
    for (int k = 0; k < TOKENS; k++) high[k] = set_sums(0);
#pragma GCC unroll 8
    for (int c = 0; c < N; c += 4) {
#pragma GCC unroll 8
      for (int k = 0; k < TOKENS; k++) {
        auto four = (const int8_t*)(x + k * stride + c / 16 * 16) + c % 16;
        high[k] = _mm512_dpbusd_epi32(high[k], fours[c / 4], four_everywhere(four));
        sums[k] = _mm512_dpbusd_epi32(sums[k], fours[c / 4], four_everywhere(four + 16));
      }
    }
    for (int k = 0; k < TOKENS; k++) sums[k] = add(_mm512_slli_epi32(high[k], 8), sums[k]);
  }

  using Pairs = __m512i;
  static constexpr int TOKENS_IN_ORDER = 9;

  static void store_codes(int16_t* p, Integers x) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtsepi32_epi16(x)); }
  static Pairs both(Sums x) { return _mm512_or_si512(x, _mm512_slli_epi32(x, 16)); }
  static Pairs subtract(Pairs a, Pairs b) { return _mm512_sub_epi16(a, b); }

  // Byte i of each lane of 32 bits, in 16 bits, and byte j.
  static __m512i bytes_in_16_bits(__m512i x, int i, int j) {
    const __m512i lanes = _mm512_set4_epi32(12, 8, 4, 0);
    const __m512i bytes = _mm512_set1_epi32(i | 0x80 << 8 | j << 16 | (int)0x80000000);
    return _mm512_shuffle_epi8(x, _mm512_or_si512(bytes, _mm512_mullo_epi32(lanes, _mm512_set1_epi32(0x00010001))));
  }

  template <int BITS, int N>
  static void load_pairs(const uint8_t* p, size_t stride, Pairs* y) {
    __m512i bytes[BITS == 8 ? N / 4 : 4];
    if constexpr (BITS == 8) {
      for (int c = 0; c < N; c += 16) load_16_bytes(p + c, stride, bytes + c / 4);
      for (int i = 0; i < N / 4; i++) {
        y[2 * i] = bytes_in_16_bits(bytes[i], 0, 1);
        y[2 * i + 1] = bytes_in_16_bits(bytes[i], 2, 3);
      }
    } else {
      if constexpr (N == 32) load_16_bytes(p, stride, bytes);
      if constexpr (N == 16) load_8_bytes(p, stride, bytes);
      const __m512i shifts = _mm512_set1_epi32(4 << 16);
      for (int i = 0; i < N / 8; i++) {
        for (int byte = 0; byte < 4; byte++) {
          __m512i twice = bytes_in_16_bits(bytes[i], byte, byte);
          y[4 * i + byte] = _mm512_and_si512(_mm512_srlv_epi16(twice, shifts), _mm512_set1_epi16(15));
        }
      }
    }
  }

  static Sums add_pairs(Sums sums, Pairs x, const int16_t* pair) {
    int32_t numbers;
    __builtin_memcpy(&numbers, pair, sizeof numbers);
    return _mm512_dpwssd_epi32(sums, x, _mm512_set1_epi32(numbers));
  }

  static Sums set_sums(int32_t x) { return _mm512_set1_epi32(x); }
  static Sums load_sums(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Sums multiply(Sums a, Sums b) { return _mm512_mullo_epi32(a, b); }
  template <int N>
  static Sums load_rows(const uint8_t* p, size_t stride) {
    auto at = [&](int m) {
      int32_t x = 0;
      __builtin_memcpy(&x, p + m * stride, N);
      return x;
    };
    return _mm512_setr_epi32(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10), at(11),
                             at(12), at(13), at(14), at(15));
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

  template <int BITS, int BLOCK>
  static int32_t block_sum(const uint8_t* codes, const int16_t* x) {
    __m256i sums = _mm256_setzero_si256();  // of `high`, then of `low`
    for (int c = 0; c < BLOCK; c += 16, codes += 2 * BITS, x += 16) {
      __m128i bytes;
      if constexpr (BITS == 8) bytes = _mm_loadu_si128((const __m128i*)codes);
      if constexpr (BITS == 4) {
        __m128i pairs = _mm_loadl_epi64((const __m128i*)codes);
        bytes = _mm_and_si128(_mm_unpacklo_epi32(pairs, _mm_srli_epi16(pairs, 4)), _mm_set1_epi8(15));
      }
      sums = _mm256_dpbusd_epi32(sums, _mm256_broadcastsi128_si256(bytes), _mm256_loadu_si256((const __m256i*)x));
    }
    __m128i high = _mm256_castsi256_si128(sums), low = _mm256_extracti128_si256(sums, 1);
    __m128i all = _mm_add_epi32(_mm_slli_epi32(high, 8), low);
    all = _mm_add_epi32(all, _mm_shuffle_epi32(all, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(all, _mm_shuffle_epi32(all, 0xB1)));
  }
};

}  // namespace

const Kernels avx512_kernels = vector_kernels<Avx512>("AVX-512");

}  // namespace doge
