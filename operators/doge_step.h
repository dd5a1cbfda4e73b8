// The operator DogeStep; docs/operators.md describes its inputs, outputs and attributes.
#pragma once

#include "onnxruntime_abi.h"

namespace doge::ort {

const Operator* doge_step();

}  // namespace doge::ort
