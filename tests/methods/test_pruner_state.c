/* What all sparse trainings have in common: resumed, with other optimizers, with any number of
 * threads they end with the same bits. */
#include "support/toy_pruner.h"

#include "kernels/blocks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void run(float *w, pare_runtime *rt, const char *spec) {
    toy *x = malloc(sizeof *x);
    begin(x, rt, spec, "adamw:lr=0.05");
    train(x, 40);
    memcpy(w, x->w, sizeof x->w);
    end(x);
    free(x);
}

static void threads_and_levels_do_not_matter(void **state) {
    (void)state;
    for (size_t k = 0; k < N_SPECS; k++) {
        float w[2][ALL];
        for (int i = 0; i < 3; i++) {
            pare_runtime *rt = test_runtime(1 + i, i == 2 ? PARE_ISA_REF : PARE_ISA_AMX);
            run(w[i > 0], rt, specs[k]);
            pare_runtime_free(rt);
            if (i && memcmp(w[0], w[1], sizeof w[0]) != 0) fail_msg("%s: other bits", specs[k]);
        }
    }
}

/* State, weights and moments go to others in the middle; the same bits at the end. */
static void trainings_resume(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    for (size_t k = 0; k < N_SPECS; k++)
        for (int at = 0; at < 24; at += 23) {
            float w[ALL];
            toy *a = malloc(sizeof *a), *b = malloc(sizeof *b);
            pare_optim_array from, to;
            run(w, rt, specs[k]);
            begin(a, rt, specs[k], "adamw:lr=0.05");
            train(a, at);
            size_t n = pare_pruner_state_bytes(a->pruner);
            void *saved = malloc(n);
            pare_pruner_save(a->pruner, saved);
            begin(b, rt, specs[k], "adamw:lr=0.05");
            assert_ok(pare_pruner_load(b->pruner, saved, n, err));
            memcpy(b->w, a->w, sizeof b->w);
            for (size_t i = 0; pare_optim_array_at(a->optim, i, &from); i++)
                if (pare_optim_array_at(b->optim, i, &to))
                    memcpy(to.data, from.data, to.n * sizeof(float));
            pare_optim_set_count(b->optim, pare_optim_count(a->optim));
            b->step = at;
            train(b, 40);
            if (memcmp(b->w, w, sizeof w) != 0) fail_msg("%s: other bits from %d", specs[k], at);
            free(saved);
            end(a);
            end(b);
            free(a);
            free(b);
        }
    pare_runtime_free(rt);
}

/* An optimizer that knows nothing of masks: plain momentum by hand. */
typedef struct outer {
    toy *x;
    float m[ALL];
} outer;

static pare_status outer_step(void *arg, const pare_optim_args *args, pare_error *err) {
    outer *o = arg;
    (void)err;
    assert_true(!args->mask && !args->mask_gradient);
    for (size_t i = 0, at = 0; i < N; at += sizes[i++])
        for (size_t k = 0; k < sizes[i]; k++) {
            float *m = &o->m[at + k];
            *m = 0.9f * *m + args->g[i][k];
            o->x->t[i].w[k] -= 0.05f * *m;
        }
    return PARE_OK;
}
static bool outer_array(void *arg, size_t i, pare_optim_array *out) {
    outer *o = arg;
    size_t at = 0;
    if (i >= N) return false;
    for (size_t k = 0; k < i; k++) at += sizes[k];
    *out = (pare_optim_array){.moment = "m", .tensor = i, .data = o->m + at, .n = sizes[i]};
    return true;
}

