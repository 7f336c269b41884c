/* Which tensors a sparse training prunes, by what they are and by their names: JaxPruner's
 * filter_fn and custom_sparsity_map as text. */
#include "methods/pruner.h"

#include "methods/target.h"

#include <string.h>

/* What the options say; group NULL and no regex: nothing. */
typedef struct chooser {
    pare_target only, dense;
    pare_target_values own;
} chooser;

static bool is_set(const pare_target *t) { return t->group || t->regex; }

static void chooser_free(chooser *c) {
    pare_target_free(&c->only);
    pare_target_free(&c->dense);
    pare_target_values_free(&c->own);
}

/* The default, or an option that the algorithm does not have. */
static bool says_nothing(const pare_text *t, const char *nothing) {
    return *t->s == '\0' || strcmp(t->s, nothing) == 0;
}

static pare_status parse_target(pare_target *out, const char *name, const pare_text *t,
                                const char *nothing, pare_error *err) {
    if (says_nothing(t, nothing)) return PARE_OK;
    if (pare_target_parse(out, t->s, strlen(t->s), err) == PARE_OK) return PARE_OK;
    return pare_fail_prefix(err, "%s", name);
}

static bool is_share(double v) { return v >= 0 && v <= 1; }

static pare_status parse_all(chooser *c, const pare_sparse_options *o, pare_error *err) {
    PARE_TRY(parse_target(&c->only, "only", &o->only, "all", err));
    PARE_TRY(parse_target(&c->dense, "dense", &o->dense, "none", err));
    if (says_nothing(&o->own, "none")) return PARE_OK;
    return pare_target_values_parse(
        &c->own, "own", o->own.s, is_share,
        "a target and a share from 0 to 1, such as ffn=0.9 or /attn_v/=50%", err);
}

pare_status pare_sparse_check_targets(const pare_sparse_options *o, pare_error *err) {
    chooser c = {0};
    pare_status st = parse_all(&c, o, err);
    chooser_free(&c);
    return st;
}

/* What is used of it shows whether a name was meant that no tensor has. */
typedef struct usage {
    bool only, dense;
} usage;

static void choose(pare_pruned *t, chooser *c, usage *u, const pare_sparse_options *o, bool tied) {
    const char *name = t->t.name;
    bool matrix = t->t.n_dims >= 2 && t->t.role != PARE_ROLE_OTHER;
    t->chosen = t->t.has_sparsity;
    double share;
    if (!matrix) return;
    if (pare_target_values_find(&c->own, name, false, tied, &share) && !t->t.has_sparsity) {
        t->chosen = t->t.has_sparsity = true; /* the caller's goes before it */
        t->t.sparsity = share;
    }
    bool only = is_set(&c->only) && pare_target_takes(&c->only, name, tied),
         dense = is_set(&c->dense) && pare_target_takes(&c->dense, name, tied);
    u->only |= only;
    u->dense |= dense;
    if (!is_set(&c->only)) only = t->t.role == PARE_ROLE_LINEAR || o->embeddings;
    t->chosen |= only && !dense;
}

pare_status pare_pruner_choose(pare_pruner *p, pare_error *err) {
    chooser c = {0};
    usage u = {0};
    pare_status st = parse_all(&c, p->o, err);
    bool tied = true;
    for (size_t i = 0; i < p->n; i++) tied &= strcmp(p->tensors[i].t.name, "output.weight") != 0;
    for (size_t i = 0; st == PARE_OK && i < p->n; i++) choose(&p->tensors[i], &c, &u, p->o, tied);
    if (st == PARE_OK && is_set(&c.only) && !u.only)
        st = pare_fail(err, PARE_ERR_ARG, "only: found no tensor for '%s'", p->o->only.s);
    if (st == PARE_OK && is_set(&c.dense) && !u.dense)
        st = pare_fail(err, PARE_ERR_ARG, "dense: found no tensor for '%s'", p->o->dense.s);
    if (st == PARE_OK) st = pare_target_values_check_used(&c.own, "own", p->o->own.s, err);
    size_t n_chosen = 0;
    for (size_t i = 0; i < p->n; i++) n_chosen += p->tensors[i].chosen;
    if (st == PARE_OK && !n_chosen && (is_set(&c.only) || is_set(&c.dense)))
        st = pare_fail(err, PARE_ERR_ARG, "only, dense: found no tensor that is left to prune");
    chooser_free(&c);
    return st;
}
