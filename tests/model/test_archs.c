/* Every architecture against logits that transformers computed (tests/fixtures/models, made by
 * scripts/fixtures/make_models.py), and against itself: token by token, in pieces, on more threads.
 */
#include "support/test.h"

#include "base/memory.h"
#include "base/os.h"
#include "io/json.h"
#include "model/model.h"
#include "pare/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 48 };

static const char *const fixtures[] = {"llama", "llama-bias", "mistral", "qwen2",
                                       "qwen3", "gemma2",     "gemma3",  "gemma3-old",
                                       "gpt2",  "opt",        "opt-post"};

typedef struct fixture {
    char folder[1024];
    int32_t ids[N];
    float *logits; /* [N][vocab] of transformers */
    size_t vocab;
    float range; /* max - min of them */
} fixture;

static const char *source_path(const char *name) {
    static char path[1024];
    const char *source = getenv("PARE_SOURCE");
    snprintf(path, sizeof path, "%s/tests/fixtures/models/%s", source ? source : ".", name);
    return path;
}

static void open_fixture(fixture *x, const char *name) {
    char path[1200];
    snprintf(x->folder, sizeof x->folder, "%s", source_path(name));
    snprintf(path, sizeof path, "%s/reference.json", x->folder);
    pare_json j;
    assert_ok(pare_json_load(&j, path, PARE_JSON_CONFIG_MAX, 0, err));
    for (int i = 0; i < N; i++) {
        int64_t id;
        snprintf(path, sizeof path, "ids.%d", i);
        assert_ok(pare_json_int(&j, path, PARE_REQUIRED, 0, 1 << 20, &id, err));
        x->ids[i] = (int32_t)id;
    }
    pare_json_free(&j);
    size_t n;
    snprintf(path, sizeof path, "%s/logits.f32", x->folder);
    assert_ok(pare_file_read_all((char **)&x->logits, &n, path, 1 << 24, err));
    x->vocab = n / sizeof(float) / N;
    float low = x->logits[0], high = low;
    for (size_t i = 0; i < N * x->vocab; i++) {
        low = fminf(low, x->logits[i]);
        high = fmaxf(high, x->logits[i]);
    }
    x->range = high - low;
}

static void close_fixture(fixture *x) { pare_free(x->logits); }

typedef struct sink_state {
    float *out;
    size_t vocab, n;
} sink_state;

static int keep(void *arg, size_t first, size_t n_rows, const float *logits) {
    sink_state *k = arg;
    assert_int_equal(first, k->n);
    memcpy(k->out + first * k->vocab, logits, n_rows * k->vocab * sizeof(float));
    k->n += n_rows;
    return 0;
}

/* All logits of the ids, `piece` tokens a call; the caller frees. */
static float *logits_of(pare_model *m, const int32_t *ids, size_t n, size_t piece, size_t n_batch,
                        pare_compute compute, const char *kv) {
    size_t vocab = pare_model_vocab_size(m);
    float *out = pare_malloc(n * vocab, sizeof(float));
    pare_session_options o = {.n_ctx = n, .n_batch = n_batch, .compute = compute, .kv = kv};
    pare_session *s;
    assert_ok(pare_session_create(&s, m, &o, err));
    for (size_t i = 0; i < n; i += piece) {
        sink_state k = {out + i * vocab, vocab, 0};
        size_t count = piece < n - i ? piece : n - i;
        assert_ok(pare_session_eval_all(s, ids + i, count, 0, keep, &k, err));
        assert_int_equal(k.n, count);
    }
    assert_int_equal(pare_session_position(s), n);
    pare_session_free(s);
    return out;
}

static double largest_difference(const float *a, const float *b, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i])) return INFINITY;
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    }
    return most;
}

static void each_agrees_with_transformers(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    for (size_t f = 0; f < sizeof fixtures / sizeof fixtures[0]; f++) {
        fixture x;
        pare_model *m;
        open_fixture(&x, fixtures[f]);
        assert_ok(pare_model_load(&m, rt, x.folder, err));
        assert_int_equal(pare_model_vocab_size(m), x.vocab);
        /* at once, token by token, in pieces that do not divide, batches smaller than pieces */
        const size_t ways[][2] = {{N, N}, {1, 1}, {7, 7}, {20, 9}};
        for (size_t w = 0; w < 4; w++) {
            float *got = logits_of(m, x.ids, N, ways[w][0], ways[w][1], PARE_COMPUTE_EXACT, "f32");
            double off = largest_difference(got, x.logits, N * x.vocab) / (double)x.range;
            if (w == 0 || off > 1e-5)
                printf("  %-10s pieces of %2zu: largest difference %.1e of the range %.1f\n",
                       fixtures[f], ways[w][0], off, (double)x.range);
            assert_true(off <= 1e-4);
            pare_free(got);
        }
        pare_model_free(m);
        close_fixture(&x);
    }
    pare_runtime_free(rt);
}

