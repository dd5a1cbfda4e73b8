#include "dynamic_mask_attention.h"

#include <memory>
#include <mutex>

#include "attention.h"
#include "attention_reader.h"
#include "registration.h"
#include "runs.h"

namespace doge::ort {
namespace {

constexpr int FIXED_INPUTS = 6;   // then keys and values, then numbers of the layer
constexpr int FIXED_OUTPUTS = 3;  // then keys and values

// The layers of all sessions share the memory of their runs, of which one layer's is at work in a session.
std::shared_ptr<Runs> shared_runs() {
  static std::mutex sharing;
  static std::weak_ptr<Runs> shared;
  std::lock_guard<std::mutex> lock(sharing);
  std::shared_ptr<Runs> runs = shared.lock();
  if (runs == nullptr) shared = runs = std::make_shared<Runs>();
  return runs;
}

class DynamicMaskAttention {
 public:
  static constexpr char NAME[] = "DynamicMaskAttention";
  // projected, past_lengths, past_precedence, past_positions, cos, sin
  static constexpr int INPUT_TYPES[FIXED_INPUTS] = {FLOAT, INT64, FLOAT, INT64, FLOAT, FLOAT};
  // attended, present_precedence, present_positions
  static constexpr int OUTPUT_TYPES[FIXED_OUTPUTS] = {FLOAT, FLOAT, INT64};

  DynamicMaskAttention(const Api& api, const KernelInfo* info)
      : api_(api), a(api, info), is_first_(api.integer_or_0(info, "first_layer") != 0), runs_(shared_runs()) {}

  const Api& api() const { return api_; }

  void compute(Context* context) const {
    Inputs inputs(api_, context);
    Shape shape, window;
    Tokens tokens{};
    auto projected = (const float*)inputs.next("projected", FLOAT, {-1, -1, -1}, &shape);
    tokens.streams = (int)shape[0];
    tokens.length = (int)shape[1];
    tokens.past = (const int64_t*)inputs.next("past_lengths", INT64, {shape[0]});
    auto precedence = (float*)inputs.next("past_precedence", FLOAT, {-1, -1}, &window);
    auto positions = (int64_t*)inputs.next("past_positions", INT64, window);
    Shape table{shape[0] * shape[1] + (a.keep_sinks > 0 ? 1 : 0), a.head_dim / 2};
    Rotations rotations{inputs.floats("cos", table), inputs.floats("sin", table)};
    Shape cache{shape[0], -1, -1, a.row_width()};
    auto keys = (uint8_t*)inputs.next("past_key", a.row_type(), cache, &cache);
    auto values = (uint8_t*)inputs.next("past_value", a.row_type(), cache);
    tokens.heads = (int)cache[1];
    tokens.slots = (int)cache[2];
    AttentionSizes sizes{};
    a.write(sizes);
    AttentionLayer layer = read_layer(inputs, sizes, tokens);
    if (shape[2] != sizes.projected(layer.looks_up)) {
      throw refused("projected has " + std::to_string(shape[2]) + " numbers of a token; it must have " +
                    std::to_string(sizes.projected(layer.looks_up)));
    }
    check_window(tokens, window[0], window[1], sizes);
    precedence = written_in_place(api_, context, 1, precedence, window);
    positions = written_in_place(api_, context, 2, positions, window);
    keys = written_in_place(api_, context, FIXED_OUTPUTS, keys, cache, a.element_bytes());
    values = written_in_place(api_, context, FIXED_OUTPUTS + 1, values, cache, a.element_bytes());
    bool full = window[0] * window[1] > 0;
    tokens.caches.push_back({keys, values, full ? precedence : nullptr, full ? positions : nullptr});
    auto attended = (float*)api_.data(api_.output(context, 0, {shape[0], shape[1], a.num_heads * a.channels}));
    if (tokens.rows() == 0) return;
    runs_->run(api_, context, [&](const Products& products) {
      Attention(sizes, tokens, rotations, products).attend(layer, tokens.caches.front(), projected, attended);
    });
  }

 private:
  // The inputs behind the cache; sizes and tokens get what only they tell.
  AttentionLayer read_layer(Inputs& inputs, AttentionSizes& sizes, Tokens& tokens) const {
    AttentionLayer layer{};
    int64_t heads = a.num_heads + a.num_kv_heads;
    if (a.num_mask_heads > 0) {
      Shape shape;
      layer.exponents = inputs.floats("exponents", {-1, heads * (a.channels - a.head_dim)}, &shape);
      check(shape[0] >= a.num_mask_heads, "exponents must have a row for every mask head");
      sizes.mask_width = (int)shape[0];
    }
    if (a.qk_norm) layer.head_norms = inputs.floats("head_norms", {heads, a.head_dim});
    if (sizes.layout.type == NumberType::INT8) {
      layer.key_scales = inputs.floats("key_scales", {a.num_kv_heads, a.head_dim});
      layer.value_scales = inputs.floats("value_scales", {a.num_kv_heads, a.head_dim});
    }
    layer.looks_up = is_first_ && a.num_mask_heads > 0;
    if (layer.looks_up) {
      Shape table;
      tokens.ids = (const int64_t*)inputs.next("input_ids", INT64, {tokens.streams, tokens.length});
      sizes.first_layer_logits = inputs.floats("first_layer_logits", {-1, a.num_mask_heads}, &table);
      sizes.precedence_factors =
          inputs.floats("precedence_factors", {a.num_kv_heads, a.num_mask_heads / a.num_kv_heads});
      check_ids(tokens, table[0]);
    }
    inputs.end(0);
    return layer;
  }

  Api api_;
  AttentionAttributes a;
  bool is_first_;
  std::shared_ptr<Runs> runs_;
};

}  // namespace

const Operator* dynamic_mask_attention() {
  static const Operator op = operator_of<DynamicMaskAttention>();
  return &op;
}

}  // namespace doge::ort
