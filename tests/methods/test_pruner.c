/* Sparse training: JaxPruner's vectors and traps, the order of a step. */
#include "support/toy_pruner.h"

#include "kernels/blocks.h"
#include "methods/pruner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Each of the registry stands in the list. */
static void every_algorithm_is_tried(void **state) {
    (void)state;
    for (size_t i = 0; pare_method_at(i); i++) {
        const pare_method *m = pare_method_at(i);
        bool found = !m->sparse;
        size_t n = strlen(m->name);
        for (size_t k = 0; k < N_SPECS; k++)
            found |= strncmp(specs[k], m->name, n) == 0 && strchr(":", specs[k][n]);
        if (!found) fail_msg("%s is not in the list of this test", m->name);
    }
}

/* ---- schedules ---- */

static void schedules(void **state) {
    (void)state;
    const pare_schedule p = {PARE_SCHEDULE_POLYNOMIAL, 5, 0, 20, 3};
    assert_true(pare_schedule_sparsity(&p, 0.5, 9) == 0.4375); /* JaxPruner's */
    assert_true(pare_schedule_sparsity(&p, 0.5, 0) > 0);
    assert_true(pare_schedule_sparsity(&p, 0.5, 18) < 0.5);
    assert_true(pare_schedule_sparsity(&p, 0.5, 19) == 0.5 &&
                pare_schedule_sparsity(&p, 0.5, 1000) == 0.5);
    const pare_schedule late = {PARE_SCHEDULE_PERIODIC, 10, 3, 30, 3};
    for (int64_t t = 0; t < 60; t++) /* multiples of 10, not 3, 13, 23 */
        assert_int_equal(pare_schedule_is_update(&late, t), t == 10 || t == 20 || t == 30);
    assert_true(pare_schedule_sparsity(&late, 0.5, 0) == 0.5);
    const pare_schedule endless = {PARE_SCHEDULE_PERIODIC, 10, 0, -1, 3};
    assert_true(pare_schedule_is_update(&endless, 1000000));
    const pare_schedule once = {PARE_SCHEDULE_ONE_SHOT, 10, 7, 0, 3}, never = {0};
    for (int64_t t = 0; t < 60; t++) {
        assert_int_equal(pare_schedule_is_update(&once, t), t == 7);
        assert_false(pare_schedule_is_update(&never, t));
    }
    assert_true(pare_schedule_sparsity(&once, 0.5, 0) == 0.5);
    const pare_schedule point = {PARE_SCHEDULE_POLYNOMIAL, 5, 10, 10, 3};
    assert_true(pare_schedule_sparsity(&point, 0.5, 10) == 0.5);
}

/* ---- drop and grow ---- */

static void drop_and_grow_of_jaxpruner(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    /* of the kept weights 1, 3, 5, 6 number 6 is smallest, then 3, then 1 */
    float w[8] = {0, 3, 0, -2, 0, 8, 1, 0}, g[8] = {-9, 1, 4, -1, 5, 8, -2, 3};
    static const struct {
        double drop;
        uint64_t expected;
    } cases[] = {{0, 0x6A}, {0.25, 0x2B}, {0.5, 0x33}, {0.75, 0x35}, {1, 0x35}};
    const pare_trained t = {.name = "w", .dims = {2, 4}, .n_dims = 2, .w = w};
    for (size_t i = 0; i < 5; i++) {
        pare_pruner *p;
        float *gs = g;
        const pare_sparse_input in = {.g = &gs};
        assert_ok(pare_pruner_create(&p, rt, "rigl:sparsity=0.5,until=9", &t, 1, 0, err));
        p->tensors[0].bits[0] = 0x6A; /* 0 1 0 1 0 1 1 0 */
        assert_ok(pare_pruner_drop_grow(p, &in, pare_score_gradient, cases[i].drop, err));
        assert_int_equal(p->tensors[0].bits[0], cases[i].expected);
        pare_pruner_free(p);
    }
    pare_runtime_free(rt);
    assert_int_equal(pare_drop_keep(384, 38, 0.75), 9); /* at halves as f32 has them */
    assert_int_equal(pare_drop_keep(1152, 346, 0.75), 87);
    assert_int_equal(pare_drop_keep(100, 10, 1), 1);
    assert_int_equal(pare_drop_keep(100, 10, 0), 10);
    assert_int_equal(pare_drop_keep(50000000, 12345678, 0.5), 6172839);
}

