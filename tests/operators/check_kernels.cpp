// Every kernel against sums in double precision, and every value alone against the same value in company.
//
//   check_kernels            the tables that this processor can run
//   check_kernels --names    their names, the fastest first
//   check_kernels --chosen   the name of the one that the operators take
//   check_kernels --speed    how long products and an attention take
//
// Compiled with -DTABLE=avx512_kernels it knows that table only: for a processor that is emulated while compiling.
// It ends with status 1 and a sentence at the first value that is wrong.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "../../operators/float16.h"
#include "../../operators/kernels.h"

using namespace doge;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;

static std::mt19937 generator(1);

static float normal() { return std::normal_distribution<float>()(generator); }
static int integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

static Floats normals(size_t count) {
  Floats x(count);
  for (float& value : x) value = normal();
  return x;
}

template <class... Values>
static void require(bool right, const char* format, Values... values) {
  if (right) return;
  std::printf(format, values...);
  std::printf("\n");
  std::exit(1);
}

static bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

// ---- matrices of codes, and activations

struct Matrix {
  std::vector<uint8_t> codes, zeros;
  Floats scales;
  BlockRows view;
  int rows;

  // Random codes; zero points and scales as well where they are wanted, otherwise the usual zero points and scales of 1.
  Matrix(int rows, int width, int bits, int block_size, bool with_zeros, bool with_scales) : rows(rows) {
    int blocks = (width + block_size - 1) / block_size;
    codes.resize((size_t)rows * blocks * block_size * bits / 8);
    for (uint8_t& code : codes) code = (uint8_t)integer(0, 255);
    scales.assign((size_t)rows * blocks, 1.0f);
    if (with_scales) {
      for (float& scale : scales) scale = 0.01f + 0.02f * std::fabs(normal());
    }
    if (with_zeros) zeros.resize((size_t)rows * ((blocks * bits + 7) / 8));
    for (uint8_t& zero : zeros) zero = (uint8_t)integer(0, 255);
    view = {codes.data(), scales.data(), with_zeros ? zeros.data() : nullptr, bits, block_size, blocks,
            (Asking)integer(0, 2)};
  }

  int code(int row, int column) const {
    const uint8_t* at = codes.data() + row * view.row_bytes();
    return view.bits == 8 ? at[column] : at[column / 2] >> (column % 2 * 4) & 15;
  }
  int zero(int row, int column) const { return zero_point(view, row, column / view.block_size); }
  // Weights of 0 in the first column of every block.
  void clear_first_columns() {
    for (int i = 0; i < rows; i++) {
      for (int block = 0; block < view.blocks; block++) {
        uint8_t* at = codes.data() + i * view.row_bytes() + (size_t)block * view.block_size * view.bits / 8;
        int zero = zero_point(view, i, block);
        *at = (uint8_t)(view.bits == 8 ? zero : (*at & 0xF0) | zero);
      }
    }
  }
  double scale(int row, int column) const { return scales[(size_t)row * view.blocks + column / view.block_size]; }
};

struct Tokens {
  std::vector<int16_t> codes;
  Floats scales;
  std::vector<int32_t> sums;
  Activations view;

  Tokens(const Kernels& kernels, const Floats& x, int rows, int width, int bits, int block_size, bool in_order = false) {
    int blocks = (width + block_size - 1) / block_size;
    size_t stride = (size_t)blocks * block_size;
    codes.assign(rows * stride, -1);
    scales.assign((size_t)rows * blocks, NAN);
    sums.assign((size_t)rows * blocks, -1);
    for (int r = 0; r < rows; r++) {
      Floats row(x.begin() + (size_t)r * width, x.begin() + (size_t)(r + 1) * width);  // ends where it ends
      kernels.quantize(row.data(), width, bits, block_size, in_order, &codes[r * stride], &scales[(size_t)r * blocks],
                       &sums[(size_t)r * blocks]);
    }
    view = {codes.data(), scales.data(), sums.data(), stride, blocks, in_order};
  }

  Activations row(int r) const {
    size_t block = (size_t)r * view.blocks;
    return {view.codes + r * view.stride, view.scales + block, view.sums + block, view.stride, view.blocks, view.in_order};
  }
};

static Floats products(const Kernels& kernels, const Matrix& matrix, const Activations& x, int rows) {
  Floats y((size_t)rows * matrix.rows, NAN);
  kernels.block_products(matrix.view, 0, matrix.rows, x, rows, y.data(), matrix.rows);
  return y;
}

// The codes of one token, read by products with a matrix that has a single 1 in every row and no zero points: a kernel's
// layout is its own.
static std::vector<int> codes_of(const Kernels& kernels, const Tokens& tokens, int r, int bits, int block_size) {
  Matrix unit((int)tokens.view.stride, (int)tokens.view.stride, bits, block_size, false, false);
  std::fill(unit.codes.begin(), unit.codes.end(), bits == 8 ? 128 : 0x88);
  for (size_t i = 0; i < tokens.view.stride; i++) {
    unit.codes[i * unit.view.row_bytes() + i * bits / 8] += bits == 4 && i % 2 ? 16 : 1;
  }
  Activations x = tokens.row(r);
  Floats ones(x.blocks, 1.0f);
  x.scales = ones.data();
  std::vector<int> codes;
  for (float code : products(kernels, unit, x, 1)) codes.push_back((int)code);
  return codes;
}

