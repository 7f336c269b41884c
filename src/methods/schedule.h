/* When masks are updated in a training, and how sparse they are then. JaxPruner's schedules,
 * arXiv:2304.14082, with their ways: steps count from 0; an update step is a multiple of `every`,
 * not of `every` from `from` on; the polynomial has reached its end at until - 1. */
#ifndef PARE_SRC_METHODS_SCHEDULE_H
#define PARE_SRC_METHODS_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum pare_schedule_kind {
    PARE_SCHEDULE_NONE,     /* never */
    PARE_SCHEDULE_ONE_SHOT, /* at step `from` */
    PARE_SCHEDULE_PERIODIC, /* every, from, until; sparsity is the target */
    PARE_SCHEDULE_POLYNOMIAL
} pare_schedule_kind;

typedef struct pare_schedule {
    pare_schedule_kind kind;
    int64_t every, from, until; /* until < 0: no end, of periodic only */
    double power;
} pare_schedule;

bool pare_schedule_is_update(const pare_schedule *s, int64_t t);

/* The sparsity at step t on the way to the target: target (1 - (1 - q)^power) with q = clip(t + 1 -
 * from, 0, until - from) / (until - from) of the polynomial, else the target. */
double pare_schedule_sparsity(const pare_schedule *s, double target, int64_t t);

#endif
