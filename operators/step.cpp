#include "step.h"

#include <algorithm>
#include <cmath>

namespace doge {
namespace {

using Floats = std::vector<float>;

constexpr int ROWS_AT_ONCE = 16;  // of a matrix that a thread takes; a multiple of a cache line of results

// Activations in blocks of one size, made of floats [rows][width].
class Quantized {
 public:
  Quantized(const float* x, int width, int rows, int block_size, const Kernels& kernels) {
    view.blocks = (width + block_size - 1) / block_size;
    view.stride = (size_t)view.blocks * block_size;
    codes_.resize(rows * view.stride);
    scales_.resize((size_t)rows * view.blocks);
    sums_.resize((size_t)rows * view.blocks);
    for (int r = 0; r < rows; r++) {
      size_t block = (size_t)r * view.blocks;
      kernels.quantize(x + (size_t)r * width, width, block_size, &codes_[r * view.stride], &scales_[block], &sums_[block]);
    }
    view.codes = codes_.data();
    view.scales = scales_.data();
    view.sums = sums_.data();
  }

  Activations view;

 private:
  std::vector<int16_t> codes_;
  Floats scales_;
  std::vector<int32_t> sums_;
};

// The work on `rows` tokens, a layer at a time.
class Step {
 public:
  Step(const Decoder& decoder, const Tokens& tokens, const Kernels& kernels, const Parallel& parallel)
      : d(decoder), tokens(tokens), kernels(kernels), parallel(parallel), rows(tokens.streams * tokens.length) {}

  void run(float* logits) {
    residual = embedded();
    hidden.resize(residual.size());
    norm(residual, d.first_norm, hidden);
    for (size_t index = 0; index < d.layers.size(); index++) {
      const Layer& layer = d.layers[index];
      add(layer.attention_residual, attention(layer, tokens.caches[index], index == 0));
      norm(residual, layer.feed_forward_norm, hidden);
      add(layer.feed_forward_residual, feed_forward(layer));
      norm(residual, layer.next_norm, hidden);
    }
    product(d.output, hidden, logits);
  }

 private:
  // ---- the parts of a layer, in the order of the paper

  Floats embedded() const {
    Floats x((size_t)rows * d.hidden);
    for (int r = 0; r < rows; r++) look_up(d.embedding, tokens.ids[r], &x[(size_t)r * d.hidden]);
    return x;
  }

  Floats attention(const Layer& layer, const Cache& cache, bool is_first) {
    int width = layer.qkv.rows(), attended = d.heads * d.channels;
    Floats projected((size_t)rows * width), queries((size_t)rows * attended), y((size_t)rows * attended);
    product(layer.qkv, hidden, projected.data());
    for (int r = 0; r < rows; r++) {
      finish_heads(layer, cache, is_first, r, &projected[(size_t)r * width], &queries[(size_t)r * attended]);
    }
    parallel(rows * d.heads, [&](int item) { attend(cache, item / d.heads, item % d.heads, queries, y); });
    Floats out((size_t)rows * d.hidden);
    product(layer.o, y, out.data());
    return out;
  }

  Floats feed_forward(const Layer& layer) {
    int both = 2 * d.intermediate;
    Floats gate_up((size_t)rows * both), gated((size_t)rows * d.intermediate), out((size_t)rows * d.hidden);
    product(layer.gate_up, hidden, gate_up.data());
    for (int r = 0; r < rows; r++) {
      const float* gate = &gate_up[(size_t)r * both];
      kernels.gated_silu(gate, gate + d.intermediate, d.intermediate, &gated[(size_t)r * d.intermediate]);
    }
    product(layer.down, gated, out.data());
    return out;
  }

  // ---- attention

  // Queries, and the token's row of the cache: head norms, rotation, dt, precedence.
  void finish_heads(const Layer& layer, const Cache& cache, bool is_first, int r, const float* projected,
                    float* queries) const {
    int position = (int)tokens.past[r / tokens.length] + r % tokens.length;
    const float* logits = projected + d.rotated_heads() * d.head_dim;
    const float* values = logits;
    if (d.mask_heads > 0 && is_first) logits = d.first_layer_logits + tokens.ids[r] * d.mask_heads;
    else values += d.mask_width;
    Floats extra = extra_channels(layer, logits);
    for (int head = 0; head < d.rotated_heads(); head++) {
      float* to = head < d.heads ? queries + head * d.channels : slot(cache.keys, r, head - d.heads, position);
      std::copy_n(projected + head * d.head_dim, d.head_dim, to);
      if (layer.head_norms != nullptr) norm_head(to, layer.head_norms + head * d.head_dim);
      rotate(to, position);
      std::copy_n(extra.data() + head * d.extra(), d.extra(), to + d.head_dim);
    }
    for (int head = 0; head < d.kv_heads; head++) {
      float* to = slot(cache.values, r, head, position);
      if (d.mask_heads > 0 && is_first) first_layer_value(to, head, values, logits);
      else std::copy_n(values + head * d.channels, d.channels, to);
    }
  }

  // exp(A softplus(z)) for the extra channels of every head: dt in those of keys, a constant in those of queries.
  Floats extra_channels(const Layer& layer, const float* logits) const {
    int columns = d.rotated_heads() * d.extra();
    Floats y(columns, 0.0f);
    if (layer.exponents == nullptr) return y;
    for (int m = 0; m < d.mask_width; m++) {
      float z = m < d.mask_heads ? logits[m] : 0;
      float softplus = std::max(z, 0.0f) + std::log1p(std::exp(-std::fabs(z)));
      for (int c = 0; c < columns; c++) y[c] += softplus * layer.exponents[(size_t)m * columns + c];
    }
    for (float& each : y) each = std::exp(each);
    return y;
  }

