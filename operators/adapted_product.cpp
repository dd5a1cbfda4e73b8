#include "adapted_product.h"

namespace doge {
namespace {

// A sum over x is made in pieces that are then added in order. So it is the same on any number of threads.
constexpr int PIECE = 128;    // numbers of x
constexpr int COLUMNS = 256;  // of a thin matrix that a thread takes at once

int pieces_of(int count, int size) { return (count + size - 1) / size; }

// x down: [rows][columns of down]
Rows thin_rows(const Update& update, const Rows& x, const Products& products) {
  int columns = update.count * update.rank, pieces = pieces_of(x.width, PIECE);
  Rows parts(products.memory, pieces * x.rows(), columns), thin(products.memory, x.rows(), columns);
  products.team.parallel(pieces, [&](int piece) {
    int first = piece * PIECE, height = std::min(PIECE, x.width - first);
    float* y = parts.row(piece * x.rows());
    std::fill_n(y, (size_t)x.rows() * columns, 0.0f);
    products.kernels.add_weighted_rows(update.down + (size_t)first * columns, columns, height, 0, columns,
                                       x.row(0) + first, x.width, x.rows(), y, columns);
  });
  products.each_row(x.rows(), [&](int r) {
    std::copy_n(parts.row(r), columns, thin.row(r));
    for (int piece = 1; piece < pieces; piece++) {
      const float* part = parts.row(piece * x.rows() + r);
      for (int i = 0; i < columns; i++) thin.row(r)[i] += part[i];
    }
  });
  return thin;
}

struct Task {
  int part, first, last, offset;  // columns of a part, which begins at a row of the matrix
};

std::vector<Task> tasks_of(const Update& update) {
  std::vector<Task> tasks;
  int offset = 0;
  for (int part = 0; part < update.count; part++) {
    int rows = update.parts[part].rows;
    for (int first = 0; first < rows; first += COLUMNS) {
      tasks.push_back({part, first, std::min(first + COLUMNS, rows), offset});
    }
    offset += rows;
  }
  return tasks;
}

}  // namespace

Rows adapted_product(const Matrix& matrix, const Update& update, const Rows& x, const Products& products) {
  Rows y = products.product(matrix, x);
  if (update.rank == 0) return y;
  Rows thin = thin_rows(update, x, products);
  std::vector<Task> tasks = tasks_of(update);
  products.team.parallel((int)tasks.size(), [&](int i) {
    const Task& task = tasks[i];
    const UpdatePart& part = update.parts[task.part];
    products.kernels.add_weighted_rows(part.up, part.rows, update.rank, task.first, task.last,
                                       thin.row(0) + task.part * update.rank, thin.width, y.rows(),
                                       y.row(0) + task.offset, y.width);
  });
  return y;
}

}  // namespace doge
