#include "methods/pruner.h"

#include "base/memory.h"
#include "base/runtime.h"
#include "kernels/update.h"
#include "methods/distribution.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- options --- */

pare_status pare_sparse_check(const pare_sparse_options *o, pare_error *err) {
    PARE_TRY(pare_prune_check(&o->p, err));
    PARE_TRY(pare_sparse_check_targets(o, err));
    if (o->from >= 0 && o->until >= 0 && o->until < o->from && o->schedule > PARE_SCHEDULE_ONE_SHOT)
        return pare_fail(err, PARE_ERR_ARG, "until: found %d, expected %d (from) or more", o->until,
                         o->from);
    return PARE_OK;
}

/* A fiftieth of the way, as JaxPruner's users have it; not more often than in every tenth step, as
 * an update costs SET and RigL one. An `until` that was given is to be a multiple. */
static int64_t default_every(int64_t from, int64_t until, bool given) {
    int64_t most = (until - from) / 50;
    most = most < 10 ? 10 : most > 100 ? 100 : most;
    for (int64_t every = most; given && every >= 10; every--)
        if (until % every == 0) return every;
    return most;
}

/* Steps that were not given lie at a quarter and three quarters of the training, on multiples of
 * `every`, where updates are; not at step 0, whose weights are those of the start. */
static pare_status settle_schedule(pare_pruner *p, pare_error *err) {
    const pare_sparse_options *o = p->o;
    pare_schedule *s = &p->schedule;
    *s = (pare_schedule){.kind = (pare_schedule_kind)o->schedule,
                         .every = o->every,
                         .from = o->from,
                         .until = o->until,
                         .power = o->power};
    if (s->kind == PARE_SCHEDULE_NONE) return PARE_OK;
    bool needs_until = s->kind != PARE_SCHEDULE_ONE_SHOT;
    if (p->n_steps <= 0 && (s->from < 0 || (needs_until && s->until < 0)))
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found no step, expected one: the length of the training is not known",
                         s->from < 0 ? "from" : "until");
    int64_t from = s->from < 0 ? p->n_steps / 4 : s->from,
            until = s->until < 0 ? p->n_steps * 3 / 4 : s->until;
    if (s->every == 0) s->every = default_every(from, until, s->until >= 0);
    if (s->from < 0) s->from = from < s->every ? s->every : from / s->every * s->every;
    if (s->until >= 0) return PARE_OK;
    s->until = until / s->every * s->every;
    if (s->until < s->from) s->until = s->from;
    return PARE_OK;
}

/* What a user would not expect of a schedule, once a training begins. */
static void tell_schedule(pare_pruner *p) {
    const pare_schedule *s = &p->schedule;
    const char *name = p->spec.method->name;
    bool once = s->kind == PARE_SCHEDULE_ONE_SHOT, sparse = false;
    p->told = true;
    if (s->kind == PARE_SCHEDULE_NONE || p->fns->is_update || p->fns->straight_through) return;
    int64_t first = once ? s->from : (s->from + s->every - 1) / s->every * s->every;
    for (size_t i = 0; i < p->n; i++) sparse |= p->tensors[i].k < p->tensors[i].n;
    if ((p->n_steps > 0 && first >= p->n_steps) || (!once && first > s->until))
        pare_warn(
            p->rt,
            "%s: no step has an update of masks (every=%lld from %lld to %lld, %lld steps): %s",
            name, (long long)s->every, (long long)s->from, (long long)s->until,
            (long long)p->n_steps, sparse ? "those of the start stay" : "nothing is pruned");
    else if (s->kind == PARE_SCHEDULE_POLYNOMIAL && s->until % s->every > 1)
        pare_warn(p->rt,
                  "%s: until=%lld is no multiple of every=%lld: the last update is at step %lld, "
                  "below the full sparsity",
                  name, (long long)s->until, (long long)s->every,
                  (long long)(s->until / s->every * s->every));
}

/* --- tensors --- */

