// x86-64 with AVX2, FMA and F16C; compiled with those flags, and run only where the processor has them.
//
// A block is summed in 32-bit integers, which is exact, and joins the row's float sum by one multiplication. The sum
// begins at minus zero point times the block's activations, so codes stay unsigned.
#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace doge {
namespace {

constexpr int LANES = 8;
constexpr int PREFETCHED = 4096;  // bytes ahead of a row

float sum_of_lanes(__m256 x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

float largest_lane(__m256 x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

__m256i first_lanes(int n) {  // a mask of the first n of 8
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

__m256 exponential(__m256 x) {  // Cephes' expf: 2 ulp between -87 and 88
  x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.3f)), _mm256_set1_ps(88.3f));
  __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  for (float coefficient : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(coefficient));
  }
  p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1));
  __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

// ---- activations

void quantize(const float* x, int n, int block_size, int16_t* codes, float* scales, int32_t* sums) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  for (int block = 0; block * block_size < n; block++) {
    int start = block * block_size;
    __m256 values[64 / LANES], largest = _mm256_setzero_ps();
    for (int i = 0; i < block_size / LANES; i++) {
      values[i] = _mm256_maskload_ps(x + start + i * LANES, first_lanes(n - start - i * LANES));
      largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, values[i]));
    }
    float top = largest_lane(largest);
    __m256 steps = _mm256_set1_ps(top > 0 ? 32767 / top : 0);
    __m256i total = _mm256_setzero_si256();
    for (int i = 0; i < block_size / LANES; i += 2) {
      __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(values[i], steps));
      __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(values[i + 1], steps));
      total = _mm256_add_epi32(total, _mm256_add_epi32(low, high));
      __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
      _mm256_storeu_si256((__m256i*)(codes + start + i * LANES), both);
    }
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    sums[block] = _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
    scales[block] = top / 32767;
  }
}

// ---- products

__m256i codes_of_16(const int16_t* codes) { return _mm256_loadu_si256((const __m256i*)codes); }

// 16 codes of 8 bits, in order.
struct Bytes {
  static constexpr int BITS = 8;
  static int zero(const BlockRows& matrix, int row, int block) { return matrix.zeros[(size_t)row * matrix.blocks + block]; }
  static __m256i widened(const uint8_t* row, int index) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(row + index)));
  }
};

// 16 codes of 4 bits, in order: a byte's halves are moved beside each other.
struct Nibbles {
  static constexpr int BITS = 4;
  static int zero(const BlockRows& matrix, int row, int block) {
    return matrix.zeros[(size_t)row * ((matrix.blocks + 1) / 2) + block / 2] >> (block % 2 * 4) & 15;
  }
  static __m256i widened(const uint8_t* row, int index) {
    __m128i bytes = _mm_loadl_epi64((const __m128i*)(row + index / 2));
    __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
    __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    return _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(low, high));
  }
};

// A sum of a block that begins at minus zero point times the sum of the activations.
__m256i begun(int zero, int sum) { return _mm256_zextsi128_si256(_mm_cvtsi32_si128(-zero * sum)); }

// Products of matrix rows i to i + MATRIX_ROWS - 1 with activations r to r + TOKENS - 1.
template <class Codes, bool ZEROS, int BLOCK, int MATRIX_ROWS, int TOKENS>
void tile(const BlockRows& matrix, int i, const Activations& x, int r, float* y, size_t y_stride) {
  const uint8_t* rows[MATRIX_ROWS];
  const float* scales[MATRIX_ROWS];
  __m256 totals[MATRIX_ROWS][TOKENS];
  for (int m = 0; m < MATRIX_ROWS; m++) {
    rows[m] = matrix.codes + (i + m) * matrix.row_bytes();
    scales[m] = matrix.scales + (size_t)(i + m) * matrix.blocks;
    for (auto& total : totals[m]) total = _mm256_setzero_ps();
  }
  for (int block = 0; block < matrix.blocks; block++) {
    __m256i sums[MATRIX_ROWS][TOKENS];
    for (int k = 0; k < TOKENS; k++) {
      int sum = x.sums[(size_t)(r + k) * x.blocks + block];
      __m256i common = begun(1 << (Codes::BITS - 1), sum);
      for (int m = 0; m < MATRIX_ROWS; m++) {
        sums[m][k] = ZEROS ? begun(Codes::zero(matrix, i + m, block), sum) : common;
      }
    }
    for (int m = 0; m < MATRIX_ROWS; m++) {
      _mm_prefetch((const char*)(rows[m] + block * BLOCK * Codes::BITS / 8 + PREFETCHED), _MM_HINT_T0);
    }
    for (int c = block * BLOCK; c < (block + 1) * BLOCK; c += 16) {
      __m256i codes[MATRIX_ROWS];
      for (int m = 0; m < MATRIX_ROWS; m++) codes[m] = Codes::widened(rows[m], c);
      for (int k = 0; k < TOKENS; k++) {
        __m256i activations = codes_of_16(x.codes + (r + k) * x.stride + c);
        for (int m = 0; m < MATRIX_ROWS; m++) {
          sums[m][k] = _mm256_add_epi32(sums[m][k], _mm256_madd_epi16(codes[m], activations));
        }
      }
    }
    for (int k = 0; k < TOKENS; k++) {
      float scale = x.scales[(size_t)(r + k) * x.blocks + block];
      for (int m = 0; m < MATRIX_ROWS; m++) {
        __m256 factor = _mm256_set1_ps(scales[m][block] * scale);
        totals[m][k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[m][k]), factor, totals[m][k]);
      }
    }
  }
  for (int k = 0; k < TOKENS; k++) {
    for (int m = 0; m < MATRIX_ROWS; m++) y[(r + k) * y_stride + i + m] = sum_of_lanes(totals[m][k]);
  }
}