/* JaxPruner forces places by raising scores by 1e-5, which f32 loses beside scores above 256: kept
 * weights then tie with pruned ones, which come first. Weights 2 to 5 are kept and equal. */
static void large_scores_force_nothing_out(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float w[8] = {0, 0, 1000, 1000, 1000, 1000, 0, 0}, g[8] = {1e4f, 1e4f, 0, 0, 0, 0, 1e4f, 5},
          *gs = g;
    const pare_trained t = {.name = "w", .dims = {2, 4}, .n_dims = 2, .w = w};
    const pare_sparse_input in = {.g = &gs};
    pare_pruner *p;
    assert_ok(pare_pruner_create(&p, rt, "rigl:sparsity=0.5,until=9", &t, 1, 0, err));
    p->tensors[0].bits[0] = 0x3C;
    assert_ok(pare_pruner_drop_grow(p, &in, pare_score_gradient, 0.25, err));
    assert_int_equal(p->tensors[0].bits[0], 0x1D); /* 5 goes, 0 comes */
    assert_ok(pare_pruner_drop_grow(p, &in, pare_score_gradient, 0, err));
    assert_int_equal(p->tensors[0].bits[0], 0x1D);
    pare_pruner_free(p);
    pare_runtime_free(rt);
}

/* Counts stand still, state is zeroed where weights are activated and nowhere else, new weights are
 * 0, and on an update step the optimizer stands still. */
static void check_drop_grow(const char *spec) {
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    toy *x = malloc(sizeof *x);
    begin(x, rt, spec, "adam:lr=0.01");
    size_t changes = 0, updates = 0, k[N] = {0};
    for (int s = 0; s < 40; s++) {
        uint64_t old[N][W1 / 64];
        float before[2][ALL], w[ALL];
        pare_optim_array a;
        forward(x);
        gradients(x);
        for (size_t i = 0; i < N; i++) {
            const uint64_t *bits = pare_pruner_mask(x->pruner, i);
            if (!bits) continue;
            memcpy(old[i], bits, sizeof old[i]);
            if (s == 0) k[i] = pare_mask_count(bits, sizes[i]);
            assert_int_equal(pare_mask_count(bits, sizes[i]), k[i]);
            for (size_t v = 0; v < sizes[i]; v++)
                assert_true(pare_bit(bits, v) || x->t[i].w[v] == 0);
        }
        for (size_t i = 0, at[2] = {0}; pare_optim_array_at(x->optim, i, &a); i++) {
            memcpy(before[i % 2] + at[i % 2], a.data, a.n * sizeof(float));
            at[i % 2] += a.n;
        }
        memcpy(w, x->w, sizeof w);
        int64_t count = pare_optim_count(x->optim);
        bool is_update = pare_pruner_is_update_step(x->pruner);
        update(x);
        assert_int_equal(pare_optim_count(x->optim), count + !is_update);
        updates += is_update;
        for (size_t i = 0, at[2] = {0}; is_update && pare_optim_array_at(x->optim, i, &a); i++) {
            const uint64_t *bits = pare_pruner_mask(x->pruner, a.tensor);
            for (size_t v = 0; v < a.n; v++) {
                bool now = bits && pare_bit(bits, v), was = bits && pare_bit(old[a.tensor], v);
                bool activated = now && !was;
                assert_true(a.data[v] == (activated ? 0 : before[i % 2][at[i % 2] + v]));
                float value = x->t[a.tensor].w[v];
                if (activated) assert_true(value == 0);
                if (bits && !now) assert_true(value == 0);
                if (now && was) assert_true(value == w[(size_t)(x->t[a.tensor].w - x->w) + v]);
                changes += activated;
            }
            at[i % 2] += a.n;
        }
    }
    assert_int_equal(updates, 6); /* 5, 10, ... 30 */
    assert_true(changes > 20);
    end(x);
    free(x);
    pare_runtime_free(rt);
}

static void dynamic_training(void **state) {
    (void)state;
    for (size_t k = 0; k < N_SPECS; k++)
        if (strncmp(specs[k], "set", 3) == 0 || strncmp(specs[k], "rigl", 4) == 0)
            check_drop_grow(specs[k]);
}

/* Growth reads the dense gradient although the optimizer sees a masked one: the pruned weight of
 * largest gradient comes. */
