// float16 in plain C++: IEEE 754 binary16 from and to float32.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace doge {

inline float float32_of(Float16 x) {
  uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16, rest = x.bits & 0x7FFF, bits;
  if (rest >= 0x7C00) {  // infinite or no number
    bits = sign | 0x7F800000 | (rest & 0x03FF) << 13;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
  }
  bits = rest << 13;  // a float32 whose exponent is 112 too small
  float y;
  std::memcpy(&y, &bits, sizeof y);
  y *= 0x1p112f;
  return sign ? -y : y;
}

// The nearest one, of two the even one. Numbers that are too large become the largest, so that a sum stays a number.
inline Float16 float16_of(float x) {
  constexpr float LARGEST = 65504;
  x = x > LARGEST ? LARGEST : x < -LARGEST ? -LARGEST : x;
  uint32_t bits, sign;
  std::memcpy(&bits, &x, sizeof bits);
  sign = bits >> 16 & 0x8000;
  bits &= 0x7FFFFFFF;
  if (bits > 0x7F800000) return {(uint16_t)(sign | 0x7E00)};  // no number
  if (bits < 0x38800000) {  // below 2^-14, where float16 has steps of 2^-24: those of float32 beside 1/2
    float small;
    std::memcpy(&small, &bits, sizeof small);
    small += 0.5f;
    std::memcpy(&bits, &small, sizeof bits);
    return {(uint16_t)(sign | (bits - 0x3F000000))};
  }
  bits += 0x0FFF + (bits >> 13 & 1);
  return {(uint16_t)(sign | ((bits - 0x38000000) >> 13))};
}

}  // namespace doge
