/* Models with quantized activations: every architecture in both modes, granularities against each
 * other, calibration with and without a prefix, and texts that are no scheme. */
#include "support/model_files.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include "methods/quant_options.h"
#include "model/act.h"
#include "pare/compress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 24 };

static const char *const fixtures[] = {"llama", "llama-bias", "mistral", "qwen2",
                                       "qwen3", "gemma2",     "gemma3",  "gemma3-old",
                                       "gpt2",  "opt",        "opt-post"};
enum { N_FIXTURES = sizeof fixtures / sizeof *fixtures };

static pare_runtime *rt;
static int32_t ids[4 * N];

static pare_model *load(const char *path) {
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, path, err));
    for (int i = 0; i < 4 * N; i++)
        ids[i] = (i * i * 7 + 3 * i + 5) % (int)pare_model_vocab_size(m);
    return m;
}

static pare_status round_weights(void *arg, const pare_encoding *enc, const char *name, float *w,
                                 size_t rows, size_t cols, float *scale, pare_error *e) {
    const pare_grid grid = {PARE_GRID_SYM_ABSMAX, enc->grid->bits, PARE_GRID_PLAIN};
    (void)arg, (void)name, (void)e;
    pare_quant_round(rt, w, rows, cols, enc->grid->group, &grid, NULL, scale, NULL);
    return PARE_OK;
}

static pare_model *load_act(const char *path, const pare_act_scheme *scheme, int bits) {
    pare_model *m = load(path);
    pare_act_sites *a;
    assert_ok(pare_act_sites_create(&a, m, scheme, err));
    if (m->config.dim % 8 == 0) /* GPT-2's is 60: its weights stay as they are */
        assert_ok(pare_act_quantize_weights(a, m, pare_encoding_of_grid(bits, false, 0),
                                            round_weights, NULL, err));
    pare_model_attach_act(m, a);
    if (scheme->granularity == PARE_ACT_PER_TENSOR_STATIC)
        assert_ok(pare_act_calibrate(m, ids, 4, N, PARE_COMPUTE_EXACT, err));
    return m;
}

/* Logits of the last of n tokens, `piece` a call. The caller frees. */
static float *logits_of(pare_model *m, size_t n, size_t piece, pare_compute compute) {
    float *out = malloc(pare_model_vocab_size(m) * sizeof *out);
    pare_session_options o = {.n_ctx = N, .compute = compute, .kv = "f32"};
    pare_session *s;
    assert_ok(pare_session_create(&s, m, &o, err));
    for (size_t i = 0; i < n; i += piece)
        assert_ok(pare_session_eval(s, ids + i, piece < n - i ? piece : n - i, out, err));
    pare_session_free(s);
    return out;
}

/* |a - b| / |a| */
static double distance(const float *a, const float *b, size_t n) {
    double off = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        all += (double)a[i] * (double)a[i];
    }
    return sqrt(off / all);
}

/* 8 bits change logits by little, 4 by more, and `fast` computes with the same codes as `exact`, of
 * which a few fall on the other side of a half (found at most 0.02 of 8 bits, all shapes here). */
static void architectures(void **state) {
    (void)state;
    for (int i = 0; i < N_FIXTURES; i++) {
        const char *path = fixture_path(fixtures[i]);
        pare_model *dense = load(path);
        size_t vocab = pare_model_vocab_size(dense);
        float *want = logits_of(dense, N, N, PARE_COMPUTE_EXACT);
        double by_bits[2];
        for (int k = 0; k < 12; k++) {
            pare_act_scheme a = {.granularity = (pare_act_granularity)(k % 3),
                                 .bits = k < 9 ? 8 : 4,
                                 .symmetric = k % 2,
                                 .bmm = k == 4 || k == 5 || k == 6};
            pare_model *m = load_act(path, &a, 8);
            float *exact = logits_of(m, N, N, PARE_COMPUTE_EXACT);
            float *fast = logits_of(m, N, N, PARE_COMPUTE_FAST);
            double d = distance(want, exact, vocab), f = distance(exact, fast, vocab);
            by_bits[k >= 9] = d;
            if (!(d < (k < 9 ? 0.2 : 1.5)) || !(f < (k < 9 ? 0.05 : 0.8)))
                fail_msg("%s scheme %d: %g from dense, fast %g from exact", fixtures[i], k, d, f);
            free(exact);
            free(fast);
            pare_model_free(m);
        }
        assert_true(by_bits[0] < by_bits[1]);
        free(want);
        pare_model_free(dense);
    }
}

/* A pass of one token: its tensor is the token (sheet, check 7), bit by bit in both modes. */
static void one_by_one(void **state) {
    (void)state;
    pare_act_scheme token = {.granularity = PARE_ACT_PER_TOKEN, .bits = 8}, tensor = token;
    tensor.granularity = PARE_ACT_PER_TENSOR_DYNAMIC;
    for (int c = 0; c < 2; c++) {
        pare_model *a = load_act(fixture_path("llama"), &token, 8),
                   *b = load_act(fixture_path("llama"), &tensor, 8);
        size_t bytes = pare_model_vocab_size(a) * sizeof(float);
        float *x = logits_of(a, N, 1, (pare_compute)c), *y = logits_of(b, N, 1, (pare_compute)c),
              *z = logits_of(b, N, N, (pare_compute)c);
        assert_memory_equal(x, y, bytes);
        assert_memory_not_equal(x, z, bytes);
        free(x);
        free(y);
        free(z);
        pare_model_free(a);
        pare_model_free(b);
    }
}