// ---- activations

// A code is the nearest one, but for the rounding of float32 before it: 32767 * 2 ** -23 of a step.
static void check_quantize(const Kernels& kernels, int bits) {
  for (int block_size : {16, 32, 64}) {
    for (int width : {1, 7, 16, 33, 63, 64, 65, 100, 129, 200}) {
      Floats x = normals(width);
      if (width > 64) std::fill(x.begin(), x.begin() + 64, 0.0f);  // a block of nothing
      Tokens tokens(kernels, x, 1, width, bits, block_size);
      std::vector<int> codes = codes_of(kernels, tokens, 0, bits, block_size);
      std::vector<int32_t> sums(tokens.view.blocks);
      for (size_t i = 0; i < codes.size(); i++) {
        double value = i < (size_t)width ? x[i] : 0, scale = tokens.scales[i / block_size];
        sums[i / block_size] += codes[i];
        require(std::fabs(codes[i] * scale - value) <= 0.505 * scale && std::abs(codes[i]) <= 32767,
                "quantize: element %zu of %d in blocks of %d is %g, its code %d of %g", i, width, block_size, value,
                codes[i], scale);
      }
      require(sums == tokens.sums, "quantize: a sum of %d elements in blocks of %d is wrong", width, block_size);
      if (kernels.tokens_in_order == 0) continue;
      Tokens in_order(kernels, x, 1, width, bits, block_size, true);
      require(std::equal(codes.begin(), codes.end(), in_order.codes.begin()) && sums == in_order.sums,
              "quantize: %d elements in blocks of %d are others in order", width, block_size);
    }
  }
}

// A token with an infinite value, or one that is no number, has products that are none. Others stay as they are.
static void check_no_numbers(const Kernels& kernels, int bits, bool in_order) {
  const int width = 96, rows = 7, bad_row = 3;
  Matrix matrix(16, width, bits, 32, true, true);
  Floats x = normals(rows * width);
  Floats right = products(kernels, matrix, Tokens(kernels, x, rows, width, bits, 32, in_order).view, rows);
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    for (int column : {0, 5, 31, 95}) {
      Floats spoiled = x;
      spoiled[bad_row * width + column] = bad;
      Floats y = products(kernels, matrix, Tokens(kernels, spoiled, rows, width, bits, 32, in_order).view, rows);
      for (int i = 0; i < rows * matrix.rows; i++) {
        require(i / matrix.rows == bad_row ? std::isnan(y[i]) : same_bits(y[i], right[i]),
                "quantize: %g in token %d at %d makes %.9g of row %d of token %d", bad, bad_row, column, y[i],
                i % matrix.rows, i / matrix.rows);
      }
    }
  }
}

// Numbers whose step float32 cannot hold are 0.
static void check_tiny_numbers(const Kernels& kernels, int bits) {
  Floats x = normals(64);
  for (float& value : x) value *= 1e-37f;
  Tokens tokens(kernels, x, 1, 64, bits, 32);
  std::vector<int> codes = codes_of(kernels, tokens, 0, bits, 32);
  require(std::count(codes.begin(), codes.end(), 0) == 64 && tokens.sums == std::vector<int32_t>{0, 0},
          "quantize: numbers near 1e-37 have codes such as %d, and a sum of %d", codes[0], tokens.sums[0]);
}

// ---- products

// Whole numbers whose sums no float rounds: every product must be exactly theirs.
static void check_whole_numbers(const Kernels& kernels, int bits, int block_size, bool with_zeros) {
  const float one = 1;
  int16_t code[64];
  float scale;
  int32_t sum;
  kernels.quantize(&one, 1, bits, block_size, false, code, &scale, &sum);
  float largest = std::round(1 / scale);  // a block with this value has a scale of 1, and a weight of 0 for it
  for (int width : {1, 15, 16, 17, 33, 64, 100, 257}) {
    Matrix matrix(29, width, bits, block_size, with_zeros, false);
    matrix.clear_first_columns();
    Floats x(width);
    for (int i = 0; i < width; i++) x[i] = i % block_size == 0 ? largest : (float)integer(-99, 99);
    Tokens tokens(kernels, x, 1, width, bits, block_size);
    Floats y = products(kernels, matrix, tokens.view, 1);
    for (int i = 0; i < matrix.rows; i++) {
      long long exact = 0;
      for (int c = 0; c < width; c++) exact += (matrix.code(i, c) - matrix.zero(i, c)) * (long long)x[c];
      require(y[i] == (float)exact, "block_products: %d bits, blocks of %d, width %d, %s: row %d is %.9g, exactly %lld",
              bits, block_size, width, with_zeros ? "zero points" : "none", i, y[i], exact);
    }
  }
}

