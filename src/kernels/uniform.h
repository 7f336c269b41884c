/* Many uniform numbers of one stream: pare_rng_uniform(seed, stream, index + i) for i < n, the same
 * bits on every level. */
#ifndef PARE_SRC_KERNELS_UNIFORM_H
#define PARE_SRC_KERNELS_UNIFORM_H

#include "pare/base.h"

typedef void (*pare_uniform_fn)(float *out, uint64_t seed, uint64_t stream, uint64_t index,
                                size_t n);
void pare_uniform_ref(float *out, uint64_t seed, uint64_t stream, uint64_t index, size_t n);
void pare_uniform_avx2(float *out, uint64_t seed, uint64_t stream, uint64_t index, size_t n);
pare_uniform_fn pare_uniform_get(pare_isa isa);

#endif
