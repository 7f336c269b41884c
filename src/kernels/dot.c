/* The dot kernels of each level as tables. */
#include "kernels/dot_impl.h"

/* `panels` is the level of the packed formats, max_n theirs. */
#define KERNELS(level, panels, max_n)                                                              \
    {                                                                                              \
        .dot = {PARE_DOT_PACKED_LIST(DOT_##panels) PARE_DOT_ROWS_LIST(DOT_##level)},               \
        .dotf = {PARE_DOT_F32_PACKED_LIST(DOTF_##panels) PARE_DOT_F32_ROWS_LIST(DOTF_##level)},    \
        .quantize = pare_act_quantize_##level, .packed_max_n = (max_n)                             \
    }
#define DOT_ref(name) [PARE_DOT_##name] = pare_dot_##name##_ref,
#define DOTF_ref(name) [PARE_DOTF_##name] = pare_dotf_##name##_ref,
#define DOT_avx2(name) [PARE_DOT_##name] = pare_dot_##name##_avx2,
#define DOTF_avx2(name) [PARE_DOTF_##name] = pare_dotf_##name##_avx2,
#define DOT_avx512(name) [PARE_DOT_##name] = pare_dot_##name##_avx512,
#define DOTF_avx512(name) [PARE_DOTF_##name] = pare_dotf_##name##_avx512,

static const pare_dot_kernels ref = KERNELS(ref, ref, SIZE_MAX);
#if defined(__x86_64__)
static const pare_dot_kernels avx2 = KERNELS(avx2, avx2, SIZE_MAX);
static const pare_dot_kernels avx512 = KERNELS(avx2, avx512, SIZE_MAX);
/* Its tiles outdo these where there are rows to fill them. */
static const pare_dot_kernels amx = KERNELS(avx2, avx512, PARE_DOT_MAX_N);
#endif

const pare_dot_kernels *pare_dot_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AMX) return &amx;
    if (isa >= PARE_ISA_AVX512) return &avx512;
    if (isa >= PARE_ISA_AVX2) return &avx2;
#endif
    (void)isa;
    return &ref;
}