static pare_status check_tensor(pare_pruned *t, pare_error *err) {
    const pare_trained *v = &t->t;
    if (!v->name || !v->w || v->n_dims < 1 || v->n_dims > PARE_TRAINED_MAX_DIMS)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found a tensor without name or weights, or of %zu dimensions, "
                         "expected 1 to %d",
                         v->name ? v->name : "sparsity", v->n_dims, PARE_TRAINED_MAX_DIMS);
    t->n = t->inner = 1;
    for (size_t d = 0; d < v->n_dims; d++) {
        if (v->dims[d] == 0 || !pare_mul_size(&t->n, t->n, v->dims[d]))
            return pare_fail(err, PARE_ERR_ARG, "%s: found dimension %zu of %zu", v->name, d,
                             v->dims[d]);
        if (d >= 2) t->inner *= v->dims[d];
    }
    t->rows = v->n_dims == 1 ? 1 : v->dims[0];
    t->cols = t->n / t->rows;
    if (v->has_sparsity && !(v->sparsity >= 0 && v->sparsity <= 1))
        return pare_fail(err, PARE_ERR_ARG, "%s: found sparsity %g, expected 0 to 1", v->name,
                         v->sparsity);
    return PARE_OK;
}

/* N:M divides the rows (or columns) of tensors that have no sparsity of their own. */
static pare_status check_patterns(const pare_pruner *p, pare_error *err) {
    for (size_t i = 0; i < p->n; i++) {
        const pare_pruned *t = &p->tensors[i];
        if (t->chosen && !t->t.has_sparsity)
            PARE_TRY(pare_mask_check_pattern(t->t.name, p->spec.method->name, &p->o->p, t->rows,
                                             t->cols, err));
    }
    return PARE_OK;
}

/* Shares the sparsity out among the tensors that are pruned. */
static pare_status set_targets(pare_pruner *p, pare_error *err) {
    pare_dist_tensor *d = pare_calloc(p->n, sizeof *d);
    double *share = pare_calloc(p->n, sizeof *share);
    pare_status st = PARE_OK;
    size_t n = 0;
    if (!d || !share) st = pare_fail(err, PARE_ERR_NOMEM, "sparsity: out of memory");
    for (size_t i = 0; st == PARE_OK && i < p->n; i++) {
        const pare_trained *t = &p->tensors[i].t;
        p->tensors[i].target = NAN;
        if (!p->tensors[i].chosen) continue;
        d[n] = (pare_dist_tensor){.name = t->name,
                                  .n_dims = t->n_dims,
                                  .layer = PARE_NO_LAYER,
                                  .fixed = t->has_sparsity ? t->sparsity : (double)NAN};
        for (size_t k = 0; k < t->n_dims; k++) /* inputs and outputs are the last two there */
            d[n].dims[k] = t->dims[t->n_dims - 1 - k];
        n++;
    }
    const pare_dist_blocks none = {0};
    if (st == PARE_OK && n) st = pare_distribution(share, d, n, &p->o->p, &none, err);
    for (size_t i = 0, k = 0; st == PARE_OK && i < p->n; i++)
        if (p->tensors[i].chosen) p->tensors[i].target = share[k++];
    pare_free(d);
    pare_free(share);
    return st;
}

void pare_pruner_fill(pare_pruned *t) {
    const pare_scored s = {.w = t->t.w, .n = t->n, .bits = t->bits};
    pare_select(NULL, &s, 1, t->n, PARE_TIES_FIRST_STAYS);
    t->k = t->n;
}

