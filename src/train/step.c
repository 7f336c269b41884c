#include "train/step.h"

#include "base/runtime.h"
#include "model/prefix.h"
#include "train/tape_room.h"

#include <string.h>

enum { LOGITS_BYTES = 64 << 20 /* that exist at a time */, LOGITS_ROWS = 32 /* at least */ };

struct pare_step {
    pare_train_weights *weights;
    pare_step_options o;
    pare_attn_span *spans, *taught_spans; /* [o.n_spans] */
    size_t front;                         /* positions of the prefix that was planned for */
    float *nll;                           /* [o.n_tokens] */
    pare_tape_room room;
    pare_pass_room taught; /* the teacher's */
    void (*on_layer)(void *arg, size_t layer);
    void *on_layer_arg;
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
    if (pare_fwd_planning(f) || !to || !from) return; /* a plan has neither */
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

/* A layer that is recorded. A plan has room for the note. */
static void record_layer(pare_fwd *f, const region *r, const pare_pass *pass, size_t l, float *h) {
    const pare_step *s = r->s;
    if (f->tape && (s->on_layer || pare_fwd_planning(f)))
        pare_tape_note(f, s->on_layer, s->on_layer_arg, l);
    f->probe = s->o.probe; /* not of the head */
    f->probe_arg = s->o.probe_arg;
    pare_pass_layer(f, s->weights->model, pass, l, h);
    f->probe = NULL;
    if (s->o.on_output) s->o.on_output(s->o.on_output_arg, f, l, h, pass->n);
}

static void layers_backward(pare_fwd *f, const region *r, const pare_pass *pass, float *h,
                            const float *kept) {
    const pare_model *m = r->s->weights->model;
    size_t count = pass->n * m->config.dim;
    for (size_t l = m->config.n_layers; l-- > 0;) {
        pare_tape_mark before = pare_tape_here(f->tape);
        copy_rows(f, h, kept ? kept + l * count : NULL, count);
        record_layer(f, r, pass, l, h);
        pare_tape_backward(f, before);
    }
}

/* What the teacher's head multiplies, [n][its width]. */
static float *run_teacher(pare_fwd *f, const region *r) {
    const pare_step *s = r->s;
    const pare_model *m = s->o.teacher;
    size_t n = r->b ? r->b->n_tokens : s->o.n_tokens;
    pare_pass pass = {.n = n, .n_spans = r->b ? r->b->n_spans : s->o.n_spans};
    if (r->b) {
        pass.ids = r->b->ids;
        pass.spans = s->taught_spans;
    }
    float *y = pare_fwd_alloc(f, n * m->config.embed_dim, sizeof *y);
    pare_pass_run(f, m, &pass, y);
    return y;
}

static pare_teacher teacher_of(const pare_step *s, const float *y) {
    const pare_model *m = s->o.teacher;
    return (pare_teacher){.name = m->head->name,
                          .head = &m->head->w,
                          .y = y,
                          .dim = m->config.embed_dim,
                          .softcap = m->config.final_softcap,
                          .temperature = s->o.temperature,
                          .hard = s->o.hard};
}

/* y: what the teacher makes of the batch, with a gradient. */
static void run(pare_fwd *f, const region *r, const float *y_teacher) {
    pare_step *s = r->s;
    const pare_model *m = s->weights->model;
    const pare_model_config *c = &m->config;
    size_t n = r->b ? r->b->n_tokens : s->o.n_tokens;
    struct pare_tape *tape = f->tape;
    bool recompute = tape && s->o.recompute;
    const pare_attn_span planned = {.n = n, .prefix = pare_model_prefix(m)};
    pare_pass pass = {.ids = r->b ? r->b->ids : NULL,
                      .n = n,
                      .spans = r->b ? s->spans : &planned,
                      .n_spans = r->b ? r->b->n_spans : s->o.n_spans};
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
        for (size_t l = 0; l < c->n_layers; l++) record_layer(f, r, &pass, l, h);
    pare_pass_finish(f, m, y, h, n);
    size_t room = LOGITS_BYTES / sizeof(float), least = LOGITS_ROWS * c->vocab_size;
    pare_teacher teacher = {0};
    if (tape && s->o.teacher) teacher = teacher_of(s, y_teacher);
    pare_ce ce = {.name = m->head->name,
                  .head = &m->head->w,
                  .targets = r->b ? r->b->targets : NULL,
                  .scale = r->scale,
                  .softcap = c->final_softcap,
                  .room = room > least ? room : least,
                  .teacher = teacher.head ? &teacher : NULL};
    pare_op_cross_entropy(f, s->nll, y, n, c->embed_dim, &ce);
    if (recompute) {
        pare_tape_backward(f, embedded);
        layers_backward(f, r, &pass, h, kept);
    }
    if (tape) pare_tape_backward(f, begin);
}

static pare_tape tape_of(const pare_step *s) {
    return (pare_tape){.leaves = s->weights->leaves,
                       .n_leaves = s->weights->n_leaves,
                       .half = s->o.compute == PARE_COMPUTE_FAST};
}

static void region_thread(pare_worker *w, void *arg) {
    const region *r = arg;
    const pare_step *s = r->s;
    pare_runtime *rt = s->weights->model->rt;
    pare_tape tape = tape_of(s);
    pare_fwd f = pare_tape_room_fwd(&s->room, w, rt, s->o.compute, r->gradient ? &tape : NULL);
    float *y = NULL;
    if (r->gradient && s->o.teacher) {
        pare_fwd t = pare_pass_room_fwd(&s->taught, w, rt, s->o.compute);
        t.own = (pare_arena){0};
        t.many = true;
        y = run_teacher(&t, r);
    }
    run(&f, r, y);
}

/* Memory of the teacher's passes. */
static pare_status allocate_teacher(pare_step *s, pare_error *err) {
    pare_runtime *rt = s->weights->model->rt;
    pare_worker worker;
    if (!s->o.teacher) return PARE_OK;
    pare_fwd t =
        pare_fwd_plan(&worker, pare_runtime_threads(rt), pare_runtime_isa(rt), s->o.compute);
    t.own.capacity = 0;
    t.many = true;
    run_teacher(&t, &(region){.s = s});
    return pare_pass_room_make(&s->taught, &t, rt, err);
}

static pare_status allocate(pare_step *s, pare_error *err) {
    pare_runtime *rt = s->weights->model->rt;
    pare_worker worker;
    pare_tape tape = tape_of(s);
    pare_fwd f = pare_tape_room_plan(&worker, rt, s->o.compute, &tape);
    run(&f, &(region){.s = s}, NULL);
    s->front = pare_model_prefix_length(s->weights->model);
    s->spans = pare_calloc(s->o.n_spans, sizeof *s->spans);
    s->taught_spans = pare_calloc(s->o.n_spans, sizeof *s->spans);
    s->nll = pare_calloc(s->o.n_tokens, sizeof *s->nll);
    if (!s->spans || !s->taught_spans || !s->nll)
        return pare_fail(err, PARE_ERR_NOMEM, "training: a batch of %zu tokens", s->o.n_tokens);
    PARE_TRY(pare_tape_room_make(&s->room, &f, rt, err));
    return allocate_teacher(s, err);
}

pare_status pare_step_create(pare_step **out, pare_train_weights *weights,
                             const pare_step_options *o, pare_error *err) {
    *out = NULL;
    if (!o->n_tokens || !o->n_spans || o->n_spans > o->n_tokens)
        return pare_fail(err, PARE_ERR_ARG,
                         "training: found a batch of %zu sequences and %zu tokens", o->n_spans,
                         o->n_tokens);
    if (o->teacher && o->teacher->config.vocab_size != weights->model->config.vocab_size)
        return pare_fail(err, PARE_ERR_ARG,
                         "training: found a teacher with %zu tokens, expected %zu as the model",
                         o->teacher->config.vocab_size, weights->model->config.vocab_size);
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
    pare_free(s->taught_spans);
    pare_free(s->nll);
    pare_tape_room_free(&s->room);
    pare_pass_room_free(&s->taught);
    pare_free(s);
}

void pare_step_on_layer(pare_step *s, void (*fn)(void *arg, size_t layer), void *arg) {
    s->on_layer = fn;
    s->on_layer_arg = arg;
}

size_t pare_step_bytes(const pare_step *s) {
    return pare_tape_room_bytes(&s->room) + s->taught.bytes;
}

pare_status pare_step_run(pare_step *s, const pare_batch *b, bool gradient, float scale,
                          double *nll, pare_error *err) {
    if (b->n_tokens > s->o.n_tokens || b->n_spans > s->o.n_spans || !b->n_tokens)
        return pare_fail(err, PARE_ERR_ARG,
                         "training: found %zu sequences of %zu tokens, expected at most %zu of %zu",
                         b->n_spans, b->n_tokens, s->o.n_spans, s->o.n_tokens);
    const pare_model *m = s->weights->model, *teacher = s->o.teacher;
    if (pare_model_prefix_length(m) > s->front)
        return pare_fail(err, PARE_ERR_ARG,
                         "training: found a prefix of %zu positions, expected at most %zu",
                         pare_model_prefix_length(m), s->front);
    for (size_t i = 0; i < b->n_spans; i++) {
        s->spans[i] = (pare_attn_span){.n = b->lengths[i], .prefix = pare_model_prefix(m)};
        if (teacher)
            s->taught_spans[i] =
                (pare_attn_span){.n = b->lengths[i], .prefix = pare_model_prefix(teacher)};
    }
    region r = {s, b, gradient, scale};
    pare_team_run(m->rt, region_thread, &r);
    *nll = 0;
    for (size_t i = 0; i < b->n_tokens; i++) *nll += (double)s->nll[i];
    return PARE_OK;
}
