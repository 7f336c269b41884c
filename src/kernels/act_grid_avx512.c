#include "kernels/vec_avx512.h"

#include "kernels/act_grid_impl.h"

const pare_act_grid_kernels pare_act_grid_avx512 = {range, apply, error, pare_act_codes_avx2,
                                                    pare_act_sums_avx2};