static void rigl_grows_by_dense_gradients(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    toy x;
    begin(&x, rt, "rigl:sparsity=0.7,drop=0.2,every=5,until=30", "sgd:lr=0.01");
    train(&x, 5);
    assert_true(pare_pruner_is_update_step(x.pruner) && pare_pruner_needs_dense_gradient(x.pruner));
    forward(&x);
    gradients(&x);
    size_t last = 0;
    for (size_t i = 0; i < W1; i++)
        if (!pare_bit(pare_pruner_mask(x.pruner, 0), i)) last = i;
    x.g[last] = -50;
    update(&x);
    assert_true(pare_bit(pare_pruner_mask(x.pruner, 0), last));
    assert_false(pare_pruner_needs_dense_gradient(x.pruner));
    end(&x);
    pare_runtime_free(rt);
}

/* ---- the order of a step ---- */

/* Masks come from the weights before the optimizer's step; weights are masked after it; the
 * optimizer's moments of pruned weights keep moving unless sparse_grads is set. */
static void order_of_a_step(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    for (int sparse = 0; sparse < 2; sparse++) {
        float w[4] = {4, 3, 2, 1}, g[4] = {100, 0, 0, -100}, *gs = g; /* the step turns the order */
        const pare_trained t = {.name = "w", .dims = {1, 4}, .n_dims = 2, .w = w};
        pare_pruner *p;
        pare_optim *o;
        pare_optim_array a;
        assert_ok(pare_pruner_create(&p, rt,
                                     sparse ? "magnitude:sparsity=0.5,schedule=one_shot,from=0,"
                                              "sparse_grads=true"
                                            : "magnitude:sparsity=0.5,schedule=one_shot,from=0",
                                     &t, 1, 0, err));
        assert_ok(pare_optim_create(&o, rt, "sgd:lr=0.1,momentum=0.5", &t, 1, err));
        const pare_stepper s = pare_optim_stepper(o);
        pare_optim_args args = pare_optim_args_default();
        args.g = &gs;
        assert_ok(pare_pruner_update(p, &s, &args, err));
        const float expected[] = {-6, 3, 0, 0};
        assert_memory_equal(w, expected, sizeof w);
        assert_true(pare_optim_array_at(o, 0, &a) && a.data[3] == (sparse ? 0 : -100));
        assert_true(g[3] == -100); /* gradients of ours are not written to */
        assert_int_equal(pare_pruner_count(p), 1);
        assert_ok(pare_pruner_update(p, &s, &args, err));
        assert_true(w[2] == 0 && w[3] == 0); /* momentum does not bring them back */
        pare_pruner_free(p);
        pare_optim_free(o);
    }
    pare_runtime_free(rt);
}

/* A tensor that gets no gradient in a step takes none, but what is pruned of it is 0. */
static void masks_without_gradients(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    static const char *const optims[] = {"sgd:lr=0.1", "adamw:weight_decay=0.1", "adamp",
                                         "adafactor", "adahessian"};
    for (size_t k = 0; k < sizeof optims / sizeof *optims; k++) {
        float w[2][4] = {{4, 3, 2, 1}, {1, 4, 3, 2}}, g[4] = {0}, *gs[] = {g, NULL};
        const float *h[] = {g, NULL};
        uint16_t bf16[4] = {7, 7, 7, 7};
        const pare_trained t[] = {
            {.name = "a", .dims = {1, 4}, .n_dims = 2, .w = w[0]},
            {.name = "b", .dims = {1, 4}, .n_dims = 2, .w = w[1], .w_bf16 = bf16}};
        pare_pruner *p;
        pare_optim *o;
        assert_ok(pare_pruner_create(&p, rt, "magnitude:sparsity=0.5,schedule=one_shot,from=0", t,
                                     2, 0, err));
        assert_ok(pare_optim_create(&o, rt, optims[k], t, 2, err));
        const pare_stepper s = pare_optim_stepper(o);
        pare_optim_args args = pare_optim_args_default();
        args.g = gs;
        args.hessian = h;
        assert_ok(pare_pruner_update(p, &s, &args, err));
        const float expected[] = {0, 4, 3, 0};
        assert_memory_equal(w[1], expected, sizeof expected);
        assert_true(bf16[0] == 0 && bf16[1] == pare_f32_to_bf16(4) && bf16[3] == 0);
        assert_true(w[0][2] == 0 && w[0][3] == 0);
        pare_pruner_free(p);
        pare_optim_free(o);
    }
    pare_runtime_free(rt);
}

