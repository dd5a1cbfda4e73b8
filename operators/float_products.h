// Products with rows of floats, and sums of a matrix's rows, each times a number.
#pragma once

#include <utility>

#include "vector_kernels.h"

namespace doge {
namespace {

constexpr int WIDTH_OF_SUMS = 4;  // vectors of columns that are added up at once

template <class V>
struct FloatProducts {
  using Floats = typename V::Floats;
  static constexpr int LANES = V::LANES;
  static constexpr int MOST_TOKENS = V::ACCUMULATORS / 4 + 1;  // of a tile of 4 rows, which needs few other registers

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

  // Products of MATRIX_ROWS rows with TOKENS tokens. A row alone has none behind it that would be read next.
  template <Asking ASKING, int MATRIX_ROWS, int TOKENS>
  static void float_tile(const float* matrix, int width, const float* x, size_t x_stride, float* y, size_t y_stride) {
    constexpr int PAIRS = MATRIX_ROWS * TOKENS;
    Floats totals[(PAIRS + 3) / 4 * 4];
    for (auto& total : totals) total = V::zero();
    int c = 0;
    auto whole = [](const float* p) { return V::load(p); };
    const float* ahead = matrix + MATRIX_ROWS * (size_t)width + DISTANCE<ASKING> / sizeof(float);
    for (; c + LANES <= width; c += LANES, ahead += MATRIX_ROWS * LANES) {
      if (MATRIX_ROWS > 1) ask_for<ASKING, MATRIX_ROWS * LANES * (int)sizeof(float)>(ahead);
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

  template <Asking ASKING, int TOKENS>
  static void float_tiles(const float* matrix, int width, int first, int last, const float* x, size_t x_stride,
                          float* y, size_t y_stride) {
    int i = first;
    for (; i + 4 <= last; i += 4) {
      float_tile<ASKING, 4, TOKENS>(matrix + (size_t)i * width, width, x, x_stride, y + i, y_stride);
    }
    for (; i < last; i++) {
      float_tile<ASKING, 1, TOKENS>(matrix + (size_t)i * width, width, x, x_stride, y + i, y_stride);
    }
  }

  template <Asking ASKING, int... TOKENS>
  static auto float_tiles_of(int tokens, std::integer_sequence<int, TOKENS...>) {
    decltype(&float_tiles<ASKING, 1>) const of_tokens[] = {float_tiles<ASKING, TOKENS + 1>...};
    return of_tokens[tokens - 1];
  }

  static auto float_tiles_of(int tokens, Asking asking) {
    const auto counts = std::make_integer_sequence<int, MOST_TOKENS>();
    return asking == Asking::FIRST  ? float_tiles_of<Asking::FIRST>(tokens, counts)
           : asking == Asking::BOTH ? float_tiles_of<Asking::BOTH>(tokens, counts)
                                    : float_tiles_of<Asking::SECOND>(tokens, counts);
  }

  // The rows come from memory for the first tokens, and from the second cache for all others.
  static void float_products(const float* matrix, int width, int first, int last, const float* x, size_t x_stride,
                             int rows, float* y, size_t y_stride, Asking asking) {
    for (int r = 0; r < rows; r += MOST_TOKENS) {
      auto multiply = float_tiles_of(smaller(MOST_TOKENS, rows - r), r == 0 ? asking : Asking::FIRST);
      multiply(matrix, width, first, last, x + r * x_stride, x_stride, y + r * y_stride, y_stride);
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
};

}  // namespace
}  // namespace doge
