#include "kernels/op_kernels.h"

const pare_op_kernels *pare_op_kernels_get(pare_isa isa) {
    static const pare_op_kernels ref = {&pare_norm_ref,    &pare_act_fn_ref, &pare_rope_ref,
                                        &pare_softmax_ref, &pare_attn_ref,   &pare_grad_ref};
#if defined(__x86_64__)
    static const pare_op_kernels avx2 = {&pare_norm_avx2,    &pare_act_fn_avx2, &pare_rope_avx2,
                                         &pare_softmax_avx2, &pare_attn_avx2,   &pare_grad_avx2};
    static const pare_op_kernels avx512 = {&pare_norm_avx512, &pare_act_fn_avx512,
                                           &pare_rope_avx2,   &pare_softmax_avx512,
                                           &pare_attn_avx512, &pare_grad_avx512};
    if (isa >= PARE_ISA_AVX512) return &avx512;
    if (isa >= PARE_ISA_AVX2) return &avx2;
#endif
    (void)isa;
    return &ref;
}
