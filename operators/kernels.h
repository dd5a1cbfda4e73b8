// The loops that a processor's own instructions make fast, one table of them for each instruction set.
//
// Every function computes a row by itself: what is computed beside it never changes its bits. So drafts and rows of a
// batch equal single steps on any processor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace doge {

// Activations of `rows` tokens in 16 bits, each block of a row with a scale of its own: x is about code * scale.
// How the codes of a block lie in its bytes is the business of the kernels that made them, unless they are in order.
struct Activations {
  const int16_t* codes;  // [rows][stride], of 0 behind the row's end
  const float* scales;   // [rows][blocks]
  const int32_t* sums;   // [rows][blocks], of the codes in a block
  size_t stride;         // whole blocks
  int blocks;
  bool in_order;
};

// The cache into which products of few tokens, and attention, ask for the memory behind the rows at work.
enum class Asking { FIRST, BOTH, SECOND };

// Rows of a matrix as MatMulNBits stores them: weight = (code - zero) * scale.
struct BlockRows {
  const uint8_t* codes;  // [rows][blocks][block_size * bits / 8], of two codes in a byte the first one lowest
  const float* scales;   // [rows][blocks]
  const uint8_t* zeros;  // [rows][ceil(blocks * bits / 8)], packed like codes; null: 2 ** (bits - 1) everywhere
  int bits;              // 4 or 8
  int block_size;        // 16, 32 or 64
  int blocks;
  Asking asking = Asking::FIRST;

  // Always inlined, as all functions here: files are compiled for different processors, and the linker would keep one
  // copy for all of them.
  [[gnu::always_inline]] size_t row_bytes() const { return (size_t)blocks * block_size * bits / 8; }
};

// Code `index` of a row that begins at `row`.
[[gnu::always_inline]] inline int code_at(const BlockRows& matrix, const uint8_t* row, int index) {
  return matrix.bits == 8 ? row[index] : row[index / 2] >> (index % 2 * 4) & 15;
}

// The code that stands for 0 in a block of a row.
[[gnu::always_inline]] inline int zero_point(const BlockRows& matrix, int row, int block) {
  if (matrix.zeros == nullptr) return 1 << (matrix.bits - 1);
  if (matrix.bits == 8) return matrix.zeros[(size_t)row * matrix.blocks + block];
  return matrix.zeros[(size_t)row * ((matrix.blocks + 1) / 2) + block / 2] >> (block % 2 * 4) & 15;
}

// A block of activations with none larger has codes of 0: the steps of 1 would be infinite.
constexpr float LEAST_ACTIVATION = 1e-34f;

// Activations that have an infinite value, or one that is no number: all of their products are no numbers.
[[gnu::always_inline]] inline void no_codes(int n, int block_size, int16_t* codes, float* scales, int32_t* sums) {
  for (int block = 0; block * block_size < n; block++) {
    for (int i = 0; i < block_size; i++) codes[block * block_size + i] = 0;
    scales[block] = __builtin_nanf("");
    sums[block] = 0;
  }
}

struct Float16 {
  uint16_t bits;
};

enum class NumberType { FLOAT32, FLOAT16, INT8 };

// A cached key or value: `floats` float32, then `numbers` of one type, a multiple of 8.
struct RowLayout {
  NumberType type;
  int floats, numbers;

  [[gnu::always_inline]] size_t number_bytes() const {
    return type == NumberType::FLOAT32 ? 4 : type == NumberType::FLOAT16 ? 2 : 1;
  }
  [[gnu::always_inline]] size_t bytes() const { return floats * sizeof(float) + numbers * number_bytes(); }
};

// Keys and values of `length` >= 1 neighbouring slots.
struct Slots {
  RowLayout layout;
  const uint8_t *keys, *values;
  int length;
  bool are_near;  // they were read a moment ago, so nothing has to be asked for ahead
  Asking asking = Asking::FIRST;  // or SECOND
};

constexpr int LARGEST_GROUP = 32;  // queries, of any kernels

// One query over the slots that it sees: softmax values = sums / total. Weights are 2 ** ((score - largest) * scale), of
// a score that is the dot of the query with a key. So a scale has the logarithm of e to the base of 2 in it.
struct Attended {
  float largest, total;
  float* sums;  // [numbers]
};

// A query is `numbers` float32, then `floats`. Its dot with a key has all of them, sums of values have the numbers.
struct Query {
  const float* numbers;
  float* scores;  // room for one of each slot
  Attended* result;
  int length;  // slots that it sees, from the first one on; at least 1
};

