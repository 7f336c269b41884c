#include "base/rng.h"

#include <math.h>

void pare_philox(uint32_t out[4], uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

float pare_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t r[4];
    pare_philox(r, seed, stream, index);
    return (float)(r[0] >> 8) * 0x1p-24f;
}

float pare_rng_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t r[4];
    pare_philox(r, seed, stream, index);
    double u = ((double)r[0] + 1.0) * 0x1p-32, v = (double)r[1] * 0x1p-32; /* u in (0, 1] */
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}
