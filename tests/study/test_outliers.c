/* The analysis of outliers beside plain references: ranks by sorting, inputs of layers as a probe
 * of another pass sees them, attention as a softmax written out. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/rng.h"
#include "model/model.h"
#include "model/pass_room.h"
#include "model/prefix.h"
#include "pare/analyze.h"
#include "pare/eval.h"
#include "pare/study.h"
#include "study/outlier_tally.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* --- ranks --- */

typedef struct ranks {
    double top1, top10, top10_mean, median;
} ranks;

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static ranks by_sorting(const float *x, size_t ld, size_t n, size_t width) {
    size_t total = n * width, tenth = total / 10 ? total / 10 : 1;
    float *v = malloc(total * sizeof *v);
    for (size_t i = 0; i < total; i++) v[i] = fabsf(x[i / width * ld + i % width]);
    qsort(v, total, sizeof *v, descending);
    ranks r = {(double)v[0], (double)v[tenth - 1], 0, (double)v[total / 2]};
    for (size_t i = 0; i < tenth; i++) r.top10_mean += (double)v[i] / (double)tenth;
    free(v);
    return r;
}

typedef struct taking {
    pare_tally *t;
    const float *x;
    size_t ld, n, width;
} taking;

static void take(pare_worker *w, void *arg) {
    const taking *a = arg;
    pare_tally_take(w, a->t, a->x, a->ld, a->n, a->width);
}

/* Normal values, few different ones, a huge one, all the same, zeros, one row, one value. */
static void tallies(void **state) {
    (void)state;
    enum { ROWS = 37, WIDTH = 53, LD = 61 };
    static float x[ROWS * LD];
    for (int threads = 1; threads <= 3; threads += 2) {
        pare_runtime *rt = test_runtime(threads, PARE_ISA_REF);
        pare_tally t;
        assert_ok(pare_tally_init(&t, ROWS, pare_runtime_threads(rt), err));
        for (int kind = 0; kind < 5; kind++)
            for (size_t n = 1; n <= ROWS; n += kind < 2 ? 4 : 36)
                for (size_t width = 1; width <= WIDTH; width += 26) {
                    for (size_t i = 0; i < ROWS * LD; i++) {
                        float v = pare_rng_normal(3, (uint64_t)kind, i);
                        x[i] = kind == 0   ? v
                               : kind == 1 ? rintf(2 * v) / 2
                               : kind == 2 ? 1e-3f * v
                               : kind == 3 ? -2.5f
                                           : 0.0f;
                    }
                    if (kind == 2) x[(n - 1) * LD + width - 1] = -3e8f;
                    taking a = {&t, x, LD, n, width};
                    pare_team_run(rt, take, &a);
                    ranks r = by_sorting(x, LD, n, width);
                    assert_true(t.top10 == r.top10 && t.median == r.median);
                    assert_true(fabs(t.top10_mean - r.top10_mean) <= 1e-12 * r.top10_mean);
                    double most = 0;
                    for (size_t i = 0; i < n; i++) {
                        most = fmax(most, (double)t.row_max[i]);
                        assert_true(fabsf(x[i * LD + t.row_channel[i]]) == t.row_max[i]);
                    }
                    assert_true(most == r.top1);
                }
        pare_tally_free(&t);
        pare_runtime_free(rt);
    }
}

/* --- the analysis --- */

enum { CTX = 48, WINDOWS = 3, MAX_SITES = 5 * TINY_LAYERS };

/* Another pass of the same windows, whose inputs are kept. */
typedef struct reference {
    pare_model *m;
    pare_pass_room room;
    int32_t ids[CTX];
    float *h, *inputs[MAX_SITES]; /* [CTX][width] */
    size_t widths[MAX_SITES], n;
    double attention[TINY_LAYERS], front[TINY_LAYERS]; /* sums over windows */
    size_t layer;
} reference;

static void keep(pare_worker *w, reference *r, const float *x, size_t ld, size_t n, size_t width) {
    if (w->id) return;
    r->widths[r->n] = width;
    for (size_t i = 0; i < n; i++)
        memcpy(r->inputs[r->n] + i * width, x + i * ld, width * sizeof *x);
    r->n++;
}

