#include "kernels.h"

#include <cstdlib>
#include <cstring>

namespace doge {

const Kernels& chosen_kernels() {
  static const Kernels& chosen = []() -> const Kernels& {
    const char* name = std::getenv("DOGE_EXPORT_KERNELS");
    if (name != nullptr && std::strcmp(name, plain_kernels.name) == 0) return plain_kernels;
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2_kernels;
#endif
    return plain_kernels;
  }();
  return chosen;
}

}  // namespace doge