/* Ranges hold what passed and nothing of a prefix, whose own values may be anything. */
static void ranges(void **state) {
    (void)state;
    pare_act_scheme a = {.granularity = PARE_ACT_PER_TENSOR_STATIC, .bits = 8};
    pare_model *m = load_act(fixture_path("llama"), &a, 8);
    size_t n = m->act->n_layers * PARE_ACT_SITES;
    for (size_t i = 0; i < n; i++) {
        pare_act_range r = m->act->ranges[i];
        bool input = i % PARE_ACT_SITES < PARE_ACT_INPUTS;
        assert_true(input ? r.min < 0 && r.max > 0 && isfinite(r.max) : r.min > r.max);
    }
    /* the same text behind a prefix: other ranges */
    const int32_t prefix[] = {7, 3};
    pare_act_range before = m->act->ranges[PARE_ACT_DOWN];
    assert_ok(pare_model_set_prefix_ids(m, prefix, 2, err));
    assert_ok(pare_act_calibrate(m, ids, 4, N, PARE_COMPUTE_EXACT, err));
    assert_true(before.max != m->act->ranges[PARE_ACT_DOWN].max);
    pare_model_free(m);
}

/* What stands before the text does not count: ranges are those of the text's rows alone, in one
 * pass over both. A long prefix before a short text holds most of the extremes. */
static void ranges_behind(void **state) {
    (void)state;
    enum { FRONT = 12, TEXT = 4 };
    pare_act_scheme a = {.granularity = PARE_ACT_PER_TENSOR_STATIC, .bits = 8};
    pare_model *m = load_act(fixture_path("llama"), &a, 8);
    size_t n = m->act->n_layers * PARE_ACT_SITES, less = 0, same = 0;
    pare_act_range all[64], front[64];
    assert_true(n <= 64);
    assert_ok(pare_act_calibrate(m, ids, 1, FRONT + TEXT, PARE_COMPUTE_EXACT, err));
    memcpy(all, m->act->ranges, n * sizeof *all);
    assert_ok(pare_act_calibrate(m, ids, 1, FRONT, PARE_COMPUTE_EXACT, err));
    memcpy(front, m->act->ranges, n * sizeof *front);
    assert_ok(pare_model_set_prefix_ids(m, ids, FRONT, err));
    assert_ok(pare_act_calibrate(m, ids + FRONT, 1, TEXT, PARE_COMPUTE_EXACT, err));
    for (size_t i = 0; i < n; i++) {
        if (i % PARE_ACT_SITES >= PARE_ACT_INPUTS) continue;
        const float ends[2][3] = {{m->act->ranges[i].max, all[i].max, front[i].max},
                                  {-m->act->ranges[i].min, -all[i].min, -front[i].min}};
        for (int k = 0; k < 2; k++) {
            const float behind = ends[k][0], both = ends[k][1], before = ends[k][2];
            assert_true(behind <= both * 1.0001f);
            if (both > before * 1.0001f) { /* the text's own */
                assert_true(fabsf(behind / both - 1) < 1e-4f);
                same++;
            } else {
                less += behind < both * 0.999f;
            }
        }
    }
    assert_true(less > 3 && same > 0); /* else this showed nothing */
    pare_model_free(m);
}

