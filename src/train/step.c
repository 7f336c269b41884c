#include "train/step.h"

#include "base/runtime.h"

#include <string.h>

enum { LOGITS_BYTES = 64 << 20 /* that exist at a time */, LOGITS_ROWS = 32 /* at least */ };

struct pare_step {
    pare_train_weights *weights;
    pare_step_options o;
    pare_attn_span *spans; /* [o.n_spans] */
    float *nll;            /* [o.n_tokens] */
    /* the arena and its shadow; saved values; scratch of backward halves; of linear layers */
    uint8_t *arena, *shadow, *saves, *work, *linear;
    size_t arena_bytes, saves_bytes, work_bytes, linear_bytes;
};

typedef struct region {
    pare_step *s;
    const pare_batch *b; /* NULL in a plan */
    bool gradient;
    float scale;
} region;

/* A layer's input is put aside, or taken from there. */
static void copy_rows(pare_fwd *f, float *to, const float *from, size_t count) {
    size_t begin, end;
    if (pare_fwd_planning(f)) return;
    pare_share(f->w, count, 256, &begin, &end);
    memcpy(to + begin, from + begin, (end - begin) * sizeof *to);
    pare_barrier(f->w);
}

static void layers_recomputed(pare_fwd *f, const region *r, const pare_pass *pass, float *h,
                              float *kept) {
    const pare_model *m = r->s->weights->model;
    size_t count = pass->n * m->config.dim;
    struct pare_tape *tape = f->tape;
    f->tape = NULL;
    for (size_t l = 0; l < m->config.n_layers; l++) {
        copy_rows(f, kept ? kept + l * count : NULL, h, count);
        pare_pass_layer(f, m, pass, l, h);
    }
    f->tape = tape;
}

static void layers_backward(pare_fwd *f, const region *r, const pare_pass *pass, float *h,
                            const float *kept) {
    const pare_model *m = r->s->weights->model;
    size_t count = pass->n * m->config.dim;
    for (size_t l = m->config.n_layers; l-- > 0;) {
        pare_tape_mark before = pare_tape_here(f->tape);
        copy_rows(f, h, kept ? kept + l * count : NULL, count);
        pare_pass_layer(f, m, pass, l, h);
        pare_tape_backward(f, before);
    }
}

static void run(pare_fwd *f, const region *r) {
    pare_step *s = r->s;
    const pare_model *m = s->weights->model;
    const pare_model_config *c = &m->config;
    size_t n = r->b ? r->b->n_tokens : s->o.n_tokens;
    struct pare_tape *tape = f->tape;
    bool recompute = tape && s->o.recompute;
    pare_pass pass = {.n = n, .n_spans = r->b ? r->b->n_spans : s->o.n_spans};
    if (r->b) {
        pass.ids = r->b->ids;
        pass.spans = s->spans;
    }
    f->tape = NULL; /* angles depend on nothing */
    pare_pass_begin(f, m, &pass);
    f->tape = tape;
    float *h = pare_fwd_alloc(f, n * c->dim, sizeof *h);
    float *y = pare_fwd_alloc(f, n * c->embed_dim, sizeof *y);
    float *kept = recompute ? pare_tape_save(f, c->n_layers * n * c->dim, sizeof *kept) : NULL;
    pare_tape_mark begin = {0}, embedded = {0};
    if (tape) begin = pare_tape_here(tape);
    pare_pass_embed(f, m, &pass, h);
    if (tape) embedded = pare_tape_here(tape);
    if (recompute)
        layers_recomputed(f, r, &pass, h, kept);
    else
        for (size_t l = 0; l < c->n_layers; l++) pare_pass_layer(f, m, &pass, l, h);
    pare_pass_finish(f, m, y, h, n);
    size_t room = LOGITS_BYTES / sizeof(float), least = LOGITS_ROWS * c->vocab_size;
    pare_ce ce = {m->head->name, &m->head->w,      r->b ? r->b->targets : NULL,
                  r->scale,      c->final_softcap, room > least ? room : least};
    pare_op_cross_entropy(f, s->nll, y, n, c->embed_dim, &ce);
    if (recompute) {
        pare_tape_backward(f, embedded);
        layers_backward(f, r, &pass, h, kept);
    }
    if (tape) pare_tape_backward(f, begin);
}

