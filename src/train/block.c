#include "train/block.h"

#include "base/runtime.h"
#include "train/tape_room.h"

#include <string.h>

struct pare_block_trainer {
    pare_model *m;
    size_t layer, n_sequences, ctx;
    pare_compute compute;
    pare_attn_span *spans;
    float *x, *y;
    double *sums; /* [n_sequences * ctx] of squares, a row each */
    size_t rows_bytes;
    pare_tape_room room;
};

typedef struct region {
    pare_block_trainer *b;
    size_t n_sequences;
    const pare_leaf *leaves;
    size_t n_leaves;
    bool planning;
} region;

/* The squared differences of this thread's rows, and their gradient. */
static void compare(pare_fwd *f, const region *r, const float *h, bool gradient) {
    const pare_block_trainer *b = r->b;
    size_t dim = b->m->config.dim, n = r->n_sequences * b->ctx, begin, end;
    float scale = 2.0f / ((float)n * (float)dim);
    pare_share(f->w, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const float *got = h + i * dim, *want = b->y + i * dim;
        float *d = gradient ? pare_tape_shadow(f, got) : NULL;
        double sum = 0;
        b->sums[i] = 0;
        if (i % b->ctx == b->ctx - 1) continue;
        for (size_t k = 0; k < dim; k++) {
            float off = got[k] - want[k];
            sum += (double)off * (double)off;
            if (d) d[k] += scale * off;
        }
        b->sums[i] = sum;
    }
    pare_barrier(f->w);
}

static void run(pare_fwd *f, const region *r) {
    const pare_block_trainer *b = r->b;
    const pare_model *m = b->m;
    size_t n = r->n_sequences * b->ctx, dim = m->config.dim, begin, end;
    struct pare_tape *tape = f->tape;
    const pare_attn_span planned = {.n = n, .prefix = pare_model_prefix(m)};
    pare_pass pass = {
        .n = n, .spans = r->planning ? &planned : b->spans, .n_spans = r->n_sequences};
    f->tape = NULL;
    pare_pass_begin(f, m, &pass);
    f->tape = tape;
    float *h = pare_fwd_alloc(f, n * dim, sizeof *h);
    if (!r->planning) {
        pare_share(f->w, n, 1, &begin, &end);
        memcpy(h + begin * dim, b->x + begin * dim, (end - begin) * dim * sizeof *h);
        pare_barrier(f->w);
    }
    pare_tape_mark start = {0};
    if (tape) start = pare_tape_here(tape);
    pare_pass_layer(f, m, &pass, b->layer, h);
    if (!r->planning) compare(f, r, h, tape != NULL);
    if (tape) pare_tape_backward(f, start);
    if (r->planning || !tape) return;
    pare_share(f->w, n, 1, &begin, &end); /* what reached the input is not wanted */
    memset(pare_tape_shadow(f, h) + begin * dim, 0, (end - begin) * dim * sizeof *h);
}

static void region_thread(pare_worker *w, void *arg) {
    const region *r = arg;
    const pare_block_trainer *b = r->b;
    pare_tape tape = {.leaves = r->leaves, .n_leaves = r->n_leaves};
    pare_fwd f = pare_tape_room_fwd(&b->room, w, b->m->rt, b->compute, r->n_leaves ? &tape : NULL);
    run(&f, r);
}

static pare_status allocate(pare_block_trainer *b, pare_error *err) {
    pare_worker worker;
    pare_tape tape = {0};
    pare_fwd f = pare_tape_room_plan(&worker, b->m->rt, b->compute, &tape);
    run(&f, &(region){.b = b, .n_sequences = b->n_sequences, .planning = true});
    size_t n = b->n_sequences * b->ctx;
    b->rows_bytes = n * b->m->config.dim * sizeof *b->x;
    b->spans = pare_calloc(b->n_sequences, sizeof *b->spans);
    b->sums = pare_calloc(n, sizeof *b->sums);
    b->x = pare_big_alloc(b->rows_bytes);
    b->y = pare_big_alloc(b->rows_bytes);
    if (!b->spans || !b->sums || !b->x || !b->y)
        return pare_fail(err, PARE_ERR_NOMEM, "training: %zu bytes for a block's inputs",
                         2 * b->rows_bytes);
    for (size_t i = 0; i < b->n_sequences; i++)
        b->spans[i] = (pare_attn_span){.n = b->ctx, .prefix = pare_model_prefix(b->m)};
    return pare_tape_room_make(&b->room, &f, b->m->rt, err);
}

pare_status pare_block_trainer_create(pare_block_trainer **out, pare_model *m, size_t layer,
                                      size_t n_sequences, size_t ctx, pare_compute compute,
                                      pare_error *err) {
    *out = NULL;
    pare_block_trainer *b = pare_calloc(1, sizeof *b);
    if (!b) return pare_fail(err, PARE_ERR_NOMEM, "training: a block");
    b->m = m;
    b->layer = layer;
    b->n_sequences = n_sequences;
    b->ctx = ctx;
    b->compute = compute;
    pare_status st = allocate(b, err);
    if (st != PARE_OK) {
        pare_block_trainer_free(b);
        return st;
    }
    *out = b;
    return PARE_OK;
}

void pare_block_trainer_free(pare_block_trainer *b) {
    if (!b) return;
    pare_free(b->spans);
    pare_free(b->sums);
    if (b->x) pare_big_free(b->x, b->rows_bytes);
    if (b->y) pare_big_free(b->y, b->rows_bytes);
    pare_tape_room_free(&b->room);
    pare_free(b);
}

size_t pare_block_trainer_bytes(const pare_block_trainer *b) {
    return pare_tape_room_bytes(&b->room) + 2 * b->rows_bytes;
}

float *pare_block_trainer_x(pare_block_trainer *b) { return b->x; }
float *pare_block_trainer_y(pare_block_trainer *b) { return b->y; }

void pare_block_trainer_loss(pare_block_trainer *b, size_t n_sequences, const pare_leaf *leaves,
                             size_t n_leaves, double *loss) {
    region r = {b, n_sequences, leaves, n_leaves, false};
    pare_team_run(b->m->rt, region_thread, &r);
    size_t n = n_sequences * b->ctx;
    *loss = 0;
    for (size_t i = 0; i < n; i++) *loss += b->sums[i];
    *loss /= (double)n * (double)b->m->config.dim;
}
