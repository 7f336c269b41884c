/* The search for a prefix: beside brute force, on made-up errors and on a model's; errors beside
 * one pass over the whole sequence. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/rng.h"
#include "methods/cushion_search.h"
#include "model/model.h"
#include "model/pass_room.h"
#include "model/prefix.h"
#include "pipeline/cushion_eval.h"

#include <math.h>

static void defaults(pare_cushion_options *o) {
    pare_method_defaults(pare_method_find("cushioncache"), o);
}

/* --- made-up errors --- */

enum { BLOCKS = 5, TEXTS = 3, MAX_V = 50 };

typedef struct fake {
    uint64_t seed;
    int kind;
    size_t number, n_prefix, n, layer, text;
    int32_t ids[MAX_V], prefix[PARE_CUSHION_MAX_LEN];
    bool alone;
    size_t n_noted, blocks; /* calls, and candidates through blocks */
    size_t n_calls, cut_at; /* of `block`; that one is interrupted, 0: none */
    pare_cushion_within kept;
    double screen[MAX_V];     /* kept.screen */
    size_t n_within, keep_at; /* calls of `within`; that one is kept, 0: the last of a cut run */
} fake;

/* Of few different values, so that sums are equal; some are infinite or 0. */
static double error_of(const fake *f, int32_t id, size_t text, size_t layer) {
    float u = pare_rng_uniform(f->seed, 100 * f->number + 10 * text + layer, (uint64_t)id);
    if (f->kind == 2) return 1; /* all alike */
    if (f->kind == 1 && u < 0.02f) return (double)INFINITY;
    return f->kind == 0 ? floor(4 * (double)u) : 1e3 * (double)u * (double)u;
}

static double without(const fake *f) { return f->kind == 0 ? 5 : f->kind == 1 ? 900 : 1; }

static pare_status fake_draw(void *arg, size_t number, const int32_t *prefix, size_t n_prefix,
                             pare_error *err) {
    fake *f = arg;
    (void)err;
    assert_int_equal(n_prefix, f->n_prefix);
    assert_memory_equal(prefix, f->prefix, n_prefix * sizeof *prefix);
    f->number = number;
    return PARE_OK;
}

static pare_status fake_prefix(void *arg, const int32_t *ids, size_t n, pare_error *err) {
    fake *f = arg;
    (void)err;
    f->n_prefix = n;
    for (size_t i = 0; i < n; i++) f->prefix[i] = ids[i];
    return PARE_OK;
}

static void fake_begin(void *arg, const int32_t *candidates, size_t n, size_t text,
                       size_t n_tokens) {
    fake *f = arg;
    assert_true(n_tokens > 0 && text < TEXTS);
    f->alone = !candidates;
    f->n = n;
    f->text = text;
    f->layer = 0;
    for (size_t i = 0; candidates && i < n; i++) f->ids[i] = candidates[i];
}

static pare_status fake_block(void *arg, double *lq, pare_error *err) {
    fake *f = arg;
    assert_true(f->layer < BLOCKS);
    if (++f->n_calls == f->cut_at) return pare_fail(err, PARE_ERR_INTERRUPTED, "cut");
    for (size_t i = 0; i < f->n; i++)
        lq[i] = f->alone ? without(f) : error_of(f, f->ids[i], f->text, f->layer);
    f->layer++;
    f->blocks += f->n;
    return PARE_OK;
}

static void fake_keep(void *arg, const size_t *which, size_t n) {
    fake *f = arg;
    for (size_t i = 0; i < n; i++) f->ids[i] = f->ids[which[i]];
    f->n = n;
}

static pare_status fake_noted(void *arg, const pare_cushion_step *step, pare_error *err) {
    fake *f = arg;
    (void)err;
    assert_true(step->work > 0);
    f->n_noted++;
    return PARE_OK;
}

static pare_status fake_within(void *arg, const pare_cushion_within *w, bool last,
                               pare_error *err) {
    fake *f = arg;
    (void)err;
    f->n_within += !last;
    if (f->keep_at ? f->n_within != f->keep_at || last : !last) return PARE_OK;
    f->kept = *w;
    memset(f->screen, 0x55, sizeof f->screen); /* what is not known is not looked at */
    memcpy(f->screen, w->screen, w->n_screened * sizeof *w->screen);
    return PARE_OK;
}

