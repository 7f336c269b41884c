#include "kernels/vec_avx512.h"

#include "kernels/act_fn_impl.h"

const pare_act_fn_kernels pare_act_fn_avx512 = {silu_mul, gelu_mul, gelu_row, relu,    add,
                                                scale,    softcap,  exp_row,  tanh_row};
