/* Magnitude pruning and the masks behind it: exact counts and ties of JaxPruner, N:M, parameters.
 */
#include "support/test.h"

#include "methods/mask.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t n_zeros(const float *w, size_t n) {
    size_t zeros = 0;
    for (size_t i = 0; i < n; i++) zeros += w[i] == 0.0f;
    return zeros;
}

static float random_weight(uint32_t *s) {
    *s = *s * 1664525u + 1013904223u;
    return (float)((int32_t)*s >> 8) * 0x1p-23f;
}

static void share_keeps_exact_counts_and_lower_indices(void **state) {
    (void)state;
    float w[] = {1, -1, 1, -1, 1};
    pare_mask_share(w, NULL, 5, 0.5); /* 2.5 rounds to 2; all scores equal */
    const float expected[] = {1, -1, 0, 0, 0};
    assert_memory_equal(w, expected, sizeof w);
    assert_int_equal(pare_mask_n_keep(7, 0.5), 4); /* 3.5 -> 4, to even */
    assert_int_equal(pare_mask_n_keep(10, 0.0), 10);
    assert_int_equal(pare_mask_n_keep(10, 1.0), 1); /* one survives */
    assert_int_equal(pare_mask_n_keep(1, 0.9), 1);
    /* 1 - 0.9 is above 0.1 in f32: exact halves go up, as in the reference */
    assert_int_equal(pare_mask_n_keep(15, 0.9), 2);
    assert_int_equal(pare_mask_n_keep(25, 0.9), 3);
    assert_int_equal(pare_mask_n_keep(50000000, 0.7), 15000000);
}

/* Against sorting: for every share the kept set is that of a stable sort by descending score. */
static const float *sort_scores;
static int by_score(const void *a, const void *b) {
    size_t i = *(const size_t *)a, j = *(const size_t *)b;
    float x = fabsf(sort_scores[i]), y = fabsf(sort_scores[j]);
    if (x != y) return x > y ? -1 : 1;
    return i < j ? -1 : 1;
}

static void share_agrees_with_a_stable_sort(void **state) {
    (void)state;
    enum { N = 3001 };
    static float w[N], pruned[N];
    static size_t order[N];
    uint32_t seed = 5;
    for (size_t i = 0; i < N; i++) {
        w[i] = random_weight(&seed);
        if (i % 3 == 0) w[i] = (float)(int)(w[i] * 4) * 0.25f; /* many ties, zeros among them */
        if (i % 100 == 7) w[i] *= 1e-42f;                      /* denormals */
        order[i] = i;
    }
    sort_scores = w;
    qsort(order, N, sizeof order[0], by_score);
    const double shares[] = {0.01, 0.25, 0.5, 0.9, 0.999, 1.0};
    for (size_t k = 0; k < 6; k++) {
        memcpy(pruned, w, sizeof w);
        pare_mask_share(pruned, NULL, N, shares[k]);
        size_t keep = pare_mask_n_keep(N, shares[k]);
        for (size_t i = 0; i < N; i++) {
            size_t at = order[i];
            assert_true(i < keep ? pruned[at] == w[at] : pruned[at] == 0.0f);
        }
    }
}

static void nan_scores_go_first(void **state) {
    (void)state;
    float w[] = {1, 2, 3, 4}, score[] = {5, NAN, -INFINITY, 1};
    pare_mask_share(w, score, 4, 0.25);
    const float expected[] = {1, 0, 3, 4};
    assert_memory_equal(w, expected, sizeof w);
}

static void n_m_keeps_n_of_each_group(void **state) {
    (void)state;
    float w[] = {1, 1, 1, 1, 4, -3, 2, 1, -0.5f, 9, 9, 0};
    pare_mask_n_m(w, NULL, 1, 12, 2, 4);
    /* ties keep the higher index */
    const float expected[] = {0, 0, 1, 1, 4, -3, 0, 0, 0, 9, 9, 0};
    assert_memory_equal(w, expected, sizeof w);
    float all[] = {1, 2, 3, 4};
    pare_mask_n_m(all, NULL, 1, 4, 0, 4);
    assert_int_equal(n_zeros(all, 4), 4);
}