/* The sparsity follows the schedule, and what went stays away. */
static void gradual(const char *spec) {
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    toy *x = malloc(sizeof *x);
    begin(x, rt, spec, "adamw:lr=0.05");
    bool gone[ALL] = {0};
    for (int s = 0; s < 40; s++) {
        const pare_schedule schedule = x->pruner->schedule;
        train(x, s + 1);
        for (size_t i = 0, at = 0; i < N; at += sizes[i++]) {
            if (!pare_pruner_mask(x->pruner, i)) continue;
            size_t n = zeros(x->t[i].w, sizes[i]);
            if (s % 5 == 0 && s >= 5 && s <= 30)
                assert_int_equal(
                    n, sizes[i] -
                           pare_mask_n_keep(sizes[i],
                                            pare_schedule_sparsity(
                                                &schedule, pare_pruner_target(x->pruner, i), s)));
            if (s < 5) assert_int_equal(n, 0);
            for (size_t v = 0; v < sizes[i]; v++) {
                assert_false(gone[at + v] && x->t[i].w[v] != 0);
                gone[at + v] = x->t[i].w[v] == 0;
            }
        }
    }
    assert_int_equal(zeros(x->t[1].w, EMBD) + zeros(x->t[2].w, BIAS), 0);
    end(x);
    free(x);
    pare_runtime_free(rt);
}

static void gradual_pruning(void **state) {
    (void)state;
    gradual("magnitude:sparsity=0.7,every=5,from=5,until=30");
    gradual("random:sparsity=0.7,every=5,from=5,until=30");
    gradual("saliency:sparsity=0.7,every=5,from=5,until=30");
}

/* Sparsity 0 is the dense training, bit for bit (set and rigl stand still on update steps). */
static void nothing_is_dense_training(void **state) {
    (void)state;
    static const char *const cases[] = {
        "magnitude:sparsity=0,every=5,from=5,until=30",
        "random:sparsity=0,every=5,from=5,until=30",
        "saliency:sparsity=0,every=5,from=5,until=30,sparse_grads=true",
        "global_magnitude:sparsity=0,every=5,from=5,until=30",
        "global_saliency:sparsity=0,every=5,from=5,until=30",
        "global_saliency:sparsity=0,every=5,from=5,until=30,normalize=false,sparse_grads=true",
        "magnitude_ste:sparsity=0,every=5,from=5,until=30",
        "random_ste:sparsity=0,every=5,from=5,until=30",
        "static_sparse:sparsity=0",
        "adam_fisher:sparsity=0,every=5,from=5,until=30",
        "set:sparsity=0,every=5,until=30,skip_gradients=false",
        "rigl:sparsity=0,every=5,until=30,skip_gradients=false",
    };
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    toy dense, x;
    begin(&dense, rt, "no_prune", "adamw:lr=0.05");
    train(&dense, 40);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        begin(&x, rt, cases[k], "adamw:lr=0.05");
        train(&x, 40);
        if (memcmp(x.w, dense.w, sizeof x.w) != 0) fail_msg("%s: other bits", cases[k]);
        end(&x);
    }
    end(&dense);
    pare_runtime_free(rt);
}

/* Without gradients nothing has changed: none at all, or none of a tensor whose score needs it. */
static void missing_gradients_are_told(void **state) {
    (void)state;
    static const char *const cases[] = {"saliency:sparsity=0.5,every=1,from=0,until=9",
                                        "global_saliency:sparsity=0.5,every=1,from=0,until=9",
                                        "rigl:sparsity=0.5,every=1,from=0,until=9"};
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    for (size_t k = 0; k < 3; k++) {
        toy x, before;
        begin(&x, rt, cases[k], "sgd:lr=0.1");
        gradients(&x);
        before = x;
        pare_optim_args a = pare_optim_args_default();
        assert_fails(pare_pruner_update(x.pruner, &x.stepper, &a, err), PARE_ERR_ARG,
                     "found no gradients");
        x.gs[0] = NULL;
        a.g = x.gs;
        assert_fails(pare_pruner_update(x.pruner, &x.stepper, &a, err), PARE_ERR_ARG, "b.w1: ");
        assert_memory_equal(x.w, before.w, sizeof x.w);
        assert_true(pare_pruner_count(x.pruner) == 0 && pare_optim_count(x.optim) == 0);
        end(&x);
    }
    pare_runtime_free(rt);
}

