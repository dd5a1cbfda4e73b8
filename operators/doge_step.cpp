#include "doge_step.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>

#include "adapter_reader.h"
#include "decoder_reader.h"
#include "step.h"

namespace doge::ort {
namespace {

constexpr int FIXED_INPUTS = 5;   // then the past, then constants
constexpr int FIXED_OUTPUTS = 4;  // then the present
constexpr size_t MOST_IDLE = 16;  // memories of runs that are kept, each as large as the largest run that had it
constexpr size_t THREADS = 64;    // that may join; the session's own number is not told
constexpr int64_t MOST_TOKENS = (int64_t)1 << 32;  // of a stream (doge_export/runtime/eviction.py)

class DogeStep {
 public:
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
    Shape ids, kept, window;
    Tokens tokens{};
    tokens.ids = (const int64_t*)inputs.next("input_ids", INT64, {-1, -1}, &ids);
    tokens.kept = (const int64_t*)inputs.next("logits_to_keep", INT64, {-1}, &kept);
    auto lengths = (int64_t*)inputs.next("past_lengths", INT64, {ids[0]});
    auto precedence = (float*)inputs.next("past_precedence", FLOAT, {a.num_layers, -1, -1}, &window);
    auto positions = (int64_t*)inputs.next("past_positions", INT64, window);
    tokens.past = lengths;
    tokens.streams = (int)ids[0];
    tokens.length = (int)ids[1];
    tokens.num_kept = (int)kept[0];
    RowLayout layout = a.layout();
    bool is_float = layout.type == NumberType::FLOAT32;
    Shape cache{ids[0], -1, -1, is_float ? a.channels : (int64_t)layout.bytes()};
    std::vector<uint8_t*> past;
    for (int64_t i = 0; i < 2 * a.num_layers; i++) {
      past.push_back((uint8_t*)inputs.next("past", is_float ? FLOAT : UINT8, cache, &cache));
    }
    tokens.heads = (int)cache[1];
    tokens.slots = (int)cache[2];
    const Decoder& decoder = read_once(inputs);
    if (a.adapters != 0) {
      inputs.move_to_last(a.adapter_inputs());
      tokens.adapter = read_adapter(decoder, inputs);
    }
    check_tokens(tokens, decoder);
    check_window(tokens, window, decoder);
    precedence = written_in_place(context, 2, precedence, window);
    positions = written_in_place(context, 3, positions, window);
    size_t keys = window[1] * window[2];  // of a layer
    size_t number = is_float ? sizeof(float) : 1;
    for (int64_t i = 0; i < a.num_layers; i++) {
      tokens.caches.push_back({written_in_place(context, FIXED_OUTPUTS + 2 * i, past[2 * i], cache, number),
                               written_in_place(context, FIXED_OUTPUTS + 2 * i + 1, past[2 * i + 1], cache, number),
                               keys == 0 ? nullptr : precedence + i * keys,
                               keys == 0 ? nullptr : positions + i * keys});
    }
    auto logits = (float*)api_.data(api_.output(context, 0, {ids[0], kept[0], decoder.vocabulary}));
    if (tokens.rows() > 0) run(context, decoder, tokens, logits);
    lengths = written_in_place(context, 1, lengths, {ids[0]});  // after all else: it tells that the rows are there
    for (int i = 0; i < tokens.streams; i++) lengths[i] += tokens.length;
  }

 private:
  void run(const Context* context, const Decoder& decoder, const Tokens& tokens, float* logits) {
    std::exception_ptr failure;
    std::unique_ptr<Memory> memory = idle_memory();
    Team team([&](Team& team) {
      try {
        step(decoder, tokens, chosen_kernels(), team, *memory, logits);
      } catch (...) {
        failure = std::current_exception();
      }
    });
    api_.parallel(context, [](void* user, size_t) { ((Team*)user)->join(); }, THREADS, &team);
    if (failure) std::rethrow_exception(failure);
    std::lock_guard<std::mutex> lock(lending_);
    if (idle_.size() < idle_.capacity()) idle_.push_back(std::move(memory));
  }

  // That of an earlier run; new memory where every one is in use.
  std::unique_ptr<Memory> idle_memory() {
    std::lock_guard<std::mutex> lock(lending_);
    idle_.reserve(MOST_IDLE);
    if (idle_.empty()) return std::make_unique<Memory>();
    std::unique_ptr<Memory> memory = std::move(idle_.back());
    idle_.pop_back();
    return memory;
  }

  // The output of this index, which begins as the input; nothing is copied where both are the same memory. count: of
  // Numbers in an element.
  template <class Number>
  Number* written_in_place(Context* context, size_t index, Number* input, const Shape& shape, size_t count = 1) const {
    auto output = (Number*)api_.data(api_.output(context, index, shape));
    for (int64_t size : shape) count *= size;
    if (output != input && count > 0) std::copy_n(input, count, output);
    return output;
  }

  const Decoder& read_once(Inputs& inputs) {
    // not std::call_once: an exception would pass through the C library, which has another unwinder
    std::lock_guard<std::mutex> lock(reading_);
    if (decoder_ == nullptr) decoder_ = std::make_unique<Decoder>(DecoderReader(a, inputs).read());
    return *decoder_;
  }

