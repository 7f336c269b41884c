#include "kernels/vec_avx2.h"

#include "kernels/round_learn_impl.h"

const pare_round_kernels pare_round_avx2 = {apply, step};
