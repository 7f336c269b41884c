/* The size of the numbers in a tensor [n][width] that stands in memory: exact ranks without sorting
 * or copying it. |x| as a float's bits is an integer in the same order: a first look counts the
 * upper 16 bits, a second one the lower 16 of those that share the wanted ranks' upper ones. */
#ifndef PARE_SRC_STUDY_OUTLIER_TALLY_H
#define PARE_SRC_STUDY_OUTLIER_TALLY_H

#include "base/memory.h"
#include "base/team.h"

typedef struct pare_tally_counts pare_tally_counts;

/* One for tensors of up to max_rows rows. */
typedef struct pare_tally {
    size_t max_rows;
    int n_threads;
    float *row_max;        /* [max_rows] out: the largest |x| of each row; NaN where there is one */
    uint32_t *row_channel; /* [max_rows] out: where it stands, the first of equals */
    double *row_sum;       /* [max_rows] */
    pare_tally_counts *counts;      /* [n_threads] */
    uint64_t *sums;                 /* of the threads' counts */
    uint32_t tenth_high, half_high; /* upper bits of the two ranks */
    size_t tenth_rank, half_rank;   /* among those that share them, from the top, from 1 */
    /* out: the least and the mean of the largest floor(n * width / 10), at least one; the
     * ceil(n * width / 2)-th from below */
    double top10, top10_mean, median;
} pare_tally;

pare_status pare_tally_init(pare_tally *t, size_t max_rows, int n_threads, pare_error *err);
/* Accepts a zeroed one. */
void pare_tally_free(pare_tally *t);

/* Called by every thread; x[n][ld], width values a row; n * width < 2^32. Ends with a barrier. */
void pare_tally_take(pare_worker *w, pare_tally *t, const float *x, size_t ld, size_t n,
                     size_t width);

#endif
