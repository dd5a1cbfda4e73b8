// The inputs of an adapter, which stand behind the constants of a graph that has places for one; docs/operators.md.
#pragma once

#include "decoder.h"
#include "inputs.h"

namespace doge::ort {

// Inputs of a graph with places.
int64_t adapter_inputs(int64_t num_layers, int64_t num_mask_heads);

// The adapter of a run; `inputs` is at the first of its inputs, and then behind the last.
Adapter read_adapter(const Decoder& decoder, Inputs& inputs);

}  // namespace doge::ort
