/* Counter-based random numbers (Philox 4x32-10, Salmon et al., SC 2011): the same (seed, stream,
 * index) gives the same number on any machine and with any number of threads. */
#ifndef PARE_SRC_BASE_RNG_H
#define PARE_SRC_BASE_RNG_H

#include <stdint.h>

/* Four independent 32-bit numbers. */
void pare_philox(uint32_t out[4], uint64_t seed, uint64_t stream, uint64_t index);

/* One uniform number in [0, 1), 24 bits. */
float pare_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* One standard normal number (Box-Muller). */
float pare_rng_normal(uint64_t seed, uint64_t stream, uint64_t index);

#endif
