// x86-64 with AVX-512 F, BW, DQ, VL and VNNI, which multiplies and adds codes in one instruction.
#include "vector_512.h"

namespace doge {
namespace {

struct Avx512 : Vectors512 {
  // An activation is 256 * high + low, both int8. Of MOST_TOGETHER of them, or as many as a block has, the bytes of all
  // `high` lie before those of all `low`. Of 4 bits, the codes in lower halves of bytes come first, then those in upper ones.

  static constexpr int LARGEST_CODE = 127 * 256 + 127;
  static constexpr int MOST_TOKENS = 8;
  static constexpr int PIECE = 64;
  static constexpr int MOST_TOGETHER = 32;
  static constexpr int OFFSETS[2] = {0, 0};

  static void store_inputs(int16_t* block, int i, Integers x, int bits, int block_size) {
    const int piece = smaller(block_size, MOST_TOGETHER);
    int8_t* at = (int8_t*)(block + i / piece * piece);
    i %= piece;
    __m128i high = _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(128)), 8));
    __m128i low = _mm512_cvtepi32_epi8(x);  // the lowest byte of x
    if (bits == 8) {
      _mm_storeu_si128((__m128i*)(at + i), high);
      _mm_storeu_si128((__m128i*)(at + piece + i), low);
    } else {
      store_halves(at + i / 2, high, piece / 2);
      store_halves(at + piece + i / 2, low, piece / 2);
    }
  }

  // Those of lower halves at p, those of upper ones `distance` behind them.
  static void store_halves(int8_t* p, __m128i x, int distance) {
    x = _mm_shuffle_epi8(x, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    _mm_storel_epi64((__m128i*)p, x);
    _mm_storel_epi64((__m128i*)(p + distance), _mm_unpackhi_epi64(x, x));
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

  // Rows side by side, so no sum crosses a lane. Registers hold MOST_TOGETHER codes of each row beside the sums.
  template <int BITS, int N, int TOKENS>
  static void sums_of_piece(const uint8_t* codes, size_t row_bytes, const int16_t* x, size_t stride, Sums* sums) {
    constexpr int PART = smaller(N, MOST_TOGETHER);
    Sums high[TOKENS];
    for (int k = 0; k < TOKENS; k++) high[k] = set_sums(0);
    for (int first = 0; first < N; first += PART, codes += PART * BITS / 8, x += PART) {
      __m512i fours[PART / 4];
      load_fours<BITS, PART, TOKENS>(codes, row_bytes, fours);
#pragma GCC unroll 8
      for (int c = 0; c < PART; c += 4) {
#pragma GCC unroll 8
        for (int k = 0; k < TOKENS; k++) {
          const int at = BITS == 8 ? c : c / 8 * 4 + c % 8 / 4 * (PART / 2);
          auto four = (const int8_t*)(x + k * stride) + at;
          high[k] = _mm512_dpbusd_epi32(high[k], fours[c / 4], four_everywhere(four));
          sums[k] = _mm512_dpbusd_epi32(sums[k], fours[c / 4], four_everywhere(four + PART));
        }
      }
    }
    for (int k = 0; k < TOKENS; k++) sums[k] = add(_mm512_slli_epi32(high[k], 8), sums[k]);
  }

  template <int BITS, int BLOCK>
  static constexpr bool HAS_GROUPS = BITS == 4 && BLOCK == 32;

  // Two rows of 64 bytes; each lane of 128 bits is a block, and gets two sums of the first row and two of the second.
  // The parts of activations lie in such lanes as well. Eight codes times `high` or `low` have a sum of 16 bits.
  static __m512i sums_of_two_rows(const uint8_t* p, size_t stride, const __m512i* parts) {
    const __m512i halves = _mm512_set1_epi8(15);
    __m512i high[2], low[2];
    for (int m = 0; m < 2; m++) {
      __m512i bytes = _mm512_loadu_si512(p + m * stride);
      __m512i lower = _mm512_and_si512(bytes, halves), upper = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), halves);
      high[m] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(set_sums(0), lower, parts[0]), upper, parts[1]);
      low[m] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(set_sums(0), lower, parts[2]), upper, parts[3]);
    }
    __m512i sums = _mm512_madd_epi16(_mm512_packs_epi32(high[0], high[1]), _mm512_set1_epi16(256));
    return _mm512_dpwssd_epi32(sums, _mm512_packs_epi32(low[0], low[1]), _mm512_set1_epi16(1));
  }

  // Four blocks of a row are a vector, as they lie. So there is less to shuffle than for rows side by side, but for each
  // token again.
  static void sums_of_group(const uint8_t* codes, size_t row_bytes, const int16_t* x, Sums* sums) {
    __m512i blocks[4], parts[4], of_fours[4];
    for (int b = 0; b < 4; b++) blocks[b] = _mm512_loadu_si512(x + 32 * b);
    lanes_transposed(blocks, parts);
    for (auto& of_four : of_fours) {
      __m512 a = _mm512_castsi512_ps(sums_of_two_rows(codes, row_bytes, parts));
      __m512 b = _mm512_castsi512_ps(sums_of_two_rows(codes + 2 * row_bytes, row_bytes, parts));
      __m512 even = _mm512_shuffle_ps(a, b, 0x88), odd = _mm512_shuffle_ps(a, b, 0xDD);
      of_four = _mm512_add_epi32(_mm512_castps_si512(even), _mm512_castps_si512(odd));
      codes += 4 * row_bytes;
    }
    lanes_transposed(of_fours, sums);
  }

  using Pairs = __m512i;
  using Vectors512::subtract;
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

  // N bytes, and zeros behind them.
  template <int N>
  static __m256i load_bytes(const void* p) {
    if constexpr (N == 32) return _mm256_loadu_si256((const __m256i*)p);
    if constexpr (N == 16) return _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i*)p));
  }

  // A piece of one row: codes in the order of activations, zeros behind them.
  template <int BITS, int N>
  static __m256i load_piece(const uint8_t* p) {
    if constexpr (BITS == 8) return load_bytes<N>(p);
    if constexpr (BITS == 4) {
      __m128i lower = N == 32 ? _mm_loadu_si128((const __m128i*)p) : _mm_loadl_epi64((const __m128i*)p);
      __m128i upper = _mm_srli_epi16(lower, 4);
      __m256i halves = N == 32 ? _mm256_set_m128i(upper, lower) : _mm256_zextsi128_si256(_mm_unpacklo_epi64(lower, upper));
      return _mm256_and_si256(halves, _mm256_set1_epi8(15));
    }
  }

  template <int BITS, int BLOCK>
  static int32_t block_sum(const uint8_t* codes, const int16_t* x) {
    constexpr int N = smaller(BLOCK, MOST_TOGETHER);
    __m256i high = _mm256_setzero_si256(), low = high;
    for (int c = 0; c < BLOCK; c += N, codes += N * BITS / 8, x += N) {
      __m256i piece = load_piece<BITS, N>(codes);
      high = _mm256_dpbusd_epi32(high, piece, load_bytes<N>(x));
      low = _mm256_dpbusd_epi32(low, piece, load_bytes<N>(x + N / 2));
    }
    __m256i sums = _mm256_add_epi32(_mm256_slli_epi32(high, 8), low);
    __m128i all = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    all = _mm_add_epi32(all, _mm_shuffle_epi32(all, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(all, _mm_shuffle_epi32(all, 0xB1)));
  }
};

}  // namespace

const Kernels avx512_kernels = vector_kernels<Avx512>("AVX-512");

}  // namespace doge