/* ---- straight through ---- */

static void straight_through(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    toy *x = malloc(sizeof *x);
    uint64_t last[W1 / 64] = {0};
    begin(x, rt, "random_ste:sparsity=0.6,schedule=one_shot,from=20", "sgd:lr=0.1");
    assert_true(pare_pruner_is_straight_through(x->pruner));
    for (int s = 0; s < 6; s++) {
        forward(x);
        /* the target from the start, whatever the schedule's step; a new mask every time */
        assert_int_equal(zeros(x->forward, W1), W1 - pare_mask_n_keep(W1, 0.6));
        assert_memory_not_equal(last, pare_pruner_mask(x->pruner, 0), sizeof last);
        memcpy(last, pare_pruner_mask(x->pruner, 0), sizeof last);
        for (size_t i = 0; i < W1; i++)
            assert_true(x->forward[i] == (pare_bit(last, i) ? x->w[i] : 0));
        assert_memory_equal(x->forward + W1, x->w + W1, EMBD * sizeof(float)); /* not pruned */
        float before[ALL];
        gradients(x);
        memcpy(before, x->w, sizeof before);
        update(x);
        for (size_t i = 0; i < ALL; i++) /* the gradient goes to all of them */
            assert_true(x->w[i] == before[i] - 0.1f * x->g[i]);
        assert_int_equal(zeros(x->w, ALL), 0);
    }
    end(x);

    begin(x, rt, "magnitude_ste:sparsity=0.6,every=1,from=0,until=10,refresh=4", "sgd:lr=0.5");
    for (int s = 0; s < 8; s++) {
        train(x, s + 1);
        int made = s / 4 * 4; /* the step whose mask this is */
        double share = pare_schedule_sparsity(&x->pruner->schedule, 0.6, made);
        assert_int_equal(zeros(x->forward, W1), W1 - pare_mask_n_keep(W1, share));
    }
    end(x);
    free(x);
    pare_runtime_free(rt);
}

/* ---- all tensors at once ---- */

static void global_of_jaxpruner(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float w[] = {.1f, .9f, -.2f, .5f}, w2[] = {.7f, .8f};
    pare_trained t[] = {{.name = "w", .dims = {2, 2}, .n_dims = 2, .w = w},
                        {.name = "w2", .dims = {1, 2}, .n_dims = 2, .w = w2}};
    pare_pruner *p;
    for (int k = 0; k < 2; k++) {
        assert_ok(pare_pruner_create(&p, rt,
                                     k ? "global_magnitude:sparsity=0.5"
                                       : "global_magnitude:sparsity=0.5,normalize=false",
                                     t, 2, 100, err));
        assert_ok(pare_pruner_instant_sparsify(p, NULL, err));
        assert_true(pare_pruner_mask(p, 0)[0] == 2 && pare_pruner_mask(p, 1)[0] == 3);
        pare_pruner_free(p);
    }
    /* ties: the tensor that is first by name; a sparsity of its own is not counted */
    float equal[2][4] = {{1, 1, 1, 1}, {1, 1, 1, 1}}, own[4] = {4, 3, 2, 1};
    pare_trained u[] = {{.name = "b", .dims = {2, 2}, .n_dims = 2, .w = equal[0]},
                        {.name = "a", .dims = {2, 2}, .n_dims = 2, .w = equal[1]},
                        {.name = "c",
                         .dims = {2, 2},
                         .n_dims = 2,
                         .w = own,
                         .has_sparsity = true,
                         .sparsity = 0.25}};
    assert_ok(pare_pruner_create(&p, rt, "global_magnitude:sparsity=0.5", u, 3, 100, err));
    assert_int_equal(pare_pruner_mask(p, 2)[0], 7); /* from the start */
    assert_ok(pare_pruner_instant_sparsify(p, NULL, err));
    assert_true(pare_pruner_mask(p, 0)[0] == 0 && pare_pruner_mask(p, 1)[0] == 15 &&
                pare_pruner_mask(p, 2)[0] == 7);
    pare_pruner_free(p);
    pare_runtime_free(rt);
}