// Against sums in double of what the codes stand for. A block's sum is exact; float32 rounds it, its factor and the
// row's sum, each by 2 ** -24 of what was added up with unsigned codes.
static void check_block_products(const Kernels& kernels, int bits, int block_size, bool with_zeros) {
  for (int width : {1, 24, 64, 96, 200, 321, 608}) {
    for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17}) {
      if (width == 608 && rows > 1 && rows != 9) continue;  // of that, many zero points are the point
      Matrix matrix(integer(0, 1) ? integer(1, 15) : integer(16, 48), width, bits, block_size, with_zeros, true);
      Floats x = normals((size_t)rows * width);
      Tokens tokens(kernels, x, rows, width, bits, block_size);
      Floats y = products(kernels, matrix, tokens.view, rows);
      if (kernels.tokens_in_order > 0 && matrix.rows >= 16) {
        Tokens in_order(kernels, x, rows, width, bits, block_size, true);
        Floats same = products(kernels, matrix, in_order.view, rows);
        require(std::equal(y.begin(), y.end(), same.begin(), same_bits),
                "block_products: %d bits, blocks of %d, width %d, rows %d: others in order", bits, block_size, width, rows);
      }
      for (int r = 0; r < rows; r++) {
        std::vector<int> codes = codes_of(kernels, tokens, r, bits, block_size);
        for (int i = 0; i < matrix.rows; i++) {
          double exact = 0, size = 0;
          for (int c = 0; c < width; c++) {
            double factor = matrix.scale(i, c) * tokens.scales[(size_t)r * tokens.view.blocks + c / block_size];
            exact += (matrix.code(i, c) - matrix.zero(i, c)) * codes[c] * factor;
            size += (matrix.code(i, c) + matrix.zero(i, c)) * std::abs(codes[c]) * factor;
          }
          float value = y[(size_t)r * matrix.rows + i];
          require(std::fabs(value - exact) <= 4e-7 * size,
                  "block_products: %d bits, blocks of %d, width %d, rows %d: row %d of token %d is %.9g, not %.9g", bits,
                  block_size, width, rows, i, r, value, exact);
          float alone = NAN;
          kernels.block_products(matrix.view, i, i + 1, tokens.row(r), 1, &alone - i, 1);
          require(same_bits(alone, value), "block_products: %d bits, blocks of %d, width %d: row %d of token %d of %d "
                  "is %.9g in company, %.9g alone", bits, block_size, width, i, r, rows, value, alone);
        }
      }
    }
  }
}

// Matrix rows outside a range stay as they are.
static void check_ranges(const Kernels& kernels, int bits, int block_size, bool in_order) {
  const int count = 61, tokens_count = 9;
  Matrix matrix(count, 160, bits, block_size, true, true);
  Tokens tokens(kernels, normals(tokens_count * 160), tokens_count, 160, bits, block_size, in_order);
  Floats whole = products(kernels, matrix, tokens.view, tokens_count);
  for (int first = 0; first < count; first += 3) {
    for (int last = first + (in_order ? 16 : 1); last <= count; last += 5) {
      Floats y(tokens_count * count, -77.0f);
      kernels.block_products(matrix.view, first, last, tokens.view, tokens_count, y.data(), count);
      for (int i = 0; i < tokens_count * count; i++) {
        bool inside = i % count >= first && i % count < last;
        require(same_bits(y[i], inside ? whole[i] : -77.0f), "block_products: %d bits: rows %d to %d of %d give %.9g at %d",
                bits, first, last, count, y[i], i);
      }
    }
  }
}

// Against sums in double, added to what is there; rows one by one give the same bits, and columns behind the width stay.
static void check_block_rows(const Kernels& kernels, int bits, int block_size, bool with_zeros) {
  for (int width : {1, 15, 16, 33, 64, 100, 257}) {
    Matrix matrix(29, width, bits, block_size, with_zeros, true);
    int count = integer(1, 20);
    std::vector<int> rows(count);
    for (int& row : rows) row = integer(0, matrix.rows - 1);
    Floats factors = normals(count), before = normals(width + 1), y = before, one_by_one = before;
    kernels.add_block_rows(matrix.view, rows.data(), factors.data(), count, width, y.data());
    for (int k = 0; k < count; k++) {
      kernels.add_block_rows(matrix.view, &rows[k], &factors[k], 1, width, one_by_one.data());
    }
    for (int i = 0; i <= width; i++) {
      double exact = before[i], size = std::fabs(exact);
      for (int k = 0; k < count && i < width; k++) {
        double term = factors[k] * matrix.scale(rows[k], i) * (matrix.code(rows[k], i) - matrix.zero(rows[k], i));
        exact += term;
        size += std::fabs(term);
      }
      require(std::fabs(y[i] - exact) <= (i < width ? (count + 3) * 6e-8 * size : 0),
              "add_block_rows: %d bits, blocks of %d, width %d, %d rows: column %d is %.9g, not %.9g", bits, block_size,
              width, count, i, y[i], exact);
      require(same_bits(y[i], one_by_one[i]), "add_block_rows: column %d of %d is %.9g, row by row %.9g", i, width, y[i],
              one_by_one[i]);
    }
  }
}

