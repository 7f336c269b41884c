/* The step of masks that SET and RigL share: the smallest weights of a tensor go, as many others
 * come. Whole numbers and forced places stand for JaxPruner's scores that are lifted by an epsilon,
 * which vanishes beside large scores. */
#include "methods/pruner.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

pare_status pare_drop_check(const pare_sparse_options *o, pare_error *err) {
    if (!o->p.sparsity.m) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG,
                     "sparsity: found %d:%d, within whose groups no mask can change; expected a "
                     "share",
                     o->p.sparsity.n, o->p.sparsity.m);
}

double pare_drop_share(const pare_drop_options *o, const pare_pruner *p) {
    int64_t end = p->schedule.until;
    if (o->decay == PARE_DECAY_NONE || end <= 0) return o->drop;
    double t = (double)(p->count < end ? p->count : end) / (double)end;
    return o->drop * 0.5 * (1 + cos(3.141592653589793 * t));
}

pare_status pare_pruner_init_random(pare_pruner *p, pare_error *err) {
    const pare_sparse_input in = {.full = true};
    for (size_t i = 0; i < p->n; i++) {
        const float *score;
        if (!p->tensors[i].bits) continue;
        PARE_TRY(pare_pruner_score(&score, p, i, pare_score_random, &in, err));
        PARE_TRY(pare_pruner_make_mask(p, i, score, p->tensors[i].target, err));
    }
    return PARE_OK;
}

size_t pare_drop_keep(size_t n, size_t k, double drop) {
    size_t keep;
    if (n < 3000000) {
        float density = (float)k / (float)n;
        keep = pare_mask_n_keep(n, (double)(1.0f - density * (1.0f - (float)drop)));
    } else {
        double wanted = nearbyint((double)k * (1 - drop));
        keep = wanted < 1 ? 1 : (size_t)wanted;
    }
    return keep < k ? keep : k;
}

/* A tensor's units: its weights or its tiles. */
typedef struct units {
    pare_pruner *p;
    pare_pruned *t;
    bool tiled;
    pare_tiling tiling;
    size_t n, bytes;
    uint64_t *old, *stay, *new; /* [words] */
    float *score;               /* tiles: [n] */
    double *work;               /* tiles: [n] */
    uint64_t *weights;          /* tiles: [words of the weights] */
} units;

static pare_status make_units(units *u, pare_pruner *p, pare_pruned *t, pare_error *err) {
    *u = (units){.p = p, .t = t, .tiled = p->o->p.type.kind != PARE_STRUCTURE_WEIGHT, .n = t->n};
    if (u->tiled) {
        u->tiling = pare_tiling_of(&p->o->p, t->rows, t->cols, t->inner);
        u->n = u->tiling.down * u->tiling.across;
    }
    size_t words = pare_bit_words(u->n), tiles = u->tiled ? u->n : 0,
           weights = u->tiled ? pare_bit_words(t->n) : 0;
    u->bytes =
        tiles * sizeof(double) + (3 * words + weights) * sizeof(uint64_t) + tiles * sizeof(float);
    u->work = pare_big_alloc(u->bytes);
    if (!u->work) return pare_fail(err, PARE_ERR_NOMEM, "%s: masks", t->t.name);
    u->old = (uint64_t *)(u->work + tiles);
    u->stay = u->old + words;
    u->new = u->stay + words;
    u->weights = u->new + words;
    u->score = (float *)(u->weights + weights);
    if (u->tiled)
        pare_tiling_contract(&u->tiling, t->bits, u->old);
    else
        memcpy(u->old, t->bits, words * sizeof *u->old);
    return PARE_OK;
}

/* Scores of the units from those of the weights; NULL: |w|. */
static const float *unit_scores(units *u, const float *score) {
    if (!u->tiled) return score;
    pare_tiling_pool(u->p->rt, &u->tiling, u->t->t.w, score, u->score, u->work);
    return u->score;
}

/* Values of bits [begin, end) of words that are in `now` and not in `before` become 0. */
typedef struct clear_job {
    float *data;
    const uint64_t *now, *before;
} clear_job;

static void clear_words(void *arg, size_t begin, size_t end) {
    const clear_job *j = arg;
    for (size_t i = begin; i < end; i++)
        for (uint64_t bits = j->now[i] & ~j->before[i]; bits; bits &= bits - 1)
            j->data[i * 64 + (size_t)__builtin_ctzll(bits)] = 0.0f;
}

static void clear_state(pare_pruner *p, size_t tensor, const pare_stepper *s, const uint64_t *now) {
    const pare_pruned *t = &p->tensors[tensor];
    pare_optim_array a;
    for (size_t k = 0; s && s->array_at && s->array_at(s->arg, k, &a); k++) {
        if (a.tensor != tensor || a.n != t->n) continue;
        clear_job j = {a.data, now, t->bits};
        pare_parallel_for(p->rt, pare_bit_words(t->n), 256, clear_words, &j);
    }
}

static pare_status drop_grow(units *u, size_t i, const pare_sparse_input *in, pare_score_fn grow,
                             double drop, pare_error *err) {
    pare_pruner *p = u->p;
    pare_pruned *t = u->t;
    size_t k = pare_mask_count(u->old, u->n);
    if (k == u->n) return PARE_OK; /* dense: nothing can come */
    const float *score = NULL;
    const pare_scored weak = {
        .w = t->t.w, .score = unit_scores(u, NULL), .n = u->n, .within = u->old, .bits = u->stay};
    pare_select(p->rt, &weak, 1, pare_drop_keep(u->n, k, drop), PARE_TIES_FIRST_STAYS);
    PARE_TRY(pare_pruner_score(&score, p, i, grow, in, err));
    pare_pruner_tell_nan(p, i, score);
    const pare_scored best = {
        .w = t->t.w, .score = unit_scores(u, score), .n = u->n, .forced = u->stay, .bits = u->new};
    pare_select(p->rt, &best, 1, k, PARE_TIES_FIRST_STAYS);
    if (u->tiled) pare_tiling_expand(p->rt, &u->tiling, u->new, u->weights);
    const uint64_t *now = u->tiled ? u->weights : u->new;
    clear_state(p, i, in->s, now);
    memcpy(t->bits, now, pare_bit_words(t->n) * sizeof *now);
    t->k = pare_mask_count(t->bits, t->n);
    return PARE_OK;
}

pare_status pare_pruner_drop_grow(pare_pruner *p, const pare_sparse_input *in, pare_score_fn grow,
                                  double drop, pare_error *err) {
    for (size_t i = 0; i < p->n; i++) {
        units u;
        if (!p->tensors[i].bits) continue;
        PARE_TRY(make_units(&u, p, &p->tensors[i], err));
        pare_status st = drop_grow(&u, i, in, grow, drop, err);
        pare_big_free(u.work, u.bytes);
        PARE_TRY(st);
    }
    return PARE_OK;
}
