// The inputs of a run, one after the other, each checked for its type and shape.
#pragma once

#include <string>
#include <vector>

#include "onnxruntime_abi.h"

namespace doge::ort {

using Shape = std::vector<int64_t>;

Error refused(const std::string& reason);

// Throws what `refused` makes of the rule where it does not hold.
void check(bool holds, const char* rule);

class Inputs {
 public:
  Inputs(const Api& api, const Context* context) : api_(api), context_(context), count_(api.input_count(context)) {}

  // -1 in `shape` takes any size; `found` gets the sizes.
  void* next(const char* name, Type type, const Shape& shape, Shape* found = nullptr);

  const float* floats(const char* name, const Shape& shape, Shape* found = nullptr) {
    return (const float*)next(name, FLOAT, shape, found);
  }

  // Of the input that is read next; any where there is none.
  int next_type() const;

  // Throws where other than `behind` inputs follow.
  void end(size_t behind) const;

  // So many inputs before the end.
  void move_to_last(size_t behind) { index_ = count_ - behind; }

 private:
  const Api& api_;
  const Context* context_;
  size_t count_, index_ = 0;
};

}  // namespace doge::ort
