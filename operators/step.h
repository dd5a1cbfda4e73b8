// A decoding step of a whole Doge decoder: tokens in, logits out, keys and values written where they stay.
#pragma once

#include "workspace.h"

namespace doge {

// Logits float32 [streams][num_kept][rows of the output matrix].
void step(const Decoder& decoder, const Tokens& tokens, const Products& products, float* logits);

}  // namespace doge
