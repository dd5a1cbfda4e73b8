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
// By hand: __builtin_cpu_supports is always false in what zig's compiler links.
struct Features {
  bool avx2 = false, avx512 = false, avx_vnni = false, zen_4 = false;

  Features() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return;
    const unsigned family = (a >> 8 & 15) + (a >> 20 & 255);
    bool fma = c >> 12 & 1, saved = c >> 27 & 1, f16c = c >> 29 & 1;
    if (!saved || !fma || !f16c || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    unsigned registers, unused;  // that the operating system keeps
    asm volatile("xgetbv" : "=a"(registers), "=d"(unused) : "c"(0));
    avx2 = (b >> 5 & 1) && (registers & 0x06) == 0x06;
    const unsigned f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    avx512 = avx2 && (b & f_dq_bw_vl) == f_dq_bw_vl && (c >> 11 & 1) && (registers & 0xE6) == 0xE6;
    avx_vnni = avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
    zen_4 = avx512 && family == 25 && is_amd();  // Zen 3 is of this family too, without AVX-512
  }

  static bool is_amd() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
  }
};

// Asked once: an answer takes tens of microseconds in a virtual machine.
const Features& features() {
  static const Features of_processor;
  return of_processor;
}

bool is_zen_4() { return features().zen_4; }

std::vector<const Kernels*> fast_kernels() {
  std::vector<const Kernels*> tables;
  if (features().avx512) tables.push_back(&avx512_kernels);
  if (features().avx_vnni) tables.push_back(&avx_vnni_kernels);
  if (features().avx2) tables.push_back(&avx2_kernels);
  return tables;
}
#else
bool is_zen_4() { return false; }
#endif

#if defined(__aarch64__)
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
#elif !defined(__x86_64__)
std::vector<const Kernels*> fast_kernels() { return {}; }
#endif

const Kernels* named_or_best() {
  std::vector<const Kernels*> tables = runnable_kernels();
  const char* name = std::getenv("DOGE_EXPORT_KERNELS");
  if (name == nullptr || *name == 0) return tables.front();
  for (const Kernels* table : tables) {
    if (std::strcmp(name, table->name) == 0) return table;
  }
  return nullptr;
}

}  // namespace

std::vector<const Kernels*> runnable_kernels() {
  std::vector<const Kernels*> tables = fast_kernels();
  tables.push_back(&plain_kernels);
  return tables;
}

const Kernels* chosen_kernels() {
  static const Kernels* chosen = named_or_best();
  return chosen;
}

// Memory delivers more where more of it is asked for at once. A cache that holds all that a step reads needs no such
// help, and steps are slower by the asking. Cores of AMD's Zen 4 wait for little memory at once on its way into the
// first cache, and for twice as much on its way into the second; those of Zen 3 do not (docs/operators.md). Whether
// cached rows count elsewhere is not measured, and nothing is of AMD's later cores.
Asking asking_for(size_t weights, size_t rows) {
  constexpr size_t MIB = 1 << 20;
  if (is_zen_4()) return weights + rows > 18 * MIB ? Asking::SECOND : Asking::FIRST;
  return weights > 80 * MIB ? Asking::BOTH : Asking::FIRST;
}

Asking asking_for_rows() { return is_zen_4() ? Asking::SECOND : Asking::FIRST; }

}  // namespace doge