static pare_status fake_again(void *arg, pare_cushion_within *w, pare_error *err) {
    const fake *f = arg;
    double *screen = w->screen;
    (void)err;
    if (!f->kept.n_screened || f->kept.number != w->number) return PARE_OK;
    *w = f->kept;
    w->screen = screen;
    memcpy(screen, f->screen, MAX_V * sizeof *screen);
    return PARE_OK;
}

static pare_cushion_job fake_job(fake *f, pare_runtime *rt, const int32_t *ids, size_t n,
                                 size_t capacity) {
    return (pare_cushion_job){.rt = rt,
                              .n_blocks = BLOCKS,
                              .capacity = capacity,
                              .candidates = ids,
                              .n_candidates = n,
                              .arg = f,
                              .draw = fake_draw,
                              .prefix = fake_prefix,
                              .begin = fake_begin,
                              .block = fake_block,
                              .keep = fake_keep,
                              .noted = fake_noted,
                              .within = fake_within,
                              .again = fake_again};
}

/* The lowest id of the least sum; -1: none is finite. */
static int32_t brute_force(const fake *f, const int32_t *ids, size_t n, double *least) {
    int32_t best = -1;
    *least = (double)INFINITY;
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t t = 0; t < TEXTS; t++)
            for (size_t b = 0; b < BLOCKS; b++) sum += error_of(f, ids[i], t, b);
        if (sum < *least) {
            *least = sum;
            best = ids[i];
        }
    }
    return best;
}

static void beside_brute_force(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    double work = 0, whole = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        pare_cushion_options o;
        pare_cushion_result r = {0};
        fake f = {.seed = seed, .kind = (int)(seed % 3)};
        int32_t ids[MAX_V];
        size_t n = 1 + seed % MAX_V;
        for (size_t i = 0; i < n; i++) ids[i] = (int32_t)(3 * i + 1);
        defaults(&o);
        o.texts = TEXTS;
        o.n = 40;
        o.screen = 1;
        o.max_len = 4;
        o.tau = 1e30;
        size_t capacity = 1 + seed / 3 % 20;
        pare_cushion_job job = fake_job(&f, rt, ids, n, capacity);
        assert_ok(pare_cushion_search(&job, &o, &r, err));
        for (size_t k = 0; k < r.n_steps; k++) {
            double least;
            f.number = k;
            assert_int_equal(r.steps[k].token, brute_force(&f, ids, n, &least));
            assert_true(r.steps[k].after == least);
            assert_true(r.steps[k].before == TEXTS * BLOCKS * without(&f));
            work += r.steps[k].work;
            whole += r.steps[k].whole;
        }
        if (r.n_steps && r.steps[r.n_steps - 1].token >= 0) { /* tau = infinite: all of max_len */
            assert_int_equal(r.n, 4);
            assert_int_equal(f.n_noted, 4);
            assert_int_equal(f.n_prefix, 3);
            assert_memory_equal(f.prefix, r.ids, 3 * sizeof *r.ids);
        }
    }
    assert_true(work < whole); /* something was given up early */
    pare_runtime_free(rt);
}

/* A search that is cut off in any block, or killed behind any group, goes on within the token: what
 * it finds is the same to the last count, and what was done is not done again. */
