#include "study/outlier_tally.h"

#include <math.h>
#include <string.h>

enum { HIGH = 1 << 15, LOW = 1 << 16 };

struct pare_tally_counts {
    uint32_t high[HIGH], tenth[LOW], half[LOW];
};

pare_status pare_tally_init(pare_tally *t, size_t max_rows, int n_threads, pare_error *err) {
    *t = (pare_tally){.max_rows = max_rows,
                      .n_threads = n_threads,
                      .row_max = pare_calloc(max_rows, sizeof *t->row_max),
                      .row_channel = pare_calloc(max_rows, sizeof *t->row_channel),
                      .row_sum = pare_calloc(max_rows, sizeof *t->row_sum),
                      .counts = pare_calloc((size_t)n_threads, sizeof *t->counts),
                      .sums = pare_calloc(LOW, sizeof *t->sums)};
    if (t->row_max && t->row_channel && t->row_sum && t->counts && t->sums) return PARE_OK;
    pare_tally_free(t);
    return pare_fail(err, PARE_ERR_NOMEM, "counts of activations: out of memory");
}

void pare_tally_free(pare_tally *t) {
    pare_free(t->row_max);
    pare_free(t->row_channel);
    pare_free(t->row_sum);
    pare_free(t->counts);
    pare_free(t->sums);
    *t = (pare_tally){0};
}

static uint32_t magnitude_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7FFFFFFF;
}

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void first_look(pare_tally *t, pare_tally_counts *c, size_t row, const float *x,
                       size_t width) {
    uint32_t most = 0, channel = 0;
    for (size_t j = 0; j < width; j++) {
        uint32_t bits = magnitude_bits(x[j]);
        c->high[bits >> 16]++;
        if (bits <= most) continue;
        most = bits;
        channel = (uint32_t)j;
    }
    t->row_max[row] = from_bits(most);
    t->row_channel[row] = channel;
}

static void second_look(pare_tally *t, pare_tally_counts *c, size_t row, const float *x,
                        size_t width) {
    double sum = 0;
    for (size_t j = 0; j < width; j++) {
        uint32_t bits = magnitude_bits(x[j]), high = bits >> 16;
        if (high > t->tenth_high) sum += (double)from_bits(bits);
        if (high == t->tenth_high) c->tenth[bits & 0xFFFF]++;
        if (high == t->half_high) c->half[bits & 0xFFFF]++;
    }
    t->row_sum[row] = sum;
}

/* The bucket that holds a rank from the top, which becomes the rank in it. */
static uint32_t bucket_of(const uint64_t *counts, size_t n_buckets, size_t *rank) {
    size_t b = n_buckets - 1;
    while (b > 0 && *rank > counts[b]) *rank -= counts[b--];
    return (uint32_t)b;
}

/* Counts of all threads. */
static void sum_counts(uint64_t *sum, const pare_tally *t, size_t offset, size_t n) {
    memset(sum, 0, n * sizeof *sum);
    for (int k = 0; k < t->n_threads; k++) {
        const uint32_t *from = (const uint32_t *)(const void *)&t->counts[k] + offset;
        for (size_t i = 0; i < n; i++) sum[i] += from[i];
    }
}

static void settle_high(pare_tally *t, size_t n) {
    static const size_t at = offsetof(pare_tally_counts, high) / sizeof(uint32_t);
    uint64_t *sum = t->sums;
    sum_counts(sum, t, at, HIGH);
    t->tenth_rank = n / 10 ? n / 10 : 1;
    t->half_rank = n / 2 + 1;
    t->tenth_high = bucket_of(sum, HIGH, &t->tenth_rank);
    t->half_high = bucket_of(sum, HIGH, &t->half_rank);
}

static void settle_low(pare_tally *t, size_t n_rows, size_t n) {
    static const size_t tenth = offsetof(pare_tally_counts, tenth) / sizeof(uint32_t),
                        half = offsetof(pare_tally_counts, half) / sizeof(uint32_t);
    uint64_t *sum = t->sums;
    size_t rank = t->half_rank;
    sum_counts(sum, t, half, LOW);
    t->median = (double)from_bits(t->half_high << 16 | bucket_of(sum, LOW, &rank));
    rank = t->tenth_rank;
    sum_counts(sum, t, tenth, LOW);
    uint32_t low = bucket_of(sum, LOW, &rank);
    t->top10 = (double)from_bits(t->tenth_high << 16 | low);
    double total = (double)rank * t->top10;
    for (size_t i = low + 1; i < LOW; i++)
        if (sum[i]) total += (double)sum[i] * (double)from_bits(t->tenth_high << 16 | (uint32_t)i);
    for (size_t i = 0; i < n_rows; i++) total += t->row_sum[i];
    t->top10_mean = total / (double)(n / 10 ? n / 10 : 1);
}

void pare_tally_take(pare_worker *w, pare_tally *t, const float *x, size_t ld, size_t n,
                     size_t width) {
    size_t begin, end;
    pare_tally_counts *c = &t->counts[w->id];
    pare_share(w, n, 1, &begin, &end);
    memset(c, 0, sizeof *c);
    for (size_t i = begin; i < end; i++) first_look(t, c, i, x + i * ld, width);
    pare_barrier(w);
    if (w->id == 0) settle_high(t, n * width);
    pare_barrier(w);
    for (size_t i = begin; i < end; i++) second_look(t, c, i, x + i * ld, width);
    pare_barrier(w);
    if (w->id == 0) settle_low(t, n, n * width);
    pare_barrier(w);
}
