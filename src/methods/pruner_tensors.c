/* Which tensors a sparse training prunes, by what they are and by their names: JaxPruner's
 * filter_fn and custom_sparsity_map as text. */
#include "methods/pruner.h"

#include "methods/target.h"

#include <string.h>

enum { MAX_OWN = 16 };

typedef struct own_share {
    pare_target target;
    double share;
    bool used;
} own_share;

/* What the options say; group NULL and no regex: nothing. */
typedef struct chooser {
    pare_target only, dense;
    own_share own[MAX_OWN];
    size_t n_own;
} chooser;

static bool is_set(const pare_target *t) { return t->group || t->regex; }

static void chooser_free(chooser *c) {
    pare_target_free(&c->only);
    pare_target_free(&c->dense);
    for (size_t i = 0; i < c->n_own; i++) pare_target_free(&c->own[i].target);
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

/* TARGET=SHARE, len bytes. */
static pare_status parse_own(chooser *c, const char *text, size_t len, pare_error *err) {
    size_t equals = len;
    while (equals > 0 && text[equals - 1] != '=') equals--;
    if (c->n_own == MAX_OWN)
        return pare_fail(err, PARE_ERR_ARG, "own: found more than %d targets", MAX_OWN);
    own_share *o = &c->own[c->n_own];
    if (equals < 2 || !pare_parse_share(&o->share, text + equals, len - equals) ||
        !(o->share >= 0 && o->share <= 1))
        return pare_fail(err, PARE_ERR_ARG,
                         "own: found '%.*s', expected a target and a share from 0 to 1, such as "
                         "ffn=0.9 or /attn_v/=50%%",
                         (int)(len < 64 ? len : 64), text);
    c->n_own++;
    if (pare_target_parse(&o->target, text, equals - 1, err) == PARE_OK) return PARE_OK;
    return pare_fail_prefix(err, "own");
}

static pare_status parse_all(chooser *c, const pare_sparse_options *o, pare_error *err) {
    PARE_TRY(parse_target(&c->only, "only", &o->only, "all", err));
    PARE_TRY(parse_target(&c->dense, "dense", &o->dense, "none", err));
    if (says_nothing(&o->own, "none")) return PARE_OK;
    bool regex = false;
    for (const char *begin = o->own.s, *p = begin;; p++) {
        if (*p == '/') regex = !regex;
        if (*p && (regex || *p != ';')) continue;
        PARE_TRY(parse_own(c, begin, (size_t)(p - begin), err));
        if (!*p) return PARE_OK;
        begin = p + 1;
    }
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
    for (size_t i = 0; matrix && i < c->n_own; i++) {
        if (!pare_target_takes(&c->own[i].target, name, tied)) continue;
        c->own[i].used = true;
        if (t->t.has_sparsity) continue; /* the caller's, or that of a target before */
        t->chosen = t->t.has_sparsity = true;
        t->t.sparsity = c->own[i].share;
    }
    if (!matrix) return;
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
    for (size_t i = 0; st == PARE_OK && i < c.n_own; i++)
        if (!c.own[i].used)
            st = pare_fail(err, PARE_ERR_ARG, "own: found no tensor for target %zu of '%s'", i + 1,
                           p->o->own.s);
    size_t n_chosen = 0;
    for (size_t i = 0; i < p->n; i++) n_chosen += p->tensors[i].chosen;
    if (st == PARE_OK && !n_chosen && (is_set(&c.only) || is_set(&c.dense)))
        st = pare_fail(err, PARE_ERR_ARG, "only, dense: found no tensor that is left to prune");
    chooser_free(&c);
    return st;
}