/* One thread and three, and the plain kernels, on every architecture: the same bits, or close. */
static void threads_do_not_matter(void **state) {
    (void)state;
    for (size_t f = 0; f < sizeof fixtures / sizeof fixtures[0]; f++) {
        fixture x;
        open_fixture(&x, fixtures[f]);
        float *first = NULL;
        for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
            pare_runtime *rt = test_runtime(n_threads, pare_isa_best());
            pare_model *m;
            assert_ok(pare_model_load(&m, rt, x.folder, err));
            float *got = logits_of(m, x.ids, N, N, 16, PARE_COMPUTE_EXACT, "f32");
            if (first) assert_memory_equal(first, got, N * x.vocab * sizeof(float));
            if (first) pare_free(got);
            first = first ? first : got;
            pare_model_free(m);
            pare_runtime_free(rt);
        }
        pare_runtime *rt = test_runtime(2, PARE_ISA_REF);
        pare_model *m;
        assert_ok(pare_model_load(&m, rt, x.folder, err));
        float *got = logits_of(m, x.ids, N, N, 16, PARE_COMPUTE_EXACT, "f32");
        assert_true(largest_difference(got, x.logits, N * x.vocab) <= 1e-4 * (double)x.range);
        pare_free(got);
        pare_free(first);
        pare_model_free(m);
        pare_runtime_free(rt);
        close_fixture(&x);
    }
}

/* The cache's codecs and `fast` change little, and nothing breaks. Measured on these models: f16
 * 3e-4 of the range, bf16 3e-3, fast 3e-4 (16-bit weights take f32 activations). */
static void codecs_stay_close(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    for (size_t f = 0; f < sizeof fixtures / sizeof fixtures[0]; f++) {
        fixture x;
        pare_model *m;
        open_fixture(&x, fixtures[f]);
        assert_ok(pare_model_load(&m, rt, x.folder, err));
        static const struct {
            const char *kv;
            pare_compute compute;
            double most;
        } ways[] = {{"f16", PARE_COMPUTE_EXACT, 3e-3},
                    {"bf16", PARE_COMPUTE_EXACT, 3e-2},
                    {NULL, PARE_COMPUTE_FAST, 3e-2}};
        for (size_t w = 0; w < 3; w++) {
            float *got = logits_of(m, x.ids, N, 5, 5, ways[w].compute, ways[w].kv);
            double off = largest_difference(got, x.logits, N * x.vocab) / (double)x.range;
            if (off > ways[w].most) fail_msg("%s, way %zu: off by %g", fixtures[f], w, off);
            pare_free(got);
        }
        pare_model_free(m);
        close_fixture(&x);
    }
    pare_runtime_free(rt);
}

static void logprobs_and_truncation(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    for (size_t f = 0; f < sizeof fixtures / sizeof fixtures[0]; f++) {
        fixture x;
        pare_model *m;
        open_fixture(&x, fixtures[f]);
        assert_ok(pare_model_load(&m, rt, x.folder, err));
        pare_session_options o = {.n_ctx = N, .n_batch = 20, .compute = PARE_COMPUTE_EXACT};
        pare_session *s;
        assert_ok(pare_session_create(&s, m, &o, err));
        for (int round = 0; round < 2; round++) {
            size_t from = round ? 30 : 0;
            float got[N];
            assert_ok(pare_session_logprobs(s, x.ids, N, from, got, err));
            for (size_t i = from; i + 1 < N; i++) {
                const float *row = x.logits + i * x.vocab;
                double sum = 0, most = -INFINITY;
                for (size_t v = 0; v < x.vocab; v++) most = fmax(most, (double)row[v]);
                for (size_t v = 0; v < x.vocab; v++) sum += exp((double)row[v] - most);
                double want = (double)row[x.ids[i + 1]] - most - log(sum);
                assert_true(fabs((double)got[i - from] - want) <= 3e-4 * (double)x.range);
            }
            assert_int_equal(pare_session_position(s), N);
            pare_session_truncate(s, 0);
            assert_int_equal(pare_session_position(s), 0);
        }
        /* go back a few tokens (a window that has passed is kept a little longer) and on again */
        size_t vocab = x.vocab;
        float *first = pare_malloc(vocab, sizeof(float)),
              *again = pare_malloc(vocab, sizeof(float));
        assert_ok(pare_session_eval(s, x.ids, N, first, err));
        pare_session_truncate(s, N - 3);
        size_t kept = pare_session_position(s);
        assert_int_equal(kept, N - 3);
        assert_ok(pare_session_eval(s, x.ids + kept, N - kept, again, err));
        assert_true(largest_difference(first, again, vocab) <= 1e-4 * (double)x.range);
        pare_free(first);
        pare_free(again);
        pare_session_free(s);
        pare_model_free(m);
        close_fixture(&x);
    }
    pare_runtime_free(rt);
}