static bool keep_input(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs,
                       const float *x, size_t ldx, size_t n, size_t in) {
    (void)outs, (void)n_outs;
    keep(f->w, arg, x, ldx, n, in);
    return true;
}

static void softmax_first(pare_fwd *f, void *arg, const float *q, size_t ldq,
                          const pare_attn_span *spans, size_t n_spans, size_t at,
                          const pare_attn *a, size_t n) {
    reference *r = arg;
    const pare_kv_layer *kv = &spans[0].layers[at];
    size_t group = a->n_heads / kv->n_kv_heads;
    const pare_attn_prefix *front = spans[0].prefix;
    size_t m = front ? front->n : 0;
    double sum = 0, on_front = 0;
    if (f->w->id || n_spans != 1) return;
    for (size_t i = 1; i < n; i++)
        for (size_t h = 0; h < a->n_heads; h++) {
            double total = 0, first = 0, before = 0;
            for (size_t j = 0; j <= m + i; j++) {
                const float *k =
                    j < m ? (const float *)(void *)pare_kv_row(&front->layers[at], false, h / group,
                                                               j)
                          : (const float *)(void *)pare_kv_row(kv, false, h / group, j - m);
                double s = 0;
                for (size_t d = 0; d < kv->head_dim; d++)
                    s += (double)q[i * ldq + h * kv->head_dim + d] * (double)k[d];
                double e = exp((double)a->scale * s);
                total += e;
                if (j == m) first = e;
                if (j + 1 == m) before = total;
            }
            sum += first / total;
            on_front += before / total;
        }
    r->attention[r->layer] += sum / (double)((n - 1) * a->n_heads);
    r->front[r->layer] += on_front / (double)((n - 1) * a->n_heads);
}

static void pass(pare_fwd *f, reference *r) {
    const pare_attn_span alone = {.n = CTX, .prefix = pare_model_prefix(r->m)};
    pare_pass p = {.ids = r->ids, .n = CTX, .spans = &alone, .n_spans = 1};
    pare_fwd_marks mark = pare_fwd_mark(f);
    pare_pass_begin(f, r->m, &p);
    pare_pass_embed(f, r->m, &p, r->h);
    for (size_t l = 0; l < TINY_LAYERS; l++) {
        if (!pare_fwd_planning(f) && f->w->id == 0) r->layer = l;
        pare_pass_layer(f, r->m, &p, l, r->h);
        if (!pare_fwd_planning(f)) keep(f->w, r, r->h, TINY_DIM, CTX, TINY_DIM);
    }
    pare_fwd_release(f, mark);
}

static void pass_thread(pare_worker *w, void *arg) {
    reference *r = arg;
    pare_fwd f = pare_pass_room_fwd(&r->room, w, r->m->rt, PARE_COMPUTE_EXACT);
    f.probe = keep_input;
    f.attn_probe = softmax_first;
    f.probe_arg = f.attn_probe_arg = r;
    pass(&f, r);
}

static const char *long_text(size_t *n) {
    static char text[4000];
    *n = 0;
    for (int i = 0; *n + 60 < sizeof text; i++)
        *n += (size_t)sprintf(text + *n, " Line %d , of a text with words .\n", i * i);
    return text;
}

