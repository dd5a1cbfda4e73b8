// Attention of many queries over nearly the same slots: QueryAttention::attend in another order of loops, with the same
// bits. A row that a query does not see has a weight of 0 there, which changes no sum.
//
// A vector has a number of each of LANES queries, where it has neighbouring numbers of one query elsewhere. So no sum
// crosses a register, and keys and values are unpacked once for all queries. Every score is made of the very products
// that `attend` adds, in the order in which V::store_sums adds lanes; so are the sums of weights.
#pragma once

#include "query_attention.h"

namespace doge {
namespace {

template <class V>
struct GroupAttention {
  using Floats = typename V::Floats;
  static constexpr int LANES = V::LANES;
  static constexpr int VECTORS = V::GROUP_VECTORS;  // of queries
  static constexpr int GROUP = VECTORS * LANES;     // queries
  static constexpr int KEYS = V::QUERIES;           // that are multiplied together
  static constexpr int WIDTH = 4;                   // vectors of values that are weighed together
  static constexpr int NEAR = 8192;                 // numbers of values that stay in the first cache

  // One vector of queries by each of some keys.
  struct Tile {
    Floats x[VECTORS][KEYS];
  };

  // x(FROM) + ... + x(FROM + COUNT - 1), neighbours first
  template <int FROM, int COUNT, class Terms>
  [[gnu::always_inline]] static Tile neighbours_added(const Terms& x) {
    if constexpr (COUNT == 1) {
      return x(FROM);
    } else {
      return added(neighbours_added<FROM, COUNT / 2>(x), neighbours_added<FROM + COUNT / 2, COUNT / 2>(x));
    }
  }

  [[gnu::always_inline]] static Tile added(const Tile& a, const Tile& b) {
    Tile sum;
    for (int v = 0; v < VECTORS; v++) {
      for (int t = 0; t < KEYS; t++) sum.x[v][t] = V::add(a.x[v][t], b.x[v][t]);
    }
    return sum;
  }

  // Of all lanes, as V::store_sums adds them: of 16 the two halves first.
  template <class Terms>
  [[gnu::always_inline]] static Tile lanes_added(const Terms& x) {
    if constexpr (LANES <= 8) {
      return neighbours_added<0, LANES>(x);
    } else {
      static_assert(LANES == 16);
      return neighbours_added<0, 8>([&](int lane) { return added(x(lane), x(lane + 8)); });
    }
  }

  // The share of a lane in the dots of four keys.
  [[gnu::always_inline]] static Tile lane_of_dots(const float* columns, const float* const* keys, int numbers, int lane) {
    Tile sum;
    for (auto& of_vector : sum.x) {
      for (auto& each : of_vector) each = V::zero();
    }
    for (int c = lane; c < numbers; c += LANES) {
      for (int v = 0; v < VECTORS; v++) {
        Floats q = V::load(columns + c * GROUP + v * LANES);
        for (int t = 0; t < KEYS; t++) sum.x[v][t] = V::multiply_add(q, V::set(keys[t][c]), sum.x[v][t]);
      }
    }
    return sum;
  }

  // x for the queries of vector v that see a row, y for the others
  static Floats where_seen(const SeenRow& row, int v, Floats x, Floats y) {
    float numbers[LANES];
    for (int lane = 0; lane < LANES; lane++) numbers[lane] = v * LANES + lane;
    Floats queries = V::load(numbers), from_first_on = V::where_less(queries, V::set(row.first), y, x);
    return V::where_less(queries, V::set(row.last), from_first_on, y);
  }

  static bool all_see(const SeenRow& row) { return row.first == 0 && row.last == GROUP; }

  // scores[row][query] = dots, floats included; tops get the largest of each query, among the rows that it sees
  static void scores_of(const float* columns, const SeenRows& seen, Floats* tops) {
    const int numbers = seen.numbers, floats_at = padded(numbers);
    for (int k = 0; k < seen.count; k += KEYS) {
      const float* keys[KEYS];  // the last key again, where there are fewer
      bool all = k + KEYS <= seen.count;
      for (int t = 0; t < KEYS; t++) {
        const SeenRow& row = seen.rows[smaller(k + t, seen.count - 1)];
        keys[t] = row.key;
        all = all && all_see(row);
      }
      Tile dots = lanes_added([&](int lane) { return lane_of_dots(columns, keys, numbers, lane); });
      for (int f = 0; f < seen.floats; f++) {
        for (int v = 0; v < VECTORS; v++) {
          Floats q = V::load(columns + (numbers + f) * GROUP + v * LANES);
          for (int t = 0; t < KEYS; t++) {
            dots.x[v][t] = V::multiply_add(q, V::set(keys[t][floats_at + f]), dots.x[v][t]);
          }
        }
      }
      for (int v = 0; v < VECTORS; v++) {
        for (int t = 0; t < KEYS; t++) {
          if (!all && k + t >= seen.count) break;
          Floats larger = V::largest(tops[v], dots.x[v][t]);
          tops[v] = all ? larger : where_seen(seen.rows[k + t], v, larger, tops[v]);
          V::store(seen.scores + (k + t) * GROUP + v * LANES, dots.x[v][t]);
        }
      }
    }
  }

