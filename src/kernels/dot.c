/* The dot kernels of each level as tables. */
#include "base/cpu.h"
#include "kernels/dot_impl.h"

/* The levels of the packed formats, of sparse rows, of plain ones and of activations; max_n is of
 * the packed ones. */
#define KERNELS(panels, sparse, plain, act, max_n, max_24)                                         \
    {                                                                                              \
        .dot = {PARE_DOT_PACKED_LIST(DOT_##panels) PARE_DOT_ROWS_LIST(DOT_##sparse)},              \
        .dotf = {PARE_DOT_F32_PACKED_LIST(DOTF_##panels) PARE_DOT_F32_SPARSE_LIST(DOTF_##sparse)   \
                     PARE_DOT_F32_PLAIN_LIST(DOTF_##plain)},                                       \
        .quantize = pare_act_quantize_##act, .packed_max_n = (max_n), .two_four_max_n = (max_24)   \
    }
#define DOT_ref(name) [PARE_DOT_##name] = pare_dot_##name##_ref,
#define DOTF_ref(name) [PARE_DOTF_##name] = pare_dotf_##name##_ref,
#define DOT_avx2(name) [PARE_DOT_##name] = pare_dot_##name##_avx2,
#define DOTF_avx2(name) [PARE_DOTF_##name] = pare_dotf_##name##_avx2,
#define DOT_avx512(name) [PARE_DOT_##name] = pare_dot_##name##_avx512,
#define DOTF_avx512(name) [PARE_DOTF_##name] = pare_dotf_##name##_avx512,

static const pare_dot_kernels ref = KERNELS(ref, ref, ref, ref, SIZE_MAX, PARE_DOT_MAX_N);
#if defined(__x86_64__)
static const pare_dot_kernels avx2 = KERNELS(avx2, avx2, avx2, avx2, SIZE_MAX, PARE_DOT_MAX_N);
static const pare_dot_kernels avx512 = KERNELS(avx512, avx2, avx512, avx2, SIZE_MAX, SIZE_MAX);
const pare_dot_kernels pare_dot_avx512_vbmi2 =
    KERNELS(avx512, avx512, avx512, avx2, SIZE_MAX, SIZE_MAX);
/* Its tiles outdo packed panels where there are rows to fill them. */
static const pare_dot_kernels amx =
    KERNELS(avx512, avx2, avx512, avx2, PARE_DOT_MAX_N, PARE_DOT_MAX_N);
static const pare_dot_kernels amx_vbmi2 =
    KERNELS(avx512, avx512, avx512, avx2, PARE_DOT_MAX_N, PARE_DOT_MAX_N);
#endif

const pare_dot_kernels *pare_dot_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    bool vbmi2 = pare_cpu_features() & PARE_CPU_AVX512_VBMI2;
    if (isa >= PARE_ISA_AMX) return vbmi2 ? &amx_vbmi2 : &amx;
    if (isa >= PARE_ISA_AVX512) return vbmi2 ? &pare_dot_avx512_vbmi2 : &avx512;
    if (isa >= PARE_ISA_AVX2) return &avx2;
#endif
    (void)isa;
    return &ref;
}
