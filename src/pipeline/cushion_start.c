/* The fast start of a cushion's search: PrefixQuant's prefix (Chen et al., arXiv:2410.05265). At
 * the input of every ffn_down take r_i = max over channels of |x_i|; token i is an outlier where
 * r_i is more than 64 times the median of r. The prefix has o = ceil(the most, over blocks, of the
 * mean number of outliers in a text) tokens: those that are outliers most often, a text's first
 * token not counted, the most frequent first, and BOS last. */
#include "pipeline/cushion.h"

#include "model/pass_room.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const float outlier_ratio = 64;

typedef struct start {
    pare_model *m;
    pare_compute compute;
    pare_pass_room room;
    const int32_t *ids; /* [n] of the text at work */
    size_t n, layer;
    float *h, *r, *sorted; /* [n][dim], [n], [n] */
    size_t h_bytes;
    size_t *of_layer; /* [n_layers] outliers in all texts */
    uint32_t *counts; /* [vocab_size] */
} start;

static int rising(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void count(start *s) {
    memcpy(s->sorted, s->r, s->n * sizeof *s->r);
    qsort(s->sorted, s->n, sizeof *s->sorted, rising);
    float limit = outlier_ratio * s->sorted[(s->n - 1) / 2];
    for (size_t i = 0; i < s->n; i++) {
        if (!(s->r[i] > limit)) continue;
        s->of_layer[s->layer]++;
        if (i) s->counts[s->ids[i]]++;
    }
}

static bool see_input(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs,
                      const float *x, size_t ldx, size_t n, size_t in) {
    start *s = arg;
    size_t begin, end;
    (void)n_outs;
    if (outs[0].w != &s->m->weights.layers[s->layer].ffn_down.w) return true;
    pare_share(f->w, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        s->r[i] = 0;
        for (size_t j = 0; j < in; j++) s->r[i] = fmaxf(s->r[i], fabsf(x[i * ldx + j]));
    }
    pare_barrier(f->w);
    if (f->w->id == 0) count(s);
    return true;
}

static void run_pass(pare_fwd *f, start *s) {
    const pare_attn_span alone = {.n = s->n};
    pare_pass pass = {.ids = s->ids, .n = s->n, .spans = &alone, .n_spans = 1};
    pare_fwd_marks mark = pare_fwd_mark(f);
    pare_pass_embed(f, s->m, &pass, s->h);
    pare_pass_begin(f, s->m, &pass);
    for (size_t l = 0; l < s->m->config.n_layers; l++) {
        if (f->w->id == 0) s->layer = l; /* seen after a barrier of the layer's first operator */
        pare_pass_layer(f, s->m, &pass, l, s->h);
    }
    pare_fwd_release(f, mark);
}

static void region_thread(pare_worker *w, void *arg) {
    start *s = arg;
    pare_fwd f = pare_pass_room_fwd(&s->room, w, s->m->rt, s->compute);
    f.probe = see_input;
    f.probe_arg = s;
    f.own = (pare_arena){0};
    run_pass(&f, s);
}

static pare_status run(start *s, const int32_t *texts, size_t n_texts, pare_error *err) {
    pare_worker worker;
    pare_fwd f = pare_fwd_plan(&worker, pare_runtime_threads(s->m->rt), pare_runtime_isa(s->m->rt),
                               s->compute);
    run_pass(&f, s);
    PARE_TRY(pare_pass_room_make(&s->room, &f, s->m->rt, err));
    for (size_t t = 0; t < n_texts; t++) {
        pare_progress(s->m->rt, "cushion: start", (double)t, (double)n_texts, "texts");
        PARE_TRY(pare_check_cancel(s->m->rt, err));
        s->ids = texts + t * s->n;
        pare_team_run(s->m->rt, region_thread, s);
    }
    pare_progress(s->m->rt, "cushion: start", (double)n_texts, (double)n_texts, "texts");
    return PARE_OK;
}

/* Of equals the lowest id. */
static void choose(const start *s, size_t n_texts, int32_t *ids, size_t *n_ids, size_t most,
                   int32_t bos) {
    size_t largest = 0;
    for (size_t l = 0; l < s->m->config.n_layers; l++)
        if (s->of_layer[l] > largest) largest = s->of_layer[l];
    size_t wanted = (largest + n_texts - 1) / n_texts, room = most - (bos >= 0);
    if (wanted > room) wanted = room;
    *n_ids = 0;
    while (*n_ids < wanted) {
        size_t best = 0;
        for (size_t v = 1; v < s->m->config.vocab_size; v++)
            if (s->counts[v] > s->counts[best]) best = v;
        if (!s->counts[best]) break;
        ids[(*n_ids)++] = (int32_t)best;
        s->counts[best] = 0;
    }
    if (bos >= 0) ids[(*n_ids)++] = bos;
}

pare_status pare_cushion_outlier_tokens(int32_t *ids, size_t *n_ids, size_t most, pare_model *m,
                                        const int32_t *texts, size_t n_texts, size_t n, int32_t bos,
                                        pare_compute compute, pare_error *err) {
    const pare_model_config *c = &m->config;
    start s = {.m = m,
               .compute = compute,
               .n = n,
               .h_bytes = n * c->dim * sizeof *s.h,
               .h = pare_big_alloc(n * c->dim * sizeof *s.h),
               .r = pare_calloc(n, sizeof *s.r),
               .sorted = pare_calloc(n, sizeof *s.sorted),
               .of_layer = pare_calloc(c->n_layers, sizeof *s.of_layer),
               .counts = pare_calloc(c->vocab_size, sizeof *s.counts)};
    pare_status st = PARE_OK;
    if (!s.h || !s.r || !s.sorted || !s.of_layer || !s.counts)
        st = pare_fail(err, PARE_ERR_NOMEM, "cushion: out of memory");
    if (st == PARE_OK) st = run(&s, texts, n_texts, err);
    if (st == PARE_OK) choose(&s, n_texts, ids, n_ids, most, bos);
    pare_pass_room_free(&s.room);
    if (s.h) pare_big_free(s.h, s.h_bytes);
    pare_free(s.r);
    pare_free(s.sorted);
    pare_free(s.of_layer);
    pare_free(s.counts);
    return st;
}
