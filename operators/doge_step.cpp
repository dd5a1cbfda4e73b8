#include "doge_step.h"

#include <algorithm>
#include <memory>
#include <mutex>

#include "adapter_reader.h"
#include "decoder_reader.h"
#include "registration.h"
#include "runs.h"
#include "step.h"

namespace doge::ort {
namespace {

constexpr int FIXED_INPUTS = 5;   // then the past, then constants
constexpr int FIXED_OUTPUTS = 4;  // then the present

class DogeStep {
 public:
  static constexpr char NAME[] = "DogeStep";
  // input_ids, logits_to_keep, past_lengths, past_precedence, past_positions
  static constexpr int INPUT_TYPES[FIXED_INPUTS] = {INT64, INT64, INT64, FLOAT, INT64};
  // logits, present_lengths, present_precedence, present_positions
  static constexpr int OUTPUT_TYPES[FIXED_OUTPUTS] = {FLOAT, INT64, FLOAT, INT64};

  DogeStep(const Api& api, const KernelInfo* info) : api_(api), a(api, info) {
    // `read_once` keeps where they lie; graph optimization makes constants of what the graph computes from constants
    for (size_t i = FIXED_INPUTS + 2 * a.num_layers; i + a.adapter_inputs() < api.input_count(info); i++) {
      if (!api.is_constant(info, i)) {
        throw refused("input " + std::to_string(i) +
                      " is no constant; the inputs behind the past must be, so leave graph optimization on");
      }
    }
  }

  const Api& api() const { return api_; }

  void compute(Context* context) {
    Inputs inputs(api_, context);
    Shape ids, kept;
    Tokens tokens{};
    tokens.ids = (const int64_t*)inputs.next("input_ids", INT64, {-1, -1}, &ids);
    tokens.kept = (const int64_t*)inputs.next("logits_to_keep", INT64, {-1}, &kept);
    tokens.streams = (int)ids[0];
    tokens.length = (int)ids[1];
    tokens.num_kept = (int)kept[0];
    Past past = read_past(inputs, ids[0]);
    tokens.past = past.lengths;
    tokens.heads = (int)past.cache[1];
    tokens.slots = (int)past.cache[2];
    const Decoder& decoder = read_once(inputs);
    if (a.adapters != 0) {
      inputs.move_to_last(a.adapter_inputs());
      tokens.adapter = read_adapter(decoder, inputs);
    }
    check_ids(tokens, decoder.vocabulary);
    check_kept(tokens);
    check_window(tokens, past.window[1], past.window[2], decoder);
    tokens.caches = present_caches(context, past);
    auto logits = (float*)api_.data(api_.output(context, 0, {ids[0], kept[0], decoder.output.rows()}));
    if (tokens.rows() > 0) {
      runs_.run(api_, context, [&](const Products& products) { step(decoder, tokens, products, logits); });
    }
    auto lengths = in_place(context, 1, past.lengths, {ids[0]});  // after all else: it tells that the rows are there
    for (int i = 0; i < tokens.streams; i++) lengths[i] += tokens.length;
  }

 private:
  // The state before the tokens. The outputs begin as it.
  struct Past {
    int64_t* lengths;              // [streams]
    float* precedence;             // of the shape `window`
    int64_t* positions;            // of the shape `window`
    Shape window, cache;           // [layers, heads, keys]; [streams, heads, slots, elements]
    std::vector<uint8_t*> caches;  // keys, then values, of each layer; each of the shape `cache`
  };

  Past read_past(Inputs& inputs, int64_t streams) const {
    Past past{};
    past.lengths = (int64_t*)inputs.next("past_lengths", INT64, {streams});
    past.precedence = (float*)inputs.next("past_precedence", FLOAT, {a.num_layers, -1, -1}, &past.window);
    past.positions = (int64_t*)inputs.next("past_positions", INT64, past.window);
    past.cache = {streams, -1, -1, a.row_width()};
    for (int64_t i = 0; i < 2 * a.num_layers; i++) {
      past.caches.push_back((uint8_t*)inputs.next("past", a.row_type(), past.cache, &past.cache));
    }
    return past;
  }

  // The outputs that the tokens join, all but the lengths.
  std::vector<Cache> present_caches(Context* context, const Past& past) const {
    float* precedence = in_place(context, 2, past.precedence, past.window);
    int64_t* positions = in_place(context, 3, past.positions, past.window);
    size_t keys = past.window[1] * past.window[2];  // of a layer
    std::vector<Cache> caches;
    for (int64_t i = 0; i < a.num_layers; i++) {
      size_t output = FIXED_OUTPUTS + 2 * i;
      caches.push_back({in_place(context, output, past.caches[2 * i], past.cache, a.element_bytes()),
                        in_place(context, output + 1, past.caches[2 * i + 1], past.cache, a.element_bytes()),
                        keys == 0 ? nullptr : precedence + i * keys, keys == 0 ? nullptr : positions + i * keys});
    }
    return caches;
  }

  template <class Number>
  Number* in_place(Context* context, size_t index, Number* input, const Shape& shape, size_t count = 1) const {
    return written_in_place(api_, context, index, input, shape, count);
  }

  const Decoder& read_once(Inputs& inputs) {
    // not std::call_once: an exception would pass through the C library, which has another unwinder
    std::lock_guard<std::mutex> lock(reading_);
    if (decoder_ == nullptr) decoder_ = std::make_unique<Decoder>(DecoderReader(a, inputs).read());
    return *decoder_;
  }

  static void check_kept(const Tokens& tokens) {
    for (int i = 0; i < tokens.num_kept; i++) {
      if (tokens.kept[i] < 0 || tokens.kept[i] >= tokens.length) {
        throw refused("logits_to_keep has " + std::to_string(tokens.kept[i]) + "; it must be below " +
                      std::to_string(tokens.length) + ", the number of tokens, and no less than 0");
      }
    }
  }

  Api api_;
  Attributes a;
  Runs runs_;
  std::mutex reading_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace

const Operator* doge_step() {
  static const Operator op = operator_of<DogeStep>();
  return &op;
}

}  // namespace doge::ort
