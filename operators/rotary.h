// Rotary position embedding, by the formulas of doge_model/rotary.py: cos and sin of positions.
#pragma once

#include <cstdint>

namespace doge {

struct Rotary {
  int half;                   // channel pairs of a head
  const double* inv_freq;     // [half], angle per position
  double attention_scaling;   // factor on cos and sin
  double max_position;        // positions of the training; angles within are rounded to float32, as they were then
  double theta;
  double dynamic_factor;      // of dynamic RoPE beyond max_position; 0: none

  // cos and sin of a position, [half] each.
  void write(int64_t position, float* cos, float* sin) const;
};

// Channel c of x [2 * half] turns with channel c + half.
void rotate(float* x, const float* cos, const float* sin, int half);

}  // namespace doge