static pare_status make(pare_pruner *p, const char *spec, const pare_trained *tensors, size_t n,
                        int64_t n_steps, pare_error *err) {
    PARE_TRY(pare_spec_parse(&p->spec, "sparse_training", "sparsity", spec, err));
    p->o = p->spec.options;
    p->fns = p->spec.method->sparse;
    p->tensors = pare_calloc(n, sizeof *p->tensors);
    if (!p->tensors) return pare_fail(err, PARE_ERR_NOMEM, "sparsity: %zu tensors", n);
    p->n = n;
    p->n_steps = n_steps;
    if (settle_schedule(p, err) != PARE_OK)
        return pare_fail_prefix(err, "sparsity: %s", p->spec.method->name);
    for (size_t i = 0; i < n; i++) {
        p->tensors[i].t = tensors[i];
        p->tensors[i].target = NAN;
        PARE_TRY(check_tensor(&p->tensors[i], err));
        p->tensors[i].k = p->tensors[i].n;
    }
    if (p->fns->check && p->fns->check(p, err) != PARE_OK)
        return pare_fail_prefix(err, "sparsity: %s", p->spec.method->name);
    if (p->fns->never) return PARE_OK;
    if (pare_pruner_choose(p, err) != PARE_OK)
        return pare_fail_prefix(err, "sparsity: %s", p->spec.method->name);
    PARE_TRY(check_patterns(p, err));
    PARE_TRY(set_targets(p, err));
    for (size_t i = 0; i < n; i++) {
        pare_pruned *t = &p->tensors[i];
        if (isnan(t->target)) continue;
        if (p->fns->straight_through && !t->t.w_forward && !t->t.w_bf16)
            return pare_fail(err, PARE_ERR_ARG,
                             "%s: %s: found neither w_forward nor w_bf16, expected a place for the "
                             "weights of the forward pass",
                             t->t.name, p->spec.method->name);
        t->bits = pare_calloc(pare_bit_words(t->n), sizeof *t->bits);
        if (!t->bits)
            return pare_fail(err, PARE_ERR_NOMEM, "%s: a mask of %zu bits", t->t.name, t->n);
        pare_pruner_fill(t);
    }
    p->forward_stale = true;
    return p->fns->init ? p->fns->init(p, err) : PARE_OK;
}

pare_status pare_pruner_create(pare_pruner **out, pare_runtime *rt, const char *spec,
                               const pare_trained *tensors, size_t n, int64_t n_steps,
                               pare_error *err) {
    *out = NULL;
    pare_pruner *p = pare_calloc(1, sizeof *p);
    if (!p) return pare_fail(err, PARE_ERR_NOMEM, "sparsity: out of memory");
    p->rt = rt;
    pare_status st = make(p, spec, tensors, n, n_steps, err);
    if (st == PARE_OK)
        *out = p;
    else
        pare_pruner_free(p);
    return st;
}

void pare_pruner_free(pare_pruner *p) {
    if (!p) return;
    for (size_t i = 0; i < p->n; i++) pare_free(p->tensors[i].bits);
    pare_free(p->tensors);
    if (p->scores) pare_big_free(p->scores, p->scores_bytes);
    pare_spec_free(&p->spec);
    pare_free(p);
}

void pare_pruner_set_forward(pare_pruner *p, size_t i, float *w_forward) {
    p->tensors[i].t.w_forward = w_forward;
}

/* --- parts of algorithms --- */

float *pare_pruner_scores(pare_pruner *p, size_t n, pare_error *err) {
    size_t bytes;
    if (!pare_mul_size(&bytes, n, sizeof *p->scores)) bytes = SIZE_MAX;
    if (p->scores && bytes <= p->scores_bytes) return p->scores;
    if (p->scores) pare_big_free(p->scores, p->scores_bytes);
    p->scores = pare_big_alloc(bytes);
    p->scores_bytes = p->scores ? bytes : 0;
    if (!p->scores) pare_fail(err, PARE_ERR_NOMEM, "sparsity: %zu scores", n);
    return p->scores;
}

float *pare_stepper_moment(const pare_stepper *s, size_t i, size_t n, const char *moment) {
    pare_optim_array a;
    for (size_t k = 0; s && s->array_at && s->array_at(s->arg, k, &a); k++)
        if (a.tensor == i && a.n == n && strcmp(a.moment, moment) == 0) return a.data;
    return NULL;
}