// Numbers of a row in float32, with zeros behind them up to the widest vectors.
[[gnu::always_inline]] inline int padded(int numbers) { return (numbers + 15) / 16 * 16; }

// The key and the value of a slot in float32, padded numbers and then floats. The queries [first, last) of a group see them.
struct SeenRow {
  const float *key, *value;
  int slot, first, last;
};

// In the order of slots. A slot that gets a new key between two queries has a row for each of its keys, the older first.
struct SeenRows {
  const SeenRow* rows;
  int count, numbers, floats;
  float* scores;  // [count][queries of a group], to work with
};

// A matrix of float32 or float16, row by row.
struct Thin {
  const void* numbers;
  NumberType type;

  [[gnu::always_inline]] Thin from(size_t index) const {
    return {(const uint8_t*)numbers + index * (type == NumberType::FLOAT16 ? sizeof(Float16) : sizeof(float)), type};
  }
};

struct Kernels {
  const char* name;

  // From so many activations on, products with 16 matrix rows or more are faster with codes in order; 0: never.
  int tokens_in_order;

  // Codes of 16 bits for n floats, 0 up to whole blocks; see Activations. They lie as products with matrices of such
  // bits and blocks read them, or in order. Where a float is infinite or no number, see no_codes.
  void (*quantize)(const float* x, int n, int bits, int block_size, bool in_order, int16_t* codes, float* scales,
                   int32_t* sums);

  // y[r * y_stride + i] = product of matrix row i with activations r, for i of [first, last) and all r of rows. Codes in
  // order want a table that has tokens_in_order, and 16 matrix rows.
  void (*block_products)(const BlockRows& matrix, int first, int last, const Activations& x, int rows, float* y,
                         size_t y_stride);

  // The same for rows of float32: matrix [.][width], x [rows][x_stride]. asking: as that of BlockRows.
  void (*float_products)(const float* matrix, int width, int first, int last, const float* x, size_t x_stride,
                         int rows, float* y, size_t y_stride, Asking asking);

  // y[r * y_stride + i] += sum over c of x[r * x_stride + c] * matrix[c * stride + i], for i of [first, last), all c
  // below height and all r of rows.
  void (*add_weighted_rows)(const Thin& matrix, size_t stride, int height, int first, int last, const float* x,
                            size_t x_stride, int rows, float* y, size_t y_stride);

  // y[i] += sum over k of factors[k] * weight i of row rows[k], in the order of k, for i below width.
  void (*add_block_rows)(const BlockRows& matrix, const int* rows, const float* factors, int count, int width, float* y);

  // Each of `count` queries, which see all slots.
  void (*attend)(const Query* queries, int count, const Slots& slots, float scale);

  // Queries of a group, for which the following two are faster than the former; 0 where there are no such.
  int group;

  // Keys or values of some slots, which begin at `rows`, as SeenRow has them, one after the other.
  void (*unpack)(const uint8_t* rows, const Slots& slots, float* y);

  // A whole group; columns [numbers + floats][group] are its queries side by side. Of `queries` only
  // the results are used. They have the bits that `attend` gives for the rows that each one sees, of which it sees one of a
  // slot. Keys and values are finite numbers.
  void (*attend_group)(const Query* queries, const float* columns, const SeenRows& rows, float scale);

  // x = x * scale + added; without a scale x + added
  void (*add)(const float* scale, const float* added, int n, float* x);

  // y = x / sqrt(mean of its squares + epsilon) * weight; y may be x
  void (*rms_norm)(const float* x, const float* weight, int n, float epsilon, float* y);

  // The nearest float16 of n floats, a multiple of 8; see float16_of.
  void (*to_float16)(const float* x, int n, Float16* y);

  // y = gate / (1 + exp(-gate)) * up
  void (*gated_silu)(const float* gate, const float* up, int n, float* y);
};

extern const Kernels plain_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx_vnni_kernels, avx512_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels, neon_dot_kernels;
#endif

// The tables that this processor can run, the fastest first.
std::vector<const Kernels*> runnable_kernels();

// The one of them that DOGE_EXPORT_KERNELS names, or null; the fastest where that is not set or empty.
const Kernels* chosen_kernels();

// For the products of steps that read so many bytes of weights, and so many of cached rows.
Asking asking_for(size_t weights, size_t rows);

// For cached rows.
Asking asking_for_rows();

}  // namespace doge
