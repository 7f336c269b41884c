#include "pipeline/cushion_eval.h"

#include "model/pass_room.h"
#include "model/prefix.h"

#include <math.h>
#include <string.h>

struct pare_cushion_eval {
    pare_model *m;
    pare_cushion_eval_options o;
    pare_pass_room room;
    size_t per_pass; /* candidates of one pass, at most */
    float *h;        /* [capacity][max_text + 1][dim], a candidate's rows together */
    int32_t *ids;    /* [capacity][max_text + 1] */
    size_t h_bytes;

    pare_attn_span *spans;    /* [per_pass] */
    pare_prefix *prefix;      /* computed from tokens, or NULL */
    const pare_prefix *front; /* what all stand behind; NULL: nothing */

    size_t n, rows, skip; /* candidates left; rows of each, of them before the text */
    size_t layer;         /* the next one */
    double *lq;           /* [capacity] */
};

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "cushion: out of memory");
}

/* --- a pass --- */

typedef struct region {
    pare_cushion_eval *e;
    size_t first, n; /* candidates */
} region;

/* Adds the error of a tensor's rows x[n * rows][ldx] to the sums of their candidates. */
static void add_error(pare_worker *w, const region *r, const float *x, size_t ldx, size_t in) {
    pare_cushion_eval *e = r->e;
    size_t begin, end;
    pare_share(w, r->n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++)
        e->lq[r->first + i] +=
            pare_act_error(&e->o.scheme, NULL, pare_runtime_isa(e->m->rt),
                           x + (i * e->rows + e->skip) * ldx, ldx, e->rows - e->skip, in);
}

static bool see_input(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs,
                      const float *x, size_t ldx, size_t n, size_t in) {
    (void)outs, (void)n_outs, (void)n;
    add_error(f->w, arg, x, ldx, in);
    return true;
}

static void run_candidates(pare_fwd *f, const region *r) {
    pare_cushion_eval *e = r->e;
    bool planning = pare_fwd_planning(f);
    size_t rows = planning ? e->o.max_text + 1 : e->rows, at = r->first * rows;
    float *h = planning ? NULL : e->h + at * e->m->config.dim;
    pare_pass pass = {
        .ids = planning ? NULL : e->ids + at, .n = r->n * rows, .spans = e->spans, .n_spans = r->n};
    pare_fwd_marks mark = pare_fwd_mark(f);
    if (planning || e->layer == 0) pare_pass_embed(f, e->m, &pass, h);
    pare_pass_begin(f, e->m, &pass);
    pare_pass_layer(f, e->m, &pass, e->layer, h);
    pare_fwd_release(f, mark);
}

static void region_thread(pare_worker *w, void *arg) {
    region *r = arg;
    pare_cushion_eval *e = r->e;
    pare_fwd f = pare_pass_room_fwd(&e->room, w, e->m->rt, e->o.compute);
    f.many = true;           /* a candidate's bits do not depend on those beside it */
    f.own = (pare_arena){0}; /* a pass of one token writes shared states too */
    if (e->o.site != PARE_CUSHION_BLOCK_OUT) {
        f.probe = see_input;
        f.probe_arg = r;
    }
    run_candidates(&f, r);
    const size_t dim = e->m->config.dim;
    if (e->o.site != PARE_CUSHION_LINEAR_IN)
        add_error(w, r, e->h + r->first * e->rows * dim, dim, dim);
}

/* --- set-up --- */

static pare_status make_room(pare_cushion_eval *e, pare_error *err) {
    pare_runtime *rt = e->m->rt;
    pare_worker worker;
    pare_fwd f =
        pare_fwd_plan(&worker, pare_runtime_threads(rt), pare_runtime_isa(rt), e->o.compute);
    f.many = true;
    for (size_t n = 1; n <= e->per_pass; n += e->per_pass > 1 ? e->per_pass - 1 : 1)
        run_candidates(&f, &(region){.e = e, .n = n});
    return pare_pass_room_make(&e->room, &f, rt, err);
}