static void within_a_token(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    pare_cushion_options o;
    int32_t ids[MAX_V];
    size_t n_cuts = 0;
    for (size_t i = 0; i < MAX_V; i++) ids[i] = (int32_t)(2 * i);
    defaults(&o);
    o.texts = TEXTS;
    o.n = 40;
    o.screen = 1;
    o.max_len = 2;
    o.tau = 1e30;
    for (int kind = 0; kind < 3; kind++)
        for (size_t capacity = 3; capacity <= 60; capacity += 19) {
            fake whole = {.seed = 5, .kind = kind};
            pare_cushion_result want = {0};
            pare_cushion_job job = fake_job(&whole, rt, ids, MAX_V, capacity);
            o.candidates = capacity == 22 ? 30 : 0;
            assert_ok(pare_cushion_search(&job, &o, &want, err));
            for (size_t k = 1; k <= whole.n_calls + whole.n_within; k++) {
                fake f = {.seed = 5, .kind = kind};
                pare_cushion_result r = {0};
                if (k <= whole.n_calls)
                    f.cut_at = k;
                else
                    f.keep_at = k - whole.n_calls;
                job = fake_job(&f, rt, ids, MAX_V, capacity);
                if (f.cut_at)
                    assert_fails(pare_cushion_search(&job, &o, &r, err), PARE_ERR_INTERRUPTED,
                                 "cut");
                else
                    assert_ok(pare_cushion_search(&job, &o, &r, err));
                r.n_steps = f.kept.n_screened ? f.kept.number : r.n_steps; /* a kill, not an end */
                r.n = r.n_steps;
                const size_t done = f.blocks, left = whole.blocks - f.blocks;
                f.cut_at = f.blocks = f.n_prefix = 0;
                f.keep_at = SIZE_MAX;
                assert_ok(pare_cushion_search(&job, &o, &r, err));
                assert_int_equal(r.n_steps, want.n_steps);
                for (size_t i = 0; i < r.n_steps; i++) {
                    const pare_cushion_step *a = &r.steps[i], *b = &want.steps[i];
                    assert_true(a->token == b->token && a->before == b->before &&
                                a->after == b->after && a->kept == b->kept && a->work == b->work &&
                                a->whole == b->whole && a->n_finished == b->n_finished);
                }
                /* of the group at work at most, and the error without it, is done twice */
                if (k <= whole.n_calls)
                    assert_true(f.blocks <= left + TEXTS * BLOCKS * (capacity + 1));
                n_cuts += done > 0;
            }
        }
    assert_true(n_cuts > 500);
    pare_runtime_free(rt);
}

/* Equality appends; tau = 0 stops at once; a run goes on from its steps. */
static void stopping(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    const int32_t ids[] = {2, 5, 9};
    pare_cushion_options o;
    defaults(&o);
    o.texts = TEXTS;
    o.max_len = 3;
    for (int k = 0; k < 3; k++) {
        fake f = {.kind = 2}; /* every error is what it was without */
        pare_cushion_result r = {0};
        o.tau = k == 0 ? 0 : k == 1 ? 1 : 0.999;
        pare_cushion_job job = fake_job(&f, rt, ids, 3, 2);
        assert_ok(pare_cushion_search(&job, &o, &r, err));
        assert_int_equal(r.n, k == 1 ? 3 : 0);
        static const size_t steps[] = {0, 3, 1};
        assert_int_equal(r.n_steps, steps[k]);
        if (k == 0) assert_int_equal(f.blocks, 0); /* nothing is looked for */
        for (size_t i = 0; i < r.n_steps; i++) {
            assert_int_equal(r.steps[i].kept, k == 1);
            assert_int_equal(r.steps[i].token, 2); /* of equals the lowest */
        }
        size_t before = f.blocks;
        assert_ok(pare_cushion_search(&job, &o, &r, err)); /* nothing is left to do */
        assert_int_equal(f.blocks, before);
        if (k != 1) continue;
        pare_cushion_result again = {.n = 1, .n_steps = 1};
        again.ids[0] = r.ids[0];
        again.steps[0] = r.steps[0];
        assert_ok(pare_cushion_search(&job, &o, &again, err));
        assert_memory_equal(again.ids, r.ids, 3 * sizeof *r.ids);
    }
    pare_runtime_free(rt);
}

/* --- errors beside one pass over prefix, candidate and text --- */

enum { N_PREFIX = 3, N_TEXT = 20, ROWS = N_PREFIX + 1 + N_TEXT };

typedef struct whole_pass {
    pare_model *m;
    pare_pass_room room;
    pare_cushion_site site;
    int32_t ids[ROWS];
    size_t n, skip;
    float h[ROWS * TINY_DIM];
    double lq[TINY_LAYERS];
    size_t layer;
} whole_pass;

static const pare_act_scheme scheme = {.granularity = PARE_ACT_PER_TENSOR_DYNAMIC, .bits = 8};

static void add(whole_pass *p, const float *x, size_t ld, size_t in) {
    p->lq[p->layer] +=
        pare_act_error(&scheme, NULL, PARE_ISA_REF, x + p->skip * ld, ld, p->n - p->skip, in);
}

static bool see(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs, const float *x,
                size_t ldx, size_t n, size_t in) {
    (void)f, (void)outs, (void)n_outs, (void)n;
    whole_pass *p = arg;
    if (p->site != PARE_CUSHION_BLOCK_OUT) add(p, x, ldx, in);
    return true;
}