/* A NaN counts as the lowest, an infinity as the highest, and neither takes a tensor's norm from
 * it: |a| / 37.4 competes with |b| / 0.55, not |a|. */
static void norms_of_odd_numbers(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    for (int k = 0; k < 2; k++) {
        float a[] = {k ? INFINITY : NAN, 10, 20, 30}, b[] = {.1f, .2f, .3f, .4f};
        const pare_trained t[] = {{.name = "a", .dims = {2, 2}, .n_dims = 2, .w = a},
                                  {.name = "b", .dims = {2, 2}, .n_dims = 2, .w = b}};
        pare_pruner *p;
        assert_ok(pare_pruner_create(&p, rt, "global_magnitude:sparsity=0.5", t, 2, 100, err));
        assert_ok(pare_pruner_instant_sparsify(p, NULL, err));
        /* .80, .73, .55, .53: the last has to go where an infinity stays */
        assert_int_equal(pare_pruner_mask(p, 0)[0], k ? 9 : 12);
        assert_int_equal(pare_pruner_mask(p, 1)[0], 12);
        pare_pruner_free(p);
    }
    pare_runtime_free(rt);
}

/* ---- others ---- */

static void acdc_of_jaxpruner(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    toy x;
    begin(&x, rt, "acdc:sparsity=0.5,dense_until=1,sparse_from=5,sparse_steps=1,dense_steps=1",
          "sgd:lr=0.01");
    static const size_t kept[] = {W1, W1 / 2, W1, W1 / 2, W1, W1 / 2, W1 / 2, W1 / 2};
    for (int s = 0; s < 8; s++) {
        train(&x, s + 1);
        assert_int_equal(pare_mask_count(pare_pruner_mask(x.pruner, 0), W1), kept[s]);
    }
    end(&x);
    pare_runtime_free(rt);
}

static void patterns(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    toy x;
    begin(&x, rt, "iterative_nm:sparsity=1:4,every=5,from=5,until=30", "sgd:lr=0.01");
    size_t last = 0;
    for (int s = 0; s < 36; s++) {
        train(&x, s + 1);
        size_t n = zeros(x.w, W1);
        assert_true(n >= last && n <= W1 * 3 / 4);
        if (s == 10) assert_in_range(n, 1, W1 * 3 / 4 - 1); /* little by little */
        last = n;
    }
    assert_int_equal(last, W1 * 3 / 4);
    for (size_t i = 0; i < W1; i += 4) assert_int_equal(zeros(x.w + i, 4), 3);
    end(&x);

    begin(&x, rt, "magnitude:sparsity=2:4,every=10,from=10,until=20", "sgd:lr=0.01");
    train(&x, 10);
    assert_int_equal(zeros(x.w, W1), 0);
    train(&x, 11); /* all of it at the first update: its sparsity is above 0 */
    for (size_t i = 0; i < W1; i += 4) assert_int_equal(zeros(x.w + i, 4), 2);
    end(&x);

    begin(&x, rt, "magnitude:sparsity=4:4,from=0,until=10", "sgd:lr=0.01");
    train(&x, 5);
    assert_int_equal(zeros(x.w, ALL), 0);
    end(&x);
    pare_runtime_free(rt);
}

static void fisher(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    toy x;
    begin(&x, rt,
          "adam_fisher:sparsity=0.5,schedule=one_shot,from=4,reset_adam=true,"
          "skip_gradients=true",
          "adam:lr=0.001");
    train(&x, 4);
    pare_optim_array a;
    float score[W1], v[W1], m_bias;
    for (size_t i = 0; pare_optim_array_at(x.optim, i, &a); i++) {
        if (a.tensor == 0 && strcmp(a.moment, "v") == 0) memcpy(v, a.data, sizeof v);
        if (a.tensor == 2 && strcmp(a.moment, "m") == 0) m_bias = a.data[0];
    }
    for (size_t i = 0; i < W1; i++) score[i] = x.w[i] * x.w[i] * v[i];
    uint64_t expected[W1 / 64];
    const pare_scored s = {.score = score, .n = W1, .bits = expected};
    pare_select(NULL, &s, 1, W1 / 2, PARE_TIES_FIRST_STAYS);
    train(&x, 5);
    assert_memory_equal(pare_pruner_mask(x.pruner, 0), expected, sizeof expected);
    for (size_t i = 0; pare_optim_array_at(x.optim, i, &a); i++) {
        if (a.tensor == 0) assert_int_equal(zeros(a.data, a.n), W1);
        if (a.tensor == 2 && strcmp(a.moment, "m") == 0) assert_true(a.data[0] == m_bias);
    }
    end(&x);
    begin(&x, rt, "adam_fisher:sparsity=0.5,schedule=one_shot,from=0", "sgd:lr=0.01");
    gradients(&x);
    pare_optim_args args = pare_optim_args_default();
    args.g = x.gs;
    assert_fails(pare_pruner_update(x.pruner, &x.stepper, &args, err), PARE_ERR_ARG,
                 "no second moment");
    end(&x);
    pare_runtime_free(rt);
}

