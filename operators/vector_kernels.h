// Every kernel, once, in terms of the few operations on vectors that an instruction set gives.
//
// A file of an instruction set names those operations in a struct `V` and makes its table by `vector_kernels<V>` (kernel_table.h):
//
//   LANES                       floats in a vector, a multiple of 4
//   Floats, Integers            a vector of floats; one of as many int32
//   zero() set(x) load(p) store(p, x), load_first(p, n) store_first(p, n, x) for the first n lanes only, any int n
//   add subtract multiply divide largest(a, b), multiply_add(a, b, c) = a * b + c rounded once, absolute(a)
//   rounded(x)                  to the nearest integer, of two the even one
//   times_power_of_2(x, n)      x * 2 ** n for an n of whole numbers
//   where_less(a, b, x, y)      x in the lanes with a < b, y in the others; where there are groups
//   load(p) load_first(p, n)    of Float16 and of int8 as well, where n is a multiple of 8 or of LANES
//   store_first(p, n, x)        to Float16 as well, for such n; x is within its range
//   largest_lane(x)             the largest of all lanes
//   QUERIES                     that share a key of the cache while it is in a register; 2 or more
//   ACCUMULATORS                vectors of sums that registers hold, a multiple of QUERIES
//   GROUP_VECTORS               of queries in a group that is attended to at once (group_attention.h); 0: that is no faster
//   store_sums(x, p)            p[0] to p[3] = sums of the lanes of x[0] to x[3], all in the same order
//   to_integers(x)              of whole numbers; total(x) the sum of the integers in all lanes
//
//   HAS_ROW_TILES               whether products of codes are those of row_tiles.h and row_panels.h
//
// and for products of codes LARGEST_CODE, store_inputs, and where they are not those of row_tiles.h all the following:
//
//   LARGEST_CODE                of an activation
//   CODES                       that are multiplied at once: 8, 16 or 32
//   Weights, Inputs             that many codes of a matrix, of activations
//   Sums                        of a block; first_sums(x) adds up to x
//   bytes<N>(p)                 the next N codes of a matrix in 8 bits, N at most CODES
//   nibbles<BLOCK, N>(p, c)     codes c to c + N - 1 of a block in 4 bits that begins at p, in the order of its activations
//   OFFSETS[bits == 8]          are subtracted from the codes in Weights; less(weights, x) subtracts x more
//   store_inputs(block, i, x, bits, block_size)
//                               codes i to i + LANES - 1 of a block of activations, for matrices of such bits and blocks
//   inputs<N>(p)                the codes of activations from p on
//   add_products<N>(sums, weights, inputs), floats(sums)
//   TOKENS, matrix_rows(tokens) of a tile, as many as registers hold: most tokens; rows for so many of them
//
// All of it lies in an anonymous namespace, for every file compiles it by flags of its own. Functions of the standard
// library stay out for the same reason: the linker would keep one copy, perhaps one that this processor cannot run.
#pragma once

#include <utility>

#include "kernels.h"

namespace doge {
namespace {

constexpr int AHEAD = 4096;       // bytes behind a tile that are not asked for, as they are on their way
constexpr int ROWS_AHEAD = 8192;  // bytes behind a row of the cache
constexpr int WIDTH_OF_SUMS = 4;  // vectors of columns that are added up at once
constexpr int GROUP = 4;          // blocks whose scales and zero points are read together
using Four = uint32_t __attribute__((vector_size(16)));  // GCC and Clang calculate with vectors in any instructions

constexpr int smaller(int a, int b) { return a < b ? a : b; }

template <class V>
struct VectorKernels {
  using Floats = typename V::Floats;
  static constexpr int LANES = V::LANES;

