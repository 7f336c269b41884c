#include "kernels/vec_avx2.h"

#include "kernels/act_grid_impl.h"

const pare_act_grid_kernels pare_act_grid_avx2 = {range, apply, error};
