#include "kernels/vec_avx512.h"

#define GRID_VECTORS 4 /* at a time, as registers have room */
#include "kernels/grid_errors_impl.h"

void pare_grid_errors_avx512(float *errors, const float *x, const float *h, size_t n,
                             const float *scale, const float *zero, size_t n_grids, float max) {
    grid_errors(errors, x, h, n, scale, zero, n_grids, max);
}
