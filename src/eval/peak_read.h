/* A loop that only reads, compiled for each level by the files that include it. */
#ifndef PARE_SRC_EVAL_PEAK_READ_H
#define PARE_SRC_EVAL_PEAK_READ_H

#include "eval/peak.h"

typedef uint64_t pare_lane4 __attribute__((vector_size(32)));

/* Sums n / PARE_PEAK_LINE pieces of a line; four sums in flight keep the loads independent. */
static inline float pare_peak_read(const uint8_t *data, size_t n) {
    const pare_lane4 *p = (const pare_lane4 *)(const void *)data;
    pare_lane4 sum[4] = {{0}};
    for (size_t i = 0; i < n / PARE_PEAK_LINE; i++, p += 8) {
        sum[0] += p[0] ^ p[1];
        sum[1] += p[2] ^ p[3];
        sum[2] += p[4] ^ p[5];
        sum[3] += p[6] ^ p[7];
    }
    sum[0] += sum[1] + sum[2] + sum[3];
    return (float)(sum[0][0] + sum[0][1] + sum[0][2] + sum[0][3]);
}

#endif
