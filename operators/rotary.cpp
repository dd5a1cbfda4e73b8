#include "rotary.h"

#include <algorithm>
#include <cmath>

namespace doge {

void Rotary::write(int64_t position, float* cos, float* sin) const {
  bool trained = (double)position < max_position;
  bool dynamic = !trained && dynamic_factor > 0;
  double base = theta;
  if (dynamic) {  // the base of a sequence that ends at this position
    double stretch = dynamic_factor * ((double)position + 1) / max_position - (dynamic_factor - 1);
    base *= std::pow(std::max(stretch, 1.0), 2.0 * half / (2.0 * half - 2));
  }
  for (int i = 0; i < half; i++) {
    double angle = (double)position * (dynamic ? std::pow(base, -(double)i / half) : inv_freq[i]);
    if (trained) angle = (float)angle;
    cos[i] = (float)(std::cos(angle) * attention_scaling);
    sin[i] = (float)(std::sin(angle) * attention_scaling);
  }
}

void rotate(float* x, const float* cos, const float* sin, int half) {
  for (int c = 0; c < half; c++) {
    float low = x[c], high = x[c + half];
    x[c] = low * cos[c] - high * sin[c];
    x[c + half] = high * cos[c] + low * sin[c];
  }
}

}  // namespace doge
