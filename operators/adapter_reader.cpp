#include "adapter_reader.h"

#include <initializer_list>

namespace doge::ort {
namespace {

constexpr int64_t INPUTS_OF_LAYER = 11;

// float32 or float16
Thin read_thin(Inputs& inputs, const char* name, const Shape& shape, Shape* found = nullptr) {
  bool is_half = inputs.next_type() == FLOAT16;
  return {inputs.next(name, is_half ? FLOAT16 : FLOAT, shape, found), is_half ? NumberType::FLOAT16 : NumberType::FLOAT32};
}

// The thin matrices of a product of so many numbers; rows: of each part of the matrix.
Update read_update(Inputs& inputs, int64_t width, std::initializer_list<int64_t> rows) {
  Update update{};
  Shape shape;
  update.count = (int)rows.size();
  update.down = read_thin(inputs, "lora_A", {1, width, -1}, &shape);
  check(shape[2] % update.count == 0 && shape[2] <= 1 << 20, "lora_A must have as many columns for every part of lora_B");
  update.rank = (int)shape[2] / update.count;
  UpdatePart* part = update.parts;
  for (int64_t each : rows) *part++ = {read_thin(inputs, "lora_B", {1, update.rank, each}), (int)each};
  return update;
}

}  // namespace

int64_t adapter_inputs(int64_t num_layers, int64_t num_mask_heads) {
  return INPUTS_OF_LAYER * num_layers + (num_mask_heads > 0 ? 1 : 0);
}

Adapter read_adapter(const Decoder& d, Inputs& inputs) {
  Adapter adapter{};
  if (d.mask_heads > 0) adapter.first_layer_logits = inputs.floats("first_layer_logits", {d.vocabulary, d.mask_heads});
  for (const Layer& layer : d.layers) {
    int64_t queries = d.heads * d.head_dim, keys = d.kv_heads * d.head_dim;
    LayerUpdates updates{};
    updates.qkv = read_update(inputs, d.hidden, {queries, keys, layer.qkv.rows() - queries - keys});
    updates.o = read_update(inputs, layer.o.width, {d.hidden});
    updates.gate_up = read_update(inputs, d.hidden, {d.intermediate, d.intermediate});
    updates.down = read_update(inputs, d.intermediate, {d.hidden});
    adapter.layers.push_back(updates);
  }
  return adapter;
}

}  // namespace doge::ort
