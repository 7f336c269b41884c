/* One selection over the weights of all tensors. */
#include "methods/pruner.h"

#include "base/memory.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1 << 14 }; /* values that a sum covers before sums are added up in order */

typedef struct norm_job {
    const float *value;
    size_t n;
    double *sums; /* [blocks] */
} norm_job;

static void sum_blocks(void *arg, size_t begin, size_t end) {
    const norm_job *j = arg;
    for (size_t b = begin; b < end; b++) {
        size_t last = (b + 1) * BLOCK < j->n ? (b + 1) * BLOCK : j->n;
        double sum = 0;
        for (size_t i = b * BLOCK; i < last; i++)
            if (isfinite(j->value[i])) sum += (double)j->value[i] * (double)j->value[i];
        j->sums[b] = sum;
    }
}

/* Of the values that are numbers: one NaN is no reason for a tensor to compete by another measure.
 */
static pare_status norm(double *out, pare_pruner *p, const float *value, size_t n,
                        pare_error *err) {
    size_t blocks = (n + BLOCK - 1) / BLOCK;
    norm_job j = {value, n, pare_malloc(blocks, sizeof *j.sums)};
    if (!j.sums) return pare_fail(err, PARE_ERR_NOMEM, "sparsity: out of memory");
    pare_parallel_for(p->rt, blocks, 1, sum_blocks, &j);
    double sum = 0;
    for (size_t b = 0; b < blocks; b++) sum += j.sums[b];
    *out = sqrt(sum);
    pare_free(j.sums);
    return PARE_OK;
}

static bool is_global(const pare_pruned *t) { return t->bits && !t->t.has_sparsity; }

typedef struct competitor {
    const pare_pruned *t;
} competitor;

static int by_name(const void *a, const void *b) {
    const competitor *x = a, *y = b;
    return strcmp(x->t->t.name, y->t->t.name);
}

/* The tensors that compete, in the order of their names: of equal scores that of the first stays.
 */
static size_t competitors(competitor *order, const pare_pruner *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++)
        if (is_global(&p->tensors[i])) order[n++].t = &p->tensors[i];
    if (n) qsort(order, n, sizeof *order, by_name);
    return n;
}

/* Scores of all that compete, in one array; |w| needs none. */
static pare_status score_all(float **scores, pare_pruner *p, const pare_sparse_input *in,
                             size_t total, const competitor *order, size_t n, pare_error *err) {
    *scores = NULL;
    if (pare_pruner_scores_are_weights(p, p->fns->score)) return PARE_OK;
    if (!(*scores = pare_pruner_scores(p, total, err))) return PARE_ERR_NOMEM;
    for (size_t k = 0, at = 0; k < n; at += order[k++].t->n)
        PARE_TRY(pare_pruner_score_into(*scores + at, p, (size_t)(order[k].t - p->tensors),
                                        p->fns->score, in, err));
    return PARE_OK;
}

static pare_status select_global(pare_pruner *p, const pare_sparse_input *in, bool normalize,
                                 double eps, competitor *order, pare_scored *parts,
                                 pare_error *err) {
    size_t n = competitors(order, p), total = 0;
    for (size_t k = 0; k < n; k++) total += order[k].t->n;
    float *scores;
    PARE_TRY(score_all(&scores, p, in, total, order, n, err));
    for (size_t k = 0, at = 0; k < n; at += order[k++].t->n) {
        const pare_pruned *t = order[k].t;
        parts[k] = (pare_scored){
            .w = t->t.w, .score = scores ? scores + at : NULL, .n = t->n, .bits = t->bits};
        pare_pruner_tell_nan(p, (size_t)(t - p->tensors), scores ? scores + at : NULL);
        double size = 0;
        if (normalize) PARE_TRY(norm(&size, p, scores ? scores + at : t->t.w, t->n, err));
        if (normalize) parts[k].divisor = (float)fmin(size + eps, (double)FLT_MAX);
    }
    double share = pare_pruner_share(p, p->o->p.sparsity.share, in->full);
    if (n) pare_select(p->rt, parts, n, pare_mask_n_keep(total, share), PARE_TIES_FIRST_STAYS);
    return PARE_OK;
}

pare_status pare_pruner_init_global(pare_pruner *p, pare_error *err) {
    for (size_t i = 0; i < p->n; i++)
        if (p->tensors[i].bits && p->tensors[i].t.has_sparsity)
            PARE_TRY(pare_pruner_make_mask(p, i, NULL, p->tensors[i].target, err));
    return PARE_OK;
}

pare_status pare_pruner_masks_global(pare_pruner *p, const pare_sparse_input *in, bool normalize,
                                     double eps, pare_error *err) {
    competitor *order = pare_calloc(p->n, sizeof *order);
    pare_scored *parts = pare_calloc(p->n, sizeof *parts);
    pare_status st =
        order && parts ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "sparsity: out of memory");
    if (st == PARE_OK) st = select_global(p, in, normalize, eps, order, parts, err);
    for (size_t i = 0; st == PARE_OK && i < p->n; i++) {
        pare_pruned *t = &p->tensors[i];
        if (is_global(t)) t->k = pare_mask_count(t->bits, t->n);
        if (!t->bits || is_global(t)) continue;
        const float *score;
        st = pare_pruner_score(&score, p, i, p->fns->score, in, err);
        if (st == PARE_OK) st = pare_pruner_make_mask(p, i, score, t->target, err);
    }
    pare_free(order);
    pare_free(parts);
    return st;
}
