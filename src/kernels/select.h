/* Which of many scores are the highest, as bits: the selection behind every mask. A radix select
 * over integers in the scores' order, 11, 11 and 10 bits at a time: three passes that count, one
 * that writes, no sorting and no memory that grows with n. Counts are whole numbers, so the bits do
 * not depend on the number of threads.
 *
 * Order of scores: -Inf < ... < -0 = +0 < ... < Inf; denormals count as they are; NaN is below
 * -Inf.
 * Bits: value i is bit i % 64 of word i / 64; bits behind the last value are 0. */
#ifndef PARE_SRC_KERNELS_SELECT_H
#define PARE_SRC_KERNELS_SELECT_H

#include "base/team.h"

/* Values that compete. */
typedef struct pare_scored {
    const float *w;     /* [n], read where score is NULL: the score is |w| */
    const float *score; /* [n] or NULL */
    size_t n;
    float divisor;          /* of the scores, > 0; 0: none */
    const uint64_t *within; /* NULL, or bits: others go before all of these */
    const uint64_t *forced; /* NULL, or bits: these stay before all others */
    uint64_t *bits;         /* out, pare_bit_words(n); may be `within` or `forced`; or NULL */
    float *zero;            /* out, [n]: +0.0f where a value goes; may be w; or NULL */
} pare_scored;

/* Of equal scores at the border the lower indices stay, or the lower indices go. Over several parts
 * indices count on from one to the next. */
typedef enum pare_ties { PARE_TIES_FIRST_STAYS, PARE_TIES_FIRST_GOES } pare_ties;

static inline size_t pare_bit_words(size_t n) { return n / 64 + (n % 64 != 0); }
static inline bool pare_bit(const uint64_t *bits, size_t i) { return bits[i / 64] >> i % 64 & 1; }

/* Sets bits: 1 for the `keep` highest scores of all parts together. rt NULL: on the calling thread
 * alone, as inside a parallel loop. */
void pare_select(pare_runtime *rt, const pare_scored *parts, size_t n_parts, size_t keep,
                 pare_ties ties);

/* w[n], n <= 64: +0.0f where a bit is 0. */
static inline void pare_zero_word(float *w, uint64_t bits, size_t n) {
    if (bits == ~(uint64_t)0) return;
    for (size_t i = 0; i < n; i++)
        if (!(bits >> i & 1)) w[i] = 0.0f;
}

/* Bits of the n highest of m <= 64 values; of equal scores the HIGHER index stays. score NULL:
 * |w|. */
uint64_t pare_select_group(const float *w, const float *score, int n, int m);

/* The same for every four of the values [begin, end) of s, into its bits or zeros. begin is a
 * multiple of 64, end of 4. On the calling thread. */
void pare_select_quads(pare_isa isa, const pare_scored *s, size_t begin, size_t end, int n);

/* Keys of values [at, at + n), n <= 1024, and which of 64 are above a key and equal to it: what an
 * instruction set speeds up. Bits equal on all levels. */
typedef struct pare_select_kernels {
    void (*keys)(uint32_t *key, const pare_scored *s, size_t at, size_t n);
    void (*compare)(uint64_t *above, uint64_t *equal, const uint32_t key[64], uint32_t threshold);
    /* keys of bits of `low` become the lowest, then those of bits of `high` the highest */
    void (*bend)(uint32_t key[64], uint64_t low, uint64_t high);
    /* which of 64 have those bits of `prefix` that are set in `mask` */
    uint64_t (*match)(const uint32_t key[64], uint32_t prefix, uint32_t mask);
    /* which of 64 are among the n highest of their four; ties as in pare_select_group */
    uint64_t (*quads)(const uint32_t key[64], int n);
} pare_select_kernels;
extern const pare_select_kernels pare_select_ref, pare_select_avx2;
const pare_select_kernels *pare_select_kernels_get(pare_isa isa);

#endif