static void run_whole(pare_fwd *f, whole_pass *p) {
    const pare_attn_span alone = {.n = p->n};
    pare_pass pass = {.ids = p->ids, .n = p->n, .spans = &alone, .n_spans = 1};
    pare_fwd_marks mark = pare_fwd_mark(f);
    pare_pass_embed(f, p->m, &pass, p->h);
    pare_pass_begin(f, p->m, &pass);
    for (p->layer = 0; p->layer < TINY_LAYERS; p->layer++) {
        pare_pass_layer(f, p->m, &pass, p->layer, p->h);
        if (!pare_fwd_planning(f) && p->site != PARE_CUSHION_LINEAR_IN)
            add(p, p->h, TINY_DIM, TINY_DIM);
    }
    pare_fwd_release(f, mark);
}

static void whole_thread(pare_worker *w, void *arg) {
    whole_pass *p = arg;
    pare_fwd f = pare_pass_room_fwd(&p->room, w, p->m->rt, PARE_COMPUTE_EXACT);
    f.probe = see;
    f.probe_arg = p;
    run_whole(&f, p);
}

static void beside_whole_pass(void **state) {
    (void)state;
    static whole_pass p;
    enum { N = 9 };
    int32_t candidates[N], text[N_TEXT];
    const int32_t prefix[N_PREFIX] = {257, 10, 65};
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    assert_ok(pare_model_load(&p.m, rt, tiny_model("dense", NULL), err));
    pare_worker worker;
    pare_fwd plan = pare_fwd_plan(&worker, 1, pare_runtime_isa(rt), PARE_COMPUTE_EXACT);
    p.n = ROWS;
    run_whole(&plan, &p);
    assert_ok(pare_pass_room_make(&p.room, &plan, rt, err));
    for (int i = 0; i < N; i++) candidates[i] = 13 * i + 1;
    for (int i = 0; i < N_TEXT; i++) text[i] = 31 * i % 250;
    for (int site = 0; site < 3; site++)
        for (size_t n_prefix = 0; n_prefix <= N_PREFIX; n_prefix += N_PREFIX) {
            const pare_cushion_eval_options eo = {.scheme = scheme,
                                                  .site = (pare_cushion_site)site,
                                                  .max_prefix = N_PREFIX,
                                                  .max_text = N_TEXT,
                                                  .capacity = N};
            pare_cushion_eval *e;
            double lq[TINY_LAYERS][N], kept[N];
            assert_ok(pare_cushion_eval_open(&e, p.m, &eo, err));
            assert_ok(pare_cushion_eval_prefix(e, prefix, n_prefix, err));
            pare_cushion_eval_begin(e, candidates, N, text, N_TEXT);
            for (size_t l = 0; l < TINY_LAYERS; l++)
                assert_ok(pare_cushion_eval_block(e, lq[l], err));
            for (size_t i = 0; i < N; i++) {
                memcpy(p.ids, prefix, n_prefix * sizeof *prefix);
                p.ids[n_prefix] = candidates[i];
                memcpy(p.ids + n_prefix + 1, text, sizeof text);
                p.n = n_prefix + 1 + N_TEXT;
                p.skip = n_prefix + 1;
                p.site = (pare_cushion_site)site;
                memset(p.lq, 0, sizeof p.lq);
                pare_team_run(rt, whole_thread, &p);
                for (size_t l = 0; l < TINY_LAYERS; l++) /* a value may fall on another code */
                    assert_true(fabs(lq[l][i] - p.lq[l]) <= 1e-3 * p.lq[l]);
            }
            /* the bits of a candidate do not depend on those beside it */
            const size_t which[] = {1, 4, 8};
            pare_cushion_eval_begin(e, candidates, N, text, N_TEXT);
            assert_ok(pare_cushion_eval_block(e, kept, err));
            pare_cushion_eval_keep(e, which, 3);
            assert_ok(pare_cushion_eval_block(e, kept, err));
            for (size_t i = 0; i < 3; i++) assert_true(kept[i] == lq[1][which[i]]);
            pare_cushion_eval_begin(e, candidates + 4, 1, text, N_TEXT);
            for (size_t l = 0; l < TINY_LAYERS; l++) {
                assert_ok(pare_cushion_eval_block(e, kept, err));
                assert_true(kept[0] == lq[l][4]);
            }
            pare_cushion_eval_close(e);
        }
    pare_pass_room_free(&p.room);
    pare_model_free(p.m);
    pare_runtime_free(rt);
}

