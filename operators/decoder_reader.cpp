#include "decoder_reader.h"

#include "adapter_reader.h"

namespace doge::ort {

Attributes::Attributes(const Api& api, const KernelInfo* info)
    : AttentionAttributes(api, info),
      num_layers(api.integer(info, "num_layers")),
      tied(api.integer(info, "tied")),
      num_experts_per_tok(api.integer(info, "num_experts_per_tok")),
      router_bias(api.integer(info, "router_bias")),
      activation(api.integer(info, "activation")),
      adapters(api.integer_or_0(info, "adapters")),
      part_counts(api.integers(info, "part_counts")),
      part_bits(api.integers(info, "part_bits")),
      zero_points(api.integers(info, "zero_points")),
      biases(api.integers(info, "biases")),
      residuals(api.integers(info, "residuals")) {
  check(num_layers >= 1 && num_layers <= 1 << 24, "num_layers must be from 1 to 2 ** 24");
  check(num_experts_per_tok >= 0 && num_experts_per_tok <= 1 << 24, "num_experts_per_tok must be from 0 to 2 ** 24");
  check(activation >= 0 && activation <= 3, "activation must be from 0 to 3");
  size_t matrices = (num_experts_per_tok > 0 ? 6 : 4) * num_layers + (tied ? 1 : 2), parts = 0;
  check(part_counts.size() == matrices, "part_counts must have a number for every matrix");
  for (int64_t count : part_counts) {
    check(count >= 1, "part_counts must be at least 1");
    parts += count;
  }
  check(part_bits.size() == parts && zero_points.size() == parts,
        "part_bits and zero_points must have a number for every part");
  check(biases.size() == matrices, "biases must have a number for every matrix");
  check((int64_t)residuals.size() == 2 * num_layers, "residuals must have two numbers for every layer");
}

int64_t Attributes::adapter_inputs() const {
  return adapters == 0 ? 0 : ort::adapter_inputs(num_layers, num_mask_heads);
}

Decoder DecoderReader::read() {
  read_sizes();
  read_rotary();
  if (d.layout.type == NumberType::INT8) read_cache_scales();
  Shape shape;
  d.first_norm = inputs.floats("first_norm", {-1}, &shape);
  d.hidden = (int)shape[0];
  check(d.hidden > 0, "first_norm must have a number for every hidden channel");
  d.embedding = table("embedding", d.hidden);
  d.vocabulary = d.embedding.rows();
  if (d.mask_heads > 0) {
    if (a.adapters == 0) d.first_layer_logits = inputs.floats("first_layer_logits", {d.vocabulary, d.mask_heads});
    d.precedence_factors = inputs.floats("precedence_factors", {d.kv_heads, d.mask_heads / d.kv_heads});
  }
  for (int64_t index = 0; index < a.num_layers; index++) d.layers.push_back(layer(index));
  d.output = a.tied ? d.embedding : matrix("output", d.hidden, -1);
  inputs.end(a.adapter_inputs());
  d.weight_bytes = weight_bytes();
  return d;
}

size_t DecoderReader::weight_bytes() const {
  std::vector<const Matrix*> matrices = {&d.output};
  for (const Layer& layer : d.layers) {
    matrices.insert(matrices.end(), {&layer.qkv, &layer.o, &layer.gate_up, &layer.down});
  }
  size_t bytes = 0;
  for (const Matrix* matrix : matrices) {
    for (const Part& part : matrix->parts) {
      size_t scales = part.blocks.blocks * sizeof(float);
      bytes += part.rows * (part.weights ? matrix->width * sizeof(float) : part.blocks.row_bytes() + scales);
    }
  }
  return bytes;
}

void DecoderReader::read_sizes() {
  a.write(d);
  d.experts_per_token = (int)a.num_experts_per_tok;
  d.activation = (Activation)a.activation;
}

void DecoderReader::read_rotary() {
  d.rotary.half = d.head_dim / 2;
  d.rotary.inv_freq = (const double*)inputs.next("inv_freq", DOUBLE, {d.head_dim / 2});
  auto numbers = (const double*)inputs.next("rotary_numbers", DOUBLE, {4});
  d.rotary.attention_scaling = numbers[0];
  d.rotary.max_position = numbers[1];
  d.rotary.theta = numbers[2];
  d.rotary.dynamic_factor = numbers[3];
}

void DecoderReader::read_cache_scales() {
  Shape shape{a.num_layers, d.kv_heads, d.head_dim};
  key_scales_ = inputs.floats("key_scales", shape);
  value_scales_ = inputs.floats("value_scales", shape);
}

Layer DecoderReader::layer(int64_t index) {
  Layer layer{};
  if (key_scales_ != nullptr) {
    layer.key_scales = key_scales_ + index * d.kv_heads * d.head_dim;
    layer.value_scales = value_scales_ + index * d.kv_heads * d.head_dim;
  }
  int64_t extra = d.channels - d.head_dim, heads = d.heads + d.kv_heads;
  if (d.mask_heads > 0) {
    Shape shape;
    layer.exponents = inputs.floats("exponents", {-1, heads * extra}, &shape);
    if (index == 0) d.mask_width = (int)shape[0];
    check(shape[0] == d.mask_width && d.mask_width >= d.mask_heads,
          "exponents must have a row for every mask head, as many in all layers");
  }
  layer.looks_up = d.mask_heads > 0 && index == 0;
  layer.qkv = matrix("qkv", d.hidden, d.projected(layer.looks_up));
  if (a.qk_norm) layer.head_norms = inputs.floats("head_norms", {heads, d.head_dim});
  layer.o = matrix("o", d.heads * d.channels, d.hidden);
  if (a.residuals[2 * index]) layer.attention_residual = inputs.floats("attention_residual", {d.hidden});
  layer.feed_forward_norm = inputs.floats("feed_forward_norm", {d.hidden});
  layer.gate_up = matrix("gate_up", d.hidden, -1);
  if (index == 0) d.intermediate = layer.gate_up.rows() / 2;
  check(d.intermediate > 0 && layer.gate_up.rows() == 2 * d.intermediate,
        "gate_up must have an even number of rows, as many in all layers");
  layer.down = matrix("down", d.intermediate, d.hidden);
  if (d.experts_per_token > 0) layer.experts = experts();
  if (a.residuals[2 * index + 1]) layer.feed_forward_residual = inputs.floats("feed_forward_residual", {d.hidden});
  layer.next_norm = inputs.floats("next_norm", {d.hidden});
  return layer;
}

Experts DecoderReader::experts() {
  Experts experts{};
  Shape shape{-1, d.hidden};
  for (int half = 0; half < 2; half++) {
    experts.router[half] = inputs.floats("router", shape, &shape);
    if (a.router_bias) experts.bias[half] = inputs.floats("router_bias", {shape[0], 1});
  }
  check((int64_t)d.experts_per_token <= shape[0] * shape[0], "num_experts_per_tok must be at most the experts");
  experts.keys = (int)shape[0];
  experts.down = table("down_embed", d.hidden);
  experts.up = table("up_embed", d.hidden);
  check(experts.down.rows() >= shape[0] * shape[0] && experts.up.rows() >= shape[0] * shape[0],
        "down_embed and up_embed must have a row for every pair of keys");
  return experts;
}

Matrix DecoderReader::table(const char* name, int64_t width) {
  Matrix read = matrix(name, width, -1);
  if (read.parts.size() != 1) throw refused(std::string(name) + " must have one part");
  return read;
}

Matrix DecoderReader::matrix(const char* name, int64_t width, int64_t rows) {
  Matrix matrix{(int)width, {}, nullptr};
  for (int64_t i = 0; i < a.part_counts[matrices_]; i++) matrix.parts.push_back(part(name, width));
  if (rows != -1 && matrix.rows() != rows) {
    throw refused(std::string(name) + " has " + std::to_string(matrix.rows()) + " rows; it must have " +
                  std::to_string(rows));
  }
  if (a.biases[matrices_]) matrix.bias = inputs.floats("bias", {matrix.rows()});
  matrices_++;
  return matrix;
}

Part DecoderReader::part(const char* name, int64_t width) {
  int64_t bits = a.part_bits[parts_], zeros = a.zero_points[parts_];
  parts_++;
  Shape shape;
  Part part{};
  if (bits == 32) {
    part.weights = inputs.floats(name, {-1, width}, &shape);
    part.rows = (int)shape[0];
    return part;
  }
  check(bits == 4 || bits == 8, "part_bits must be 4, 8 or 32");
  BlockRows& blocks = part.blocks;
  blocks.codes = (const uint8_t*)inputs.next(name, UINT8, {-1, -1, -1}, &shape);
  part.rows = (int)shape[0];
  blocks.bits = (int)bits;
  blocks.blocks = (int)shape[1];
  blocks.block_size = (int)(shape[2] * 8 / bits);
  check(blocks.block_size == 16 || blocks.block_size == 32 || blocks.block_size == 64,
        "blocks must be of 16, 32 or 64 weights");
  check(blocks.blocks == (width + blocks.block_size - 1) / blocks.block_size,
        "a matrix must have as many blocks as its inputs fill");
  blocks.scales = inputs.floats("scales", {shape[0], shape[1]});
  if (zeros) {
    blocks.zeros = (const uint8_t*)inputs.next("zero_points", UINT8, {shape[0], (shape[1] * bits + 7) / 8});
  }
  return part;
}

}  // namespace doge::ort
