// Runs of kernels on the threads of a session, and their outputs.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "onnxruntime_abi.h"
#include "workspace.h"

namespace doge::ort {

class Runs {
 public:
  // work, with products on all threads of the session, in memory that earlier runs gave back.
  void run(const Api& api, const Context* context, const std::function<void(const Products&)>& work);

 private:
  std::unique_ptr<Memory> idle_memory();

  std::mutex lending_;
  std::vector<std::unique_ptr<Memory>> idle_;
};

// The output of this index, which begins as the input; nothing is copied where both are the same memory. count: of
// Numbers in an element.
template <class Number>
Number* written_in_place(const Api& api, Context* context, size_t index, Number* input,
                         const std::vector<int64_t>& shape, size_t count = 1) {
  auto output = (Number*)api.data(api.output(context, index, shape));
  for (int64_t size : shape) count *= size;
  if (output != input && count > 0) std::copy_n(input, count, output);
  return output;
}

}  // namespace doge::ort
