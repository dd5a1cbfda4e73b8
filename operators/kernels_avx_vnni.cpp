// x86-64 with AVX2 and AVX-VNNI, which multiplies and adds codes in one instruction.
#include "vector_256.h"

namespace doge {
namespace {

struct AvxVnni : Avx2 {
  template <int N>
  static Sums add_products(Sums sums, Weights a, Inputs b) {
    return _mm256_dpwssd_avx_epi32(sums, a, b);
  }
};

}  // namespace

const Kernels avx_vnni_kernels = vector_kernels<AvxVnni>("AVX-VNNI");

}  // namespace doge
