// Arrays of float32 rows, and the products that fill them.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "decoder.h"
#include "team.h"

namespace doge {

// Memory for the numbers of a run. It is given back and taken again, for the system takes time to hand out new memory.
class Memory {
 public:
  // At least so many numbers, any at all.
  std::vector<float> take(size_t count);
  void give_back(std::vector<float> numbers) noexcept {  // `take` has made room for it
    lent_--;
    free_.push_back(std::move(numbers));
  }

 private:
  std::vector<std::vector<float>> free_;
  size_t lent_ = 0;
};

// float32 [rows][width], any numbers at first
class Rows {
 public:
  Rows(Memory& memory, int rows, int width)
      : width(width), memory_(&memory), rows_(rows), numbers_(memory.take((size_t)rows * width)) {}
  Rows(Rows&& other) noexcept
      : width(other.width), memory_(other.memory_), rows_(other.rows_), numbers_(std::move(other.numbers_)) {
    other.memory_ = nullptr;
  }
  Rows& operator=(Rows&&) = delete;
  ~Rows() {
    if (memory_ != nullptr) memory_->give_back(std::move(numbers_));
  }

  float* row(int r) { return numbers_.data() + (size_t)r * width; }
  const float* row(int r) const { return numbers_.data() + (size_t)r * width; }
  int rows() const { return rows_; }

  int width;

 private:
  Memory* memory_;
  int rows_;
  std::vector<float> numbers_;
};

// Called by the thread that has filled the columns [first, last) of a product, for every row; it may add to them.
using RowsFilled = std::function<void(int first, int last)>;

// Tasks f(0) ... f(count - 1) that share a product's phase. They come first, for they take longest.
struct Beside {
  int count = 0;
  std::function<void(int)> f = {};
};

// Products on all threads of a team.
class Products {
 public:
  Products(const Kernels& kernels, Team& team, Memory& memory, Asking asking = Asking::FIRST)
      : kernels(kernels), team(team), memory(memory), asking(asking) {}

  // y = matrix x + bias for every row of x; y [rows][matrix rows]
  void product(const Matrix& matrix, const Rows& x, float* y, const RowsFilled& then = {},
               const Beside& beside = {}) const;
  Rows product(const Matrix& matrix, const Rows& x, const Beside& beside = {}) const;

  // f(r) for every row, on all threads where there are several rows
  void each_row(int rows, const std::function<void(int)>& f) const {
    team.parallel(rows, f);
  }

  const Kernels& kernels;
  Team& team;
  Memory& memory;
  Asking asking;  // for weights
};

// Activations made of floats, for products with matrices of the same bits and blocks.
class Quantized {
 public:
  // in_order: see Kernels
  Quantized(const Rows& x, const BlockRows& matrix, bool in_order, const Products& products);

  // Of row r alone.
  Activations row(int r) const {
    size_t block = (size_t)r * view.blocks;
    return {view.codes + r * view.stride, view.scales + block, view.sums + block, view.stride, view.blocks, view.in_order};
  }

  // Whether products with such a matrix read it, of the same row length.
  bool fits(const BlockRows& matrix, bool in_order) const {
    return matrix.bits == bits_ && matrix.block_size == block_size_ && in_order == view.in_order;
  }

  Activations view;

 private:
  int bits_, block_size_;
  std::vector<int16_t> codes_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
};

// y [width] += sum over k of factors[k] * row rows[k] of a table, which has one part.
void add_table_rows(const Kernels& kernels, const Matrix& table, const int* rows, const float* factors, int count,
                    float* y);

}  // namespace doge