/* Sequences that go their own ways together, forked from each other at several places: each one's
 * logits are transformers'. Passes of 20 tokens: prompts are cut, and mixed with single tokens. */
static void sequences_together(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    for (size_t f = 0; f < sizeof fixtures / sizeof fixtures[0]; f++) {
        fixture x;
        pare_model *m;
        open_fixture(&x, fixtures[f]);
        assert_ok(pare_model_load(&m, rt, x.folder, err));
        pare_session_options o = {.n_ctx = N, .n_batch = 20, .compute = PARE_COMPUTE_EXACT};
        enum { SEQUENCES = 4 };
        pare_session *s[SEQUENCES];
        assert_ok(pare_session_create(&s[0], m, &o, err));
        assert_ok(pare_session_fork(&s[1], s[0], err)); /* of nothing */
        assert_ok(pare_session_eval(s[1], x.ids, 6, NULL, err));
        assert_ok(pare_session_fork(&s[2], s[1], err));
        assert_ok(pare_session_eval(s[2], x.ids + 6, 1, NULL, err));
        assert_ok(pare_session_fork(&s[3], s[2], err));
        static const size_t steps[][SEQUENCES] = {
            {1, 1, 1, 1}, {23, 1, 1, 2}, {1, 9, 1, 1}, {2, 1, 12, 11}, {1, 1, 1, 1}};
        float *got = pare_malloc(SEQUENCES * x.vocab, sizeof(float));
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
            const int32_t *ids[SEQUENCES];
            for (size_t j = 0; j < SEQUENCES; j++) ids[j] = x.ids + pare_session_position(s[j]);
            assert_ok(pare_session_eval_many(s, SEQUENCES, ids, steps[i], got, err));
            for (size_t j = 0; j < SEQUENCES; j++) {
                const float *want = x.logits + (pare_session_position(s[j]) - 1) * x.vocab;
                assert_true(largest_difference(got + j * x.vocab, want, x.vocab) <=
                            1e-4 * (double)x.range);
            }
        }
        pare_error e = {0};
        const size_t one[2] = {1, 1}, none[2] = {1, 0};
        const int32_t *ids[2] = {x.ids, x.ids};
        pare_session *twice[2] = {s[1], s[1]}, *strangers[2] = {s[1], NULL};
        assert_int_equal(pare_session_eval_many(twice, 2, ids, one, got, &e), PARE_ERR_ARG);
        assert_int_equal(pare_session_eval_many(s, 2, ids, none, got, &e), PARE_ERR_ARG);
        assert_ok(pare_session_create(&strangers[1], m, &o, err));
        assert_int_equal(pare_session_eval_many(strangers, 2, ids, one, got, &e), PARE_ERR_ARG);
        pare_session_free(strangers[1]);
        for (size_t j = 0; j < SEQUENCES; j++) pare_session_free(s[j]);
        pare_free(got);
        pare_model_free(m);
        close_fixture(&x);
    }
    pare_runtime_free(rt);
}

/* Layers loaded one at a time, without a cache, as a compression run does it. */
typedef struct streamed {
    pare_model *m;
    const int32_t *ids;
    float *h, *logits;
    size_t layer; /* SIZE_MAX: embed; n_layers: finish */
    void *arena, *linear;
    size_t arena_bytes, linear_bytes;
} streamed;

static void streamed_step(pare_fwd *f, const streamed *t) {
    pare_attn_span span = {.n = N};
    pare_pass p = {.ids = t->ids, .n = N, .spans = &span, .n_spans = 1};
    pare_pass_begin(f, t->m, &p);
    if (t->layer == SIZE_MAX) {
        pare_pass_embed(f, t->m, &p, t->h);
    } else if (t->layer < t->m->config.n_layers) {
        pare_pass_layer(f, t->m, &p, t->layer, t->h);
    } else {
        float *y = pare_fwd_alloc(f, N * t->m->config.embed_dim, sizeof *y);
        pare_pass_finish(f, t->m, y, t->h, N);
        pare_pass_logits(f, t->m, t->logits, y, N);
    }
}