// All matrix rows with TOKENS activations.
template <class Codes, bool ZEROS, int BLOCK, int TOKENS>
void tiles(const BlockRows& matrix, int first, int last, const Activations& x, int r, float* y, size_t y_stride) {
  constexpr int MATRIX_ROWS = TOKENS == 1 ? 4 : TOKENS == 2 ? 2 : 1;  // as many as registers hold
  int i = first;
  for (; i + MATRIX_ROWS <= last; i += MATRIX_ROWS) tile<Codes, ZEROS, BLOCK, MATRIX_ROWS, TOKENS>(matrix, i, x, r, y, y_stride);
  for (; i < last; i++) tile<Codes, ZEROS, BLOCK, 1, TOKENS>(matrix, i, x, r, y, y_stride);
}

template <class Codes, bool ZEROS, int BLOCK>
void products_in_blocks(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                        size_t y_stride) {
  int r = 0;
  for (; r + 6 <= rows; r += 6) tiles<Codes, ZEROS, BLOCK, 6>(matrix, first, last, x, r, y, y_stride);
  for (; r + 2 <= rows; r += 2) tiles<Codes, ZEROS, BLOCK, 2>(matrix, first, last, x, r, y, y_stride);
  for (; r < rows; r++) tiles<Codes, ZEROS, BLOCK, 1>(matrix, first, last, x, r, y, y_stride);
}

template <class Codes, bool ZEROS>
void products_of(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                 size_t y_stride) {
  auto products = matrix.block_size == 64   ? products_in_blocks<Codes, ZEROS, 64>
                  : matrix.block_size == 32 ? products_in_blocks<Codes, ZEROS, 32>
                                            : products_in_blocks<Codes, ZEROS, 16>;
  products(matrix, first, last, x, rows, y, y_stride);
}

void block_products(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                    size_t y_stride) {
  bool zeros = matrix.zeros != nullptr;
  auto products = matrix.bits == 8 ? (zeros ? products_of<Bytes, true> : products_of<Bytes, false>)
                                   : (zeros ? products_of<Nibbles, true> : products_of<Nibbles, false>);
  products(matrix, first, last, x, rows, y, y_stride);
}

float dot(const float* a, const float* b, int n) {
  __m256 total = _mm256_setzero_ps();
  int i = 0;
  for (; i + LANES <= n; i += LANES) total = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), total);
  if (i < n) {
    __m256i mask = first_lanes(n - i);
    total = _mm256_fmadd_ps(_mm256_maskload_ps(a + i, mask), _mm256_maskload_ps(b + i, mask), total);
  }
  return sum_of_lanes(total);
}

// Products of MATRIX_ROWS rows of float32 with TOKENS rows of x; each is the sum that `dot` makes.
template <int MATRIX_ROWS, int TOKENS>
void float_tile(const float* matrix, int width, const float* x, size_t x_stride, float* y, size_t y_stride) {
  __m256 totals[MATRIX_ROWS][TOKENS];
  for (auto& row : totals) {
    for (auto& total : row) total = _mm256_setzero_ps();
  }
  for (int c = 0; c < width; c += LANES) {
    __m256i mask = first_lanes(width - c);
    __m256 weights[MATRIX_ROWS];
    for (int m = 0; m < MATRIX_ROWS; m++) weights[m] = _mm256_maskload_ps(matrix + (size_t)m * width + c, mask);
    for (int k = 0; k < TOKENS; k++) {
      __m256 values = _mm256_maskload_ps(x + k * x_stride + c, mask);
      for (int m = 0; m < MATRIX_ROWS; m++) totals[m][k] = _mm256_fmadd_ps(weights[m], values, totals[m][k]);
    }
  }
  for (int k = 0; k < TOKENS; k++) {
    for (int m = 0; m < MATRIX_ROWS; m++) y[k * y_stride + m] = sum_of_lanes(totals[m][k]);
  }
}

template <int TOKENS>
void float_tiles(const float* matrix, int width, int first, int last, const float* x, size_t x_stride, float* y,
                 size_t y_stride) {
  int i = first;
  for (; i + 4 <= last; i += 4) float_tile<4, TOKENS>(matrix + (size_t)i * width, width, x, x_stride, y + i, y_stride);
  for (; i < last; i++) float_tile<1, TOKENS>(matrix + (size_t)i * width, width, x, x_stride, y + i, y_stride);
}

