#include "kernels/uniform.h"

#include "base/rng.h"

void pare_uniform_ref(float *out, uint64_t seed, uint64_t stream, uint64_t index, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = pare_rng_uniform(seed, stream, index + i);
}

pare_uniform_fn pare_uniform_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AVX2) return pare_uniform_avx2;
#endif
    (void)isa;
    return pare_uniform_ref;
}
