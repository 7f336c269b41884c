#include "kernels/vec_avx512.h"

#include "kernels/softmax_impl.h"

const pare_softmax_kernels pare_softmax_avx512 = {logsumexp, argmax, softmax, subtract, divergence};
