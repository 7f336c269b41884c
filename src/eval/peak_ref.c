/* Plain C: what the compiler makes of a loop over 32 independent sums at the baseline level. */
#include "eval/peak_read.h"

#include <string.h>

enum { LANES = 32 };

static float run_f32(size_t rounds) {
    float sum[LANES] = {0}, a = 0.5f;
    for (size_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+m"(a));
        for (size_t i = 0; i < LANES; i++) sum[i] = sum[i] + a * 0.25f;
    }
    float total = 0;
    for (size_t i = 0; i < LANES; i++) total += sum[i];
    return total;
}

static float run_int8(size_t rounds) {
    int32_t sum[LANES] = {0}, total = 0;
    int8_t a[LANES], b[LANES];
    memset(a, 1, sizeof a);
    memset(b, 1, sizeof b);
    for (size_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+m"(a), "+m"(b));
        for (size_t i = 0; i < LANES; i++) sum[i] += (int32_t)a[i] * b[i];
    }
    for (size_t i = 0; i < LANES; i++) total += sum[i] & 1;
    return (float)total;
}

static float read_lines(const uint8_t *data, size_t n) { return pare_peak_read(data, n); }

void pare_peak_loops_ref(pare_peak_loops *loops) {
    loops->read = read_lines;
    loops->f32 = loops->bf16 = (pare_peak_loop){run_f32, 2 * LANES};
    loops->int8 = loops->int4 = (pare_peak_loop){run_int8, 2 * LANES};
}
