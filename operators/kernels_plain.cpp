// Any processor: C++ without intrinsics.
#include <algorithm>
#include <cmath>

#include "float16.h"
#include "kernels.h"

namespace doge {
namespace {

void quantize(const float* x, int n, int /*bits*/, int block_size, bool /*in_order*/, int16_t* codes, float* scales,
              int32_t* sums) {
  if (!std::all_of(x, x + n, [](float value) { return std::isfinite(value); })) {
    return no_codes(n, block_size, codes, scales, sums);
  }
  for (int block = 0; block * block_size < n; block++) {
    int start = block * block_size, width = std::min(block_size, n - start);
    float largest = 0;
    for (int i = 0; i < width; i++) largest = std::max(largest, std::fabs(x[start + i]));
    float steps = largest > LEAST_ACTIVATION ? 32767 / largest : 0;
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
                    float* y, size_t y_stride, Asking) {
  for (int i = first; i < last; i++) {
    for (int r = 0; r < rows; r++) {
      float total = 0;
      for (int c = 0; c < width; c++) total += matrix[(size_t)i * width + c] * x[r * x_stride + c];
      y[r * y_stride + i] = total;
    }
  }
}

float number_at(const float* p) { return *p; }
float number_at(const Float16* p) { return float32_of(*p); }
float number_at(const int8_t* p) { return *p; }

template <class Number>
void add_weighted(const Number* matrix, size_t stride, int height, int first, int last, const float* x, size_t x_stride,
                  int rows, float* y, size_t y_stride) {
  for (int r = 0; r < rows; r++) {
    for (int i = first; i < last; i++) {
      float total = 0;
      for (int c = 0; c < height; c++) total += x[r * x_stride + c] * number_at(matrix + c * stride + i);
      y[r * y_stride + i] += total;
    }
  }
}

void add_weighted_rows(const Thin& matrix, size_t stride, int height, int first, int last, const float* x,
                       size_t x_stride, int rows, float* y, size_t y_stride) {
  if (matrix.type == NumberType::FLOAT16) {
    return add_weighted((const Float16*)matrix.numbers, stride, height, first, last, x, x_stride, rows, y, y_stride);
  }
  add_weighted((const float*)matrix.numbers, stride, height, first, last, x, x_stride, rows, y, y_stride);
}

void add_block_rows(const BlockRows& matrix, const int* rows, const float* factors, int count, int width, float* y) {
  for (int k = 0; k < count; k++) {
    const uint8_t* row = matrix.codes + rows[k] * matrix.row_bytes();
    for (int i = 0; i < width; i++) {
      int block = i / matrix.block_size;
      float scale = factors[k] * matrix.scales[(size_t)rows[k] * matrix.blocks + block];
      y[i] += (float)(code_at(matrix, row, i) - zero_point(matrix, rows[k], block)) * scale;
    }
  }
}

template <class Number>
void attend_one(const Query& query, const Slots& slots, float scale) {
  const RowLayout& layout = slots.layout;
  auto numbers_of = [&](const uint8_t* rows, int slot) {
    return (const Number*)(rows + (size_t)slot * layout.bytes() + layout.floats * sizeof(float));
  };
  Attended& y = *query.result;
  y.largest = -INFINITY;
  for (int j = 0; j < slots.length; j++) {
    const Number* key = numbers_of(slots.keys, j);
    const float* floats = (const float*)key - layout.floats;
    float dot = 0;
    for (int c = 0; c < layout.numbers; c++) dot += query.numbers[c] * number_at(key + c);
    for (int f = 0; f < layout.floats; f++) dot += query.numbers[layout.numbers + f] * floats[f];
    query.scores[j] = dot;
    y.largest = std::max(y.largest, dot);
  }
  std::fill(y.sums, y.sums + layout.numbers, 0.0f);
  y.total = 0;
  for (int j = 0; j < slots.length; j++) {
    const Number* value = numbers_of(slots.values, j);
    float weight = std::exp2((query.scores[j] - y.largest) * scale);
    y.total += weight;
    for (int c = 0; c < layout.numbers; c++) y.sums[c] += weight * number_at(value + c);
  }
}

void attend(const Query* queries, int count, const Slots& slots, float scale) {
  auto one = slots.layout.type == NumberType::FLOAT32   ? attend_one<float>
             : slots.layout.type == NumberType::FLOAT16 ? attend_one<Float16>
                                                        : attend_one<int8_t>;
  for (int i = 0; i < count; i++) one(queries[i], slots, scale);
}

void add(const float* scale, const float* added, int n, float* x) {
  for (int i = 0; i < n; i++) x[i] = (scale == nullptr ? x[i] : x[i] * scale[i]) + added[i];
}

void rms_norm(const float* x, const float* weight, int n, float epsilon, float* y) {
  float total = 0;
  for (int i = 0; i < n; i++) total += x[i] * x[i];
  float factor = 1 / std::sqrt(total / n + epsilon);
  for (int i = 0; i < n; i++) y[i] = x[i] * factor * weight[i];
}

void to_float16(const float* x, int n, Float16* y) {
  for (int i = 0; i < n; i++) y[i] = float16_of(x[i]);
}

void gated_silu(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; i++) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

}  // namespace

const Kernels plain_kernels = {"plain", 0, quantize, block_products, float_products, add_weighted_rows, add_block_rows,
                               attend, 0, nullptr, nullptr, add, rms_norm, to_float16, gated_silu};

}  // namespace doge
