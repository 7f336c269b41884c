#include "methods/score.h"

#include "kernels/uniform.h"

#include <math.h>

void pare_score_magnitude(float *score, const pare_score_job *j, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) score[i] = fabsf(j->w[i]);
}

void pare_score_random(float *score, const pare_score_job *j, size_t begin, size_t end) {
    pare_uniform_get(j->isa)(score + begin, j->seed, j->stream, begin, end - begin);
    if (!j->mask && !j->keep_zeros) return;
    for (size_t i = begin; i < end; i++) {
        bool gone =
            (j->mask && !(j->mask[i / 64] >> i % 64 & 1)) || (j->keep_zeros && j->w[i] == 0.0f);
        if (gone) score[i] = -1.0f;
    }
}

void pare_score_saliency(float *score, const pare_score_job *j, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) score[i] = fabsf(j->w[i] * j->g[i]);
}

void pare_score_gradient(float *score, const pare_score_job *j, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) score[i] = fabsf(j->g[i]);
}

void pare_score_fisher(float *score, const pare_score_job *j, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) score[i] = j->w[i] * j->w[i] * j->second[i];
}

typedef struct all_job {
    pare_score_fn fn;
    float *score;
    pare_score_job j;
} all_job;

static void score_piece(void *arg, size_t begin, size_t end) {
    const all_job *a = arg;
    a->fn(a->score, &a->j, begin, end);
}

void pare_score_all(pare_runtime *rt, pare_score_fn fn, float *score, const pare_score_job *j,
                    size_t n) {
    all_job a = {fn, score, *j};
    a.j.isa = pare_runtime_isa(rt);
    pare_parallel_for(rt, n, 1 << 14, score_piece, &a);
}