static void other_optimizers_get_the_same(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    for (size_t k = 0; k < N_SPECS; k++) {
        if (strncmp(specs[k], "adam_fisher", 11) == 0) continue; /* wants a second moment */
        toy *a = malloc(sizeof *a), *b = malloc(sizeof *b);
        outer *o = calloc(1, sizeof *o);
        static uint16_t half[ALL];
        begin(a, rt, specs[k], "sgd:lr=0.05,momentum=0.9");
        lay_out(b);
        for (size_t i = 0, at = 0; i < N; at += sizes[i++]) b->t[i].w_bf16 = half + at;
        assert_ok(pare_pruner_create(&b->pruner, rt, specs[k], b->t, N, 40, err));
        b->optim = NULL;
        o->x = b;
        b->stepper = (pare_stepper){.arg = o, .step = outer_step, .array_at = outer_array};
        train(a, 40);
        train(b, 40);
        if (memcmp(a->w, b->w, sizeof a->w) != 0) fail_msg("%s: other bits", specs[k]);
        forward(b);                                         /* of straight-through copies */
        for (size_t i = 0, at = 0; i < N; at += sizes[i++]) /* the pruner's to write */
            for (size_t v = 0; pare_pruner_mask(b->pruner, i) && v < sizes[i]; v++)
                assert_int_equal(half[at + v], pare_f32_to_bf16(weights_of_forward(b)[at + v]));
        end(a);
        end(b);
        free(a);
        free(b);
        free(o);
    }
    pare_runtime_free(rt);
}

/* Sparsity 0 is the dense training, bit for bit. */
static void nothing_pruned_is_dense(void **state) {
    (void)state;
    static const char *const none[] = {
        "magnitude:sparsity=0",
        "random:sparsity=0",
        "saliency:sparsity=0",
        "acdc:sparsity=0",
        "global_magnitude:sparsity=0",
        "magnitude_ste:sparsity=0",
        "static_sparse:sparsity=0",
        "random_ste:sparsity=0",
        "adam_fisher:sparsity=0",
        "set:sparsity=0,skip_gradients=false",
        "rigl:sparsity=0,skip_gradients=false",
    };
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float dense[ALL], w[ALL];
    run(dense, rt, "no_prune");
    for (size_t k = 0; k < sizeof none / sizeof *none; k++) {
        run(w, rt, none[k]);
        if (memcmp(w, dense, sizeof w) != 0) fail_msg("%s: other bits", none[k]);
    }
    pare_runtime_free(rt);
}

static void broken_states_are_refused(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    toy x;
    begin(&x, rt, "set:sparsity=0.7,every=5,until=30", "sgd");
    train(&x, 6);
    size_t n = pare_pruner_state_bytes(x.pruner);
    uint8_t *saved = malloc(n), *now = malloc(n);
    pare_pruner_save(x.pruner, saved);
    assert_ok(pare_pruner_load(x.pruner, saved, n, err));
    for (size_t len = 0; len < n; len += 7)
        assert_fails(pare_pruner_load(x.pruner, saved, len, err), PARE_ERR_INPUT, "found");
    size_t refused = 0;
    for (size_t i = 0; i < n; i++) {
        pare_error err = {0};
        saved[i] ^= 0x80;
        pare_status st = pare_pruner_load(x.pruner, saved, n, &err);
        saved[i] ^= 0x80;
        if (st != PARE_OK) {
            assert_int_equal(st, PARE_ERR_INPUT);
            refused++;
            pare_pruner_save(x.pruner, now);
            assert_memory_equal(now, saved, n);
        } else {
            assert_ok(pare_pruner_load(x.pruner, saved, n, err));
        }
    }
    assert_true(refused >= n - 24); /* a count stays one, and NAN in two places NAN */
    toy other;
    begin(&other, rt, "set:sparsity=0.6,every=5,until=30", "sgd");
    assert_fails(pare_pruner_load(other.pruner, saved, n, err), PARE_ERR_INPUT, "sparsity 0.7");
    free(saved);
    free(now);
    end(&x);
    end(&other);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_and_levels_do_not_matter),
        cmocka_unit_test(trainings_resume),
        cmocka_unit_test(other_optimizers_get_the_same),
        cmocka_unit_test(nothing_pruned_is_dense),
        cmocka_unit_test(broken_states_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
