// The operator DynamicMaskAttention; docs/operators.md describes its inputs, outputs and attributes.
#pragma once

#include "onnxruntime_abi.h"

namespace doge::ort {

const Operator* dynamic_mask_attention();

}  // namespace doge::ort
