/* Scores of weights: what a pruner removes is what scores lowest. One function for one shot and for
 * training. */
#ifndef PARE_SRC_METHODS_SCORE_H
#define PARE_SRC_METHODS_SCORE_H

#include "base/team.h"

/* What the scores of a tensor are made of. */
typedef struct pare_score_job {
    const float *w;        /* [n] */
    const float *g;        /* [n] gradient of the loss; of functions that need it, else unused */
    const float *second;   /* [n] Adam's second moment; the same */
    const uint64_t *mask;  /* NULL, or bits: random gives 0 weights of bit 0 a score of -1 */
    bool keep_zeros;       /* random: the same for weights that are 0 */
    uint64_t seed, stream; /* key of random numbers */
    pare_isa isa;          /* pare_score_all sets it */
} pare_score_job;

/* score[i] of weights begin <= i < end; thread-safe. */
typedef void (*pare_score_fn)(float *score, const pare_score_job *j, size_t begin, size_t end);

void pare_score_magnitude(float *score, const pare_score_job *j, size_t begin, size_t end);
/* A uniform number in [0, 1) of seed, stream and i. */
void pare_score_random(float *score, const pare_score_job *j, size_t begin, size_t end);
/* |w g|: the loss's change to first order. */
void pare_score_saliency(float *score, const pare_score_job *j, size_t begin, size_t end);
/* |g| */
void pare_score_gradient(float *score, const pare_score_job *j, size_t begin, size_t end);
/* w^2 v with Adam's second moment v as the diagonal of the Fisher matrix. */
void pare_score_fisher(float *score, const pare_score_job *j, size_t begin, size_t end);

/* All n scores, on all threads. */
void pare_score_all(pare_runtime *rt, pare_score_fn fn, float *score, const pare_score_job *j,
                    size_t n);

/* The random stream of a tensor at a step of training; step -1: outside of training. */
static inline uint64_t pare_score_stream(uint64_t tensor, int64_t step) {
    return tensor ^ ((uint64_t)(step + 1) << 24);
}

#endif
