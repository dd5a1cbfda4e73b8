// Instructions of other processors in plain C++, by SIMDe: `g++ -I tests/operators/simde -DSIMDE_NO_NATIVE` finds this
// file instead of the compiler's own. The functions below are those that SIMDe 0.7.4 lacks, after Intel's Intrinsics
// Guide.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../../../operators/float16.h"

using __mmask16 = uint16_t;
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC

namespace stand_in {

template <class Lane, class Vector>
struct Lanes {
  static constexpr int COUNT = sizeof(Vector) / sizeof(Lane);
  Lane at[COUNT] = {};

  Lanes() = default;
  explicit Lanes(Vector x) { std::memcpy(at, &x, sizeof x); }
  Vector vector() const {
    Vector x;
    std::memcpy(&x, at, sizeof x);
    return x;
  }
};

// Every lane converted by f; lanes that x lacks are 0.
template <class To, class ToVector, class From, class FromVector, class F>
ToVector converted(FromVector x, F f) {
  Lanes<From, FromVector> from(x);
  Lanes<To, ToVector> to;
  for (int i = 0; i < from.COUNT && i < to.COUNT; i++) to.at[i] = f(from.at[i]);
  return to.vector();
}

}  // namespace stand_in

// Only for its use here: less the whole number below.
inline __m512 _mm512_reduce_ps(__m512 x, int) {
  return stand_in::converted<float, __m512, float>(x, [](float lane) { return lane - std::floor(lane); });
}

inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const float* p) {
  stand_in::Lanes<float, __m512> x;
  for (int i = 0; i < 16; i++) {
    if (mask >> i & 1) x.at[i] = p[i];
  }
  return x.vector();
}

inline void _mm512_mask_storeu_ps(float* p, __mmask16 mask, __m512 x) {
  stand_in::Lanes<float, __m512> lanes(x);
  for (int i = 0; i < 16; i++) {
    if (mask >> i & 1) p[i] = lanes.at[i];
  }
}

inline float _mm512_reduce_max_ps(__m512 x) {
  stand_in::Lanes<float, __m512> lanes(x);
  float largest = lanes.at[0];
  for (float lane : lanes.at) largest = lane > largest ? lane : largest;
  return largest;
}

inline int _mm512_reduce_add_epi32(__m512i x) {
  int sum = 0;
  for (int lane : stand_in::Lanes<int32_t, __m512i>(x).at) sum += lane;
  return sum;
}

inline __m256 _mm512_extractf32x8_ps(__m512 x, int half) {
  stand_in::Lanes<float, __m512> lanes(x);
  stand_in::Lanes<float, __m256> y;
  std::memcpy(y.at, lanes.at + 8 * half, sizeof y.at);
  return y.vector();
}

inline __m512i _mm512_cvtps_epi32(__m512 x) {
  return stand_in::converted<int32_t, __m512i, float>(x, [](float value) { return (int32_t)std::lrint(value); });
}

inline __m512 _mm512_cvtepi32_ps(__m512i x) {
  return stand_in::converted<float, __m512, int32_t>(x, [](int32_t value) { return (float)value; });
}

inline __m512i _mm512_cvtepu8_epi16(__m256i x) {
  return stand_in::converted<uint16_t, __m512i, uint8_t>(x, [](uint8_t value) { return (uint16_t)value; });
}

inline __m512i _mm512_cvtepu8_epi32(__m128i x) {
  return stand_in::converted<uint32_t, __m512i, uint8_t>(x, [](uint8_t value) { return (uint32_t)value; });
}

inline __m512i _mm512_cvtepi8_epi32(__m128i x) {
  return stand_in::converted<int32_t, __m512i, int8_t>(x, [](int8_t value) { return (int32_t)value; });
}

inline __m128i _mm512_cvtepi32_epi8(__m512i x) {
  return stand_in::converted<int8_t, __m128i, int32_t>(x, [](int32_t value) { return (int8_t)value; });
}

inline __m512i _mm512_srai_epi32(__m512i x, unsigned bits) {
  return stand_in::converted<int32_t, __m512i, int32_t>(x, [=](int32_t value) { return value >> bits; });
}

inline __m512 _mm512_cvtph_ps(__m256i x) {
  stand_in::Lanes<uint64_t, __m256i> halves(x);
  stand_in::Lanes<float, __m512> y;
  for (int i = 0; i < 4; i++) {
    __m128 four = _mm_cvtph_ps(_mm_set_epi64x(0, (int64_t)halves.at[i]));
    std::memcpy(y.at + 4 * i, &four, sizeof four);
  }
  return y.vector();
}

// Two lanes of 128 bits of each.
inline __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int places) {
  stand_in::Lanes<float, __m512> from[2] = {stand_in::Lanes<float, __m512>(a), stand_in::Lanes<float, __m512>(b)}, y;
  for (int i = 0; i < 4; i++) std::memcpy(y.at + 4 * i, from[i / 2].at + 4 * (places >> 2 * i & 3), 16);
  return y.vector();
}

// In each lane of 128 bits.
inline __m512 _mm512_permute_ps(__m512 x, int places) {
  stand_in::Lanes<float, __m512> from(x), y;
  for (int i = 0; i < 16; i++) y.at[i] = from.at[i / 4 * 4 + (places >> 2 * (i % 4) & 3)];
  return y.vector();
}

// Of pairs. SIMDe's own is a macro with the arguments of the masked one.
#undef _mm512_madd_epi16
inline __m512i _mm512_madd_epi16(__m512i a, __m512i b) {
  stand_in::Lanes<int16_t, __m512i> x(a), y(b);
  stand_in::Lanes<int32_t, __m512i> sums;
  for (int i = 0; i < 16; i++) sums.at[i] = x.at[2 * i] * y.at[2 * i] + x.at[2 * i + 1] * y.at[2 * i + 1];
  return sums.vector();
}

inline __m512i _mm512_zextsi256_si512(__m256i x) {
  return stand_in::converted<uint8_t, __m512i, uint8_t>(x, [](uint8_t value) { return value; });
}

inline __m512i _mm512_zextsi128_si512(__m128i x) {
  return stand_in::converted<uint8_t, __m512i, uint8_t>(x, [](uint8_t value) { return value; });
}

#define _mm256_dpwssd_avx_epi32 simde_mm256_dpwssd_epi32

inline __m256i _mm512_cvtps_ph(__m512 x, int) {
  return stand_in::converted<uint16_t, __m256i, float, __m512>(x, [](float y) { return doge::float16_of(y).bits; });
}