// Against sums in double: float32 rounds once a column.
static void check_float_products(const Kernels& kernels) {
  for (int width : {1, 3, 8, 15, 16, 31, 100, 257}) {
    for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 13}) {
      int count = integer(1, 13);
      Floats matrix = normals((size_t)count * width), x = normals((size_t)rows * width), y((size_t)rows * count, NAN);
      kernels.float_products(matrix.data(), width, 0, count, x.data(), width, rows, y.data(), count, (Asking)integer(0, 2));
      for (int r = 0; r < rows; r++) {
        for (int i = 0; i < count; i++) {
          double exact = 0, size = 0;
          for (int c = 0; c < width; c++) exact += (double)matrix[i * width + c] * x[r * width + c];
          for (int c = 0; c < width; c++) size += std::fabs((double)matrix[i * width + c] * x[r * width + c]);
          float value = y[r * count + i], alone = NAN;
          require(std::fabs(value - exact) <= (width + 1) * 6e-8 * size,
                  "float_products: width %d, rows %d: row %d of token %d is %.9g, not %.9g", width, rows, i, r, value, exact);
          kernels.float_products(matrix.data(), width, i, i + 1, x.data() + r * width, width, 1, &alone - i, 1,
                                 (Asking)integer(0, 2));
          require(same_bits(alone, value), "float_products: width %d: row %d of token %d of %d is %.9g in company, %.9g alone",
                  width, i, r, rows, value, alone);
        }
      }
    }
  }
}

// Against sums in double, added to what is there; and columns outside a range stay as they are.
static void check_weighted_rows(const Kernels& kernels, NumberType type) {
  for (int columns : {1, 3, 8, 15, 16, 33, 48, 64, 65, 130, 257}) {
    for (int rows : {1, 2, 3, 4, 5, 6, 13}) {
      int height = integer(1, 40), first = integer(0, columns - 1), last = integer(first + 1, columns);
      Floats matrix = normals((size_t)height * columns), x = normals((size_t)rows * height);
      Floats before = normals((size_t)rows * columns), y = before;
      std::vector<Float16> halves;
      for (float& number : matrix) {
        halves.push_back(float16_of(number));
        if (type == NumberType::FLOAT16) number = float32_of(halves.back());
      }
      Thin thin{type == NumberType::FLOAT16 ? (const void*)halves.data() : matrix.data(), type};
      kernels.add_weighted_rows(thin, columns, height, first, last, x.data(), height, rows, y.data(), columns);
      for (int r = 0; r < rows; r++) {
        for (int i = 0; i < columns; i++) {
          size_t at = (size_t)r * columns + i;
          double exact = before[at], size = std::fabs(exact);
          bool inside = i >= first && i < last;
          for (int c = 0; c < height && inside; c++) {
            double term = (double)x[r * height + c] * matrix[c * columns + i];
            exact += term;
            size += std::fabs(term);
          }
          require(std::fabs(y[at] - exact) <= (inside ? (height + 1) * 6e-8 * size : 0),
                  "add_weighted_rows: %d of %d columns, height %d: column %d of token %d is %.9g, not %.9g", last - first,
                  columns, height, i, r, y[at], exact);
          if (!inside) continue;
          float alone = before[at];
          kernels.add_weighted_rows(thin, columns, height, i, i + 1, x.data() + r * height, height, 1, &alone - i, 1);
          require(same_bits(alone, y[at]), "add_weighted_rows: %d columns: column %d of token %d of %d is %.9g in company, "
                  "%.9g alone", columns, i, r, rows, y[at], alone);
        }
      }
    }
  }
}

// ---- the rest; exponentials are within 2 ulp, so 5e-7 of a value is allowed

// A row joins another one, and has its norm.
static void check_norm(const Kernels& kernels, const Floats& added, const Floats& weight) {
  int n = (int)added.size();
  Floats x = normals(n + 1), scale = normals(n), y(n + 1, -77.0f), before = x;
  kernels.add(n % 2 ? scale.data() : nullptr, added.data(), n, x.data());
  double squares = 0;
  for (int i = 0; i < n; i++) {
    float product = n % 2 ? before[i] * scale[i] : before[i];
    require(x[i] == product + added[i], "add: element %d of %d is %.9g, not %.9g", i, n, x[i], product + added[i]);
    squares += (double)x[i] * x[i];
  }
  kernels.rms_norm(x.data(), weight.data(), n, 1e-6f, y.data());
  for (int i = 0; i < n; i++) {
    double exact = x[i] / std::sqrt(squares / n + 1e-6) * weight[i];
    require(std::fabs(y[i] - exact) <= (n + 8) * 6e-8 * std::fabs(exact), "rms_norm: element %d of %d is %.9g, not %.9g", i,
            n, y[i], exact);
  }
  require(x[n] == before[n] && y[n] == -77.0f, "add, rms_norm: %d elements, and one more is written", n);
}

static void check_to_float16(const Kernels& kernels) {
  Floats x = {0, -0.0f, 1, 65504, 65520, 1e9f, -INFINITY, INFINITY, 1e-8f, 6e-8f, 3e-5f, -1e-5f, 0.1f, 2049, 2051, -3};
  for (int n : {72, 64, 24, 16, 8}) {
    x.resize(n);
    for (int i = 16; i < n; i++) x[i] = std::ldexp(normal(), integer(-26, 16));
    std::vector<Float16> y(n + 1, Float16{0x1234});
    kernels.to_float16(x.data(), n, y.data());
    for (int i = 0; i < n; i++) {
      require(y[i].bits == float16_of(x[i]).bits, "to_float16: %.9g becomes %04x, not %04x", x[i], y[i].bits,
              float16_of(x[i]).bits);
    }
    require(y[n].bits == 0x1234, "to_float16: %d elements, and one more is written", n);
  }
}