static void saliency_at_once(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float w[4] = {4, 3, 2, 1}, g[4] = {1, 1, 10, 3}, *gs = g;
    const pare_trained t = {.name = "w", .dims = {1, 4}, .n_dims = 2, .w = w};
    pare_pruner *p;
    assert_ok(pare_pruner_create(&p, rt, "saliency:sparsity=0.5", &t, 1, 10, err));
    assert_fails(pare_pruner_instant_sparsify(p, NULL, err), PARE_ERR_ARG, "no gradient");
    assert_ok(pare_pruner_instant_sparsify(p, &gs, err)); /* scores 4, 3, 20, 3 */
    const float expected[] = {4, 0, 2, 0};
    assert_memory_equal(w, expected, sizeof w);
    pare_pruner_free(p);
    static const char *const cannot[] = {"static_sparse", "set", "rigl"};
    for (int i = 0; i < 3; i++) {
        assert_ok(pare_pruner_create(&p, rt, cannot[i], &t, 1, 10, err));
        assert_fails(pare_pruner_instant_sparsify(p, &gs, err), PARE_ERR_ARG, "at once");
        pare_pruner_free(p);
    }
    pare_runtime_free(rt);
}

/* Masks of the start are applied before the first forward pass, or with the switch after the first
 * step, as JaxPruner does. */
static void masks_at_the_start(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    for (int k = 0; k < 2; k++) {
        toy x;
        begin(&x, rt,
              k ? "static_sparse:sparsity=0.7" : "static_sparse:sparsity=0.7,mask_at_init=false",
              "sgd:lr=0.01,momentum=0.9");
        assert_int_equal(zeros(x.w, ALL), 0);
        forward(&x);
        size_t pruned = W1 - pare_mask_n_keep(W1, 0.7);
        assert_int_equal(zeros(x.w, W1), k ? pruned : 0);
        assert_ptr_equal(pare_pruner_forward_mask(x.pruner, 0),
                         k ? pare_pruner_mask(x.pruner, 0) : NULL);
        gradients(&x);
        update(&x);
        assert_ptr_equal(pare_pruner_forward_mask(x.pruner, 0), pare_pruner_mask(x.pruner, 0));
        assert_int_equal(zeros(x.w, W1), pruned);
        train(&x, 9);
        assert_int_equal(zeros(x.w, W1), pruned);
        assert_int_equal(zeros(x.w + W1, EMBD), 0);
        end(&x);
    }
    pare_runtime_free(rt);
}

/* ---- scores of the caller's ---- */

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_algorithm_is_tried),
        cmocka_unit_test(schedules),
        cmocka_unit_test(drop_and_grow_of_jaxpruner),
        cmocka_unit_test(large_scores_force_nothing_out),
        cmocka_unit_test(dynamic_training),
        cmocka_unit_test(rigl_grows_by_dense_gradients),
        cmocka_unit_test(order_of_a_step),
        cmocka_unit_test(masks_without_gradients),
        cmocka_unit_test(gradual_pruning),
        cmocka_unit_test(nothing_is_dense_training),
        cmocka_unit_test(missing_gradients_are_told),
        cmocka_unit_test(straight_through),
        cmocka_unit_test(global_of_jaxpruner),
        cmocka_unit_test(norms_of_odd_numbers),
        cmocka_unit_test(acdc_of_jaxpruner),
        cmocka_unit_test(patterns),
        cmocka_unit_test(fisher),
        cmocka_unit_test(saliency_at_once),
        cmocka_unit_test(masks_at_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
