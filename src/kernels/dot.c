/* The dot kernels of each level as tables. */
#include "kernels/dot_impl.h"

static const pare_dot_kernels ref = {
#define X(name) [PARE_DOT_##name] = pare_dot_##name##_ref,
    .dot = {PARE_DOT_LIST(X)},
#undef X
#define X(name) [PARE_DOTF_##name] = pare_dotf_##name##_ref,
    .dotf = {PARE_DOT_F32_LIST(X)},
#undef X
    .quantize = pare_act_quantize_ref,
    .packed_max_n = SIZE_MAX,
};

#if defined(__x86_64__)
static const pare_dot_kernels avx2 = {
#define X(name) [PARE_DOT_##name] = pare_dot_##name##_avx2,
    .dot = {PARE_DOT_LIST(X)},
#undef X
#define X(name) [PARE_DOTF_##name] = pare_dotf_##name##_avx2,
    .dotf = {PARE_DOT_F32_LIST(X)},
#undef X
    .quantize = pare_act_quantize_avx2,
    .packed_max_n = SIZE_MAX,
};
/* The tile kernels above AVX2 outdo these where there are rows to fill them. */
static const pare_dot_kernels avx512 = {
#define X(name) [PARE_DOT_##name] = pare_dot_##name##_avx2,
    .dot = {PARE_DOT_LIST(X)},
#undef X
#define X(name) [PARE_DOTF_##name] = pare_dotf_##name##_avx2,
    .dotf = {PARE_DOT_F32_LIST(X)},
#undef X
    .quantize = pare_act_quantize_avx2,
    .packed_max_n = PARE_DOT_MAX_N,
};
#endif

const pare_dot_kernels *pare_dot_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa > PARE_ISA_AVX2) return &avx512;
    if (isa == PARE_ISA_AVX2) return &avx2;
#endif
    (void)isa;
    return &ref;
}
