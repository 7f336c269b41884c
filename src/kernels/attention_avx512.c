#include "kernels/vec_avx512.h"

#define GEMM_ROWS 12
#include "kernels/attention_avx2.h"
#include "kernels/attention_impl.h"

const pare_attn_kernels pare_attn_avx512 = {
    gemm, pare_attn_pack_k_avx2, pare_attn_pack_v_avx2, pare_attn_dots_avx2, softmax_step, scale};
