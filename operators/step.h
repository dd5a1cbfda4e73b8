// A decoding step of a whole Doge decoder: tokens in, logits out, keys and values written where they stay.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels.h"

namespace doge {

// f(0) ... f(count - 1), on as many threads as there are.
using Parallel = std::function<void(int count, const std::function<void(int)>& f)>;

// Rows of a matrix that are stored alike: codes of few bits, or float32.
struct Part {
  int rows;
  BlockRows blocks;      // of `bits` 4 or 8
  const float* weights;  // float32 [rows][width]; null where the part has blocks
};

struct Matrix {
  int width;  // of a row
  std::vector<Part> parts;
  const float* bias;  // null without

  int rows() const;
};

struct Layer {
  Matrix qkv, o, gate_up, down;
  const float* head_norms;               // [heads + kv heads][head_dim]; null without a norm of heads
  const float* exponents;                // [mask width][(heads + kv heads) * extra channels]; null without a mask
  const float* attention_residual;       // [hidden]; null: ones
  const float* feed_forward_residual;    // [hidden]; null: ones
  const float* feed_forward_norm;        // [hidden]
  const float* next_norm;                // [hidden], of the following layer or of the logits
};

struct Decoder {
  int hidden, heads, kv_heads, head_dim, channels, mask_heads, mask_width, intermediate, vocabulary, window;
  float epsilon;
  const float *cos, *sin;            // [positions][head_dim / 2]
  const float* first_norm;           // [hidden], of the first layer
  const float* first_layer_logits;   // [vocabulary][mask heads]; null without a mask
  const float* precedence_factors;   // [kv heads][mask heads of a kv head]
  Matrix embedding, output;          // often the same
  std::vector<Layer> layers;

  int extra() const { return channels - head_dim; }
  int rotated_heads() const { return heads + kv_heads; }
};

// Keys and values of a layer, float32 [streams][kv heads][slots][channels] each.
struct Cache {
  float *keys, *values;
};

struct Tokens {
  int streams, length;         // tokens of each stream
  const int64_t* ids;          // [streams][length]
  const int64_t* past;         // [streams], tokens before them, whose keys lie in the first slots
  int slots;                   // of the cache
  std::vector<Cache> caches;   // of each layer
};

// Logits float32 [streams][length][vocabulary].
void step(const Decoder& decoder, const Tokens& tokens, const Kernels& kernels, const Parallel& parallel,
          float* logits);

}  // namespace doge