pare_status pare_pruner_score_into(float *score, pare_pruner *p, size_t i, pare_score_fn fn,
                                   const pare_sparse_input *in, pare_error *err) {
    const pare_pruned *t = &p->tensors[i];
    if (p->own_score && (fn == p->fns->score || fn == p->fns->grow)) {
        p->own_score(p->own_score_arg, i, score, t->t.w, in->g ? in->g[i] : NULL, t->n);
        return PARE_OK;
    }
    const pare_score_job j = {
        .w = t->t.w,
        .g = in->g ? in->g[i] : NULL,
        .second = fn == pare_score_fisher ? pare_stepper_moment(in->s, i, t->n, "v") : NULL,
        /* what a pruner removed stays away; what grows may grow anywhere */
        .mask = fn == p->fns->score && !p->fns->straight_through ? t->bits : NULL,
        .seed = pare_runtime_seed(p->rt),
        .stream = pare_score_stream(i, in->full ? -1 : p->count)};
    if ((fn == pare_score_saliency || fn == pare_score_gradient) && !j.g)
        return pare_fail(err, PARE_ERR_ARG, "%s: %s: found no gradient", t->t.name,
                         p->spec.method->name);
    if (fn == pare_score_fisher && !j.second)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: %s: the optimizer has no second moment 'v' for each weight, expected "
                         "one of Adam's kind",
                         t->t.name, p->spec.method->name);
    pare_score_all(p->rt, fn, score, &j, t->n);
    return PARE_OK;
}

bool pare_pruner_scores_are_weights(const pare_pruner *p, pare_score_fn fn) {
    return fn == pare_score_magnitude && !(p->own_score && fn == p->fns->score);
}

pare_status pare_pruner_set_score(pare_pruner *p, pare_score_callback fn, void *arg,
                                  pare_error *err) {
    if (!p->fns->score && !p->fns->grow)
        return pare_fail(err, PARE_ERR_ARG,
                         "sparsity: %s: found a score of the caller's, expected an algorithm that "
                         "has scores",
                         p->spec.method->name);
    p->own_score = fn;
    p->own_score_arg = arg;
    return PARE_OK;
}

pare_status pare_pruner_set_top_k(pare_pruner *p, pare_top_k_callback fn, void *arg,
                                  pare_error *err) {
    if (p->fns->masks != pare_pruner_masks)
        return pare_fail(err, PARE_ERR_ARG,
                         "sparsity: %s: found a selection of the caller's, expected an algorithm "
                         "that selects tensor by tensor",
                         p->spec.method->name);
    p->own_top_k = fn;
    p->own_top_k_arg = arg;
    return PARE_OK;
}

pare_status pare_pruner_score(const float **score, pare_pruner *p, size_t i, pare_score_fn fn,
                              const pare_sparse_input *in, pare_error *err) {
    *score = NULL;
    if (pare_pruner_scores_are_weights(p, fn)) return PARE_OK;
    float *scores = pare_pruner_scores(p, p->tensors[i].n, err);
    if (!scores) return PARE_ERR_NOMEM;
    *score = scores;
    return pare_pruner_score_into(scores, p, i, fn, in, err);
}

double pare_pruner_share(const pare_pruner *p, double target, bool full) {
    return full ? target : pare_schedule_sparsity(&p->schedule, target, p->count);
}

typedef struct nan_job {
    const float *value;
    size_t n;
} nan_job;

static void count_nan(void *arg, size_t begin, size_t end) {
    nan_job *j = arg;
    size_t n = 0;
    for (size_t i = begin; i < end; i++) n += isnan(j->value[i]);
    if (n) __atomic_fetch_add(&j->n, n, __ATOMIC_RELAXED);
}

void pare_pruner_tell_nan(pare_pruner *p, size_t i, const float *score) {
    const pare_pruned *t = &p->tensors[i];
    nan_job j = {score ? score : t->t.w, 0};
    if (p->fns->straight_through) return; /* every step: the trainer's losses tell it */
    pare_parallel_for(p->rt, t->n, 1 << 14, count_nan, &j);
    if (j.n)
        pare_warn(p->rt, "%s: %s: %zu of %zu scores are NaN and count as the lowest", t->t.name,
                  p->spec.method->name, j.n, t->n);
}

static pare_status select_by_caller(pare_pruner *p, size_t i, const float *score, double share,
                                    pare_error *err) {
    pare_pruned *t = &p->tensors[i];
    if (!score) {
        float *sizes = pare_pruner_scores(p, t->n, err);
        if (!sizes) return PARE_ERR_NOMEM;
        const pare_score_job j = {.w = t->t.w};
        pare_score_all(p->rt, pare_score_magnitude, sizes, &j, t->n);
        score = sizes;
    }
    memset(t->bits, 0, pare_bit_words(t->n) * sizeof *t->bits);
    p->own_top_k(p->own_top_k_arg, i, t->bits, score, share, t->n);
    if (t->n % 64) t->bits[t->n / 64] &= ((uint64_t)1 << t->n % 64) - 1;
    t->k = pare_mask_count(t->bits, t->n);
    return PARE_OK;
}

