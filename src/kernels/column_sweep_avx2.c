#include "kernels/vec_avx2.h"

#include "kernels/column_sweep_impl.h"

const pare_column_sweep_kernels pare_column_sweep_avx2 = {nearest, pass_on, dots};
