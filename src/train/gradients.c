#include "train/gradients.h"

#include "base/memory.h"

#include <string.h>

enum { PIECE = 1 << 20 /* values that ranks exchange at a time */ };

pare_status pare_gradients_create(pare_gradients *s, size_t n, pare_error *err) {
    *s = (pare_gradients){.of = pare_calloc(n, sizeof *s->of), .n = n};
    return s->of ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "training: list of gradients");
}

pare_status pare_gradients_plan(pare_gradients *s, bool in_order, size_t n_micro, pare_error *err) {
    s->in_order = in_order && (pare_group_size() > 1 || n_micro > 1);
    if (!s->in_order) return PARE_OK;
    for (size_t i = 0; i < s->n; i++) s->n_total += s->of[i].n;
    if (n_micro > 1) s->total = pare_big_alloc(s->n_total * sizeof *s->total);
    s->parts = pare_malloc(PIECE + (size_t)pare_group_size(), sizeof *s->parts);
    if (s->parts && (s->total || n_micro == 1)) return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM, "training: sums of %zu gradients", s->n_total);
}

void pare_gradients_free(pare_gradients *s) {
    if (s->total) pare_big_free(s->total, s->n_total * sizeof *s->total);
    pare_free(s->parts);
    pare_free(s->of);
    *s = (pare_gradients){0};
}

/* ---- sums over ranks ---- */

static void start(pare_gradient *g) {
    if (g->n <= INT32_MAX) {
        pare_group_start_sum(&g->request, g->g, g->n);
        g->started = true;
    } else {
        pare_group_sum_f32(g->g, g->n);
    }
}

void pare_gradients_layer_done(void *gradients, size_t layer) {
    pare_gradients *s = gradients;
    for (size_t i = 0; i < s->n; i++) {
        pare_gradient *g = &s->of[i];
        if (g->started) pare_group_test(&g->request, 1);
        if (g->layer == layer) start(g);
    }
}

static void sum(pare_gradients *s) {
    for (size_t i = 0; i < s->n; i++)
        if (!s->of[i].started) start(&s->of[i]);
    for (size_t i = 0; i < s->n; i++) {
        if (s->of[i].started) pare_group_wait(&s->of[i].request, 1);
        s->of[i].started = false;
    }
}

/* ---- in order ---- */

static size_t piece_at(const pare_gradient *g, size_t first) {
    return g->n - first < PIECE ? g->n - first : PIECE;
}

/* This rank's share of x[n], or (total NULL) of x itself, gets the micro-batches of all ranks. */
static void add_piece(pare_gradients *s, float *x, float *total, size_t n) {
    size_t begin, end, share;
    pare_group_share(n, &begin, &end);
    share = end - begin;
    pare_group_exchange(s->parts, x, n);
    float *to = (total ? total : x) + begin;
    for (size_t r = 0; r < (size_t)pare_group_size(); r++) {
        const float *part = s->parts + r * share;
        if (s->done == 0 && r == 0)
            memcpy(to, part, share * sizeof *to);
        else
            for (size_t k = 0; k < share; k++) to[k] += part[k];
    }
}

void pare_gradients_add(pare_gradients *s) {
    float *total = s->total;
    for (size_t i = 0; i < s->n; i++) {
        const pare_gradient *g = &s->of[i];
        for (size_t k = 0; k < g->n; k += PIECE)
            add_piece(s, g->g + k, total ? total + k : NULL, piece_at(g, k));
        if (total) total += g->n;
    }
    s->done++;
}

static void gather(pare_gradients *s) {
    const float *total = s->total;
    for (size_t i = 0; i < s->n; i++) {
        const pare_gradient *g = &s->of[i];
        if (total) memcpy(g->g, total, g->n * sizeof *total); /* the share is what is right in it */
        for (size_t k = 0; k < g->n; k += PIECE) pare_group_gather(g->g + k, piece_at(g, k));
        if (total) total += g->n;
    }
    s->done = 0;
}

void pare_gradients_finish(pare_gradients *s) {
    if (s->in_order)
        gather(s);
    else if (pare_group_size() > 1)
        sum(s);
}