static void check_elements(const Kernels& kernels) {
  for (int n = 1; n <= 150; n++) {
    Floats gate = normals(n), up = normals(n), y(n + 1, -77.0f);
    for (int i = 0; i < n; i += 7) gate[i] *= 40;
    kernels.gated_silu(gate.data(), up.data(), n, y.data());
    for (int i = 0; i < n; i++) {
      double exact = gate[i] / (1 + std::exp(-(double)gate[i])) * up[i];
      require(std::fabs(y[i] - exact) <= 5e-7 * std::fabs(exact) + 1e-35, "gated_silu: %g, %g gives %.9g, not %.9g",
              gate[i], up[i], y[i], exact);
      float alone;
      kernels.gated_silu(&gate[i], &up[i], 1, &alone);
      require(same_bits(alone, y[i]), "gated_silu: %g is %.9g among %d, %.9g alone", gate[i], y[i], n, alone);
    }
    require(y[n] == -77.0f, "gated_silu: %d elements, and one more is written", n);
    check_norm(kernels, gate, up);
  }
}

// Rows of a cache with random numbers, and what they stand for: numbers, then floats.
struct CachedRows {
  RowLayout layout;
  std::vector<uint8_t> bytes;
  Floats exact;

  CachedRows(RowLayout layout, int length) : layout(layout) {
    for (int j = 0; j < length; j++) {
      Floats floats = normals(layout.floats);
      bytes.insert(bytes.end(), (uint8_t*)floats.data(), (uint8_t*)(floats.data() + layout.floats));
      for (int c = 0; c < layout.numbers; c++) add(normal());
      exact.insert(exact.end(), floats.begin(), floats.end());
    }
  }

  void add(float x) {
    Float16 half = float16_of(x);
    auto code = (int8_t)integer(-128, 127);
    const void* at = layout.type == NumberType::FLOAT32 ? (void*)&x : layout.type == NumberType::FLOAT16 ? (void*)&half : &code;
    bytes.insert(bytes.end(), (uint8_t*)at, (uint8_t*)at + layout.number_bytes());
    exact.push_back(layout.type == NumberType::FLOAT32 ? x : layout.type == NumberType::FLOAT16 ? float32_of(half) : code);
  }
};

struct Queries {
  int width, length;
  Floats numbers, scores, sums;
  std::vector<Attended> results;
  std::vector<Query> queries;

  Queries(const RowLayout& layout, int count, int length, float size)
      : width(layout.numbers + layout.floats),
        length(length),
        numbers(normals((size_t)count * width)),
        scores((size_t)count * (length + 1), -77.0f),
        sums((size_t)count * (layout.numbers + 1), -77.0f),
        results(count) {
    for (float& q : numbers) q *= size;
    for (int i = 0; i < count; i++) {
      results[i] = {NAN, NAN, &sums[(size_t)i * (layout.numbers + 1)]};
      queries.push_back({&numbers[(size_t)i * width], &scores[(size_t)i * (length + 1)], &results[i], length});
    }
  }
};

static void check_attended(const CachedRows& keys, const CachedRows& values, int length, float scale, const Query& query) {
  int numbers = keys.layout.numbers, width = numbers + keys.layout.floats;
  const Attended& y = *query.result;
  Doubles exact(length), expected(numbers);
  double total = 0, size = 0;
  for (int j = 0; j < length; j++) {
    for (int c = 0; c < width; c++) exact[j] += (double)query.numbers[c] * keys.exact[(size_t)j * width + c];
  }
  double largest = *std::max_element(exact.begin(), exact.end());
  // a score's rounding moves its weight by as much, in a share of the weight
  double allowed = 1e-6 + width * 6e-8 * (std::fabs(largest * scale) + 4);
  require(std::fabs(y.largest - largest) * scale <= allowed, "attend: length %d, %d numbers: the largest score is %.9g, not %.9g",
          length, numbers, y.largest, largest);
  for (int j = 0; j < length; j++) {
    double weight = std::exp2((exact[j] - y.largest) * scale);
    total += weight;
    for (int c = 0; c < numbers; c++) expected[c] += weight * values.exact[(size_t)j * width + c];
    for (int c = 0; c < numbers; c++) size = std::max(size, std::fabs((double)values.exact[(size_t)j * width + c]));
  }
  require(std::fabs(y.total - total) <= 2 * allowed * total, "attend: length %d, %d numbers: the total is %.9g, not %.9g",
          length, numbers, y.total, total);
  for (int c = 0; c < numbers; c++) {
    require(std::fabs(y.sums[c] - expected[c]) <= 2 * allowed * total * size,
            "attend: length %d, %d numbers: sum %d is %.9g, not %.9g", length, numbers, c, y.sums[c], expected[c]);
  }
  require(query.scores[length] == -77.0f && y.sums[numbers] == -77.0f, "attend: length %d, %d numbers: writes too much",
          length, numbers);
}