static pare_status set_up(pare_cushion_eval *e, pare_error *err) {
    const pare_model_config *c = &e->m->config;
    const size_t rows = e->o.max_text + 1;
    if (c->ctx_max && e->o.max_prefix + e->o.max_text > c->ctx_max) /* with the candidate */
        return pare_fail(
            err, PARE_ERR_ARG,
            "cushion: found a prefix of up to %zu tokens and texts of %zu, expected at "
            "most %zu together, the model's context",
            e->o.max_prefix, e->o.max_text, c->ctx_max);
    e->per_pass = PARE_CUSHION_PASS_ROWS / rows ? PARE_CUSHION_PASS_ROWS / rows : 1;
    if (e->per_pass > e->o.capacity) e->per_pass = e->o.capacity;
    if (!pare_mul_size(&e->h_bytes, e->o.capacity * sizeof *e->h, rows * c->dim))
        return fail_memory(err);
    e->h = pare_big_alloc(e->h_bytes);
    e->ids = pare_calloc(e->o.capacity * rows, sizeof *e->ids);
    e->spans = pare_calloc(e->per_pass, sizeof *e->spans);
    e->lq = pare_calloc(e->o.capacity, sizeof *e->lq);
    return e->h && e->ids && e->spans && e->lq ? make_room(e, err) : fail_memory(err);
}

pare_status pare_cushion_eval_open(pare_cushion_eval **out, pare_model *m,
                                   const pare_cushion_eval_options *o, pare_error *err) {
    *out = NULL;
    pare_cushion_eval *e = pare_calloc(1, sizeof *e);
    if (!e) return fail_memory(err);
    e->m = m;
    e->o = *o;
    pare_status st = set_up(e, err);
    if (st == PARE_OK)
        *out = e;
    else
        pare_cushion_eval_close(e);
    return st;
}

void pare_cushion_eval_close(pare_cushion_eval *e) {
    if (!e) return;
    pare_pass_room_free(&e->room);
    if (e->h) pare_big_free(e->h, e->h_bytes);
    pare_prefix_free(e->prefix);
    pare_free(e->ids);
    pare_free(e->spans);
    pare_free(e->lq);
    pare_free(e);
}

size_t pare_cushion_eval_bytes(const pare_cushion_eval *e) { return e->room.bytes + e->h_bytes; }

/* --- what the search asks for --- */

pare_status pare_cushion_eval_prefix(pare_cushion_eval *e, const int32_t *ids, size_t n,
                                     pare_error *err) {
    pare_prefix_free(e->prefix);
    e->prefix = NULL;
    pare_status st = n ? pare_prefix_from_ids(&e->prefix, e->m, ids, n, err) : PARE_OK;
    e->front = e->prefix;
    return st;
}

void pare_cushion_eval_behind(pare_cushion_eval *e, const pare_prefix *p) { e->front = p; }

void pare_cushion_eval_begin(pare_cushion_eval *e, const int32_t *candidates, size_t n,
                             const int32_t *text, size_t n_text) {
    e->n = n;
    e->skip = candidates != NULL;
    e->rows = n_text + e->skip;
    e->layer = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t *ids = e->ids + i * e->rows;
        if (candidates) *ids++ = candidates[i];
        memcpy(ids, text, n_text * sizeof *ids);
    }
}

pare_status pare_cushion_eval_block(pare_cushion_eval *e, double *lq, pare_error *err) {
    memset(e->lq, 0, e->n * sizeof *e->lq);
    for (size_t first = 0; first < e->n;) {
        size_t n = e->n - first < e->per_pass ? e->n - first : e->per_pass;
        PARE_TRY(pare_check_cancel(e->m->rt, err));
        for (size_t i = 0; i < n; i++)
            e->spans[i] =
                (pare_attn_span){.n = e->rows, .prefix = e->front ? &e->front->attn : NULL};
        pare_team_run(e->m->rt, region_thread, &(region){.e = e, .first = first, .n = n});
        first += n;
    }
    for (size_t i = 0; i < e->n; i++) /* no number at all is as bad as it gets */
        lq[i] = e->lq[i] >= 0 ? e->lq[i] : (double)INFINITY;
    e->layer++;
    return PARE_OK;
}

void pare_cushion_eval_keep(pare_cushion_eval *e, const size_t *which, size_t n) {
    const size_t values = e->rows * e->m->config.dim;
    for (size_t i = 0; i < n; i++) {
        if (which[i] == i) continue;
        memcpy(e->h + i * values, e->h + which[i] * values, values * sizeof *e->h);
        memcpy(e->ids + i * e->rows, e->ids + which[i] * e->rows, e->rows * sizeof *e->ids);
    }
    e->n = n;
}
