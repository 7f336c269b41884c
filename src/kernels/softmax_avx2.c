#include "kernels/vec_avx2.h"

#include "kernels/softmax_impl.h"

const pare_softmax_kernels pare_softmax_avx2 = {logsumexp, argmax, softmax, subtract, divergence};
