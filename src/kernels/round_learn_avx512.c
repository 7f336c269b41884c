#include "kernels/vec_avx512.h"

#include "kernels/round_learn_impl.h"

const pare_round_kernels pare_round_avx512 = {apply, step};
