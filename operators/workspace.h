// Arrays of float32 rows, and the products that fill them.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "decoder.h"
#include "team.h"

namespace doge {

// float32 [rows][width]
class Rows {
 public:
  Rows(int rows, int width) : width(width), numbers_((size_t)rows * width) {}

  float* row(int r) { return numbers_.data() + (size_t)r * width; }
  const float* row(int r) const { return numbers_.data() + (size_t)r * width; }
  int rows() const { return (int)(numbers_.size() / width); }

  int width;

 private:
  std::vector<float> numbers_;
};

// Products on all threads of a team.
class Products {
 public:
  Products(const Kernels& kernels, Team& team) : kernels(kernels), team(team) {}

  // y = matrix x + bias for every row of x; y [rows][matrix rows]
  void product(const Matrix& matrix, const Rows& x, float* y) const;
  Rows product(const Matrix& matrix, const Rows& x) const;

  // f(r) for every row, on all threads where there are several rows
  void each_row(int rows, const std::function<void(int)>& f) const {
    team.parallel(rows, f);
  }

  const Kernels& kernels;
  Team& team;
};

// Activations in blocks of one size, made of floats.
class Quantized {
 public:
  Quantized(const Rows& x, int block_size, const Products& products);

  // Of row r alone.
  Activations row(int r) const {
    size_t block = (size_t)r * view.blocks;
    return {view.codes + r * view.stride, view.scales + block, view.sums + block, view.stride, view.blocks};
  }

  Activations view;

 private:
  std::vector<int16_t> codes_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
};

// y += factor * row `index` of a table that has one part.
void add_table_row(const Matrix& table, int64_t index, float factor, float* y);

}  // namespace doge
