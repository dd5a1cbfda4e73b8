// A Doge decoder as the operator sees it: constants that lie where onnxruntime has them.
#pragma once

#include <cstdint>
#include <vector>

#include "adapter.h"
#include "kernels.h"
#include "rotary.h"

namespace doge {

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

  int rows() const {
    int total = 0;
    for (const Part& part : parts) total += part.rows;
    return total;
  }
};

enum class Activation { SILU, GELU, GELU_TANH, RELU };

// Single neurons, of which every token has its own few. Product keys: expert x * keys + y has the score x + y.
struct Experts {
  int keys;
  const float *router[2];  // [keys][hidden] for x and y
  const float *bias[2];    // [keys]; null without
  Matrix down, up;         // [keys * keys][hidden], one part each
};

// Attention's own share of a layer.
struct AttentionLayer {
  bool looks_up;            // the mask logits by token, as a first layer's depend on nothing else
  const float* head_norms;  // [heads + kv heads][head_dim]; null without a norm of heads
  const float* exponents;   // [mask width][(heads + kv heads) * extra channels]; null without a mask
  const float *key_scales, *value_scales;  // [kv heads][head_dim] of a cache in 8 bits; null otherwise
};

struct Layer : AttentionLayer {
  Matrix qkv, o, gate_up, down;
  const float* attention_residual;     // [hidden]; null: ones
  const float* feed_forward_residual;  // [hidden]; null: ones
  const float* feed_forward_norm;      // [hidden]
  const float* next_norm;              // [hidden], of the following layer or of the logits
  Experts experts;
};

// What attention has to know of a decoder.
struct AttentionSizes {
  int heads, kv_heads, head_dim, channels, mask_heads, mask_width, vocabulary, window;
  int sinks;         // first slots of a full window, whose keys never leave
  int bonus;         // most tokens by which a key counts as younger; 0: precedence alone decides
  int recent;        // last tokens whose keys are safe
  int dt_digits;     // extra channels of a key for each mask head of its kv head
  RowLayout layout;  // of the cache
  float epsilon;     // of the norm of heads
  const float* first_layer_logits;  // [vocabulary][mask heads], of a layer that looks them up; null: the adapter's
  const float* precedence_factors;  // [kv heads][mask heads of a kv head], of such a layer

  int extra() const { return channels - head_dim; }
  int extra_floats() const { return layout.floats > 0 ? layout.floats : extra(); }  // of a cached row
  int rotated_heads() const { return heads + kv_heads; }
  int recurrent_heads() const { return mask_heads > 0 ? mask_heads : kv_heads; }

  // Numbers of a token that the fused product makes: queries and keys, mask logits, values.
  int projected(bool looks_up) const {
    int numbers = rotated_heads() * head_dim;
    return numbers + (looks_up ? kv_heads * head_dim : mask_width + kv_heads * channels);
  }
};

struct Decoder : AttentionSizes {
  int hidden, intermediate;
  int experts_per_token;  // 0: dense
  Activation activation;
  Rotary rotary;
  const float* first_norm;   // [hidden], of the first layer
  Matrix embedding, output;  // often the same
  std::vector<Layer> layers;
  size_t weight_bytes;  // that every step reads
};

// Keys and values of a layer, [streams][heads][slots] rows each.
//
// Until the window is full there is a head for each kv head. Then there is one for each mask head, as they keep
// different keys, and precedence and position of every key decide which one is evicted.
struct Cache {
  uint8_t *keys, *values;
  float* precedence;   // [heads][window], bonuses where there are any; null: the window is not full
  int64_t* positions;  // [heads][window]
};

struct Tokens {
  int streams, length;        // tokens of each stream
  const int64_t* ids;         // [streams][length]
  const int64_t* past;        // [streams], tokens before them
  int slots, heads;           // of the cache
  std::vector<Cache> caches;  // of each layer
  const int64_t* kept;        // [num_kept], the tokens of each stream whose logits are wanted
  int num_kept;
  Adapter adapter;

  int rows() const { return streams * length; }
  int64_t position(int row) const { return past[row / length] + row % length; }
  bool is_full() const { return caches.front().precedence != nullptr; }
};

}  // namespace doge
