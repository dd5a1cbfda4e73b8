#include "kernels.h"

#include <cstdlib>
#include <cstring>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

namespace doge {
namespace {

#if defined(__x86_64__)
bool has_avx_vnni() {  // compilers before GCC 12 know no name of it
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

std::vector<const Kernels*> fast_kernels() {
  std::vector<const Kernels*> tables;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return tables;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
    tables.push_back(&avx512_kernels);
  }
  if (has_avx_vnni()) tables.push_back(&avx_vnni_kernels);
  tables.push_back(&avx2_kernels);
  return tables;
}
#elif defined(__aarch64__)
bool has_dot_product() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__)
  return true;  // since the M1
#else
  return false;
#endif
}

std::vector<const Kernels*> fast_kernels() {
  if (has_dot_product()) return {&neon_dot_kernels, &neon_kernels};
  return {&neon_kernels};
}
#else
std::vector<const Kernels*> fast_kernels() { return {}; }
#endif

const Kernels& named_or_best() {
  std::vector<const Kernels*> tables = runnable_kernels();
  const char* name = std::getenv("DOGE_EXPORT_KERNELS");
  for (const Kernels* table : tables) {
    if (name != nullptr && std::strcmp(name, table->name) == 0) return *table;
  }
  return *tables.front();
}

}  // namespace

std::vector<const Kernels*> runnable_kernels() {
  std::vector<const Kernels*> tables = fast_kernels();
  tables.push_back(&plain_kernels);
  return tables;
}

const Kernels& chosen_kernels() {
  static const Kernels& chosen = named_or_best();
  return chosen;
}

}  // namespace doge
