#include "adapted_product.h"

namespace doge {
namespace {

// A sum over x is made in pieces that are then added in order. So it is the same on any number of threads.
constexpr int PIECE = 128;  // numbers of x

int pieces_of(int count, int size) { return (count + size - 1) / size; }

// x down: [rows][columns of down]
Rows thin_rows(const Update& update, const Rows& x, const Products& products) {
  int columns = update.count * update.rank, pieces = pieces_of(x.width, PIECE);
  Rows parts(products.memory, pieces * x.rows(), columns), thin(products.memory, x.rows(), columns);
  products.team.parallel(pieces, [&](int piece) {
    int first = piece * PIECE, height = std::min(PIECE, x.width - first);
    float* y = parts.row(piece * x.rows());
    std::fill_n(y, (size_t)x.rows() * columns, 0.0f);
    products.kernels.add_weighted_rows(update.down.from((size_t)first * columns), columns, height, 0, columns,
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

// y += thin up, in the columns [first, last) of y.
void add_update(const Update& update, const Rows& thin, int first, int last, Rows& y, const Products& products) {
  int offset = 0;
  for (int i = 0; i < update.count; i++) {
    const UpdatePart& part = update.parts[i];
    int from = std::max(first - offset, 0), to = std::min(last - offset, part.rows);
    if (from < to) {
      products.kernels.add_weighted_rows(part.up, part.rows, update.rank, from, to, thin.row(0) + i * update.rank,
                                         thin.width, y.rows(), y.row(0) + offset, y.width);
    }
    offset += part.rows;
  }
}

}  // namespace

Rows adapted_product(const Matrix& matrix, const Update& update, const Rows& x, const Products& products,
                     const Beside& beside) {
  if (update.rank == 0) return products.product(matrix, x, beside);
  Rows thin = thin_rows(update, x, products), y(products.memory, x.rows(), matrix.rows());
  products.product(
      matrix, x, y.row(0), [&](int first, int last) { add_update(update, thin, first, last, y, products); }, beside);
  return y;
}

}  // namespace doge