  void first_layer_value(float* to, int head, const float* values, const float* logits) const {
    int mask_heads = d.mask_heads / d.kv_heads;
    std::copy_n(values + head * d.head_dim, d.head_dim, to);
    std::fill_n(to + d.head_dim, d.extra(), 0.0f);
    for (int m = 0; m < mask_heads; m++) {
      int index = head * mask_heads + m;
      to[d.head_dim + m] = logits[index] * d.precedence_factors[index];
    }
  }

  void norm_head(float* x, const float* weight) const {
    float factor = 1 / std::sqrt(kernels.sum_of_squares(x, d.head_dim) / d.head_dim + d.epsilon);
    for (int c = 0; c < d.head_dim; c++) x[c] = x[c] * factor * weight[c];
  }

  void rotate(float* x, int position) const {
    int half = d.head_dim / 2;
    const float *cos = d.cos + (size_t)position * half, *sin = d.sin + (size_t)position * half;
    for (int c = 0; c < half; c++) {
      float low = x[c], high = x[c + half];
      x[c] = low * cos[c] - high * sin[c];
      x[c + half] = high * cos[c] + low * sin[c];
    }
  }

  float* slot(float* cache, int r, int kv_head, int index) const {
    size_t head = (size_t)(r / tokens.length) * d.kv_heads + kv_head;
    return cache + (head * tokens.slots + index) * d.channels;
  }

  void attend(const Cache& cache, int r, int head, const Floats& queries, Floats& y) const {
    int kv_head = head / (d.heads / d.kv_heads), length = (int)tokens.past[r / tokens.length] + r % tokens.length + 1;
    size_t at = ((size_t)r * d.heads + head) * d.channels;
    static thread_local Floats scores;
    if ((int)scores.size() < length) scores.resize(length);
    kernels.attend(&queries[at], slot(cache.keys, r, kv_head, 0), slot(cache.values, r, kv_head, 0), length, d.channels,
                   1 / std::sqrt((float)d.head_dim), scores.data(), &y[at]);
  }

  // ---- vectors

  void norm(const Floats& x, const float* weight, Floats& y) const {
    for (int r = 0; r < rows; r++) {
      const float* row = &x[(size_t)r * d.hidden];
      float factor = 1 / std::sqrt(kernels.sum_of_squares(row, d.hidden) / d.hidden + d.epsilon);
      for (int i = 0; i < d.hidden; i++) y[(size_t)r * d.hidden + i] = row[i] * factor * weight[i];
    }
  }

  void add(const float* scale, const Floats& out) {
    for (int r = 0; r < rows; r++) {
      float* row = &residual[(size_t)r * d.hidden];
      const float* added = &out[(size_t)r * d.hidden];
      for (int i = 0; i < d.hidden; i++) row[i] = (scale == nullptr ? row[i] : row[i] * scale[i]) + added[i];
    }
  }

  // ---- matrices

  // x [rows][width] -> y [rows][matrix rows]
  void product(const Matrix& matrix, const Floats& x, float* y) const {
    size_t y_stride = matrix.rows();
    for (const Part& part : matrix.parts) {
      int tasks = (part.rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
      auto last_of = [&](int task) { return std::min((task + 1) * ROWS_AT_ONCE, part.rows); };
      if (part.weights != nullptr) {
        parallel(tasks, [&](int task) {
          kernels.float_products(part.weights, matrix.width, task * ROWS_AT_ONCE, last_of(task), x.data(), matrix.width,
                                 rows, y, y_stride);
        });
      } else {
        Quantized quantized(x.data(), matrix.width, rows, part.blocks.block_size, kernels);
        parallel(tasks, [&](int task) {
          kernels.block_products(part.blocks, task * ROWS_AT_ONCE, last_of(task), quantized.view, rows, y, y_stride);
        });
      }
      y += part.rows;
    }
    if (matrix.bias == nullptr) return;
    y -= y_stride;
    for (int r = 0; r < rows; r++) {
      for (size_t i = 0; i < y_stride; i++) y[r * y_stride + i] += matrix.bias[i];
    }
  }

  // Row `id` of a table, which has one part.
  void look_up(const Matrix& table, int64_t id, float* y) const {
    const Part& part = table.parts.front();
    if (part.weights != nullptr) {
      std::copy_n(part.weights + id * table.width, table.width, y);
      return;
    }
    const BlockRows& b = part.blocks;
    const uint8_t* row = b.codes + (size_t)id * b.blocks * b.block_size * b.bits / 8;
    for (int i = 0; i < table.width; i++) {
      int block = i / b.block_size;
      int code = b.bits == 8 ? row[i] : row[i / 2] >> (i % 2 * 4) & 15;
      y[i] = (float)(code - zero_point(b, (int)id, block)) * b.scales[(size_t)id * b.blocks + block];
    }
  }

  const Decoder& d;
  const Tokens& tokens;
  const Kernels& kernels;
  const Parallel& parallel;
  const int rows;
  Floats residual, hidden;  // [rows][hidden]; hidden is normed
};

}  // namespace

int Matrix::rows() const {
  int total = 0;
  for (const Part& part : parts) total += part.rows;
  return total;
}

void step(const Decoder& decoder, const Tokens& tokens, const Kernels& kernels, const Parallel& parallel,
          float* logits) {
  Step(decoder, tokens, kernels, parallel).run(logits);
}

}  // namespace doge