static void check_attention(const Kernels& kernels, const RowLayout& layout, int length) {
  float scale = 1 / std::sqrt((float)layout.numbers) / (layout.type == NumberType::INT8 ? 64 : 1);
  CachedRows keys(layout, length), values(layout, length);
  Asking asking = integer(0, 1) == 1 ? Asking::FIRST : Asking::SECOND;
  Slots slots{layout, keys.bytes.data(), values.bytes.data(), length, integer(0, 1) == 1, asking};
  int count = integer(1, 9);
  Queries together(layout, count, length, 4);  // weights far from each other
  kernels.attend(together.queries.data(), count, slots, scale);
  for (int i = 0; i < count; i++) {
    check_attended(keys, values, length, scale, together.queries[i]);
    Queries alone(layout, 1, length, 1);
    alone.queries[0].numbers = together.queries[i].numbers;
    kernels.attend(alone.queries.data(), 1, slots, scale);
    const Attended &a = alone.results[0], &b = together.results[i];
    require(same_bits(a.largest, b.largest) && same_bits(a.total, b.total) &&
                std::memcmp(a.sums, b.sums, layout.numbers * sizeof(float)) == 0,
            "attend: length %d, %d numbers: query %d of %d differs from itself alone", length, layout.numbers, i, count);
  }
}

// Keys and values of slots in float32.
struct Unpacked {
  size_t stride;
  Floats keys, values;

  Unpacked(const Kernels& kernels, const Slots& slots)
      : stride(padded(slots.layout.numbers) + slots.layout.floats), keys(slots.length * stride), values(keys.size()) {
    kernels.unpack(slots.keys, slots, keys.data());
    kernels.unpack(slots.values, slots, values.data());
  }

  SeenRow row(int slot, int first, int last) const {
    return {&keys[slot * stride], &values[slot * stride], slot, first, last};
  }
};

// The queries of a group side by side.
static Floats columns_of(const Queries& queries) {
  Floats columns;
  for (int c = 0; c < queries.width; c++) {
    for (const Query& query : queries.queries) columns.push_back(query.numbers[c]);
  }
  return columns;
}

// A key for the queries from `from` on, another one for those before.
static void choose_rows(const std::vector<uint8_t>& newer, size_t bytes, const std::vector<int>& from, int query,
                        std::vector<uint8_t>& rows) {
  for (size_t j = 0; j < from.size(); j++) {
    if (query >= from[j]) std::copy_n(newer.begin() + j * bytes, bytes, rows.begin() + j * bytes);
  }
}

// Queries that see different numbers of slots, some of which get new keys between two queries.
static void check_group(const Kernels& kernels, const RowLayout& layout, int length) {
  if (kernels.group == 0) return;
  const int group = kernels.group;
  float scale = 1 / std::sqrt((float)layout.numbers) / (layout.type == NumberType::INT8 ? 64 : 1);
  CachedRows keys(layout, length), values(layout, length), newer_keys(layout, length), newer_values(layout, length);
  bool are_near = integer(0, 1) == 1, all_see_all = integer(0, 1) == 1, any_replaced = integer(0, 1) == 1;
  Unpacked older(kernels, {layout, keys.bytes.data(), values.bytes.data(), length, are_near}),
      newer(kernels, {layout, newer_keys.bytes.data(), newer_values.bytes.data(), length, are_near});
  Queries apart(layout, group, length, 4), together = apart;
  std::vector<int> from(length, group), lengths(group, length);
  for (int& each : from) each = any_replaced && integer(0, 5) == 0 ? integer(1, group - 1) : group;
  for (int& each : lengths) each = all_see_all ? length : integer(1, length);
  std::sort(lengths.begin(), lengths.end());
  for (int i = 0; i < group; i++) {
    choose_rows(newer_keys.bytes, layout.bytes(), from, i, keys.bytes);
    choose_rows(newer_values.bytes, layout.bytes(), from, i, values.bytes);
    kernels.attend(&apart.queries[i], 1, {layout, keys.bytes.data(), values.bytes.data(), lengths[i], are_near}, scale);
    together.results[i].sums = &together.sums[(size_t)i * (layout.numbers + 1)];
    together.queries[i].result = &together.results[i];
  }
  std::vector<SeenRow> rows;
  for (int j = 0; j < length; j++) {
    int first = (int)(std::upper_bound(lengths.begin(), lengths.end(), j) - lengths.begin());
    rows.push_back(older.row(j, first, from[j]));
    if (from[j] < group) rows.push_back(newer.row(j, std::max(first, from[j]), group));
  }
  Floats columns = columns_of(apart), scores(rows.size() * group);
  kernels.attend_group(together.queries.data(), columns.data(),
                       {rows.data(), (int)rows.size(), layout.numbers, layout.floats, scores.data()}, scale);
  for (int i = 0; i < group; i++) {
    const Attended &a = apart.results[i], &b = together.results[i];
    require(same_bits(a.largest, b.largest) && same_bits(a.total, b.total) &&
                std::memcmp(a.sums, b.sums, (layout.numbers + 1) * sizeof(float)) == 0,
            "attend_group: %d of %d slots, %d numbers: query %d differs from itself alone", lengths[i], length,
            layout.numbers, i);
  }
}

