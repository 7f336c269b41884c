#include "kernels/vec_avx2.h"

#include "kernels/norm_impl.h"

const pare_norm_kernels pare_norm_avx2 = {rmsnorm, add_rmsnorm, layernorm};
