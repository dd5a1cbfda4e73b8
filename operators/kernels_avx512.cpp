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

  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  static Floats largest(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static Floats smallest(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats absolute(Floats x) { return _mm512_abs_ps(x); }
  static Floats rounded(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Floats times_power_of_2(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }
  static float largest_lane(Floats x) { return _mm512_reduce_max_ps(x); }

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

  // ---- codes, in 16 bits; of 16 codes the upper half of a vector stays empty

  static constexpr int LARGEST_CODE = 32767;
  static constexpr int CODES = 32;
  static constexpr int OFFSETS[2] = {0, 0};
  using Weights = __m512i;
  using Inputs = __m512i;
  using Sums = __m512i;

  static constexpr int TOKENS = 3;
  static constexpr int matrix_rows(int) { return 4; }

  static void store_inputs(int16_t* block, int i, Integers x) {
    _mm256_storeu_si256((__m256i*)(block + i), _mm512_cvtsepi32_epi16(x));
  }

  template <int N>
  static Inputs inputs(const int16_t* codes) {
    if constexpr (N == 32) return _mm512_loadu_si512(codes);
    return _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i*)codes));
  }

  template <int N>
  static Weights bytes(const uint8_t* codes) {
    if constexpr (N == 32) return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)codes));
    return _mm512_zextsi256_si512(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)codes)));
  }

  template <int N>
  static Weights nibbles(const uint8_t* codes) {  // a byte's upper half moves to the upper half of 32 bits
    __m128i bytes = N == 32 ? _mm_loadu_si128((const __m128i*)codes) : _mm_loadl_epi64((const __m128i*)codes);
    __m512i pairs = _mm512_cvtepu8_epi32(bytes), moved = _mm512_slli_epi32(pairs, 12);
    return _mm512_ternarylogic_epi32(pairs, moved, _mm512_set1_epi32(0x000F000F), 0xA8);  // (pairs | moved) & mask
  }

  // Of 16 codes, the empty half becomes -x as well, and is multiplied by inputs of 0.
  static Weights less(Weights a, int x) { return _mm512_sub_epi16(a, _mm512_set1_epi16((int16_t)x)); }

  template <int N>
  static Sums add_products(Sums sums, Weights a, Inputs b) {
    return _mm512_dpwssd_epi32(sums, a, b);
  }

  static Sums first_sums(int32_t x) { return _mm512_maskz_set1_epi32(1, x); }
  static Floats floats(Sums sums) { return _mm512_cvtepi32_ps(sums); }
};

}  // namespace

const Kernels avx512_kernels = vector_kernels<Avx512>("AVX-512");

}  // namespace doge
