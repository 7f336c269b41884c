/* AC/DC: Peste et al., arXiv:2106.12379, as in JaxPruner's extensions: phases with masks by |w| and
 * phases without take turns, a masked one first; from `sparse_from` on masks stay. */
#include "methods/pruner.h"

typedef struct acdc_options {
    pare_sparse_options s;
    int dense_until, sparse_from, sparse_steps, dense_steps;
} acdc_options;

static const pare_param acdc_params[] = {
    PARE_SPARSE_SPARSITY(acdc_options),
    PARE_PARAM(acdc_options, dense_until, PARE_PARAM_INT, 0, 0, 2e9, "step of the first masks"),
    PARE_PARAM(acdc_options, sparse_from, PARE_PARAM_INT, 1000, 0, 2e9,
               "step from which masks stay"),
    PARE_PARAM(acdc_options, sparse_steps, PARE_PARAM_INT, 100, 1, 1e9, "of a phase with masks"),
    PARE_PARAM(acdc_options, dense_steps, PARE_PARAM_INT, 100, 1, 1e9, "of a phase without"),
    PARE_SPARSE_STRUCTURE(acdc_options),
    PARE_SPARSE_DISTRIBUTION(acdc_options),
    PARE_SPARSE_SWITCHES(acdc_options, 0, 0),
    {0},
};

/* Steps into a cycle of phases; -1: before the first or behind the last. */
static int64_t phase(const pare_pruner *p) {
    const acdc_options *o = p->spec.options;
    if (p->count < o->dense_until || p->count > o->sparse_from) return -1;
    return (p->count - o->dense_until) % ((int64_t)o->sparse_steps + o->dense_steps);
}

static bool acdc_is_update(const pare_pruner *p) {
    const acdc_options *o = p->spec.options;
    int64_t at = phase(p);
    return at >= 0 && (at == 0 || at == o->sparse_steps || p->count == o->sparse_from);
}

static pare_status acdc_update(pare_pruner *p, const pare_sparse_input *in, pare_error *err) {
    const acdc_options *o = p->spec.options;
    const pare_sparse_input full = {.g = in->g, .s = in->s, .full = true};
    if (phase(p) == 0 || p->count == o->sparse_from) return pare_pruner_masks(p, &full, err);
    for (size_t i = 0; i < p->n; i++)
        if (p->tensors[i].bits) pare_pruner_fill(&p->tensors[i]);
    return PARE_OK;
}

static pare_status acdc_check(const void *options, pare_error *err) {
    const acdc_options *o = options;
    if (o->sparse_from < o->dense_until)
        return pare_fail(err, PARE_ERR_ARG,
                         "sparse_from: found %d, expected %d (dense_until) or more", o->sparse_from,
                         o->dense_until);
    return pare_sparse_check(options, err);
}

static const pare_sparse_fns acdc = {
    .score = pare_score_magnitude,
    .is_update = acdc_is_update,
    .masks = pare_pruner_masks,
    .update = acdc_update,
};

const pare_method pare_method_acdc = {
    .name = "acdc",
    .slot = "sparse_training",
    .paper = "arXiv:2106.12379",
    .summary = "phases with and without masks take turns",
    .help = "Dense until step dense_until; then sparse_steps with the weights of largest "
            "absolute value, dense_steps with all, and so on; at step sparse_from the masks "
            "are made for the last time.",
    .example = "acdc:sparsity=0.8,dense_until=100,sparse_from=900,sparse_steps=100,dense_steps=100",
    .options_size = sizeof(acdc_options),
    .params = acdc_params,
    .check = acdc_check,
    .sparse = &acdc,
};