static void *options_of(const pare_method *m, const char *name, const char *value, pare_status *st,
                        pare_error *err) {
    void *options = malloc(m->options_size);
    pare_method_defaults(m, options);
    for (const pare_param *p = m->params; p->name; p++)
        if (strcmp(p->name, name) == 0) *st = pare_param_set(p, options, value, err);
    return options;
}

static void method_prunes_per_tensor_and_per_row(void **state) {
    (void)state;
    const pare_method *m = pare_method_find("magnitude");
    assert_non_null(m);
    enum { ROWS = 130, COLS = 64 };
    static float w[ROWS * COLS], first[ROWS * COLS];
    pare_status st = PARE_OK;
    pare_error err = {0};
    void *options = options_of(m, "per", "row", &st, &err);
    assert_int_equal(st, PARE_OK);
    for (int threads = 1; threads <= 3; threads++) {
        pare_runtime *rt = test_runtime(threads, PARE_ISA_AMX);
        uint32_t seed = 9;
        for (size_t i = 0; i < ROWS * COLS; i++)
            w[i] = random_weight(&seed) * (float)(1 + i / COLS); /* later rows are larger */
        pare_weight_job job = {.rt = rt, .name = "w", .w = w, .rows = ROWS, .cols = COLS};
        assert_ok(m->run(&job, options, err));
        for (size_t r = 0; r < ROWS; r++) assert_int_equal(n_zeros(w + r * COLS, COLS), COLS / 2);
        if (threads == 1) memcpy(first, w, sizeof w);
        assert_memory_equal(w, first, sizeof w);
        pare_runtime_free(rt);
    }
    free(options);
}

static void rows_that_m_does_not_divide_are_refused(void **state) {
    (void)state;
    const pare_method *m = pare_method_find("magnitude");
    pare_status st = PARE_OK;
    pare_error err = {0};
    void *options = options_of(m, "sparsity", "2:4", &st, &err);
    float w[6] = {1, 2, 3, 4, 5, 6};
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    pare_weight_job job = {.rt = rt, .name = "blk.0.attn_q.weight", .w = w, .rows = 1, .cols = 6};
    assert_int_equal(m->run(&job, options, &err), PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "blk.0.attn_q.weight"));
    assert_non_null(strstr(err.message, "multiple of 4"));
    pare_runtime_free(rt);
    free(options);
}

