// Any processor: C++ without intrinsics.
#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace doge {
namespace {

void quantize(const float* x, int n, int block_size, int16_t* codes, float* scales, int32_t* sums) {
  for (int block = 0; block * block_size < n; block++) {
    int start = block * block_size, width = std::min(block_size, n - start);
    float largest = 0;
    for (int i = 0; i < width; i++) largest = std::max(largest, std::fabs(x[start + i]));
    float steps = largest > 0 ? 32767 / largest : 0;
    sums[block] = 0;
    scales[block] = largest / 32767;
    for (int i = 0; i < block_size; i++) {
      codes[start + i] = i < width ? (int16_t)std::lrint(x[start + i] * steps) : (int16_t)0;
      sums[block] += codes[start + i];
    }
  }
}

void block_products(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                    size_t y_stride) {
  for (int i = first; i < last; i++) {
    const uint8_t* row = matrix.codes + i * matrix.row_bytes();
    for (int r = 0; r < rows; r++) {
      float total = 0;
      for (int block = 0; block < matrix.blocks; block++) {
        const int16_t* codes = x.codes + r * x.stride + (size_t)block * matrix.block_size;
        int32_t sum = -zero_point(matrix, i, block) * x.sums[(size_t)r * x.blocks + block];
        for (int c = 0; c < matrix.block_size; c++) {
          sum += code_at(matrix, row, block * matrix.block_size + c) * codes[c];
        }
        total += (float)sum * (matrix.scales[(size_t)i * matrix.blocks + block] * x.scales[(size_t)r * x.blocks + block]);
      }
      y[r * y_stride + i] = total;
    }
  }
}

void float_products(const float* matrix, int width, int first, int last, const float* x, size_t x_stride, int rows,
                    float* y, size_t y_stride) {
  for (int i = first; i < last; i++) {
    for (int r = 0; r < rows; r++) {
      float total = 0;
      for (int c = 0; c < width; c++) total += matrix[(size_t)i * width + c] * x[r * x_stride + c];
      y[r * y_stride + i] = total;
    }
  }
}

void attend(const float* query, const float* keys, const float* values, int length, int channels, float scale,
            float* scores, Attended& y) {
  y.largest = -INFINITY;
  for (int j = 0; j < length; j++) {
    float dot = 0;
    for (int c = 0; c < channels; c++) dot += query[c] * keys[(size_t)j * channels + c];
    scores[j] = dot * scale;
    y.largest = std::max(y.largest, scores[j]);
  }
  std::fill(y.sums, y.sums + channels, 0.0f);
  y.total = 0;
  for (int j = 0; j < length; j++) {
    float weight = std::exp(scores[j] - y.largest);
    y.total += weight;
    for (int c = 0; c < channels; c++) y.sums[c] += weight * values[(size_t)j * channels + c];
  }
}

float sum_of_squares(const float* x, int n) {
  float total = 0;
  for (int i = 0; i < n; i++) total += x[i] * x[i];
  return total;
}

void gated_silu(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; i++) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

}  // namespace

const Kernels plain_kernels = {"plain", quantize, block_products, float_products, attend, sum_of_squares, gated_silu};

}  // namespace doge