pare_status pare_pruner_make_mask(pare_pruner *p, size_t i, const float *score, double share,
                                  pare_error *err) {
    pare_pruned *t = &p->tensors[i];
    if (share <= 0) {
        pare_pruner_fill(t);
        return PARE_OK;
    }
    pare_pruner_tell_nan(p, i, score);
    if (p->own_top_k) return select_by_caller(p, i, score, share, err);
    pare_prune_options o = p->o->p;
    o.sparsity.share = share;
    if (t->t.has_sparsity) o.sparsity.m = 0; /* its own share, not the pattern */
    const pare_mask_job job = {.rt = p->rt,
                               .name = t->t.name,
                               .method = p->spec.method->name,
                               .w = t->t.w,
                               .score = score,
                               .rows = t->rows,
                               .cols = t->cols,
                               .inner = t->inner};
    PARE_TRY(pare_mask_bits(t->bits, &job, &o, err));
    t->k = pare_mask_count(t->bits, t->n);
    return PARE_OK;
}

pare_status pare_pruner_masks(pare_pruner *p, const pare_sparse_input *in, pare_error *err) {
    for (size_t i = 0; i < p->n; i++) {
        const float *score;
        if (isnan(p->tensors[i].target)) continue;
        PARE_TRY(pare_pruner_score(&score, p, i, p->fns->score, in, err));
        double share = pare_pruner_share(p, p->tensors[i].target, in->full);
        PARE_TRY(pare_pruner_make_mask(p, i, score, share, err));
    }
    return PARE_OK;
}

/* --- hooks --- */

const char *pare_pruner_text(const pare_pruner *p) { return p->spec.text; }
bool pare_pruner_is_straight_through(const pare_pruner *p) { return p->fns->straight_through; }
int64_t pare_pruner_count(const pare_pruner *p) { return p->count; }
double pare_pruner_target(const pare_pruner *p, size_t i) { return p->tensors[i].target; }
const uint64_t *pare_pruner_mask(const pare_pruner *p, size_t i) { return p->tensors[i].bits; }
const uint64_t *pare_pruner_forward_mask(const pare_pruner *p, size_t i) {
    bool applied = p->fns->straight_through || p->count > 0 || p->o->mask_at_init;
    return applied ? p->tensors[i].bits : NULL;
}

bool pare_pruner_is_update_step(const pare_pruner *p) {
    if (p->fns->straight_through || p->fns->never || (!p->fns->masks && !p->fns->update))
        return false;
    return p->fns->is_update ? p->fns->is_update(p)
                             : pare_schedule_is_update(&p->schedule, p->count);
}

bool pare_pruner_needs_dense_gradient(const pare_pruner *p) {
    if (p->fns->never || p->fns->straight_through || !p->o->sparse_grads) return true;
    bool reads = p->fns->needs_gradient || p->own_score; /* which is handed g */
    return reads && pare_pruner_is_update_step(p);
}

typedef struct mask_job {
    const pare_update_kernels *k;
    pare_update_arrays a;
    float *out;
    size_t n;
} mask_job;

static void mask_words(void *arg, size_t begin, size_t end) {
    const mask_job *j = arg;
    j->k->mask(&j->a, j->out, begin * 64, end * 64 < j->n ? end * 64 : j->n);
}

/* out (NULL: none) and the bf16 copy become the masked weights. */
static void put_masked(pare_pruner *p, const pare_pruned *t, float *from, float *out,
                       uint16_t *bf16) {
    mask_job j = {pare_update_kernels_get(pare_runtime_isa(p->rt)),
                  {.w = from, .bf16 = bf16, .mask = t->bits},
                  out,
                  t->n};
    pare_parallel_for(p->rt, pare_bit_words(t->n), 256, mask_words, &j);
}

