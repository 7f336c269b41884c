/* Sparse training by the caller's own scores and selections. */
#include "support/toy_pruner.h"

#include "methods/pruner.h"

#include <math.h>

/* |w| times the size of an input, as Wanda has it. */
static void wanda_score(void *arg, size_t tensor, float *score, const float *w, const float *g,
                        size_t n) {
    const float *inputs = arg;
    assert_true(tensor == 0 || tensor == 3);
    assert_true(g != NULL);
    for (size_t i = 0; i < n; i++) score[i] = fabsf(w[i]) * inputs[i % 16];
}

static void own_scores(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    static const char *const takes[] = {"magnitude:sparsity=0.5", "random:sparsity=0.5",
                                        "saliency:sparsity=0.5",
                                        "global_magnitude:sparsity=0.5,normalize=false"};
    float inputs[16];
    toy x;
    for (size_t i = 0; i < 16; i++) inputs[i] = i < 8 ? 1000 : 1; /* half the inputs matter */
    for (size_t k = 0; k < 4; k++) {
        begin(&x, rt, takes[k], "sgd");
        assert_ok(pare_pruner_set_score(x.pruner, wanda_score, inputs, err));
        for (size_t i = 0; i < W1; i++) x.w[i] = x.t[3].w[i] = 0.1f + (float)(i % 13);
        assert_ok(pare_pruner_instant_sparsify(x.pruner, x.gs, err));
        for (size_t i = 0; i < W1; i++) assert_int_equal(x.w[i] != 0, i % 16 < 8);
        assert_ok(pare_pruner_set_score(x.pruner, NULL, NULL, err));
        end(&x);
    }
    /* a score of the caller's may read gradients of pruned weights: on steps that update masks */
    begin(&x, rt, "magnitude:sparsity=0.5,every=5,from=0,until=9,sparse_grads=true", "sgd");
    assert_false(pare_pruner_needs_dense_gradient(x.pruner));
    assert_ok(pare_pruner_set_score(x.pruner, wanda_score, inputs, err));
    assert_true(pare_pruner_needs_dense_gradient(x.pruner));
    train(&x, 1);
    assert_false(pare_pruner_needs_dense_gradient(x.pruner));
    end(&x);
    begin(&x, rt, "static_sparse", "sgd");
    assert_fails(pare_pruner_set_score(x.pruner, wanda_score, inputs, err), PARE_ERR_ARG,
                 "static_sparse: found a score");
    end(&x);
    pare_runtime_free(rt);
}

/* The later a weight stands the higher it scores. */
static void score_by_place(void *arg, size_t tensor, float *score, const float *w, const float *g,
                           size_t n) {
    (void)arg, (void)tensor, (void)w, (void)g;
    for (size_t i = 0; i < n; i++) score[i] = (float)i;
}

/* Of set and rigl an own score says what comes. */
static void own_growth(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    static const char *const cases[] = {"set:sparsity=0.5,every=1,from=0,until=9,decay=none",
                                        "rigl:sparsity=0.5,every=1,from=0,until=9,decay=none"};
    for (int k = 0; k < 2; k++) {
        toy x;
        uint64_t old[W1 / 64], expected[W1 / 64];
        begin(&x, rt, cases[k], "sgd:lr=0.01");
        assert_ok(pare_pruner_set_score(x.pruner, score_by_place, NULL, err));
        forward(&x);
        memcpy(old, pare_pruner_mask(x.pruner, 0), sizeof old);
        size_t stay = pare_drop_keep(W1, W1 / 2, 0.1), come = W1 / 2 - stay;
        const pare_scored weak = {.w = x.w, .n = W1, .within = old, .bits = expected};
        pare_select(NULL, &weak, 1, stay, PARE_TIES_FIRST_STAYS);
        for (size_t i = W1; i-- > 0 && come > 0;) {
            come -= !pare_bit(expected, i);
            expected[i / 64] |= (uint64_t)1 << i % 64;
        }
        gradients(&x);
        update(&x);
        assert_memory_equal(pare_pruner_mask(x.pruner, 0), expected, sizeof expected);
        end(&x);
    }
    pare_runtime_free(rt);
}

/* Keeps the first weights, as many as the sparsity leaves; counts calls. */
static void keep_first(void *arg, size_t tensor, uint64_t *mask, const float *score,
                       double sparsity, size_t n) {
    size_t *calls = arg;
    assert_true(tensor == 0 || tensor == 3);
    assert_true(score[5] >= 0 && mask[0] == 0);
    for (size_t i = 0; i < (size_t)((1 - sparsity) * (double)n + 0.5); i++)
        mask[i / 64] |= (uint64_t)1 << i % 64;
    ++*calls;
}

static void own_selections(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    static const char *const takes[] = {"magnitude:sparsity=0.25", "saliency:sparsity=0.25",
                                        "magnitude_ste:sparsity=0.25,schedule=one_shot,from=0"},
                             *const refuse[] = {"global_magnitude", "rigl", "static_sparse",
                                                "iterative_nm:sparsity=2:4", "keep_zeros"};
    toy x;
    for (size_t k = 0; k < 3; k++) {
        size_t calls = 0;
        begin(&x, rt, takes[k], "sgd");
        gradients(&x);
        assert_ok(pare_pruner_set_top_k(x.pruner, keep_first, &calls, err));
        if (k < 2)
            assert_ok(pare_pruner_instant_sparsify(x.pruner, x.gs, err));
        else
            forward(&x);
        const float *w = weights_of_forward(&x);
        for (size_t i = 0; i < W1; i++) assert_int_equal(w[i] != 0, i < W1 * 3 / 4);
        assert_int_equal(calls, 2);
        assert_ok(pare_pruner_set_top_k(x.pruner, NULL, NULL, err));
        end(&x);
    }
    for (size_t k = 0; k < 5; k++) {
        begin(&x, rt, refuse[k], "sgd");
        assert_fails(pare_pruner_set_top_k(x.pruner, keep_first, NULL, err), PARE_ERR_ARG,
                     "found a selection of the caller's");
        end(&x);
    }
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_scores),
        cmocka_unit_test(own_growth),
        cmocka_unit_test(own_selections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