  // scores become weights, 0 where a query does not see a row; the sums of all rows
  static Floats weights_of(const SeenRows& seen, int v, Floats top, float scale) {
    Floats totals[LANES], factor = V::set(scale);
    for (auto& total : totals) total = V::zero();
    for (int k = 0; k < seen.count; k++) {
      const SeenRow& row = seen.rows[k];
      float* scores = seen.scores + k * GROUP + v * LANES;
      Floats weights = QueryAttention<V>::weights(V::load(scores), top, factor);
      if (!all_see(row)) weights = where_seen(row, v, weights, V::zero());
      V::store(scores, weights);
      Floats& total = totals[row.slot % LANES];
      total = V::add(total, weights);
    }
    return vectors_added(totals);
  }

  static Floats vectors_added(Floats* x) {  // as lanes_added
    if constexpr (LANES > 8) {
      for (int lane = 0; lane < 8; lane++) x[lane] = V::add(x[lane], x[lane + 8]);
    }
    for (int count = smaller(LANES, 8) / 2; count > 0; count /= 2) {
      for (int i = 0; i < count; i++) x[i] = V::add(x[2 * i], x[2 * i + 1]);
    }
    return x[0];
  }

  // sums of values from number c on, for COUNT queries from i on; those of the rows before `first` are there
  template <int COUNT, int VALUES>
  static void weigh(const Query* queries, int i, const SeenRows& seen, int c, int first, int last) {
    Floats totals[COUNT][VALUES];
    for (int q = 0; q < COUNT; q++) {
      const float* sums = queries[i + q].result->sums + c;
      for (int w = 0; w < VALUES; w++) {
        totals[q][w] = first == 0 ? V::zero() : V::load_first(sums + w * LANES, seen.numbers - c - w * LANES);
      }
    }
    const float* weights = seen.scores + first * GROUP + i;
    for (int k = first; k < last; k++, weights += GROUP) {
      const float* row = seen.rows[k].value + c;
      Floats values[VALUES];
      for (int w = 0; w < VALUES; w++) values[w] = V::load(row + w * LANES);
      for (int q = 0; q < COUNT; q++) {
        Floats weight = V::set(weights[q]);
        for (int w = 0; w < VALUES; w++) totals[q][w] = V::multiply_add(weight, values[w], totals[q][w]);
      }
    }
    for (int q = 0; q < COUNT; q++) {
      float* sums = queries[i + q].result->sums + c;
      for (int w = 0; w < VALUES; w++) V::store_first(sums + w * LANES, seen.numbers - c - w * LANES, totals[q][w]);
    }
  }

  // The same for all queries: six of them together need fewer loads than four.
  template <int VALUES>
  static void weigh_all(const Query* queries, const SeenRows& seen, int c, int first, int last) {
    static_assert((GROUP - 2 * KEYS) % 6 == 0);
    int i = 0;
    for (; i < GROUP - 2 * KEYS; i += 6) weigh<6, VALUES>(queries, i, seen, c, first, last);
    for (; i < GROUP; i += KEYS) weigh<KEYS, VALUES>(queries, i, seen, c, first, last);
  }

  static void attend(const Query* queries, const float* columns, const SeenRows& seen, float scale) {
    Floats tops[VECTORS];
    for (auto& top : tops) top = V::set(-__builtin_inff());
    scores_of(columns, seen, tops);
    for (int v = 0; v < VECTORS; v++) {
      float largest[LANES], totals[LANES];
      V::store(totals, weights_of(seen, v, tops[v], scale));
      V::store(largest, tops[v]);
      for (int lane = 0; lane < LANES; lane++) {
        queries[v * LANES + lane].result->largest = largest[lane];
        queries[v * LANES + lane].result->total = totals[lane];
      }
    }
    const int columns_of_values = padded(seen.numbers), near = NEAR / smaller(columns_of_values, NEAR);
    for (int first = 0; first < seen.count; first += near) {
      int last = smaller(first + near, seen.count), c = 0;
      for (; c + WIDTH * LANES <= columns_of_values; c += WIDTH * LANES) weigh_all<WIDTH>(queries, seen, c, first, last);
      for (; c < seen.numbers; c += LANES) weigh_all<1>(queries, seen, c, first, last);
    }
  }

  template <class Number>
  static void unpack_all(const uint8_t* rows, const Slots& slots, float* y) {
    const int numbers = slots.layout.numbers, floats = slots.layout.floats;
    const size_t bytes = slots.layout.bytes();
    for (int j = 0; j < slots.length; j++, rows += bytes, y += padded(numbers) + floats) {
      if (!slots.are_near) QueryAttention<V>::ask_ahead(rows, bytes, slots.asking);
      auto row = (const Number*)(rows + floats * sizeof(float));
      int c = 0;
      for (; c + LANES <= numbers; c += LANES) V::store(y + c, V::load(row + c));
      if (c < numbers) V::store(y + c, V::load_first(row + c, numbers - c));
      for (c += c < numbers ? LANES : 0; c < padded(numbers); c += LANES) V::store(y + c, V::zero());
      for (int f = 0; f < floats; f++) y[padded(numbers) + f] = ((const float*)rows)[f];
    }
  }

  static void unpack(const uint8_t* rows, const Slots& slots, float* y) {
    if (slots.layout.type == NumberType::FLOAT32) return unpack_all<float>(rows, slots, y);
    if (slots.layout.type == NumberType::FLOAT16) return unpack_all<Float16>(rows, slots, y);
    unpack_all<int8_t>(rows, slots, y);
  }
};

}  // namespace
}  // namespace doge
