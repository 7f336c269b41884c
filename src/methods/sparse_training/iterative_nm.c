/* Gradual N:M: what is not among the N largest of its M goes first, little by little, so that the
 * pattern stands when the schedule ends. An extension of JaxPruner, arXiv:2304.14082. */
#include "methods/pruner.h"

typedef struct iterative_nm_options {
    pare_sparse_options s;
} iterative_nm_options;

static const pare_param iterative_nm_params[] = {
    PARE_SPARSE_SPARSITY(iterative_nm_options),
    PARE_SPARSE_AXIS(iterative_nm_options),
    PARE_SPARSE_SCHEDULE(iterative_nm_options, PARE_SCHEDULE_POLYNOMIAL, -1),
    PARE_SPARSE_SWITCHES(iterative_nm_options, 0, 0),
    {0},
};

static pare_status iterative_nm_masks(pare_pruner *p, const pare_sparse_input *in,
                                      pare_error *err) {
    for (size_t i = 0; i < p->n; i++) {
        pare_pruned *t = &p->tensors[i];
        if (!t->bits) continue;
        const float *score;
        double share = pare_pruner_share(p, t->target, in->full);
        PARE_TRY(pare_pruner_score(&score, p, i, p->fns->score, in, err));
        PARE_TRY(pare_pruner_make_mask(p, i, score, share, err)); /* the pattern, or all */
        const pare_scored s = {.w = t->t.w,
                               .score = score,
                               .n = t->n,
                               .forced = t->k < t->n ? t->bits : NULL,
                               .bits = t->bits};
        if (t->t.has_sparsity || share <= 0) continue;
        pare_select(p->rt, &s, 1, pare_mask_n_keep(t->n, share), PARE_TIES_FIRST_STAYS);
        t->k = pare_mask_count(t->bits, t->n);
    }
    return PARE_OK;
}

static pare_status iterative_nm_check(const void *options, pare_error *err) {
    const iterative_nm_options *o = options;
    if (!o->s.p.sparsity.m)
        return pare_fail(err, PARE_ERR_ARG, "sparsity: found %g, expected N:M",
                         o->s.p.sparsity.share);
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns iterative_nm = {
    .score = pare_score_magnitude,
    .masks = iterative_nm_masks,
};

const pare_method pare_method_iterative_nm = {
    .name = "iterative_nm",
    .slot = "sparse_training",
    .paper = "arXiv:2304.14082",
    .summary = "grows an N:M pattern little by little",
    .help = "The N largest of every M inputs are safe; the others go by |w|, as many as the "
            "schedule says, until only the pattern is left. With sparsity=N:M the other "
            "algorithms reach it at their first update.",
    .example = "iterative_nm:sparsity=2:4",
    .options_size = sizeof(iterative_nm_options),
    .params = iterative_nm_params,
    .check = iterative_nm_check,
    .sparse = &iterative_nm,
};
