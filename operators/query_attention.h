// Attention of some queries, each of which sees all slots.
#pragma once

#include <utility>

#include "vector_kernels.h"

namespace doge {
namespace {

// bytes behind a row of the cache that are not asked for, as they are on their way into the first cache, or the second
constexpr int ROWS_AHEAD = 8192, ROWS_FAR_AHEAD = 16384;

template <class V>
struct QueryAttention {
  using Floats = typename V::Floats;
  using K = VectorKernels<V>;
  static constexpr int LANES = V::LANES;

  // A processor reads ahead by itself inside a page only, which has few rows. Always inlined, see ask_for.
  [[gnu::always_inline]] static void ask_ahead(const void* row, size_t bytes, Asking asking) {
    auto memory = (const char*)row;
    if (asking == Asking::SECOND) {
      for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(memory + ROWS_FAR_AHEAD + line, 0, 2);
    } else {
      for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(memory + ROWS_AHEAD + line);
    }
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
    const Asking asking = slots.asking;
    for (int j = 0; j < length; j += 4, row += 4 * bytes) {
      const int count = smaller(4, length - j);
      const Number* keys[4];  // the last key again, where there are fewer
      for (int t = 0; t < 4; t++) keys[t] = (const Number*)(row + smaller(t, count - 1) * bytes);
      if (!are_near) ask_ahead(row, 4 * bytes, asking);
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

  static float largest_of(const float* scores, int length) {
    Floats top = V::set(scores[0]);
    int j = 0;
    for (; j + LANES <= length; j += LANES) top = V::largest(top, V::load(scores + j));
    float largest = V::largest_lane(top);
    for (; j < length; j++) largest = scores[j] > largest ? scores[j] : largest;
    return largest;
  }

  static Floats weights(Floats scores, Floats largest, Floats scale) {
    return K::power_of_2(V::multiply(V::subtract(scores, largest), scale));
  }

  // scores become weights; returns their sum
  static float weigh(float* scores, int length, float largest, float scale) {
    Floats top = V::set(largest), factor = V::set(scale), total = V::zero();
    int j = 0;
    for (; j + LANES <= length; j += LANES) {
      Floats x = weights(V::load(scores + j), top, factor);
      V::store(scores + j, x);
      total = V::add(total, x);
    }
    if (j < length) {
      V::store_first(scores + j, length - j, weights(V::load_first(scores + j, length - j), top, factor));
      total = V::add(total, V::load_first(scores + j, length - j));
    }
    return K::sum(total);
  }

  // sums = weights values for WIDTH vectors of numbers from c on, the last one of `last` numbers
  template <int QUERIES, int WIDTH, class Number>
  static void weighted_values(const Query* queries, const Slots& slots, int c, int last) {
    const int length = slots.length;
    const size_t start = slots.layout.floats * sizeof(float), bytes = start + slots.layout.numbers * sizeof(Number);
    const bool asks = c == 0 && !slots.are_near;
    const Asking asking = slots.asking;
    const uint8_t* row = slots.values + start + c * sizeof(Number);
    const float* weights[QUERIES];
    Floats totals[QUERIES][WIDTH];
    for (int i = 0; i < QUERIES; i++) {
      weights[i] = queries[i].scores;
      for (auto& total : totals[i]) total = V::zero();
    }
    for (int j = 0; j < length; j++, row += bytes) {
      if (asks) ask_ahead(row, bytes, asking);
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
      y.largest = largest_of(queries[i].scores, slots.length);
      y.total = weigh(queries[i].scores, slots.length, y.largest, scale);
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
};

}  // namespace
}  // namespace doge