static void region_thread(pare_worker *w, void *arg) {
    const region *r = arg;
    const pare_step *s = r->s;
    pare_isa isa = pare_runtime_isa(s->weights->model->rt);
    pare_tape tape = {.saves = {.base = s->saves, .capacity = s->saves_bytes},
                      .work = {.base = s->work, .capacity = s->work_bytes},
                      .shadow = s->shadow,
                      .leaves = s->weights->leaves,
                      .n_leaves = s->weights->n_leaves,
                      .half = s->o.compute == PARE_COMPUTE_FAST};
    pare_fwd f = {.w = w,
                  .isa = isa,
                  .compute = s->o.compute,
                  .many = true,
                  .k = pare_op_kernels_get(isa),
                  .arena = {.base = s->arena, .capacity = s->arena_bytes},
                  .linear_scratch = s->linear,
                  .linear_bytes = s->linear_bytes,
                  .tape = r->gradient ? &tape : NULL};
    run(&f, r);
}

static pare_status allocate(pare_step *s, pare_error *err) {
    pare_runtime *rt = s->weights->model->rt;
    pare_worker worker;
    pare_tape tape = {.saves = {.capacity = SIZE_MAX},
                      .work = {.capacity = SIZE_MAX},
                      .half = s->o.compute == PARE_COMPUTE_FAST};
    pare_fwd f =
        pare_fwd_plan(&worker, pare_runtime_threads(rt), pare_runtime_isa(rt), s->o.compute);
    f.own.capacity = 0;
    f.many = true;
    f.tape = &tape;
    run(&f, &(region){.s = s});
    s->arena_bytes = f.arena.peak + 64;
    s->saves_bytes = tape.saves.peak + 64;
    s->work_bytes = tape.work.peak + 64;
    s->linear_bytes = f.linear_bytes + 64;
    s->spans = pare_calloc(s->o.n_spans, sizeof *s->spans);
    s->nll = pare_calloc(s->o.n_tokens, sizeof *s->nll);
    s->arena = pare_big_alloc(s->arena_bytes);
    s->shadow = pare_big_alloc(s->arena_bytes);
    s->saves = pare_big_alloc(s->saves_bytes);
    s->work = pare_big_alloc(s->work_bytes);
    s->linear = pare_big_alloc(s->linear_bytes);
    if (s->spans && s->nll && s->arena && s->shadow && s->saves && s->work && s->linear)
        return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM, "training: %zu bytes for a batch of %zu tokens",
                     pare_step_bytes(s), s->o.n_tokens);
}

pare_status pare_step_create(pare_step **out, pare_train_weights *weights,
                             const pare_step_options *o, pare_error *err) {
    *out = NULL;
    if (!o->n_tokens || !o->n_spans || o->n_spans > o->n_tokens)
        return pare_fail(err, PARE_ERR_ARG,
                         "training: found a batch of %zu sequences and %zu tokens", o->n_spans,
                         o->n_tokens);
    pare_step *s = pare_calloc(1, sizeof *s);
    if (!s) return pare_fail(err, PARE_ERR_NOMEM, "training: a batch");
    s->weights = weights;
    s->o = *o;
    pare_status st = allocate(s, err);
    if (st != PARE_OK) {
        pare_step_free(s);
        return st;
    }
    *out = s;
    return PARE_OK;
}

void pare_step_free(pare_step *s) {
    if (!s) return;
    pare_free(s->spans);
    pare_free(s->nll);
    if (s->arena) pare_big_free(s->arena, s->arena_bytes);
    if (s->shadow) pare_big_free(s->shadow, s->arena_bytes);
    if (s->saves) pare_big_free(s->saves, s->saves_bytes);
    if (s->work) pare_big_free(s->work, s->work_bytes);
    if (s->linear) pare_big_free(s->linear, s->linear_bytes);
    pare_free(s);
}

size_t pare_step_bytes(const pare_step *s) {
    return 2 * s->arena_bytes + s->saves_bytes + s->work_bytes + s->linear_bytes;
}

pare_status pare_step_run(pare_step *s, const pare_batch *b, bool gradient, float scale,
                          double *nll, pare_error *err) {
    if (b->n_tokens > s->o.n_tokens || b->n_spans > s->o.n_spans || !b->n_tokens)
        return pare_fail(err, PARE_ERR_ARG,
                         "training: found %zu sequences of %zu tokens, expected at most %zu of %zu",
                         b->n_spans, b->n_tokens, s->o.n_spans, s->o.n_tokens);
    for (size_t i = 0; i < b->n_spans; i++) s->spans[i] = (pare_attn_span){NULL, b->lengths[i], 0};
    region r = {s, b, gradient, scale};
    pare_team_run(s->weights->model->rt, region_thread, &r);
    *nll = 0;
    for (size_t i = 0; i < b->n_tokens; i++) *nll += (double)s->nll[i];
    return PARE_OK;
}
