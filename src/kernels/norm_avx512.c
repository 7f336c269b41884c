#include "kernels/vec_avx512.h"

#include "kernels/norm_impl.h"

const pare_norm_kernels pare_norm_avx512 = {rmsnorm, add_rmsnorm, layernorm};