/* prefix: file, or NULL. */
static void compare(const char *prefix) {
    reference r = {0};
    size_t len;
    const char *path = tiny_model("dense", NULL), *text = long_text(&len);
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_tokenizer *tok = NULL;
    pare_ids ids = {0};
    pare_outliers *o = NULL;
    pare_outlier_options oo = pare_outlier_options_default();
    oo.ctx = CTX;
    oo.n_windows = WINDOWS;
    oo.n_largest = 3;
    oo.prefix = prefix;
    assert_ok(pare_analyze_outliers(&o, rt, path, text, len, &oo, err));
    assert_int_equal(o->n_sites, MAX_SITES);
    assert_int_equal(o->n_windows, WINDOWS);

    assert_ok(pare_tokenizer_load(&tok, path, err));
    assert_ok(pare_eval_tokens(&ids, tok, text, len, PARE_PROTOCOL_HF, err));
    assert_ok(pare_model_load(&r.m, rt, path, err));
    if (prefix) assert_ok(pare_model_set_prefix(r.m, prefix, err));
    r.h = calloc(CTX * TINY_DIM, sizeof *r.h);
    for (size_t i = 0; i < MAX_SITES; i++) r.inputs[i] = calloc(CTX * 1024, sizeof(float));
    pare_worker worker;
    pare_fwd plan = pare_fwd_plan(&worker, 1, pare_runtime_isa(rt), PARE_COMPUTE_EXACT);
    pass(&plan, &r);
    assert_ok(pare_pass_room_make(&r.room, &plan, rt, err));

    ranks sum[MAX_SITES] = {0};
    double behind[MAX_SITES] = {0}, largest[MAX_SITES] = {0};
    for (size_t w = 0; w < WINDOWS; w++) {
        memcpy(r.ids, ids.data + w * CTX, sizeof r.ids);
        r.n = 0;
        pare_team_run(rt, pass_thread, &r);
        for (size_t i = 0; i < MAX_SITES; i++) {
            ranks k = by_sorting(r.inputs[i], r.widths[i], CTX, r.widths[i]);
            sum[i].top1 += k.top1 / WINDOWS;
            sum[i].top10 += k.top10 / WINDOWS;
            sum[i].top10_mean += k.top10_mean / WINDOWS;
            sum[i].median += k.median / WINDOWS;
            largest[i] = fmax(largest[i], k.top1);
            behind[i] =
                fmax(behind[i],
                     by_sorting(r.inputs[i] + r.widths[i], r.widths[i], CTX - 1, r.widths[i]).top1);
        }
    }
    static const char *const names[] = {"attn_q", "attn_output", "ffn_gate", "ffn_down",
                                        "block_out"};
    for (size_t i = 0; i < MAX_SITES; i++) {
        const pare_outlier_site *s = &o->sites[i];
        assert_int_equal(s->layer, i / 5);
        assert_string_equal(s->name, names[i % 5]);
        assert_int_equal(s->width, r.widths[i]);
        const double found[] = {s->top1, s->top10, s->top10_mean, s->median},
                     expected[] = {sum[i].top1, sum[i].top10, sum[i].top10_mean, sum[i].median};
        for (size_t k = 0; k < 4; k++) /* sums in another order */
            assert_true(fabs(found[k] - expected[k]) <= 1e-12 * expected[k]);
        assert_true(s->largest == largest[i] && s->largest_behind == behind[i]);
        assert_int_equal(s->n_tokens, 3);
        assert_true((double)fabsf(s->tokens[0].value) == largest[i]);
        for (size_t k = 0; k < 3; k++) {
            const pare_outlier_token *t = &s->tokens[k];
            assert_int_equal(t->id, ids.data[t->window * CTX + t->position]);
            if (k) assert_true(fabsf(t->value) <= fabsf(t[-1].value));
        }
    }
    for (size_t l = 0; l < TINY_LAYERS; l++) /* f32 softmax beside one in f64 */
        assert_true(fabs(o->attention_first[l] - r.attention[l] / WINDOWS) < 1e-5);
    for (size_t l = 0; l < TINY_LAYERS; l++)
        assert_true(prefix ? fabs(o->attention_prefix[l] - r.front[l] / WINDOWS) < 1e-5
                           : isnan(o->attention_prefix[l]));
    assert_int_equal(o->prefix_length, prefix ? 3 : 0);

    for (size_t i = 0; i < MAX_SITES; i++) free(r.inputs[i]);
    free(r.h);
    pare_pass_room_free(&r.room);
    pare_model_free(r.m);
    pare_tokenizer_free(tok);
    pare_ids_free(&ids);
    pare_outliers_free(o);
    pare_runtime_free(rt);
}

static void beside_reference(void **state) {
    (void)state;
    const int32_t ids[] = {257, 10, 65};
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_model *m;
    pare_prefix *p;
    assert_ok(pare_model_load(&m, rt, tiny_model("dense", NULL), err));
    assert_ok(pare_prefix_from_ids(&p, m, ids, 3, err));
    assert_ok(pare_prefix_save(p, &m->config, NULL, test_path("front.safetensors"), err));
    pare_prefix_free(p);
    pare_model_free(m);
    pare_runtime_free(rt);
    compare(NULL);
    compare(test_path("front.safetensors"));
}

