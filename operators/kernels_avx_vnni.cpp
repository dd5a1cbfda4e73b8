// x86-64 with AVX2 and AVX-VNNI, which multiplies and adds codes in one instruction.
#include "vector_256.h"

namespace doge {
namespace {

struct AvxVnni : Avx2 {
  static Sums multiplied(const __m256i* codes, const int16_t* x, int block) {
    Sums sums = set_sums(0);
    for (int c = 0; c < block; c += 16) {
      sums = _mm256_dpwssd_avx_epi32(sums, codes[c / 16], _mm256_loadu_si256((const __m256i*)(x + c)));
    }
    return sums;
  }

  template <int BITS, int BLOCK, int TOKENS>
  static void sums_of_piece(const uint8_t* codes, size_t row_bytes, const int16_t* x, size_t stride, Sums* sums) {
    sums_of_piece_by<AvxVnni, BITS, BLOCK, TOKENS>(codes, row_bytes, x, stride, sums);
  }

  static Sums add_pairs(Sums sums, Pairs x, const int16_t* pair) {
    return _mm256_dpwssd_avx_epi32(sums, x, pair_everywhere(pair));
  }
};

}  // namespace

const Kernels avx_vnni_kernels = vector_kernels<AvxVnni>("AVX-VNNI");

}  // namespace doge
