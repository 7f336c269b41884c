#include "kernels/vec_avx512.h"

#include "kernels/grad_impl.h"

const pare_grad_kernels pare_grad_avx512 = {moments, norm,  norm_weights, silu_mul, gelu_mul, gelu,
                                            relu,    scale, softcap,      softmax,  axpy};
