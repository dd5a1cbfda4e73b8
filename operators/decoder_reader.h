// Attributes and constant inputs of DogeStep, read into a Decoder; docs/operators.md has their order.
#pragma once

#include "attention_reader.h"

namespace doge::ort {

struct Attributes : AttentionAttributes {
  int64_t num_layers, tied, num_experts_per_tok, router_bias, activation, adapters;
  std::vector<int64_t> part_counts, part_bits, zero_points, biases, residuals;

  Attributes(const Api& api, const KernelInfo* info);

  int64_t adapter_inputs() const;  // the last ones, of a run as those before the constants
};

// Constants stay where they are as long as the session lives.
class DecoderReader {
 public:
  DecoderReader(const Attributes& attributes, Inputs& inputs) : a(attributes), inputs(inputs) {}

  Decoder read();

 private:
  void read_sizes();
  void read_rotary();
  void read_cache_scales();
  size_t weight_bytes() const;
  Layer layer(int64_t index);
  Experts experts();
  Matrix matrix(const char* name, int64_t width, int64_t rows);
  Matrix table(const char* name, int64_t width);
  Part part(const char* name, int64_t width);

  const Attributes& a;
  Inputs& inputs;
  Decoder d{};
  const float *key_scales_ = nullptr, *value_scales_ = nullptr;  // of all layers
  size_t matrices_ = 0, parts_ = 0;
};

}  // namespace doge::ort
