#include "workspace.h"

#include <optional>

namespace doge {
namespace {

// Bytes of a matrix that a thread takes at once: at its end it has asked for some more in vain, so not too few.
constexpr size_t LEAST_BYTES = 16384, MOST_BYTES = 131072;
constexpr int TASKS = 16;       // of a matrix between the two
constexpr int LEAST_ROWS = 16;  // of a task; a cache line of results

int rows_of_task(size_t row_bytes, int rows) {
  size_t bytes = std::min(std::max(rows * row_bytes / TASKS, LEAST_BYTES), MOST_BYTES);
  return std::max((int)(bytes / row_bytes) / LEAST_ROWS * LEAST_ROWS, LEAST_ROWS);
}

}  // namespace

std::vector<float> Memory::take(size_t count) {
  auto best = free_.end();  // the smallest that is large enough, else the largest
  for (auto each = free_.begin(); each != free_.end(); ++each) {
    bool fits = each->size() >= count, best_fits = best != free_.end() && best->size() >= count;
    bool smaller = best == free_.end() || each->size() < best->size();
    if (best == free_.end() || (fits && (!best_fits || smaller)) || (!fits && !best_fits && !smaller)) best = each;
  }
  std::vector<float> taken;
  if (best != free_.end()) {
    taken = std::move(*best);
    free_.erase(best);
  }
  if (taken.size() < count) {
    taken = {};  // what it holds need not be kept
    taken.resize(count);
  }
  free_.reserve(free_.size() + lent_ + 1);
  lent_++;
  return taken;
}

Quantized::Quantized(const Rows& x, const BlockRows& matrix, bool in_order, const Products& products)
    : bits_(matrix.bits), block_size_(matrix.block_size) {
  int rows = x.rows(), block_size = matrix.block_size;
  view.blocks = (x.width + block_size - 1) / block_size;
  view.stride = (size_t)view.blocks * block_size;
  view.in_order = in_order;
  codes_.resize(rows * view.stride);
  scales_.resize((size_t)rows * view.blocks);
  sums_.resize((size_t)rows * view.blocks);
  products.each_row(rows, [&](int r) {
    size_t block = (size_t)r * view.blocks;
    products.kernels.quantize(x.row(r), x.width, matrix.bits, block_size, in_order, &codes_[r * view.stride],
                              &scales_[block], &sums_[block]);
  });
  view.codes = codes_.data();
  view.scales = scales_.data();
  view.sums = sums_.data();
}

void Products::product(const Matrix& matrix, const Rows& x, float* y, const RowsFilled& then,
                       const Beside& beside) const {
  int rows = x.rows(), others = beside.count;  // of the phase; later parts have none
  size_t y_stride = matrix.rows();
  int filled = 0;  // rows of the parts before
  std::optional<Quantized> quantized;  // parts of the same bits and blocks share it
  for (const Part& part : matrix.parts) {
    bool is_float = part.weights != nullptr;
    size_t row_bytes = is_float ? (size_t)matrix.width * sizeof(float) : part.blocks.row_bytes();
    int size = rows_of_task(row_bytes, part.rows);
    int tasks = std::max((part.rows + size - LEAST_ROWS) / size, 1);  // the last one takes a few rows that are left too
    auto last_of = [&](int task) { return task + 1 < tasks ? (task + 1) * size : part.rows; };
    bool in_order = kernels.tokens_in_order > 0 && rows >= kernels.tokens_in_order && part.rows >= LEAST_ROWS;
    if (!is_float && (!quantized || !quantized->fits(part.blocks, in_order))) {
      quantized.emplace(x, part.blocks, in_order, *this);
    }
    BlockRows blocks = part.blocks;
    blocks.asking = asking;
    team.parallel(others + tasks, [&](int item) {
      if (item < others) return beside.f(item);
      int first = (item - others) * size, last = last_of(item - others);
      if (is_float) {
        kernels.float_products(part.weights, matrix.width, first, last, x.row(0), x.width, rows, y + filled, y_stride,
                               asking);
      } else {
        kernels.block_products(blocks, first, last, quantized->view, rows, y + filled, y_stride);
      }
      if (then) then(filled + first, filled + last);
    });
    others = 0;
    filled += part.rows;
  }
  if (matrix.bias == nullptr) return;
  for (int r = 0; r < rows; r++) {
    for (size_t i = 0; i < y_stride; i++) y[r * y_stride + i] += matrix.bias[i];
  }
}

Rows Products::product(const Matrix& matrix, const Rows& x, const Beside& beside) const {
  Rows y(memory, x.rows(), matrix.rows());
  product(matrix, x, y.row(0), {}, beside);
  return y;
}

void add_table_rows(const Kernels& kernels, const Matrix& table, const int* rows, const float* factors, int count,
                    float* y) {
  const Part& part = table.parts.front();
  if (part.weights == nullptr) return kernels.add_block_rows(part.blocks, rows, factors, count, table.width, y);
  for (int k = 0; k < count; k++) {
    const float* row = part.weights + (size_t)rows[k] * table.width;
    for (int i = 0; i < table.width; i++) y[i] += factors[k] * row[i];
  }
}

}  // namespace doge
