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
        {"sparsity", "0.5", true},   {"sparsity", "50%", true},   {"sparsity", "0", true},
        {"sparsity", "1", true},     {"sparsity", "2:4", true},   {"sparsity", "64:64", true},
        {"sparsity", "1.01", false}, {"sparsity", "-0.1", false}, {"sparsity", "101%", false},
        {"sparsity", "5:4", false},  {"sparsity", "1:65", false}, {"sparsity", ":4", false},
        {"sparsity", "2:", false},   {"sparsity", "", false},     {"sparsity", "0,5", false},
        {"sparsity", "nan", false},  {"per", "row", true},        {"per", "column", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pare_status st = PARE_OK;
        pare_error err = {0};
        free(options_of(m, cases[i].name, cases[i].value, &st, &err));
        if ((st == PARE_OK) != cases[i].good) fail_msg("%s=%s", cases[i].name, cases[i].value);
        if (!cases[i].good) assert_non_null(strstr(err.message, cases[i].name));
    }
}

static void every_method_describes_itself(void **state) {
    (void)state;
    for (size_t i = 0; pare_method_at(i); i++) {
        const pare_method *m = pare_method_at(i);
        assert_ptr_equal(pare_method_find(m->name), m);
        assert_true(m->summary && m->help && m->paper && m->example && m->slot && m->run);
        char options[256], text[64];
        assert_true(m->options_size <= sizeof options);
        pare_method_defaults(m, options);
        for (const pare_param *p = m->params; p->name; p++) {
            assert_non_null(p->help);
            assert_true(pare_param_is_default(p, options));
            pare_param_text(p, options, text, sizeof text);
            assert_ok(pare_param_set(p, options, text, err));
            assert_true(pare_param_is_default(p, options));
        }
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
        cmocka_unit_test(every_method_describes_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