static void parameters_are_checked(void **state) {
    (void)state;
    const pare_method *m = pare_method_find("magnitude");
    static const struct {
        const char *name, *value;
        bool good;
    } cases[] = {
        {"sparsity", "0.5", true},
        {"sparsity", "50%", true},
        {"sparsity", "0", true},
        {"sparsity", "1", true},
        {"sparsity", "2:4", true},
        {"sparsity", "64:64", true},
        {"sparsity", "1.01", false},
        {"sparsity", "-0.1", false},
        {"sparsity", "101%", false},
        {"sparsity", "5:4", false},
        {"sparsity", "1:65", false},
        {"sparsity", ":4", false},
        {"sparsity", "2:", false},
        {"sparsity", "", false},
        {"sparsity", "0,5", false},
        {"sparsity", "nan", false},
        {"per", "row", true},
        {"per", "column", false},
        {"type", "weight", true},
        {"type", "block_16x16", true},
        {"type", "block_1x4096", true},
        {"type", "channel_in", true},
        {"type", "channel_out", true},
        {"type", "channel", false},
        {"type", "", false},
        {"type", "block_", false},
        {"type", "block_16", false},
        {"type", "block_16x", false},
        {"type", "block_0x4", false},
        {"type", "block_4097x4", false},
        {"type", "block_-1x4", false},
        {"type", "block_4x4x4", false},
        {"type", "block_99999999999x4", false},
        {"type", "block_ 4x4", false},
        {"pool", "max", true},
        {"pool", "sum", false},
        {"dist", "erk", true},
        {"dist", "erdos", false},
        {"layers", "none", true},
        {"layers", "0.5", true},
        {"layers", "0;1;50%", true},
        {"layers", "", false},
        {"layers", "0.5;", false},
        {"layers", "1.1", false},
        {"layers", "-0.1", false},
        {"layers", "0.5;;0.5", false},
        {"layers", "a", false},
        {"owl_m", "0.5", false},
        {"owl_lambda", "0.6", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pare_status st = PARE_OK;
        pare_error err = {0};
        free(options_of(m, cases[i].name, cases[i].value, &st, &err));
        if ((st == PARE_OK) != cases[i].good) fail_msg("%s=%s", cases[i].name, cases[i].value);
        if (!cases[i].good) assert_non_null(strstr(err.message, cases[i].name));
    }
}

/* ---- tiles and channels ---- */

static pare_prune_options prune_options(const char *type, double share, const char *pool) {
    pare_status st = PARE_OK;
    pare_error err = {0};
    const pare_method *m = pare_method_find("magnitude");
    void *o = options_of(m, "type", type, &st, &err);
    for (const pare_param *p = m->params; p->name; p++)
        if (strcmp(p->name, "pool") == 0) assert_ok(pare_param_set(p, o, pool, err));
    pare_prune_options result;
    memcpy(&result, o, sizeof result);
    result.sparsity = (pare_sparsity){share, 0, 0};
    free(o);
    assert_int_equal(st, PARE_OK);
    return result;
}

/* Ones where weights of 1 with those scores stay, as text of rows x cols digits. */
static void assert_mask(const float *score, size_t rows, size_t cols, const pare_prune_options *o,
                        const char *expected) {
    float w[64];
    char found[65] = "";
    for (size_t i = 0; i < rows * cols; i++) w[i] = 1;
    pare_runtime *rt = test_runtime(2, PARE_ISA_REF);
    pare_weight_job job = {.rt = rt, .name = "w", .w = w, .rows = rows, .cols = cols};
    assert_ok(pare_mask_matrix(&job, "magnitude", score, o, err));
    for (size_t i = 0; i < rows * cols; i++) found[i] = w[i] == 0 ? '0' : '1';
    found[rows * cols] = '\0';
    assert_string_equal(found, expected);
    pare_runtime_free(rt);
}

/* Vectors of JaxPruner's own tests (its arrays have the axes as here rows and columns). */
static void blocks_and_channels_of_jaxpruner(void **state) {
    (void)state;
    static const float s[] = {.69f, .37f, .96f, .81f, .79f, .55f, .88f, .53f, .66f, .88f, .4f,
                              .83f, .13f, .8f,  .91f, .96f, .34f, .17f, .07f, .74f, .13f, .13f,
                              .83f, .76f, .13f, .92f, .25f, .75f, .37f, .42f, .65f, .46f};
    pare_prune_options o = prune_options("block_2x3", 0.2, "avg");
    assert_mask(s, 4, 8, &o,
                "11111111"
                "11111111"
                "00011111"
                "00011111");
    o = prune_options("block_2x3", 0.2, "max");
    assert_mask(s, 4, 8, &o,
                "11111111"
                "11111111"
                "11100011"
                "11100011");
    o = prune_options("block_1x3", 0.2, "avg");
    assert_mask(s, 1, 8, &o, "00011111");
    o = prune_options("block_1x3", 0.2, "max");
    assert_mask(s, 1, 8, &o, "11100011");

    static const float two[] = {1, .5f, .3f, .2f, 1, 1.5f, 1.8f, 2, 1, 1,
                                1, .5f, .3f, .2f, 1, 1.5f, 1.8f, 2, 1, 1};
    o = prune_options("channel_in", 0.5, "avg");
    assert_mask(two, 2, 10, &o,
                "1000111100"
                "1000111100");
    o = prune_options("weight", 0.5, "avg");
    assert_mask(two, 1, 10, &o, "1000111100");
    assert_mask(two, 2, 10, &o,
                "1000111111"
                "0000011100");
    static const float equal[] = {1, 1, 1, 1, 1, 1, 1, 1};
    assert_mask(equal, 1, 8, &o, "11110000");
    o.sparsity = (pare_sparsity){0.5, 2, 4};
    assert_mask(equal, 1, 8, &o, "00110011");
    o.sparsity = (pare_sparsity){0, 4, 4};
    assert_mask(equal, 1, 8, &o, "11111111");
    static const float rows[] = {1, 2, 3, 4, 5, 6, -9, 7};
    o = prune_options("channel_out", 0.5, "avg");
    assert_mask(rows, 4, 2, &o, "00111100"); /* sums 3, 7, 11, -2 */
}

/* Partial tiles count (JaxPruner's own mask loses them): 7 x 13 in tiles of 4 x 4 are 2 x 4. */
static void partial_tiles(void **state) {
    (void)state;
    float w[7 * 13];
    pare_runtime *rt = test_runtime(3, PARE_ISA_REF);
    for (size_t i = 0; i < 7 * 13; i++) w[i] = 1.0f + (float)(i % 13 / 4) + 4 * (float)(i / 13 / 4);
    pare_weight_job job = {.rt = rt, .name = "w", .w = w, .rows = 7, .cols = 13};
    pare_prune_options o = prune_options("block_4x4", 0.5, "avg"); /* the means are 1 to 8 */
    assert_ok(pare_mask_matrix(&job, "magnitude", NULL, &o, err));
    for (size_t i = 0; i < 7 * 13; i++) assert_int_equal(w[i] == 0, i < 4 * 13);
    pare_runtime_free(rt);
}

/* Tiles of 1 x 1 are single weights, channels of one row too; any number of threads. */
static void tiles_reduce_to_weights(void **state) {
    (void)state;
    enum { ROWS = 37, COLS = 50 };
    float w[ROWS * COLS], a[ROWS * COLS], b[ROWS * COLS];
    uint32_t seed = 3;
    for (size_t i = 0; i < ROWS * COLS; i++) w[i] = (float)(int)(16 * random_weight(&seed));
    static const char *const types[] = {"block_1x1", "block_5x7", "channel_in", "channel_out"};
    for (int threads = 1; threads <= 4; threads++) {
        pare_runtime *rt = test_runtime(threads, PARE_ISA_REF);
        pare_weight_job job = {.rt = rt, .name = "w", .rows = ROWS, .cols = COLS};
        pare_prune_options o = prune_options("weight", 0.6, "avg");
        for (size_t k = 0; k < 4; k++) {
            pare_prune_options tiles = prune_options(types[k], 0.6, k == 1 ? "max" : "avg");
            bool row = k == 2; /* a tensor of one dimension */
            job.rows = row ? 1 : ROWS;
            job.w = memcpy(a, w, sizeof w);
            assert_ok(pare_mask_matrix(&job, "magnitude", NULL, &tiles, err));
            if (k == 0 || row) {
                job.w = memcpy(b, w, sizeof w);
                assert_ok(pare_mask_matrix(&job, "magnitude", NULL, &o, err));
                assert_memory_equal(a, b, sizeof a);
                continue;
            }
            size_t n = k == 1 ? 8 * 8 : ROWS, kept = 0; /* tiles, counted by their corners */
            for (size_t i = 0; i < ROWS * COLS; i++) {
                size_t r = i / COLS, c = i % COLS,
                       first = k == 1 ? r / 5 * 5 * COLS + c / 7 * 7 : r * COLS;
                bool whole = true;
                if (i != first) continue;
                for (size_t t = 0; t < ROWS * COLS; t++) {
                    bool in =
                        k == 1 ? t / COLS / 5 == r / 5 && t % COLS / 7 == c / 7 : t / COLS == r;
                    whole &= !in || a[t] == w[t];
                }
                kept += whole;
            }
            assert_in_range(kept, pare_mask_n_keep(n, 0.6), n); /* tiles of zeros are whole too */
        }
        pare_runtime_free(rt);
    }
}

static void what_excludes_each_other_is_refused(void **state) {
    (void)state;
    static const char *const cases[][4] = {
        {"type", "channel_in", "2:4", "type"},
        {"dist", "erk", "2:4", "which every tensor gets"},
        {"layers", "0.5;0.5", "2:4", "layers"},
        {"pool", "max", "0.5", "type=block_RxC"},
    };
    static const char *const pruners[] = {"magnitude", "random", "wanda", "sparsegpt"};
    for (size_t k = 0; k < 4; k++)
        for (size_t i = 0; i < 4; i++) {
            const pare_method *m = pare_method_find(pruners[k]);
            pare_status st = PARE_OK;
            pare_error err = {0};
            void *o = options_of(m, cases[i][0], cases[i][1], &st, &err);
            for (const pare_param *p = m->params; p->name; p++)
                if (strcmp(p->name, "sparsity") == 0)
                    assert_ok(pare_param_set(p, o, cases[i][2], err));
            bool has = k < 3 || i == 1 || i == 2; /* sparsegpt has no types */
            assert_int_equal(m->check(o, &err), has ? PARE_ERR_ARG : PARE_OK);
            if (has) assert_non_null(strstr(err.message, cases[i][3]));
            free(o);
        }
}

static void every_method_describes_itself(void **state) {
    (void)state;
    for (size_t i = 0; pare_method_at(i); i++) {
        const pare_method *m = pare_method_at(i);
        for (size_t k = 0; k < i; k++) /* names are unique within a slot */
            assert_true(strcmp(pare_method_at(k)->name, m->name) != 0 ||
                        strcmp(pare_method_at(k)->slot, m->slot) != 0);
        assert_true(m->summary && m->help && m->paper && m->example && m->slot);
        bool adapter = strcmp(m->slot, "adapter") == 0;           /* model/lora.h does the work */
        bool top_k = strcmp(m->slot, "activation_sparsity") == 0; /* autograd/top_k.h does */
        int kinds = (m->run || m->scales) + !!m->optim + !!m->sparse + m->prefix + adapter + top_k;
        assert_int_equal(kinds, 1);
        char text[PARE_PARAM_TEXT_MAX];
        void *options = malloc(m->options_size);
        pare_method_defaults(m, options);
        for (const pare_param *p = m->params; p->name; p++) {
            assert_non_null(p->help);
            assert_true(pare_param_is_default(p, options));
            for (const pare_param *q = m->params; q < p; q++)
                assert_true(strcmp(q->name, p->name) != 0 && q->offset != p->offset);
            pare_param_text(p, options, text, sizeof text);
            assert_ok(pare_param_set(p, options, text, err));
            assert_true(pare_param_is_default(p, options));
        }
        free(options);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(share_keeps_exact_counts_and_lower_indices),
        cmocka_unit_test(share_agrees_with_a_stable_sort),
        cmocka_unit_test(nan_scores_go_first),
        cmocka_unit_test(n_m_keeps_n_of_each_group),
        cmocka_unit_test(method_prunes_per_tensor_and_per_row),
        cmocka_unit_test(rows_that_m_does_not_divide_are_refused),
        cmocka_unit_test(parameters_are_checked),
        cmocka_unit_test(blocks_and_channels_of_jaxpruner),
        cmocka_unit_test(partial_tiles),
        cmocka_unit_test(tiles_reduce_to_weights),
        cmocka_unit_test(what_excludes_each_other_is_refused),
        cmocka_unit_test(every_method_describes_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
