/* The dot kernels of each level as tables. */
#include "kernels/dot_impl.h"

#define ACT_KINDS                                                                                  \
    .act = {                                                                                       \
        [PARE_DOT_q2_k] = PARE_ACT_Q8_256, [PARE_DOT_q3_k] = PARE_ACT_Q8_256,                      \
        [PARE_DOT_q4_k] = PARE_ACT_Q8_256, [PARE_DOT_q5_k] = PARE_ACT_Q8_256,                      \
        [PARE_DOT_q6_k] = PARE_ACT_Q8_256, [PARE_DOT_iq4_xs] = PARE_ACT_Q8_256,                    \
    }

static const pare_dot_kernels ref = {
#define X(name) [PARE_DOT_##name] = pare_dot_##name##_ref,
    .dot = {PARE_DOT_LIST(X)},
#undef X
#define X(name) [PARE_DOTF_##name] = pare_dotf_##name##_ref,
    .dotf = {PARE_DOT_F32_LIST(X)},
#undef X
    .quantize = {[PARE_ACT_Q8_32] = pare_act_quantize_q8_32_ref,
                 [PARE_ACT_Q8_256] = pare_act_quantize_q8_256_ref},
    ACT_KINDS,
};

#if defined(__x86_64__)
static const pare_dot_kernels avx2 = {
#define X(name) [PARE_DOT_##name] = pare_dot_##name##_avx2,
    .dot = {PARE_DOT_LIST(X)},
#undef X
#define X(name) [PARE_DOTF_##name] = pare_dotf_##name##_avx2,
    .dotf = {PARE_DOT_F32_LIST(X)},
#undef X
    .quantize = {[PARE_ACT_Q8_32] = pare_act_quantize_q8_32_avx2,
                 [PARE_ACT_Q8_256] = pare_act_quantize_q8_256_avx2},
    ACT_KINDS,
};
#endif

const pare_dot_kernels *pare_dot_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AVX2) return &avx2;
#endif
    (void)isa;
    return &ref;
}
