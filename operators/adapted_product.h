// The product of a decoder's matrix, with the update of an adapter.
#pragma once

#include "adapter.h"
#include "workspace.h"

namespace doge {

// matrix x + bias + (x down) up for every row of x; [rows][matrix rows]
Rows adapted_product(const Matrix& matrix, const Update& update, const Rows& x, const Products& products,
                     const Beside& beside = {});

}  // namespace doge