/* --- a model's errors: the choice beside every candidate alone --- */

typedef struct real {
    pare_cushion_eval *e;
    int32_t texts[TEXTS][N_TEXT];
} real;

static pare_status real_draw(void *arg, size_t number, const int32_t *prefix, size_t n_prefix,
                             pare_error *err) {
    real *r = arg;
    (void)prefix, (void)n_prefix, (void)err;
    for (int t = 0; t < TEXTS; t++)
        for (int i = 0; i < N_TEXT; i++)
            r->texts[t][i] = (int32_t)((17 * t + 31 * i + 7 * (int)number) % 250);
    return PARE_OK;
}

static pare_status real_prefix(void *arg, const int32_t *ids, size_t n, pare_error *e) {
    return pare_cushion_eval_prefix(((real *)arg)->e, ids, n, e);
}

static void real_begin(void *arg, const int32_t *candidates, size_t n, size_t text,
                       size_t n_tokens) {
    real *r = arg;
    pare_cushion_eval_begin(r->e, candidates, n, r->texts[text], n_tokens);
}

static pare_status real_block(void *arg, double *lq, pare_error *e) {
    return pare_cushion_eval_block(((real *)arg)->e, lq, e);
}

static void real_keep(void *arg, const size_t *which, size_t n) {
    pare_cushion_eval_keep(((real *)arg)->e, which, n);
}

static pare_status real_noted(void *arg, const pare_cushion_step *step, pare_error *e) {
    (void)arg, (void)step, (void)e;
    return PARE_OK;
}

/* Summed in the order of the search. */
static double error_alone(real *r, int32_t id) {
    double sum = 0, lq;
    for (size_t t = 0; t < TEXTS; t++) {
        real_begin(r, &id, 1, t, N_TEXT);
        for (int b = 0; b < TINY_LAYERS; b++) {
            assert_ok(real_block(r, &lq, err));
            sum += lq;
        }
    }
    return sum;
}

static void beside_each_alone(void **state) {
    (void)state;
    static real r;
    int32_t ids[MAX_V];
    for (int i = 0; i < MAX_V; i++) ids[i] = 5 * i + 3;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, tiny_model("dense", NULL), err));
    for (int site = 0; site < 3; site++) {
        pare_cushion_options o;
        pare_cushion_result found = {0};
        defaults(&o);
        o.texts = TEXTS;
        o.n = N_TEXT;
        o.screen = 2;
        o.max_len = 2;
        o.tau = 1e6;
        const size_t capacity = 8;
        const pare_cushion_eval_options eo = {.scheme = scheme,
                                              .site = (pare_cushion_site)site,
                                              .max_prefix = 2,
                                              .max_text = N_TEXT,
                                              .capacity = capacity};
        assert_ok(pare_cushion_eval_open(&r.e, m, &eo, err));
        const pare_cushion_job job = {.rt = rt,
                                      .n_blocks = TINY_LAYERS,
                                      .capacity = capacity,
                                      .candidates = ids,
                                      .n_candidates = MAX_V,
                                      .arg = &r,
                                      .draw = real_draw,
                                      .prefix = real_prefix,
                                      .begin = real_begin,
                                      .block = real_block,
                                      .keep = real_keep,
                                      .noted = real_noted};
        assert_ok(pare_cushion_search(&job, &o, &found, err));
        assert_int_equal(found.n_steps, 2);
        for (size_t k = 0; k < 2; k++) {
            double least = (double)INFINITY;
            int32_t best = -1;
            assert_ok(real_draw(&r, k, NULL, 0, err));
            assert_ok(real_prefix(&r, found.ids, k, err));
            for (size_t i = 0; i < MAX_V; i++) {
                double lq = error_alone(&r, ids[i]);
                if (!(lq < least)) continue;
                least = lq;
                best = ids[i];
            }
            assert_int_equal(found.steps[k].token, best);
            assert_true(found.steps[k].after == least);
            assert_true(found.steps[k].n_finished < MAX_V);
        }
        pare_cushion_eval_close(r.e);
    }
    pare_model_free(m);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(beside_brute_force),
                                       cmocka_unit_test(within_a_token), cmocka_unit_test(stopping),
                                       cmocka_unit_test(beside_whole_pass),
                                       cmocka_unit_test(beside_each_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