static void threads_agree(void **state) {
    (void)state;
    size_t len;
    const char *path = tiny_model("dense", NULL), *text = long_text(&len);
    pare_outliers *o[2] = {0};
    pare_outlier_options oo = pare_outlier_options_default();
    oo.ctx = CTX;
    for (int i = 0; i < 2; i++) {
        pare_runtime *rt = test_runtime(i ? 4 : 1, PARE_ISA_AMX);
        assert_ok(pare_analyze_outliers(&o[i], rt, path, text, len, &oo, err));
        pare_runtime_free(rt);
    }
    assert_int_equal(o[0]->n_sites, o[1]->n_sites);
    assert_memory_equal(o[0]->attention_first, o[1]->attention_first, TINY_LAYERS * sizeof(double));
    for (size_t i = 0; i < o[0]->n_sites; i++)
        assert_true(o[0]->sites[i].top1 == o[1]->sites[i].top1 &&
                    o[0]->sites[i].top10_mean == o[1]->sites[i].top10_mean &&
                    o[0]->sites[i].median == o[1]->sites[i].median);
    pare_outliers_free(o[0]);
    pare_outliers_free(o[1]);
}

static void refusals(void **state) {
    (void)state;
    size_t len;
    const char *path = tiny_model("dense", NULL), *text = long_text(&len);
    const char *wild = tiny_model("wild", &(tiny_options){.last_norm = 3e38f});
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_outliers *o;
    pare_outlier_options oo = {.ctx = CTX, .name = "book.txt"};
    assert_fails(pare_analyze_outliers(&o, rt, path, text, 20, &oo, err), PARE_ERR_INPUT,
                 "book.txt: found");
    assert_fails(pare_analyze_outliers(&o, rt, wild, text, len, &oo, err), PARE_ERR_INPUT,
                 "block 1, attn_q, window 0: found NaN or infinity");
    oo.ctx = TINY_CTX + 1;
    assert_fails(pare_analyze_outliers(&o, rt, path, text, len, &oo, err), PARE_ERR_ARG, "context");
    oo = (pare_outlier_options){.ctx = CTX, .n_largest = PARE_MAX_LARGEST + 1};
    assert_fails(pare_analyze_outliers(&o, rt, path, text, len, &oo, err), PARE_ERR_ARG,
                 "largest tokens");
    assert_null(o);
    pare_runtime_free(rt);
}

/* A real model's massive activations are where an independent implementation finds them (f32
 * weights of the same file in transformers 4: 3045.86 and 2363.09, means of these windows). */
static void real_model(void **state) {
    (void)state;
    const char *path = test_model("smollm2"), *file = test_data("wikitext-2-raw/wiki.test.raw");
    if (!path || !file) skip();
    static char text[16000];
    FILE *f = fopen(file, "rb");
    assert_non_null(f);
    size_t len = fread(text, 1, sizeof text, f);
    fclose(f);
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_outliers *o;
    pare_outlier_options oo = {.ctx = 512, .n_windows = 2};
    assert_ok(pare_analyze_outliers(&o, rt, path, text, len, &oo, err));
    for (size_t i = 0; i < o->n_sites; i++) {
        const pare_outlier_site *s = &o->sites[i];
        if (strcmp(s->name, "ffn_down") != 0 || (s->layer != 11 && s->layer != 28)) continue;
        double expected = s->layer == 11 ? 3045.86 : 2363.09;
        assert_true(fabs(s->top1 / expected - 1) < 1e-4); /* 3e-6 was found */
        assert_int_equal(s->tokens[0].position, 0);
        assert_int_equal(s->tokens[0].channel, s->layer == 11 ? 1229 : 678);
    }
    pare_outliers_free(o);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tallies),       cmocka_unit_test(beside_reference),
        cmocka_unit_test(threads_agree), cmocka_unit_test(refusals),
        cmocka_unit_test(real_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
