#include "kernels/vec_avx2.h"

#include "kernels/grad_impl.h"

const pare_grad_kernels pare_grad_avx2 = {moments, norm,  norm_weights, silu_mul, gelu_mul, gelu,
                                          relu,    scale, softcap,      softmax,  axpy};