// A copy of the last key behind itself: equal weights, wherever both lie.
static void check_equal_keys(const Kernels& kernels, const RowLayout& layout, int length) {
  CachedRows key(layout, 1);
  std::vector<uint8_t> keys;
  for (int j = 0; j < length; j++) keys.insert(keys.end(), key.bytes.begin(), key.bytes.end());
  Queries one(layout, 1, length, 1);
  kernels.attend(one.queries.data(), 1, {layout, keys.data(), keys.data(), length, true}, 0.3f);
  require(one.results[0].total == (float)length, "attend: %d equal keys of %d numbers have a total of %.9g", length,
          layout.numbers, one.results[0].total);
}

static void check_attentions(const Kernels& kernels) {
  for (NumberType type : {NumberType::FLOAT32, NumberType::FLOAT16, NumberType::INT8}) {
    for (int numbers = 8; numbers <= 136; numbers += 8) {
      for (int length : {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 64, 100, 255, 300}) {
        RowLayout layout{type, type == NumberType::FLOAT32 ? 0 : integer(0, 5), numbers};
        check_attention(kernels, layout, length);
        check_group(kernels, layout, length);
        check_equal_keys(kernels, layout, length);
      }
    }
  }
}

// Every float16 becomes itself again, and a number between two of them the nearest, of two the even one.
static void check_float16() {
  for (int bits = 0; bits < 0x7C00; bits++) {
    Float16 low{(uint16_t)bits}, high{(uint16_t)(bits + 1)};
    float x = float32_of(low), next = float32_of(high), middle = (x + next) / 2;
    require(float16_of(x).bits == bits && float16_of(-x).bits == (bits | 0x8000), "float16: %04x becomes another", bits);
    if (bits == 0x7BFF) break;
    const Float16& even = bits % 2 == 0 ? low : high;
    require(float16_of(middle).bits == even.bits, "float16: %.9g becomes %04x", middle, float16_of(middle).bits);
    require(float16_of(std::nextafter(middle, x)).bits == low.bits, "float16: below %.9g", middle);
    require(float16_of(std::nextafter(middle, next)).bits == high.bits, "float16: above %.9g", middle);
  }
  require(float16_of(1e6f).bits == 0x7BFF && float16_of(-INFINITY).bits == 0xFBFF, "float16: large numbers");
  require(std::isnan(float32_of(float16_of(NAN))) && std::isinf(float32_of({0x7C00})), "float16: no numbers");
}

static void check(const Kernels& kernels) {
  for (int bits : {4, 8}) {
    check_quantize(kernels, bits);
    check_no_numbers(kernels, bits, false);
    check_tiny_numbers(kernels, bits);
    if (kernels.tokens_in_order > 0) check_no_numbers(kernels, bits, true);
  }
  for (int bits : {4, 8}) {
    for (int block_size : {16, 32, 64}) {
      for (bool with_zeros : {false, true}) {
        check_whole_numbers(kernels, bits, block_size, with_zeros);
        check_block_products(kernels, bits, block_size, with_zeros);
        check_block_rows(kernels, bits, block_size, with_zeros);
      }
      check_ranges(kernels, bits, block_size, false);
      if (kernels.tokens_in_order > 0) check_ranges(kernels, bits, block_size, true);
    }
  }
  check_float_products(kernels);
  for (NumberType type : {NumberType::FLOAT32, NumberType::FLOAT16}) check_weighted_rows(kernels, type);
  check_elements(kernels);
  check_to_float16(kernels);
  check_attentions(kernels);
}

// ---- speed

// Microseconds of processor time in the fastest of 40 rounds, which neighbours on the machine disturb least.
template <class Work>
static double microseconds(Work work) {
  double fastest = INFINITY;
  for (int round = 0; round < 40; round++) {
    std::clock_t start = std::clock(), passed = 0;
    int times = 0;
    for (; passed < CLOCKS_PER_SEC / 1000; times++) {
      work();
      passed = std::clock() - start;
    }
    fastest = std::min(fastest, 1e6 * passed / CLOCKS_PER_SEC / times);
  }
  return fastest;
}

// How fast one thread reads memory from its first byte to its last: the most that a step of such a size can get, but for
// the order in which it asks.
static void print_memory() {
  for (int mebibytes : {1, 14, 60, 140}) {
    std::vector<uint64_t> numbers((size_t)mebibytes << 17, 1);
    volatile uint64_t total = 0;
    double time = microseconds([&] { total = std::accumulate(numbers.begin(), numbers.end(), (uint64_t)0); });
    std::printf("memory    %d MiB: %.0f us (%.1f GB/s)\n", mebibytes, time, 8e-3 * numbers.size() / time);
  }
}

