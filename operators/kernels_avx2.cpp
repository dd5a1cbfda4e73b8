// x86-64 with AVX2 and FMA; compiled with those flags, and run only where the processor has them.
#include "vector_256.h"

namespace doge {

const Kernels avx2_kernels = vector_kernels<Avx2>("AVX2");

}  // namespace doge
