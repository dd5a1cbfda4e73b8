// The order of threads that onnxruntime keeps, told to the sanitizer of threads. It sees no order of code that is
// compiled without it: what one thread made before another came would be a race. Without the sanitizer this is empty.
#pragma once

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace doge {

// What onnxruntime hands out as an output's memory, the run that had it before has given back.
inline char output_memory;

// All that a thread did before this call is over where another one has called `come_after` with the address.
inline void come_before([[maybe_unused]] void* address) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(address);
#endif
}

inline void come_after([[maybe_unused]] void* address) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(address);
#endif
}

}  // namespace doge