static void print_speed(const Kernels& kernels) {
  const int height = 3072, width = 576;
  for (int bits : {8, 4}) {
    for (int block_size : {64, 32}) {
      for (bool with_zeros : {false, true}) {
        Matrix matrix(height, width, bits, block_size, with_zeros, true);
        std::printf("%-9s [%d, %d], %d bits, blocks of %d%s:", kernels.name, height, width, bits, block_size,
                    with_zeros ? ", zero points" : "");
        for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 36, 240}) {
          bool in_order = kernels.tokens_in_order > 0 && rows >= kernels.tokens_in_order;
          Tokens tokens(kernels, normals((size_t)rows * width), rows, width, bits, block_size, in_order);
          Floats y((size_t)rows * height);
          double time = microseconds([&] {
            kernels.block_products(matrix.view, 0, height, tokens.view, rows, y.data(), height);
          });
          std::printf(" %d tokens %.1f us (%.1f G/s)", rows, time, 1e-3 * rows * height * width / time);
        }
        std::printf("\n");
      }
    }
  }
  const int tall = 131072, wide = 1024;  // larger than any cache: how fast memory is read
  Matrix large(tall, wide, 8, 64, false, true);
  Tokens one(kernels, normals(wide), 1, wide, 8, 64);
  Floats large_y(tall);
  const char* caches[] = {"the first cache", "both caches", "the second cache"};
  for (Asking asking : {Asking::FIRST, Asking::BOTH, Asking::SECOND}) {
    large.view.asking = asking;
    double time = microseconds([&] { kernels.block_products(large.view, 0, tall, one.view, 1, large_y.data(), tall); });
    std::printf("%-9s [%d, %d], 8 bits, blocks of 64, asked for into %s: 1 token %.0f us (%.1f G/s)\n", kernels.name, tall,
                wide, caches[(int)asking], time, 1e-3 * tall * wide / time);
  }
  Floats matrix = normals(height * width), x = normals(6 * width), y(6 * height), scores(1000);
  for (int rows : {1, 6}) {
    double time = microseconds([&] {
      kernels.float_products(matrix.data(), width, 0, height, x.data(), width, rows, y.data(), height,
                             Asking::FIRST);
    });
    std::printf("%-9s [%d, %d], float32: %d tokens %.1f us\n", kernels.name, height, width, rows, time);
  }
  for (NumberType type : {NumberType::FLOAT32, NumberType::FLOAT16, NumberType::INT8}) {
    for (int count : {1, 2, 4}) {
      RowLayout layout{type, type == NumberType::FLOAT32 ? 0 : 2, 64};
      CachedRows keys(layout, 128), values(layout, 128);
      Queries queries(layout, count, 128, 1);
      double time = microseconds([&] {
        kernels.attend(queries.queries.data(), count, {layout, keys.bytes.data(), values.bytes.data(), 128, true}, 0.1f);
      });
      std::printf("%-9s attention of %d over 128 keys of type %d: %.2f us\n", kernels.name, count, (int)type, time);
    }
  }
  for (int numbers : {64, 128}) {
    if (kernels.group == 0) break;
    RowLayout layout{NumberType::FLOAT16, 0, numbers};
    CachedRows keys(layout, 128), values(layout, 128);
    Slots slots{layout, keys.bytes.data(), values.bytes.data(), 128, true};
    Queries queries(layout, kernels.group, 128, 1);
    Unpacked unpacked(kernels, slots);
    std::vector<SeenRow> rows;
    for (int j = 0; j < slots.length; j++) rows.push_back(unpacked.row(j, 0, kernels.group));
    Floats columns = columns_of(queries), group_scores(rows.size() * kernels.group);
    SeenRows seen{rows.data(), slots.length, numbers, 0, group_scores.data()};
    double unpacking = microseconds([&] { kernels.unpack(slots.keys, slots, unpacked.keys.data()); });
    double apart = microseconds([&] { kernels.attend(queries.queries.data(), kernels.group, slots, 0.1f); });
    double time = microseconds([&] { kernels.attend_group(queries.queries.data(), columns.data(), seen, 0.1f); });
    double products = 2e-3 * kernels.group * 128 * numbers;
    std::printf("%-9s attention of %d over 128 keys of %d numbers: %.1f us (%.1f G/s), as a group %.1f (%.1f), unpacking %.1f\n",
                kernels.name, kernels.group, numbers, apart, products / apart, time, products / time, 2 * unpacking);
  }
  std::vector<int16_t> codes(width);
  std::vector<int32_t> sums(width);
  std::printf("%-9s quantize %d: %.2f us\n", kernels.name, width,
              microseconds([&] { kernels.quantize(x.data(), width, 8, 64, false, codes.data(), scores.data(), sums.data()); }));
  std::printf("%-9s gated_silu %d: %.2f us\n", kernels.name, height,
              microseconds([&] { kernels.gated_silu(matrix.data(), matrix.data() + height, height, y.data()); }));
}

int main(int count, char** arguments) {
  std::string what = count > 1 ? arguments[1] : "";
#ifdef TABLE
  std::vector<const Kernels*> tables = {&TABLE};
#else
  std::vector<const Kernels*> tables = runnable_kernels();
  if (what == "--chosen") tables = {chosen_kernels()};
  if (tables.front() == nullptr) return 0;
#endif
  if (what.empty()) check_float16();
  if (what == "--speed") print_memory();
  for (const Kernels* kernels : tables) {
    if (what == "--speed") {
      print_speed(*kernels);
    } else {
      if (what.empty()) check(*kernels);
      std::printf("%s\n", kernels->name);
    }
  }
  return 0;
}