  static Floats exponential(Floats x) {  // Cephes' expf: 2 ulp between -87 and 88
    x = V::smallest(V::set(88.3f), V::largest(V::set(-87.3f), x));
    Floats n = V::rounded(V::multiply(x, V::set(1.44269504f)));
    Floats r = V::multiply_add(n, V::set(-0.693359375f), x);
    r = V::multiply_add(n, V::set(2.12194440e-4f), r);
    const float coefficients[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    Floats p = V::set(1.9875691500e-4f);
    for (float c : coefficients) p = V::multiply_add(p, r, V::set(c));
    p = V::add(V::multiply_add(p, V::multiply(r, r), r), V::set(1));
    return V::times_power_of_2(p, n);
  }

  static float sum(Floats x) {
    float sums[4];
    const Floats four[4] = {x, x, x, x};
    V::store_sums(four, sums);
    return sums[0];
  }

  // ---- activations

  static void store_codes(int16_t* block, int i, typename V::Integers x, int bits, int block_size, bool in_order) {
    if constexpr (V::HAS_ROW_TILES) {
      if (in_order) return V::store_codes(block + i, x);
    }
    V::store_inputs(block, i, x, bits, block_size);
  }

  static void quantize(const float* x, int n, int bits, int block_size, bool in_order, int16_t* codes, float* scales,
                       int32_t* sums) {
    for (int block = 0; block * block_size < n; block++) {
      int start = block * block_size;
      Floats top = V::zero();
      for (int i = 0; i < block_size; i += LANES) {
        top = V::largest(top, V::absolute(V::load_first(x + start + i, n - start - i)));
      }
      float largest = V::largest_lane(top);
      Floats steps = V::set(largest > 0 ? V::LARGEST_CODE / largest : 0);
      typename V::Integers total = V::to_integers(V::zero());
      for (int i = 0; i < block_size; i += LANES) {
        auto rounded = V::to_integers(V::multiply(V::load_first(x + start + i, n - start - i), steps));
        store_codes(codes + start, i, rounded, bits, block_size, in_order);
        total = V::add(total, rounded);
      }
      sums[block] = V::total(total);
      scales[block] = largest / V::LARGEST_CODE;
    }
  }

  // ---- products with rows of codes

  // Products of MATRIX_ROWS rows from i on with TOKENS tokens from r on.
  // ZEROS: whether the matrix has zero points; else the usual one is subtracted from all codes.
  template <int BITS, int BLOCK, bool ZEROS, int MATRIX_ROWS, int TOKENS>
  struct Tile {
    static constexpr int SUBTRACTED = ZEROS ? V::OFFSETS[BITS == 8] : 1 << (BITS - 1);
    static constexpr int PAIRS = MATRIX_ROWS * TOKENS;
    static constexpr int STEP = smaller(BLOCK, V::CODES);

    // Of a matrix row and a token: what each block's sum begins with, for the zero point, and is multiplied by.
    struct Group {
      int32_t starts[GROUP];
      float factors[GROUP];
    };

    const BlockRows& matrix;
    int i;
    const Activations& x;
    int r;

    // Zero points of row m for a whole group of blocks, less what is subtracted from its codes.
    Four zero_points(int m, int block) const {
      const uint8_t* at = matrix.zeros + (size_t)(i + m) * ((matrix.blocks * BITS + 7) / 8) + block * BITS / 8;
      uint32_t packed = at[0] | at[1] << 8;
      if (BITS == 8) packed |= at[2] << 16 | (uint32_t)at[3] << 24;
      Four zeros = (Four{} + packed) >> Four{0, BITS, 2 * BITS, 3 * BITS};
      return (zeros & ((1u << BITS) - 1)) - (uint32_t)SUBTRACTED;
    }

    void read_group(int block, Group* groups) const {
      for (int m = 0; m < MATRIX_ROWS; m++) {
        Four zeros = ZEROS ? zero_points(m, block) : Four{};
        const float* scales = matrix.scales + (size_t)(i + m) * matrix.blocks + block;
        for (int k = 0; k < TOKENS; k++) {
          size_t at = (size_t)(r + k) * x.blocks + block;
          Group& group = groups[m * TOKENS + k];
          if constexpr (ZEROS) {
            Four sums;
            __builtin_memcpy(&sums, x.sums + at, sizeof sums);
            sums *= -zeros;
            __builtin_memcpy(group.starts, &sums, sizeof sums);
          }
          for (int b = 0; b < GROUP; b++) group.factors[b] = scales[b] * x.scales[at + b];
        }
      }
    }

    // The same for one block.
    void read_block(int block, Group* groups) const {
      for (int m = 0; m < MATRIX_ROWS; m++) {
        int zero = zero_point(matrix, i + m, block) - SUBTRACTED;
        float scale = matrix.scales[(size_t)(i + m) * matrix.blocks + block];
        for (int k = 0; k < TOKENS; k++) {
          size_t at = (size_t)(r + k) * x.blocks + block;
          groups[m * TOKENS + k].starts[0] = -zero * x.sums[at];
          groups[m * TOKENS + k].factors[0] = scale * x.scales[at];
        }
      }
    }

    // totals += products of block b of its group, whose codes begin at rows and inputs
    void add(const uint8_t* const* rows, const int16_t* const* inputs, size_t block, int b, const Group* groups,
             Floats* totals) const {
      typename V::Sums sums[PAIRS];
      for (int p = 0; p < PAIRS; p++) sums[p] = V::first_sums(ZEROS ? groups[p].starts[b] : 0);
      // the rows lie one behind the other: memory behind them is asked for in its own order, line by line
      const uint8_t* ahead = rows[0] + MATRIX_ROWS * matrix.row_bytes() + AHEAD + block * (MATRIX_ROWS * BLOCK * BITS / 8);
      for (int m = 0; m < MATRIX_ROWS; m++) __builtin_prefetch(ahead + m * (BLOCK * BITS / 8));
      for (int c = 0; c < BLOCK; c += STEP) {
        typename V::Weights weights[MATRIX_ROWS];
        for (int m = 0; m < MATRIX_ROWS; m++) {
          const uint8_t* codes = rows[m] + block * (BLOCK * BITS / 8);
          if constexpr (BITS == 8) weights[m] = V::template bytes<STEP>(codes + c);
          if constexpr (BITS == 4) weights[m] = V::template nibbles<BLOCK, STEP>(codes, c);
          constexpr int REST = SUBTRACTED - V::OFFSETS[BITS == 8];
          if constexpr (REST != 0) weights[m] = V::less(weights[m], REST);
        }
        for (int k = 0; k < TOKENS; k++) {
          auto values = V::template inputs<STEP>(inputs[k] + block * BLOCK + c);
          for (int m = 0; m < MATRIX_ROWS; m++) {
            auto& sum = sums[m * TOKENS + k];
            sum = V::template add_products<STEP>(sum, weights[m], values);
          }
        }
      }
      for (int p = 0; p < PAIRS; p++) {
        totals[p] = V::multiply_add(V::floats(sums[p]), V::set(groups[p].factors[b]), totals[p]);
      }
    }

    // Always inlined: called, it reads every pointer from memory again.
    [[gnu::always_inline]] void write(float* y, size_t y_stride) const {
      const uint8_t* rows[MATRIX_ROWS];
      for (int m = 0; m < MATRIX_ROWS; m++) rows[m] = matrix.codes + (i + m) * matrix.row_bytes();
      const int16_t* inputs[TOKENS];
      for (int k = 0; k < TOKENS; k++) inputs[k] = x.codes + (r + k) * x.stride;
      Floats totals[(PAIRS + 3) / 4 * 4];
      for (auto& total : totals) total = V::zero();
      Group groups[PAIRS];
      int block = 0;
      for (; block + GROUP <= matrix.blocks; block += GROUP) {
        read_group(block, groups);
#pragma GCC unroll 1
        for (int b = 0; b < GROUP; b++) add(rows, inputs, block + b, b, groups, totals);
      }
      for (; block < matrix.blocks; block++) {
        read_block(block, groups);
        add(rows, inputs, block, 0, groups, totals);
      }
      float sums[(PAIRS + 3) / 4 * 4];
      for (int p = 0; p < PAIRS; p += 4) V::store_sums(totals + p, sums + p);
      for (int k = 0; k < TOKENS; k++) {
        for (int m = 0; m < MATRIX_ROWS; m++) y[(r + k) * y_stride + i + m] = sums[m * TOKENS + k];
      }
    }
  };

  // All matrix rows with TOKENS tokens.
  template <int BITS, int BLOCK, bool ZEROS, int TOKENS>
  static void tiles(const BlockRows& matrix, int first, int last, const Activations& x, int r, float* y,
                    size_t y_stride) {
    constexpr int MATRIX_ROWS = V::matrix_rows(TOKENS);
    int i = first;
    for (; i + MATRIX_ROWS <= last; i += MATRIX_ROWS) {
      Tile<BITS, BLOCK, ZEROS, MATRIX_ROWS, TOKENS>{matrix, i, x, r}.write(y, y_stride);
    }
    if constexpr (MATRIX_ROWS > 1) {
      for (; i < last; i++) Tile<BITS, BLOCK, ZEROS, 1, TOKENS>{matrix, i, x, r}.write(y, y_stride);
    }
  }

  template <int BITS, int BLOCK, bool ZEROS>
  static void products_of(const BlockRows& matrix, int first, int last, const Activations& x, int rows,
                                 float* y, size_t y_stride) {
    int r = 0;
    constexpr int MOST = V::TOKENS;
    for (; r + MOST <= rows; r += MOST) tiles<BITS, BLOCK, ZEROS, MOST>(matrix, first, last, x, r, y, y_stride);
    for (; r + 2 <= rows; r += 2) tiles<BITS, BLOCK, ZEROS, 2>(matrix, first, last, x, r, y, y_stride);
    for (; r < rows; r++) tiles<BITS, BLOCK, ZEROS, 1>(matrix, first, last, x, r, y, y_stride);
  }

  template <int BITS, int BLOCK>
  static void products_in_blocks(const BlockRows& matrix, int first, int last, const Activations& x, int rows,
                                 float* y, size_t y_stride) {
    auto products = matrix.zeros == nullptr ? products_of<BITS, BLOCK, false> : products_of<BITS, BLOCK, true>;
    products(matrix, first, last, x, rows, y, y_stride);
  }

  static void block_products(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                             size_t y_stride) {
    auto products = matrix.bits == 8
                        ? (matrix.block_size == 64   ? products_in_blocks<8, 64>
                           : matrix.block_size == 32 ? products_in_blocks<8, 32>
                                                     : products_in_blocks<8, 16>)
                        : (matrix.block_size == 64   ? products_in_blocks<4, 64>
                           : matrix.block_size == 32 ? products_in_blocks<4, 32>
                                                     : products_in_blocks<4, 16>);
    products(matrix, first, last, x, rows, y, y_stride);
  }

  // ---- products with rows of floats

  // totals += the products of one vector of columns, made by load(p) of a row's columns
  template <int MATRIX_ROWS, int TOKENS, class Load>
  static void add_columns(const float* matrix, size_t width, const float* x, size_t x_stride, Load load,
                          Floats* totals) {
    Floats weights[MATRIX_ROWS];
    for (int m = 0; m < MATRIX_ROWS; m++) weights[m] = load(matrix + m * width);
    for (int k = 0; k < TOKENS; k++) {
      Floats values = load(x + k * x_stride);
      for (int m = 0; m < MATRIX_ROWS; m++) {
        totals[m * TOKENS + k] = V::multiply_add(weights[m], values, totals[m * TOKENS + k]);
      }
    }
  }

  // Products of MATRIX_ROWS rows with TOKENS tokens.
  template <int MATRIX_ROWS, int TOKENS>
  static void float_tile(const float* matrix, int width, const float* x, size_t x_stride, float* y, size_t y_stride) {
    constexpr int PAIRS = MATRIX_ROWS * TOKENS;
    Floats totals[(PAIRS + 3) / 4 * 4];
    for (auto& total : totals) total = V::zero();
    int c = 0;
    auto whole = [](const float* p) { return V::load(p); };
    for (; c + LANES <= width; c += LANES) {
      add_columns<MATRIX_ROWS, TOKENS>(matrix + c, width, x + c, x_stride, whole, totals);
    }
    auto rest = [n = width - c](const float* p) { return V::load_first(p, n); };
    if (c < width) add_columns<MATRIX_ROWS, TOKENS>(matrix + c, width, x + c, x_stride, rest, totals);
    float sums[(PAIRS + 3) / 4 * 4];
    for (int p = 0; p < PAIRS; p += 4) V::store_sums(totals + p, sums + p);
    for (int k = 0; k < TOKENS; k++) {
      for (int m = 0; m < MATRIX_ROWS; m++) y[k * y_stride + m] = sums[m * TOKENS + k];
    }
  }

  template <int TOKENS>
  static void float_tiles(const float* matrix, int width, int first, int last, const float* x, size_t x_stride,
                          float* y, size_t y_stride) {
    int i = first;
    for (; i + 4 <= last; i += 4) {
      float_tile<4, TOKENS>(matrix + (size_t)i * width, width, x, x_stride, y + i, y_stride);
    }
    for (; i < last; i++) float_tile<1, TOKENS>(matrix + (size_t)i * width, width, x, x_stride, y + i, y_stride);
  }

  static void float_products(const float* matrix, int width, int first, int last, const float* x, size_t x_stride,
                             int rows, float* y, size_t y_stride) {
    int r = 0;
    for (; r + 3 <= rows; r += 3) {
      float_tiles<3>(matrix, width, first, last, x + r * x_stride, x_stride, y + r * y_stride, y_stride);
    }
    for (; r < rows; r++) {
      float_tiles<1>(matrix, width, first, last, x + r * x_stride, x_stride, y + r * y_stride, y_stride);
    }
  }

  // ---- sums of a matrix's rows, each times a number of x

  static Floats load_any(const float* p, int n) { return V::load_first(p, n); }
  static Floats load_any(const Float16* p, int n) {  // any number of them
    if (n >= LANES) return V::load(p);
    Float16 lanes[LANES] = {};
    for (int i = 0; i < n; i++) lanes[i] = p[i];
    return V::load(lanes);
  }

  // y += WIDTH vectors of columns of the sums for TOKENS tokens, the last one of `last` columns. ahead: to the numbers
  // that are read next in this place.
  template <int WIDTH, int TOKENS, class Number>
  static void weighted_tile(const Number* matrix, size_t stride, int height, size_t ahead, int last, const float* x,
                            size_t x_stride, float* y, size_t y_stride) {
    Floats totals[TOKENS][WIDTH];
    for (auto& of_token : totals) {
      for (auto& total : of_token) total = V::zero();
    }
    for (int c = 0; c < height; c++, matrix += stride) {
      for (int i = 0; i < WIDTH * LANES; i += 64 / (int)sizeof(Number)) __builtin_prefetch(matrix + ahead + i);
      Floats columns[WIDTH];
      for (int w = 0; w + 1 < WIDTH; w++) columns[w] = V::load(matrix + w * LANES);
      columns[WIDTH - 1] = load_any(matrix + (WIDTH - 1) * LANES, last);
      for (int k = 0; k < TOKENS; k++) {
        Floats weight = V::set(x[k * x_stride + c]);
        for (int w = 0; w < WIDTH; w++) totals[k][w] = V::multiply_add(weight, columns[w], totals[k][w]);
      }
    }
    for (int k = 0; k < TOKENS; k++, y += y_stride) {
      for (int w = 0; w < WIDTH; w++) {
        int count = w + 1 < WIDTH ? LANES : last;
        V::store_first(y + w * LANES, count, V::add(V::load_first(y + w * LANES, count), totals[k][w]));
      }
    }
  }

  // All tokens.
  template <int WIDTH, class Number>
  static void weighted_columns(const Number* matrix, size_t stride, int height, size_t ahead, int last, const float* x,
                               size_t x_stride, int rows, float* y, size_t y_stride) {
    constexpr int TOKENS = V::ACCUMULATORS / WIDTH_OF_SUMS;
    int r = 0;
    for (; r + TOKENS <= rows; r += TOKENS, x += TOKENS * x_stride, y += TOKENS * y_stride) {
      weighted_tile<WIDTH, TOKENS, Number>(matrix, stride, height, ahead, last, x, x_stride, y, y_stride);
    }
    for (; r < rows; r++, x += x_stride, y += y_stride) {
      weighted_tile<WIDTH, 1, Number>(matrix, stride, height, ahead, last, x, x_stride, y, y_stride);
    }
  }

  template <class Number, int... WIDTHS>
  static auto weighted_columns_of(int width, std::integer_sequence<int, WIDTHS...>) {
    decltype(&weighted_columns<1, Number>) const of_width[] = {weighted_columns<WIDTHS + 1, Number>...};
    return of_width[width - 1];
  }

  template <class Number>
  static void add_weighted(const Number* matrix, size_t stride, int height, int first, int last, const float* x,
                           size_t x_stride, int rows, float* y, size_t y_stride) {
    constexpr int COLUMNS = WIDTH_OF_SUMS * LANES;
    size_t ahead = stride <= COLUMNS ? AHEAD / sizeof(Number) : COLUMNS;
    for (int i = first; i < last; i += COLUMNS) {
      int count = smaller(COLUMNS, last - i), width = (count + LANES - 1) / LANES;
      auto add = weighted_columns_of<Number>(width, std::make_integer_sequence<int, WIDTH_OF_SUMS>());
      add(matrix + i, stride, height, ahead, count - (width - 1) * LANES, x, x_stride, rows, y + i, y_stride);
    }
  }

  static void add_weighted_rows(const Thin& matrix, size_t stride, int height, int first, int last, const float* x,
                                size_t x_stride, int rows, float* y, size_t y_stride) {
    if (matrix.type == NumberType::FLOAT16) {
      return add_weighted((const Float16*)matrix.numbers, stride, height, first, last, x, x_stride, rows, y, y_stride);
    }
    add_weighted((const float*)matrix.numbers, stride, height, first, last, x, x_stride, rows, y, y_stride);
  }

  // ---- elements of a row

  static void add(const float* scale, const float* added, int n, float* x) {
    for (int i = 0; i < n; i += LANES) {
      Floats y = V::load_first(x + i, n - i);
      if (scale != nullptr) y = V::multiply(y, V::load_first(scale + i, n - i));
      V::store_first(x + i, n - i, V::add(y, V::load_first(added + i, n - i)));
    }
  }

  // In four sums, as an addition waits for the one before it.
  static float sum_of_squares(const float* x, int n) {
    Floats totals[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    for (int i = 0; i < n;) {
      for (int t = 0; t < 4 && i < n; t++, i += LANES) {
        Floats y = V::load_first(x + i, n - i);
        totals[t] = V::multiply_add(y, y, totals[t]);
      }
    }
    return sum(V::add(V::add(totals[0], totals[1]), V::add(totals[2], totals[3])));
  }

  static void rms_norm(const float* x, const float* weight, int n, float epsilon, float* y) {
    Floats factor = V::set(1 / __builtin_sqrtf(sum_of_squares(x, n) / n + epsilon));
    for (int i = 0; i < n; i += LANES) {
      Floats scaled = V::multiply(V::load_first(x + i, n - i), factor);
      V::store_first(y + i, n - i, V::multiply(scaled, V::load_first(weight + i, n - i)));
    }
  }

  static void to_float16(const float* x, int n, Float16* y) {
    Floats largest = V::set(65504), smallest = V::set(-65504);
    for (int i = 0; i < n; i += LANES) {
      Floats bounded = V::largest(smallest, V::smallest(largest, V::load_first(x + i, n - i)));  // no number stays none
      V::store_first(y + i, n - i, bounded);
    }
  }

  // ---- attention

  // A processor reads ahead by itself inside a page only, which has few rows.
  static void ask_ahead(const void* row, size_t bytes) {
    for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch((const char*)row + ROWS_AHEAD + line);
  }

  // Dots of QUERIES queries with the numbers of four keys: to scores[query][j], of the first `count` keys.
  template <int QUERIES, class Number>
  static void four_dots(const Query* queries, const Number* const* keys, int numbers, int j, int count) {
    Floats totals[QUERIES][4];
    for (auto& of_query : totals) {
      for (auto& total : of_query) total = V::zero();
    }
    auto add = [&](int c, auto load) {
      Floats key[4];
      for (int t = 0; t < 4; t++) key[t] = load(keys[t] + c);
      for (int i = 0; i < QUERIES; i++) {
        Floats q = load(queries[i].numbers + c);
        for (int t = 0; t < 4; t++) totals[i][t] = V::multiply_add(q, key[t], totals[i][t]);
      }
    };
    int c = 0;
    for (; c + LANES <= numbers; c += LANES) add(c, [](const auto* p) { return V::load(p); });
    if (c < numbers) add(c, [n = numbers - c](const auto* p) { return V::load_first(p, n); });
    for (int i = 0; i < QUERIES; i++) {
      if (count == 4) {
        V::store_sums(totals[i], queries[i].scores + j);
      } else {
        float sums[4];
        V::store_sums(totals[i], sums);
        for (int t = 0; t < count; t++) queries[i].scores[j + t] = sums[t];
      }
    }
  }

  // scores = dots with the numbers of every key
  template <int QUERIES, class Number>
  static void dots(const Query* queries, const Slots& slots) {
    const int length = slots.length, numbers = slots.layout.numbers;
    const size_t start = slots.layout.floats * sizeof(float), bytes = start + numbers * sizeof(Number);
    const uint8_t* row = slots.keys + start;
    const bool are_near = slots.are_near;
    for (int j = 0; j < length; j += 4, row += 4 * bytes) {
      const int count = smaller(4, length - j);
      const Number* keys[4];  // the last key again, where there are fewer
      for (int t = 0; t < 4; t++) keys[t] = (const Number*)(row + smaller(t, count - 1) * bytes);
      if (!are_near) ask_ahead(row, 4 * bytes);
      four_dots<QUERIES>(queries, keys, numbers, j, count);
    }
  }

  // scores += float f of a query times those of the keys
  template <int QUERIES>
  static void add_float(const Query* queries, const Slots& slots, int f) {
    const size_t bytes = slots.layout.bytes();
    const uint8_t* row = slots.keys + f * sizeof(float);
    for (int j = 0; j < slots.length; j += LANES) {
      const int count = smaller(LANES, slots.length - j);
      float lanes[LANES] = {};
      for (int lane = 0; lane < count; lane++, row += bytes) lanes[lane] = *(const float*)row;
      Floats keys = V::load(lanes);
      for (int i = 0; i < QUERIES; i++) {
        float* scores = queries[i].scores + j;
        Floats q = V::set(queries[i].numbers[slots.layout.numbers + f]);
        V::store_first(scores, count, V::multiply_add(q, keys, V::load_first(scores, count)));
      }
    }
  }

  // scores *= scale; returns the largest
  static float scaled(float* scores, int length, float scale) {
    Floats factor = V::set(scale), top = V::set(scores[0] * scale);
    int j = 0;
    for (; j + LANES <= length; j += LANES) {
      Floats x = V::multiply(V::load(scores + j), factor);
      V::store(scores + j, x);
      top = V::largest(top, x);
    }
    float largest = V::largest_lane(top);
    for (; j < length; j++) {
      scores[j] *= scale;
      largest = scores[j] > largest ? scores[j] : largest;
    }
    return largest;
  }

  // weights[j] = exp(scores[j] - largest) in place; returns their sum
  static float exponentials(float* scores, int length, float largest) {
    Floats top = V::set(largest), total = V::zero();
    int j = 0;
    for (; j + LANES <= length; j += LANES) {
      Floats weights = exponential(V::subtract(V::load(scores + j), top));
      V::store(scores + j, weights);
      total = V::add(total, weights);
    }
    if (j < length) {
      V::store_first(scores + j, length - j, exponential(V::subtract(V::load_first(scores + j, length - j), top)));
      total = V::add(total, V::load_first(scores + j, length - j));
    }
    return sum(total);
  }

  // sums = weights values for WIDTH vectors of numbers from c on, the last one of `last` numbers
  template <int QUERIES, int WIDTH, class Number>
  static void weighted_values(const Query* queries, const Slots& slots, int c, int last) {
    const int length = slots.length;
    const size_t start = slots.layout.floats * sizeof(float), bytes = start + slots.layout.numbers * sizeof(Number);
    const bool asks = c == 0 && !slots.are_near;
    const uint8_t* row = slots.values + start + c * sizeof(Number);
    const float* weights[QUERIES];
    Floats totals[QUERIES][WIDTH];
    for (int i = 0; i < QUERIES; i++) {
      weights[i] = queries[i].scores;
      for (auto& total : totals[i]) total = V::zero();
    }
    for (int j = 0; j < length; j++, row += bytes) {
      if (asks) ask_ahead(row, bytes);
      Floats values[WIDTH];
      for (int w = 0; w < WIDTH; w++) {
        const Number* numbers = (const Number*)row + w * LANES;
        bool whole = LANES <= 8 || w + 1 < WIDTH;  // up to 8 lanes are always whole
        values[w] = whole ? V::load(numbers) : V::load_first(numbers, last);
      }
      for (int i = 0; i < QUERIES; i++) {
        Floats weight = V::set(weights[i][j]);
        for (int w = 0; w < WIDTH; w++) totals[i][w] = V::multiply_add(weight, values[w], totals[i][w]);
      }
    }
    for (int i = 0; i < QUERIES; i++) {
      float* sums = queries[i].result->sums + c;
      for (int w = 0; w + 1 < WIDTH; w++) V::store(sums + w * LANES, totals[i][w]);
      V::store_first(sums + (WIDTH - 1) * LANES, last, totals[i][WIDTH - 1]);
    }
  }

  template <int QUERIES, class Number, int... WIDTHS>
  static auto weighted_values_of(int width, std::integer_sequence<int, WIDTHS...>) {
    decltype(&weighted_values<QUERIES, 1, Number>) const of_width[] = {weighted_values<QUERIES, WIDTHS + 1, Number>...};
    return of_width[width - 1];
  }

  template <int QUERIES, class Number>
  static void attend_of(const Query* queries, const Slots& slots, float scale) {
    dots<QUERIES, Number>(queries, slots);
    for (int f = 0; f < slots.layout.floats; f++) add_float<QUERIES>(queries, slots, f);
    for (int i = 0; i < QUERIES; i++) {
      Attended& y = *queries[i].result;
      y.largest = scaled(queries[i].scores, slots.length, scale);
      y.total = exponentials(queries[i].scores, slots.length, y.largest);
    }
    constexpr int WIDEST = smaller(V::ACCUMULATORS / QUERIES, 10);
    int numbers = slots.layout.numbers, vectors = (numbers + LANES - 1) / LANES;
    int widest = (vectors + (vectors + WIDEST - 1) / WIDEST - 1) / ((vectors + WIDEST - 1) / WIDEST);  // of equal ones
    for (int c = 0; c < numbers;) {
      int width = smaller(widest, (numbers - c + LANES - 1) / LANES);
      int last = smaller(LANES, numbers - c - (width - 1) * LANES);
      auto weigh = weighted_values_of<QUERIES, Number>(width, std::make_integer_sequence<int, WIDEST>());
      weigh(queries, slots, c, last);
      c += width * LANES;
    }
  }

  template <class Number>
  static void attend_all(const Query* queries, int count, const Slots& slots, float scale) {
    int i = 0;
    for (; i + V::QUERIES <= count; i += V::QUERIES) attend_of<V::QUERIES, Number>(queries + i, slots, scale);
    if constexpr (V::QUERIES > 2) {
      for (; i + 2 <= count; i += 2) attend_of<2, Number>(queries + i, slots, scale);
    }
    for (; i < count; i++) attend_of<1, Number>(queries + i, slots, scale);
  }

  static void attend(const Query* queries, int count, const Slots& slots, float scale) {
    if (slots.layout.type == NumberType::FLOAT32) return attend_all<float>(queries, count, slots, scale);
    if (slots.layout.type == NumberType::FLOAT16) return attend_all<Float16>(queries, count, slots, scale);
    attend_all<int8_t>(queries, count, slots, scale);
  }

  static void gated_silu(const float* gate, const float* up, int n, float* y) {
    for (int i = 0; i < n; i += LANES) {
      Floats g = V::load_first(gate + i, n - i);
      Floats sigmoid = V::divide(g, V::add(V::set(1), exponential(V::subtract(V::zero(), g))));
      V::store_first(y + i, n - i, V::multiply(sigmoid, V::load_first(up + i, n - i)));
    }
  }
};

}  // namespace
}  // namespace doge
