/* Loops that do nothing but multiply and add in registers: what a core reaches at each level. */
#ifndef PARE_SRC_EVAL_PEAK_H
#define PARE_SRC_EVAL_PEAK_H

#include "pare/base.h"

typedef struct pare_peak_loop {
    float (*run)(size_t rounds); /* the result only keeps the compiler from dropping the work */
    double ops_per_round;        /* a multiply and an add are two */
} pare_peak_loop;

enum { PARE_PEAK_LINE = 256 };

typedef struct pare_peak_loops {
    /* reads n bytes, a multiple of PARE_PEAK_LINE, aligned to 32 */
    float (*read)(const uint8_t *data, size_t n);
    pare_peak_loop f32, bf16, int8;
    pare_peak_loop int4; /* int8 with codes of 4 bits; that of int8 where it is no faster */
} pare_peak_loops;

/* Each level overrides what it does faster. */
void pare_peak_loops_ref(pare_peak_loops *loops);
void pare_peak_loops_avx2(pare_peak_loops *loops);
void pare_peak_loops_avx512(pare_peak_loops *loops);
void pare_peak_loops_avx512_bf16(pare_peak_loops *loops); /* beside: its extension */
void pare_peak_loops_amx(pare_peak_loops *loops);

#endif