static void streamed_thread(pare_worker *w, void *arg) {
    const streamed *t = arg;
    pare_isa isa = pare_runtime_isa(t->m->rt);
    pare_fwd f = {.w = w,
                  .isa = isa,
                  .k = pare_op_kernels_get(isa),
                  .arena = {.base = t->arena, .capacity = t->arena_bytes},
                  .linear_scratch = t->linear,
                  .linear_bytes = t->linear_bytes};
    streamed_step(&f, t);
}

static void run_step(streamed *t, size_t layer) {
    pare_worker w;
    pare_fwd plan = pare_fwd_plan(&w, pare_runtime_threads(t->m->rt), pare_runtime_isa(t->m->rt),
                                  PARE_COMPUTE_EXACT);
    t->layer = layer;
    streamed_step(&plan, t);
    t->arena_bytes = plan.arena.peak + 64;
    t->linear_bytes = plan.linear_bytes;
    t->arena = pare_big_alloc(t->arena_bytes);
    t->linear = pare_big_alloc(t->linear_bytes);
    pare_team_run(t->m->rt, streamed_thread, t);
    pare_big_free(t->arena, t->arena_bytes);
    pare_big_free(t->linear, t->linear_bytes);
}

static void layers_one_at_a_time(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, pare_isa_best());
    for (size_t f = 0; f < sizeof fixtures / sizeof fixtures[0]; f++) {
        fixture x;
        open_fixture(&x, fixtures[f]);
        pare_source *source;
        streamed t = {.ids = x.ids};
        assert_ok(pare_source_open(&source, x.folder, err));
        assert_ok(pare_model_open(&t.m, rt, source, err));
        t.h = pare_malloc(N * t.m->config.dim, sizeof(float));
        t.logits = pare_malloc(N * x.vocab, sizeof(float));
        run_step(&t, SIZE_MAX);
        for (size_t l = 0; l < t.m->config.n_layers; l++) {
            assert_ok(pare_model_load_layers(t.m, l, l + 1, err));
            run_step(&t, l);
            pare_model_drop_layer(t.m, l);
        }
        run_step(&t, t.m->config.n_layers);
        assert_true(largest_difference(t.logits, x.logits, N * x.vocab) <= 1e-4 * (double)x.range);
        pare_free(t.h);
        pare_free(t.logits);
        pare_model_free(t.m);
        close_fixture(&x);
    }
    pare_runtime_free(rt);
}

static void wrong_calls_are_refused(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    pare_model *m;
    pare_session *s;
    pare_error e = {0};
    assert_ok(pare_model_load(&m, rt, source_path("gpt2"), err));
    pare_session_options o = {.n_ctx = 8, .compute = PARE_COMPUTE_EXACT};
    assert_ok(pare_session_create(&s, m, &o, err));
    int32_t ids[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    float *logits = pare_malloc(pare_model_vocab_size(m), sizeof(float));
    assert_int_equal(pare_session_eval(s, ids, 9, logits, &e), PARE_ERR_ARG);
    assert_int_equal(pare_session_position(s), 0);
    assert_ok(pare_session_eval(s, ids, 8, logits, err));
    assert_int_equal(pare_session_eval(s, ids, 1, logits, &e), PARE_ERR_ARG);
    pare_session_truncate(s, 2);
    ids[0] = -1;
    assert_int_equal(pare_session_eval(s, ids, 1, logits, &e), PARE_ERR_ARG);
    ids[0] = (int32_t)pare_model_vocab_size(m);
    assert_int_equal(pare_session_eval(s, ids, 1, logits, &e), PARE_ERR_ARG);
    ids[0]--;
    assert_ok(pare_session_eval(s, ids, 1, logits, err));
    assert_int_equal(pare_session_position(s), 3);
    pare_session_free(s);

    o.n_ctx = 65; /* one more than the table of positions has */
    assert_int_equal(pare_session_create(&s, m, &o, &e), PARE_ERR_ARG);
    assert_null(s);
    o.n_ctx = 64;
    o.kv = "f12";
    assert_int_equal(pare_session_create(&s, m, &o, &e), PARE_ERR_ARG);
    pare_model_free(m);

    /* a cache larger than the machine, and one larger than the address space */
    assert_ok(pare_model_load(&m, rt, source_path("llama"), err));
    o = (pare_session_options){.n_ctx = (size_t)1 << 38};
    assert_int_equal(pare_session_create(&s, m, &o, &e), PARE_ERR_NOMEM);
    o.n_ctx = SIZE_MAX / 2;
    assert_int_not_equal(pare_session_create(&s, m, &o, &e), PARE_OK);
    pare_free(logits);
    pare_model_free(m);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_agrees_with_transformers),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(codecs_stay_close),
        cmocka_unit_test(sequences_together),
        cmocka_unit_test(logprobs_and_truncation),
        cmocka_unit_test(layers_one_at_a_time),
        cmocka_unit_test(wrong_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
