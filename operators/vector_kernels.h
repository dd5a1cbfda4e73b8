// Kernels in terms of the few operations on vectors that an instruction set gives. Here are those of a row's elements.
// Products are in row_tiles.h, row_panels.h and float_products.h, attention is in query_attention.h and
// group_attention.h.
//
// A file of an instruction set names those operations in a struct `V` and makes its table by `vector_kernels<V>` (kernel_table.h):
//
//   LANES                       floats in a vector, a multiple of 4
//   Floats, Integers            a vector of floats; one of as many int32
//   zero() set(x) load(p) store(p, x), load_first(p, n) store_first(p, n, x) for the first n lanes only, any int n
//   add subtract multiply divide largest(a, b), multiply_add(a, b, c) = a * b + c rounded once, absolute(a)
//   rounded(x)                  to the nearest integer, of two the even one
//   fraction(x)                 x less the largest whole number that is not above it
//   times_power_of_2(x, n)      x * 2 ** n, of n without its fraction; from -126 to 127
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
//   HAS_PANELS                  whether products with many tokens are those of row_panels.h, not of row_tiles.h
//   LARGEST_CODE                of an activation
//   store_inputs(block, i, x, bits, block_size)
//                               codes i to i + LANES - 1 of a block of activations, for matrices of such bits and blocks
//
// All of it lies in an anonymous namespace, for every file compiles it by flags of its own. Functions of the standard
// library stay out for the same reason: the linker would keep one copy, perhaps one that this processor cannot run.
#pragma once

#include "kernels.h"

namespace doge {
namespace {

constexpr int AHEAD = 4096;  // bytes behind a tile that are not asked for, as they are on their way
constexpr int FAR_AHEAD = 16384;  // the same on its way into the second cache
template <Asking ASKING>
constexpr int DISTANCE = ASKING == Asking::SECOND ? FAR_AHEAD : AHEAD;
constexpr int BLOCKS_TOGETHER = 4;  // blocks whose scales and zero points are read together

constexpr int smaller(int a, int b) { return a < b ? a : b; }

// Into the second cache alone, a line is asked for three times on its way, for a core drops what it has no room for.
// Always inlined: GCC leaves out calls of functions that do nothing but ask.
template <Asking ASKING, int BYTES>
[[gnu::always_inline]] inline void ask_for(const void* memory) {
  constexpr int AGAIN = ASKING == Asking::FIRST ? 0 : ASKING == Asking::BOTH ? 1 : 2;
  const char* first = (const char*)memory;
  for (int line = 0; line < BYTES; line += 64) __builtin_prefetch(first + line, 0, ASKING == Asking::SECOND ? 2 : 3);
  for (int far = 1; far <= AGAIN; far++) {
    for (int line = 0; line < BYTES; line += 64) __builtin_prefetch(first + far * FAR_AHEAD + line, 0, 2);
  }
}

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

  // 2 ** x for an x of at most 0: 1.2 ulp from -126 on, and 2 ** -126 below. That of 0 is exactly 1.
  static Floats power_of_2(Floats x) {
    x = V::largest(V::set(-126), x);
    Floats r = V::fraction(x);
    const float coefficients[] = {1.248228364e-3f, 9.673775174e-3f, 5.548618361e-2f, 2.402290851e-1f, 6.931470633e-1f, 1};
    Floats p = V::set(2.156603296e-4f);
    for (float c : coefficients) p = V::multiply_add(p, r, V::set(c));
    return V::times_power_of_2(p, x);
  }

  static float sum(Floats x) {
    float sums[4];
    const Floats four[4] = {x, x, x, x};
    V::store_sums(four, sums);
    return sums[0];
  }

  // ---- activations

  static void store_codes(int16_t* block, int i, typename V::Integers x, int bits, int block_size, bool in_order) {
    if constexpr (V::HAS_PANELS) {
      if (in_order) return V::store_codes(block + i, x);
    }
    V::store_inputs(block, i, x, bits, block_size);
  }

  // Zero times a number is 0, and times any other no number.
  static bool are_numbers(const float* x, int n) {
    Floats zeros = V::zero();
    for (int i = 0; i < n; i += LANES) zeros = V::multiply_add(V::load_first(x + i, n - i), V::zero(), zeros);
    return sum(zeros) == 0;
  }

  static void quantize(const float* x, int n, int bits, int block_size, bool in_order, int16_t* codes, float* scales,
                       int32_t* sums) {
    if (!are_numbers(x, n)) return no_codes(n, block_size, codes, scales, sums);
    for (int block = 0; block * block_size < n; block++) {
      int start = block * block_size;
      Floats top = V::zero();
      for (int i = 0; i < block_size; i += LANES) {
        top = V::largest(top, V::absolute(V::load_first(x + start + i, n - start - i)));
      }
      float largest = V::largest_lane(top);
      Floats steps = V::set(largest > LEAST_ACTIVATION ? V::LARGEST_CODE / largest : 0);
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