  static void check_tokens(const Tokens& tokens, const Decoder& decoder) {
    for (int i = 0; i < tokens.rows(); i++) {
      if (tokens.ids[i] < 0 || tokens.ids[i] >= decoder.vocabulary) {
        throw refused("input_ids has " + std::to_string(tokens.ids[i]) + "; tokens are from 0 to " +
                      std::to_string(decoder.vocabulary - 1));
      }
    }
    for (int i = 0; i < tokens.num_kept; i++) {
      if (tokens.kept[i] < 0 || tokens.kept[i] >= tokens.length) {
        throw refused("logits_to_keep has " + std::to_string(tokens.kept[i]) + "; it must be below " +
                      std::to_string(tokens.length) + ", the number of tokens, and no less than 0");
      }
    }
  }

  // A full window, or one with room for the tokens.
  static void check_window(const Tokens& tokens, const Shape& window, const Decoder& decoder) {
    bool full = window[1] * window[2] > 0;
    if (full && (tokens.streams != 1 || window[1] != decoder.recurrent_heads() || window[2] != decoder.window)) {
      throw refused("past_precedence must be of one stream, of " + std::to_string(decoder.recurrent_heads()) +
                    " heads and " + std::to_string(decoder.window) + " keys, or empty");
    }
    check(!full || tokens.slots >= decoder.window, "past must have a slot for every key of a full window");
    int heads = full ? decoder.recurrent_heads() : decoder.kv_heads;
    if (tokens.heads != heads) {
      throw refused("past has " + std::to_string(tokens.heads) + " heads; it must have " + std::to_string(heads));
    }
    for (int i = 0; i < tokens.streams; i++) {
      int64_t past = tokens.past[i], room = full ? MOST_TOKENS : std::min(tokens.slots, decoder.window);
      if (past < (full ? decoder.window : 0) || past > room - tokens.length) {
        throw refused("past_lengths has " + std::to_string(past) + "; with " + std::to_string(tokens.length) +
                      " new tokens a stream has room for " + std::to_string(room));
      }
    }
  }

  Api api_;
  Attributes a;
  std::mutex reading_, lending_;
  std::vector<std::unique_ptr<Memory>> idle_;
  std::unique_ptr<Decoder> decoder_;
};

// No exception may reach onnxruntime, which is compiled apart from this.
template <class Work>
Status* guarded(const Api& api, Work work) {
  try {
    work();
    return nullptr;
  } catch (const Error& error) {
    return api.status(error.code, error.message.c_str());
  } catch (const std::exception& error) {
    return api.status(RUNTIME_EXCEPTION, error.what());
  }
}

Status* create(const Operator*, Table table, const KernelInfo* info, void** kernel) {
  return guarded(Api(table), [&] { *kernel = new DogeStep(Api(table), info); });
}

Status* compute(void* kernel, Context* context) {
  auto step = (DogeStep*)kernel;
  return guarded(step->api(), [&] { step->compute(context); });
}

// input_ids, logits_to_keep, past_lengths, past_precedence, past_positions; then any number of any type
constexpr int INPUT_TYPES[FIXED_INPUTS] = {INT64, INT64, INT64, FLOAT, INT64};
constexpr int OUTPUT_TYPES[FIXED_OUTPUTS + 1] = {FLOAT, INT64, FLOAT, INT64, ANY};

}  // namespace

const Operator* doge_step() {
  static const Operator op = [] {
    Operator op{};
    op.version = LEAST_VERSION;
    op.GetName = [](const Operator*) { return "DogeStep"; };
    op.GetExecutionProviderType = [](const Operator*) -> const char* { return nullptr; };
    op.GetInputType = [](const Operator*, size_t i) { return i < FIXED_INPUTS ? INPUT_TYPES[i] : (int)ANY; };
    op.GetInputTypeCount = [](const Operator*) -> size_t { return FIXED_INPUTS + 1; };
    op.GetOutputType = [](const Operator*, size_t i) { return OUTPUT_TYPES[i]; };
    op.GetOutputTypeCount = [](const Operator*) -> size_t { return FIXED_OUTPUTS + 1; };
    op.KernelDestroy = [](void* kernel) { delete (DogeStep*)kernel; };
    op.GetInputCharacteristic = [](const Operator*, size_t i) { return (int)(i < FIXED_INPUTS ? REQUIRED : VARIADIC); };
    op.GetOutputCharacteristic = [](const Operator*, size_t i) {
      return (int)(i < FIXED_OUTPUTS ? REQUIRED : VARIADIC);
    };
    op.GetInputMemoryType = [](const Operator*, size_t) { return 0; };
    op.GetVariadicInputMinArity = [](const Operator*) { return 1; };
    op.GetVariadicInputHomogeneity = [](const Operator*) { return 0; };
    op.GetVariadicOutputMinArity = [](const Operator*) { return 1; };
    op.GetVariadicOutputHomogeneity = [](const Operator*) { return 0; };
    op.CreateKernelV2 = create;
    op.KernelComputeV2 = compute;
    return op;
  }();
  return &op;
}

}  // namespace doge::ort