static void specs(void **state) {
    (void)state;
    const struct {
        const char *spec, *says;
    } bad[] = {
        {"w8a9", "did you mean 'w8a8'"},
        {"rtn", "not known"},
        {"w8a8:act=per_row", "per_token"},
        {"w8a8:per_row", "expected param=value"},
        {"w8a8:act_bits=7", "4, 6 or 8"},
        {"w8a8:bits=5", "4, 6 or 8"},
        {"w8a8:group=32,weights=tensor", "expected group=0"},
        {"w8a8:group=48", "32, 64, 128"},
        {"w8a8:per_token,per_token", "twice"},
        {"w8a8:per_tensor_static", "--calib"},
    };
    pare_model *m = load(tiny_model("act", NULL));
    assert_string_equal(pare_model_act(m), "");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pare_model *other = load(test_path("act"));
        pare_act_options o = {.spec = bad[i].spec};
        assert_fails(pare_model_quantize_act(other, &o, err), PARE_ERR_ARG, bad[i].says);
        pare_model_free(other);
    }
    char text[3000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + i * i % 23);
    const char *file = test_write("calib.txt", text, sizeof text);
    pare_act_options o = {.spec = "w6a6:per_tensor_static,sym=true",
                          .calib = file,
                          .calib_samples = 3,
                          .calib_ctx = 64};
    const uint64_t dense = pare_model_bytes_per_token(m),
                   matrices = pare_model_flops_per_token(m) / 2;
    assert_ok(pare_model_quantize_act(m, &o, err));
    assert_string_equal(pare_model_act(m), "w6a6:act=per_tensor_static,sym=true");
    const uint64_t head = (uint64_t)m->config.vocab_size * m->config.dim; /* stays as it is */
    const uint64_t saved = dense - pare_model_bytes_per_token(m);         /* of 4 bytes a weight */
    assert_true(saved > 2 * (matrices - head) && saved < 4 * (matrices - head));
    assert_int_equal(m->act->schemes[PARE_ACT_QKV].bits, 6);
    assert_true(m->act->ranges[PARE_ACT_QKV].max > 0);
    assert_fails(pare_model_quantize_act(m, &o, err), PARE_ERR_ARG, "already");
    o.spec = "none"; /* its weights are others already */
    assert_fails(pare_model_quantize_act(m, &o, err), PARE_ERR_ARG, "already");
    pare_model_free(m);
    /* one scale for a matrix */
    m = load(tiny_model("act", NULL));
    const pare_act_options whole = {.spec = "w8a8:weights=tensor"};
    const pare_tensor *q = &m->weights.layers[1].attn_q.w;
    enum { VALUES = TINY_DIM * TINY_DIM };
    static float before[VALUES], after[VALUES];
    assert_int_equal(q->view.rows * q->view.cols, VALUES);
    pare_tensor_decode(rt, before, q);
    assert_ok(pare_model_quantize_act(m, &whole, err));
    pare_tensor_decode(rt, after, q);
    float most = 0;
    for (int i = 0; i < VALUES; i++) most = fmaxf(most, fabsf(before[i]));
    const float scale = most / 127;
    for (int i = 0; i < VALUES; i++) {
        assert_true(fabsf(after[i] / scale - roundf(after[i] / scale)) < 0.1f); /* scale in f16 */
        assert_true(fabsf(after[i] - before[i]) < 0.6f * scale);
    }
    pare_model_free(m);
    /* a model that is no longer one */
    o.spec = "w8a8:per_tensor_static";
    m = load(tiny_model("act-nan", &(tiny_options){.last_norm = 3e38f}));
    assert_fails(pare_model_quantize_act(m, &o, err), PARE_ERR_INPUT, "block 1");
    pare_model_free(m);
}

/* What passes counts once, whatever the threads, pieces and mode; what is clamped are the values
 * whose codes the grid cuts off. Here the grids of one site are made of half of what it saw. */
static void clamped(void **state) {
    (void)state;
    const pare_act_scheme scheme = {.granularity = PARE_ACT_PER_TENSOR_STATIC, .bits = 8};
    pare_model *m = load_act(tiny_model("counted", NULL), &scheme, 8);
    const size_t sites = TINY_LAYERS * PARE_ACT_INPUTS;
    pare_act_clamped_site s;
    assert_false(pare_model_clamped_at(m, 0, &s)); /* nobody asked */
    const pare_act_range whole = m->act->ranges[PARE_ACT_SITES + PARE_ACT_DOWN];
    for (int half = 0; half < 2; half++) {
        if (half)
            pare_act_set_range(m->act, 1, PARE_ACT_DOWN,
                               (pare_act_range){whole.min / 2, whole.max / 2});
        uint64_t found[2] = {0};
        for (int way = 0; way < 3; way++) { /* at once, token by token, in codes */
            assert_ok(pare_model_count_clamped(m, err));
            free(logits_of(m, N, way == 1 ? 1 : N,
                           way == 2 ? PARE_COMPUTE_FAST : PARE_COMPUTE_EXACT));
            size_t n = 0;
            for (; pare_model_clamped_at(m, n, &s); n++) {
                static const char *const names[] = {"attn_qkv", "attn_output", "ffn_up",
                                                    "ffn_down"};
                assert_int_equal(s.layer, n / PARE_ACT_INPUTS);
                assert_string_equal(s.site, names[n % PARE_ACT_INPUTS]);
                const pare_linear *w = &m->weights.layers[0].attn_q;
                if (n % PARE_ACT_INPUTS == PARE_ACT_DOWN) w = &m->weights.layers[0].ffn_down;
                assert_int_equal(s.n, N * w->w.view.cols);
                if (n != PARE_ACT_INPUTS + PARE_ACT_DOWN) continue;
                /* calibration has seen this text, and rounding before it moves it by little */
                assert_true(half ? s.clamped > 0 && s.clamped < s.n / 20 : s.clamped <= 2);
                if (way < 2) found[way] = s.clamped;
            }
            assert_int_equal(n, sites);
        }
        assert_true(found[0] <= found[1] + 2 && found[1] <= found[0] + 2);
    }
    pare_model_detach_act(m);
    assert_ok(pare_model_count_clamped(m, err));
    assert_false(pare_model_clamped_at(m, 0, &s));
    pare_model_free(m);
}

int main(void) {
    rt = test_runtime(2, pare_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(architectures), cmocka_unit_test(one_by_one), cmocka_unit_test(ranges),
        cmocka_unit_test(ranges_behind), cmocka_unit_test(specs),      cmocka_unit_test(clamped)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_runtime_free(rt);
    return failed;
}
