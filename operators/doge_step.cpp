#include "doge_step.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <string>

#include "kernels.h"
#include "step.h"

namespace doge::ort {
namespace {

using Shape = std::vector<int64_t>;

std::string written(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// The inputs of a run, one after the other, each checked for its type and shape.
class Inputs {
 public:
  Inputs(const Api& api, const Context* context) : api_(api), context_(context), count_(api.input_count(context)) {}

  // -1 in `shape` takes any size; `found` gets the sizes.
  const void* next(const char* name, int type, const Shape& shape, Shape* found = nullptr) {
    if (index_ >= count_) throw refused(std::string(name) + " is missing");
    const Value* value = api_.input(context_, index_++);
    Shape given;
    int given_type = api_.type(value, given);
    if (given_type != type) {
      throw refused(std::string(name) + " has element type " + std::to_string(given_type) + "; it must be " +
                    std::to_string(type));
    }
    bool fits = given.size() == shape.size();
    for (size_t i = 0; fits && i < shape.size(); i++) fits = shape[i] == -1 || shape[i] == given[i];
    if (!fits) throw refused(std::string(name) + " has shape " + written(given) + "; it must be " + written(shape));
    if (found != nullptr) *found = given;
    return api_.data(value);
  }

  const float* floats(const char* name, const Shape& shape, Shape* found = nullptr) {
    return (const float*)next(name, FLOAT, shape, found);
  }

  void end() const {
    if (index_ != count_) throw refused(std::to_string(count_ - index_) + " inputs too many");
  }

  static Error refused(const std::string& reason) { return {INVALID_ARGUMENT, "DogeStep: " + reason}; }

 private:
  const Api& api_;
  const Context* context_;
  size_t count_, index_ = 0;
};

// The attributes, in the order of the documentation.
struct Attributes {
  int64_t num_layers, num_heads, num_kv_heads, head_dim, channels, num_mask_heads, qk_norm, tied;
  float epsilon;
  std::vector<int64_t> part_counts, part_bits, zero_points, biases, residuals;

  Attributes(const Api& api, const KernelInfo* info)
      : num_layers(api.integer(info, "num_layers")),
        num_heads(api.integer(info, "num_heads")),
        num_kv_heads(api.integer(info, "kv_num_heads")),
        head_dim(api.integer(info, "head_dim")),
        channels(api.integer(info, "channels")),
        num_mask_heads(api.integer(info, "num_mask_heads")),
        qk_norm(api.integer(info, "qk_norm")),
        tied(api.integer(info, "tied")),
        epsilon(api.real(info, "epsilon")),
        part_counts(api.integers(info, "part_counts")),
        part_bits(api.integers(info, "part_bits")),
        zero_points(api.integers(info, "zero_points")),
        biases(api.integers(info, "biases")),
        residuals(api.integers(info, "residuals")) {
    check(num_layers >= 1 && num_heads >= 1 && num_kv_heads >= 1 && num_heads % num_kv_heads == 0,
          "num_heads must be a multiple of kv_num_heads, and num_layers at least 1");
    check(head_dim >= 2 && head_dim % 2 == 0 && channels >= head_dim && channels % 8 == 0,
          "head_dim must be even, and channels a multiple of 8 that is no less");
    check(num_mask_heads >= 0 && num_mask_heads % num_kv_heads == 0, "num_mask_heads must be a multiple of kv_num_heads");
    size_t matrices = 4 * num_layers + (tied ? 1 : 2), parts = 0;
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

  static void check(bool holds, const char* rule) {
    if (!holds) throw Inputs::refused(rule);
  }
};

// Reads the constant inputs of a run into a Decoder. Constants stay where they are as long as the session lives.
class DecoderReader {
 public:
  DecoderReader(const Attributes& attributes, Inputs& inputs) : a(attributes), inputs(inputs) {}

  Decoder read() {
    Shape shape;
    d.heads = (int)a.num_heads;
    d.kv_heads = (int)a.num_kv_heads;
    d.head_dim = (int)a.head_dim;
    d.channels = (int)a.channels;
    d.mask_heads = (int)a.num_mask_heads;
    d.epsilon = a.epsilon;
    d.cos = inputs.floats("rotary.cos", {-1, a.head_dim / 2}, &shape);
    d.sin = inputs.floats("rotary.sin", shape);
    d.window = (int)shape[0];
    d.first_norm = inputs.floats("first_norm", {-1}, &shape);
    d.hidden = (int)shape[0];
    d.embedding = matrix("embedding", d.hidden, -1);
    d.vocabulary = d.embedding.rows();
    Attributes::check(d.embedding.parts.size() == 1, "the embedding must have one part");
    if (d.mask_heads > 0) {
      d.first_layer_logits = inputs.floats("first_layer_logits", {d.vocabulary, d.mask_heads});
      d.precedence_factors = inputs.floats("precedence_factors", {d.kv_heads, d.mask_heads / d.kv_heads});
    }
    for (int64_t index = 0; index < a.num_layers; index++) d.layers.push_back(layer(index));
    d.output = a.tied ? d.embedding : matrix("output", d.hidden, d.vocabulary);
    return d;
  }

 private:
  Layer layer(int64_t index) {
    Layer layer{};
    int64_t extra = d.channels - d.head_dim, heads = d.heads + d.kv_heads;
    if (d.mask_heads > 0) {
      Shape shape;
      layer.exponents = inputs.floats("exponents", {-1, heads * extra}, &shape);
      d.mask_width = (int)shape[0];
      Attributes::check(d.mask_width >= d.mask_heads, "exponents must have a row for every mask head");
    }
    bool looked_up = d.mask_heads > 0 && index == 0;
    int64_t values = d.kv_heads * (looked_up ? d.head_dim : d.channels);
    layer.qkv = matrix("qkv", d.hidden, heads * d.head_dim + (looked_up ? 0 : d.mask_width) + values);
    if (a.qk_norm) layer.head_norms = inputs.floats("head_norms", {heads, d.head_dim});
    layer.o = matrix("o", d.heads * d.channels, d.hidden);
    if (a.residuals[2 * index]) layer.attention_residual = inputs.floats("attention_residual", {d.hidden});
    layer.feed_forward_norm = inputs.floats("feed_forward_norm", {d.hidden});
    layer.gate_up = matrix("gate_up", d.hidden, -1);
    Attributes::check(layer.gate_up.rows() % 2 == 0, "gate_up must have an even number of rows");
    if (index == 0) d.intermediate = layer.gate_up.rows() / 2;
    Attributes::check(layer.gate_up.rows() == 2 * d.intermediate, "gate_up must be of one size in all layers");
    layer.down = matrix("down", d.intermediate, d.hidden);
    if (a.residuals[2 * index + 1]) layer.feed_forward_residual = inputs.floats("feed_forward_residual", {d.hidden});
    layer.next_norm = inputs.floats("next_norm", {d.hidden});
    return layer;
  }

  Matrix matrix(const char* name, int64_t width, int64_t rows) {
    Matrix matrix{(int)width, {}, nullptr};
    for (int64_t i = 0; i < a.part_counts[matrices_]; i++) matrix.parts.push_back(part(name, width));
    if (rows != -1 && matrix.rows() != rows) {
      throw Inputs::refused(std::string(name) + " has " + std::to_string(matrix.rows()) + " rows; it must have " +
                            std::to_string(rows));
    }
    if (a.biases[matrices_]) matrix.bias = inputs.floats("bias", {matrix.rows()});
    matrices_++;
    return matrix;
  }

  Part part(const char* name, int64_t width) {
    int64_t bits = a.part_bits[parts_], zeros = a.zero_points[parts_];
    parts_++;
    Shape shape;
    Part part{};
    if (bits == 32) {
      part.weights = inputs.floats(name, {-1, width}, &shape);
      part.rows = (int)shape[0];
      return part;
    }
    Attributes::check(bits == 4 || bits == 8, "part_bits must be 4, 8 or 32");
    BlockRows& blocks = part.blocks;
    blocks.codes = (const uint8_t*)inputs.next(name, UINT8, {-1, -1, -1}, &shape);
    part.rows = (int)shape[0];
    blocks.bits = (int)bits;
    blocks.blocks = (int)shape[1];
    blocks.block_size = (int)(shape[2] * 8 / bits);
    Attributes::check(blocks.block_size == 16 || blocks.block_size == 32 || blocks.block_size == 64,
                      "blocks must be of 16, 32 or 64 weights");
    Attributes::check(blocks.blocks == (width + blocks.block_size - 1) / blocks.block_size,
                      "a matrix must have as many blocks as its inputs fill");
    blocks.scales = inputs.floats("scales", {shape[0], shape[1]});
    if (zeros) {
      blocks.zeros = (const uint8_t*)inputs.next("zero_points", UINT8, {shape[0], (shape[1] * bits + 7) / 8});
    }
    return part;
  }

  const Attributes& a;
  Inputs& inputs;
  Decoder d{};
  size_t matrices_ = 0, parts_ = 0;
};

class DogeStep {
 public:
  DogeStep(const Api& api, const KernelInfo* info) : api_(api), attributes_(api, info) {
    // `read_once` keeps where they lie; graph optimization makes constants of what the graph computes from constants
    for (size_t i = 2 + 2 * attributes_.num_layers; i < api.input_count(info); i++) {
      if (!api.is_constant(info, i)) {
        throw Inputs::refused("input " + std::to_string(i) +
                              " is no constant; the inputs behind the past must be, so leave graph optimization on");
      }
    }
  }

  const Api& api() const { return api_; }

  void compute(Context* context) {
    Inputs inputs(api_, context);
    Shape shape, cache_shape{-1, attributes_.num_kv_heads, -1, attributes_.channels};
    Tokens tokens{};
    tokens.ids = (const int64_t*)inputs.next("input_ids", INT64, {-1, -1}, &shape);
    tokens.streams = (int)shape[0];
    tokens.length = (int)shape[1];
    tokens.past = (const int64_t*)inputs.next("past_lengths", INT64, {shape[0]});
    cache_shape[0] = shape[0];
    std::vector<float*> rows;
    for (int64_t i = 0; i < 2 * attributes_.num_layers; i++) {
      auto past = (float*)inputs.next("past", FLOAT, cache_shape, &cache_shape);
      auto present = (float*)api_.data(api_.output(context, 1 + i, cache_shape));
      if (present != past) {
        std::copy_n(past, cache_shape[0] * cache_shape[1] * cache_shape[2] * cache_shape[3], present);
      }
      rows.push_back(present);
    }
    for (int64_t i = 0; i < attributes_.num_layers; i++) tokens.caches.push_back({rows[2 * i], rows[2 * i + 1]});
    tokens.slots = (int)cache_shape[2];
    const Decoder& decoder = read_once(inputs);
    check(tokens, decoder);
    auto logits = (float*)api_.data(api_.output(context, 0, {tokens.streams, tokens.length, decoder.vocabulary}));
    step(decoder, tokens, chosen_kernels(), on_threads_of(context), logits);
  }

 private:
  const Decoder& read_once(Inputs& inputs) {
    std::call_once(read_, [&] {
      Decoder decoder = DecoderReader(attributes_, inputs).read();
      inputs.end();
      decoder_ = std::make_unique<Decoder>(std::move(decoder));
    });
    return *decoder_;
  }

  static void check(const Tokens& tokens, const Decoder& decoder) {
    for (int i = 0; i < tokens.streams * tokens.length; i++) {
      if (tokens.ids[i] < 0 || tokens.ids[i] >= decoder.vocabulary) {
        throw Inputs::refused("input_ids has " + std::to_string(tokens.ids[i]) + "; tokens are from 0 to " +
                              std::to_string(decoder.vocabulary - 1));
      }
    }
    int64_t room = std::min(tokens.slots, decoder.window);
    for (int i = 0; i < tokens.streams; i++) {
      if (tokens.past[i] < 0 || tokens.past[i] + tokens.length > room) {
        throw Inputs::refused("past_lengths has " + std::to_string(tokens.past[i]) + "; with " +
                              std::to_string(tokens.length) + " new tokens a stream has room for " +
                              std::to_string(room));
      }
    }
  }

  Parallel on_threads_of(const Context* context) const {
    return [this, context](int count, const std::function<void(int)>& f) {
      auto call = [](void* user, size_t index) { (*(const std::function<void(int)>*)user)((int)index); };
      api_.parallel(context, call, count, (void*)&f);
    };
  }

  Api api_;
  Attributes attributes_;
  std::once_flag read_;
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

constexpr int FIXED_INPUTS[] = {INT64, INT64};  // input_ids, past_lengths; then any number of any type

}  // namespace

const Operator* doge_step() {
  static const Operator op = [] {
    Operator op{};
    op.version = LEAST_VERSION;
    op.GetName = [](const Operator*) { return "DogeStep"; };
    op.GetExecutionProviderType = [](const Operator*) -> const char* { return nullptr; };
    op.GetInputType = [](const Operator*, size_t i) { return i < 2 ? FIXED_INPUTS[i] : (int)ANY; };
    op.GetInputTypeCount = [](const Operator*) -> size_t { return 3; };
    op.GetOutputType = [](const Operator*, size_t) { return (int)FLOAT; };
    op.GetOutputTypeCount = [](const Operator*) -> size_t { return 2; };
    op.KernelDestroy = [](void* kernel) { delete (DogeStep*)kernel; };
    op.GetInputCharacteristic = [](const Operator*, size_t i) { return (int)(i < 2 ? REQUIRED : VARIADIC); };
    op.GetOutputCharacteristic = [](const Operator*, size_t i) { return (int)(i < 1 ? REQUIRED : VARIADIC); };
    op.GetInputMemoryType = [](const Operator*, size_t) { return 0; };
    op.GetVariadicInputMinArity = [](const Operator*) { return 1; };
    op.GetVariadicInputHomogeneity = [](const Operator*) { return 0; };
    op.GetVariadicOutputMinArity = [](const Operator*) { return 1; };
    op.GetVariadicOutputHomogeneity = [](const Operator*) { return 1; };
    op.CreateKernelV2 = create;
    op.KernelComputeV2 = compute;
    return op;
  }();
  return &op;
}

}  // namespace doge::ort