void pare_pruner_post_gradient(pare_pruner *p) {
    if (p->fns->straight_through) return;
    for (size_t i = 0; i < p->n; i++) {
        const pare_pruned *t = &p->tensors[i];
        if (t->bits && (t->k < t->n || t->t.w_bf16)) put_masked(p, t, t->t.w, t->t.w, t->t.w_bf16);
    }
}

pare_status pare_pruner_pre_forward(pare_pruner *p, pare_error *err) {
    if (!p->told) tell_schedule(p);
    if (p->fns->straight_through) {
        const pare_sparse_input in = {0};
        if (p->forward_stale || !p->fns->is_update || p->fns->is_update(p))
            PARE_TRY(pare_pruner_masks(p, &in, err));
        p->forward_stale = false;
        for (size_t i = 0; i < p->n; i++) {
            const pare_trained *t = &p->tensors[i].t;
            if (t->w_forward || t->w_bf16)
                put_masked(p, &p->tensors[i], t->w, t->w_forward, t->w_bf16);
        }
    } else if (p->count == 0 && p->o->mask_at_init) {
        pare_pruner_post_gradient(p);
    }
    return PARE_OK;
}

/* Gradients of pruned weights become 0, for an optimizer that knows nothing of masks. */
static void mask_gradients(pare_pruner *p, float *const *g) {
    for (size_t i = 0; i < p->n; i++)
        if (p->tensors[i].bits && g[i]) put_masked(p, &p->tensors[i], g[i], g[i], NULL);
}

static pare_status step(pare_pruner *p, const pare_stepper *s, const pare_optim_args *args,
                        pare_error *err) {
    const uint64_t **masks = pare_calloc(p->n, sizeof *masks);
    if (!masks) return pare_fail(err, PARE_ERR_NOMEM, "sparsity: out of memory");
    for (size_t i = 0; i < p->n && !p->fns->straight_through; i++) masks[i] = p->tensors[i].bits;
    pare_optim_args a = *args;
    a.mask = s->takes_masks ? masks : NULL;
    a.mask_gradient = s->takes_masks && p->o->sparse_grads && !p->fns->straight_through;
    if (!s->takes_masks && p->o->sparse_grads && !p->fns->straight_through)
        mask_gradients(p, args->g);
    pare_status st = s->step(s->arg, &a, err);
    pare_free(masks);
    return st;
}

pare_status pare_pruner_update(pare_pruner *p, const pare_stepper *s, const pare_optim_args *args,
                               pare_error *err) {
    if (!args->g) return pare_fail(err, PARE_ERR_ARG, "sparsity: found no gradients");
    bool updates = pare_pruner_is_update_step(p);
    const pare_sparse_input in = {.g = args->g, .s = s};
    if (updates)
        PARE_TRY(p->fns->update ? p->fns->update(p, &in, err) : p->fns->masks(p, &in, err));
    bool stepped = !(updates && p->o->skip_gradients);
    if (stepped) PARE_TRY(step(p, s, args, err));
    if (p->count < INT64_MAX) p->count++;
    if (!stepped || !s->takes_masks) pare_pruner_post_gradient(p);
    return PARE_OK;
}

pare_status pare_pruner_instant_sparsify(pare_pruner *p, float *const *g, pare_error *err) {
    if (p->fns->never) return PARE_OK;
    if (!p->fns->masks)
        return pare_fail(err, PARE_ERR_ARG,
                         "sparsity: %s: found a call to prune at once, which it cannot",
                         p->spec.method->name);
    const pare_sparse_input in = {.g = g, .full = true};
    PARE_TRY(p->fns->masks(p, &in, err));
    for (size_t i = 0; i < p->n; i++) {
        const pare_pruned *t = &p->tensors[i];
        if (t->bits) put_masked(p, t, t->t.w, t->t.w, t->t.w_bf16);
    }
    return PARE_OK;
}

static bool optim_array_at(void *arg, size_t i, pare_optim_array *out) {
    return pare_optim_array_at(arg, i, out);
}
static pare_status optim_step(void *arg, const pare_optim_args *args, pare_error *err) {
    return pare_optim_step(arg, args, err);
}
pare_stepper pare_optim_stepper(pare_optim *o) {
    return (pare_stepper){
        .arg = o, .step = optim_step, .array_at = optim_array_at, .takes_masks = true};
}