void float_products(const float* matrix, int width, int first, int last, const float* x, size_t x_stride, int rows,
                    float* y, size_t y_stride) {
  int r = 0;
  for (; r + 3 <= rows; r += 3) {
    float_tiles<3>(matrix, width, first, last, x + r * x_stride, x_stride, y + r * y_stride, y_stride);
  }
  for (; r < rows; r++) {
    float_tiles<1>(matrix, width, first, last, x + r * x_stride, x_stride, y + r * y_stride, y_stride);
  }
}

float sum_of_squares(const float* x, int n) { return dot(x, x, n); }

// ---- attention; channels are a multiple of 8

// Dots of a query with four keys, one behind the other.
__m128 four_dots(const float* query, const float* keys, int channels) {
  __m256 dots[4];
  for (auto& each : dots) each = _mm256_setzero_ps();
  for (int c = 0; c < channels; c += LANES) {
    __m256 q = _mm256_loadu_ps(query + c);
    for (int j = 0; j < 4; j++) dots[j] = _mm256_fmadd_ps(q, _mm256_loadu_ps(keys + (size_t)j * channels + c), dots[j]);
  }
  __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(dots[0], dots[1]), _mm256_hadd_ps(dots[2], dots[3]));
  return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

// The same for one key, to the last bit: the lanes are added up in the same order.
float one_dot(const float* query, const float* key, int channels) {
  __m256 total = _mm256_setzero_ps();
  for (int c = 0; c < channels; c += LANES) {
    total = _mm256_fmadd_ps(_mm256_loadu_ps(query + c), _mm256_loadu_ps(key + c), total);
  }
  total = _mm256_hadd_ps(total, total);
  total = _mm256_hadd_ps(total, total);
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(total), _mm256_extractf128_ps(total, 1)));
}

// weights[j] = exp(scores[j] - largest) in place; returns their sum
float exponentials(float* scores, int length, float largest) {
  __m256 top = _mm256_set1_ps(largest), total = _mm256_setzero_ps();
  for (int j = 0; j < length; j += LANES) {
    __m256i mask = first_lanes(length - j);
    __m256 weight = exponential(_mm256_sub_ps(_mm256_maskload_ps(scores + j, mask), top));
    weight = _mm256_and_ps(weight, _mm256_castsi256_ps(mask));
    _mm256_maskstore_ps(scores + j, mask, weight);
    total = _mm256_add_ps(total, weight);
  }
  return sum_of_lanes(total);
}

// sums = weights values for WIDTH vectors of channels
template <int WIDTH>
void weighted_values(const float* weights, const float* values, int length, int channels, float* sums) {
  __m256 totals[WIDTH];
  for (auto& total : totals) total = _mm256_setzero_ps();
  for (int j = 0; j < length; j++) {
    __m256 weight = _mm256_set1_ps(weights[j]);
    for (int i = 0; i < WIDTH; i++) {
      totals[i] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(values + (size_t)j * channels + i * LANES), totals[i]);
    }
  }
  for (int i = 0; i < WIDTH; i++) _mm256_storeu_ps(sums + i * LANES, totals[i]);
}

void attend(const float* query, const float* keys, const float* values, int length, int channels, float scale,
            float* scores, Attended& y) {
  int j = 0;
  for (; j + 4 <= length; j += 4) {
    __m128 dots = _mm_mul_ps(four_dots(query, keys + (size_t)j * channels, channels), _mm_set1_ps(scale));
    _mm_storeu_ps(scores + j, dots);
  }
  for (; j < length; j++) scores[j] = one_dot(query, keys + (size_t)j * channels, channels) * scale;
  y.largest = *std::max_element(scores, scores + length);
  y.total = exponentials(scores, length, y.largest);
  int c = 0;
  for (; c + 9 * LANES <= channels; c += 9 * LANES) weighted_values<9>(scores, values + c, length, channels, y.sums + c);
  for (; c + 4 * LANES <= channels; c += 4 * LANES) weighted_values<4>(scores, values + c, length, channels, y.sums + c);
  for (; c < channels; c += LANES) weighted_values<1>(scores, values + c, length, channels, y.sums + c);
}

void gated_silu(const float* gate, const float* up, int n, float* y) {
  const __m256 one = _mm256_set1_ps(1);
  for (int i = 0; i < n; i += LANES) {
    __m256i mask = first_lanes(n - i);
    __m256 g = _mm256_maskload_ps(gate + i, mask);
    __m256 sigmoid = _mm256_div_ps(g, _mm256_add_ps(one, exponential(_mm256_sub_ps(_mm256_setzero_ps(), g))));
    _mm256_maskstore_ps(y + i, mask, _mm256_mul_ps(sigmoid, _mm256_maskload_ps(up + i, mask)));
  }
}

}  // namespace

const Kernels avx2_kernels = {"AVX2", quantize, block_products, float_products, attend, sum_of_squares, gated_silu};

}  // namespace doge
