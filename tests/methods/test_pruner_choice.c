/* Sparse training: which steps have updates, which tensors are pruned, what others are told of
 * masks, what is refused. */
#include "support/toy_pruner.h"

#include "kernels/blocks.h"
#include "methods/pruner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- schedules, scores ---- */

static void keep_line(void *arg, const char *line) {
    char *first = arg;
    if (!*first) snprintf(first, 200, "%s", line);
}

static pare_runtime *listening_runtime(char line[200]) {
    pare_options options = pare_options_default();
    pare_runtime *rt = NULL;
    *line = '\0';
    options.n_threads = 1;
    options.warn = keep_line;
    options.callback_arg = line;
    assert_ok(pare_runtime_create(&rt, &options, err));
    return rt;
}

/* What was not given follows the length of the training; a schedule without an update is told. */
static void schedules_of_short_trainings(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        int64_t n_steps, every, from, until;
        const char *told; /* NULL: nothing */
    } cases[] = {
        {"rigl", 100000, 100, 1, 75000, NULL},
        {"rigl", 2000, 29, 1, 1479, NULL},
        {"rigl", 100, 10, 1, 70, NULL},
        {"rigl", 14, 10, 1, 10, NULL},
        {"rigl", 8, 10, 1, 1,
         "rigl: no step has an update of masks (every=10 from 1 to 1, 8 "
         "steps): those of the start stay"},
        {"rigl:every=100", 100, 100, 1, 1, "those of the start stay"},
        {"rigl:every=100", 200, 100, 1, 100, NULL},
        {"set:every=90", 100, 90, 1, 1, "set: no step has an update"},
        {"magnitude", 2000, 20, 500, 1500, NULL},
        {"magnitude", 100, 10, 20, 70, NULL},
        {"magnitude", 12, 10, 10, 10, NULL},
        {"magnitude:every=100", 150, 100, 100, 100, NULL},
        {"magnitude:every=100", 90, 100, 100, 100, "nothing is pruned"},
        {"magnitude:from=0,until=1230", 0, 15, 0, 1230, NULL}, /* a divisor, 24 is none */
        {"magnitude:from=0,until=1231", 0, 24, 0, 1231, "is no multiple of every=24"},
        {"magnitude:every=7,from=10,until=12", 40, 7, 10, 12, "nothing is pruned"},
        {"magnitude:schedule=one_shot,from=50", 40, 10, 50, 50, "nothing is pruned"},
        {"magnitude:schedule=one_shot", 40, 10, 10, 30, NULL},
        {"magnitude_ste", 40, 10, 10, 30, NULL},
        {"static_sparse", 40, 0, 0, 0, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[200];
        pare_runtime *rt = listening_runtime(line);
        toy x;
        lay_out(&x);
        assert_ok(pare_pruner_create(&x.pruner, rt, cases[i].spec, x.t, N, cases[i].n_steps, err));
        const pare_schedule *s = &x.pruner->schedule;
        if (s->every != cases[i].every || s->from != cases[i].from || s->until != cases[i].until)
            fail_msg("%s, %d steps: found every=%d from %d to %d", cases[i].spec,
                     (int)cases[i].n_steps, (int)s->every, (int)s->from, (int)s->until);
        assert_string_equal(line, ""); /* not before the training begins */
        forward(&x);
        if (cases[i].told ? !strstr(line, cases[i].told) : *line)
            fail_msg("%s, %d steps: told \"%s\"", cases[i].spec, (int)cases[i].n_steps, line);
        *line = '\0';
        forward(&x);
        assert_string_equal(line, "");
        pare_pruner_free(x.pruner);
        pare_runtime_free(rt);
    }
}

static void nan_scores_are_told(void **state) {
    (void)state;
    static const char *const cases[] = {"magnitude:sparsity=0.5,schedule=one_shot,from=0",
                                        "saliency:sparsity=0.5,schedule=one_shot,from=0",
                                        "global_magnitude:sparsity=0.5,schedule=one_shot,from=0",
                                        "rigl:sparsity=0.5,every=1,from=0,until=9"};
    for (size_t k = 0; k < 4; k++) {
        char line[200];
        pare_runtime *rt = listening_runtime(line);
        toy x;
        begin(&x, rt, cases[k], "sgd");
        gradients(&x);
        if (k % 2) x.g[5] = NAN;
        if (k % 2 == 0) x.w[5] = NAN;
        update(&x);
        if (!strstr(line, "b.w1") || !strstr(line, "1 of 256 scores are NaN"))
            fail_msg("%s: found \"%s\"", cases[k], line);
        if (k % 2 == 0) assert_true(x.w[5] == 0);
        end(&x);
        pare_runtime_free(rt);
    }
}

/* ---- tensors, targets ---- */

static void which_tensors_are_pruned(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    toy x;
    begin(&x, rt, "magnitude:sparsity=0.7", "sgd");
    assert_true(pare_pruner_target(x.pruner, 0) == 0.7 && pare_pruner_target(x.pruner, 3) == 0.7);
    assert_true(isnan(pare_pruner_target(x.pruner, 1)) && isnan(pare_pruner_target(x.pruner, 2)));
    assert_null(pare_pruner_mask(x.pruner, 1));
    assert_int_equal(x.pruner->schedule.from, 10); /* of 40 steps, multiples of 10 */
    end(&x);
    lay_out(&x);
    x.t[0].has_sparsity = x.t[2].has_sparsity = true;
    x.t[0].sparsity = 0.25;
    x.t[2].sparsity = 0.5;
    assert_ok(pare_pruner_create(&x.pruner, rt, "magnitude:sparsity=0.7,embeddings=true,dist=erk",
                                 x.t, N, 4000, err));
    assert_true(pare_pruner_target(x.pruner, 0) == 0.25 && pare_pruner_target(x.pruner, 2) == 0.5);
    double all = pare_pruner_target(x.pruner, 1) * EMBD + pare_pruner_target(x.pruner, 3) * W2;
    assert_true(fabs(all - 0.7 * (EMBD + W2)) < 2 &&
                pare_pruner_target(x.pruner, 1) < pare_pruner_target(x.pruner, 3));
    assert_true(x.pruner->schedule.from == 1000 && x.pruner->schedule.until == 3000);
    assert_ok(pare_pruner_instant_sparsify(x.pruner, NULL, err));
    assert_int_equal(zeros(x.t[2].w, BIAS), BIAS / 2);
    pare_sparsity_stats total, each[N];
    pare_sparsity_summary(&total, each, x.t, N);
    assert_true(each[2].sparsity == 0.5 && each[0].n_nonzero == W1 * 3 / 4);
    assert_int_equal(total.n, ALL);
    pare_pruner_free(x.pruner);
    pare_runtime_free(rt);
}

/* By names, as a recipe's steps have them. */
static void tensors_by_name(void **state) {
    (void)state;
    enum { ATTN, FFN, DOWN, EMBD_, OUT, NORM, COUNT };
    static const char *const names[COUNT] = {"blk.0.attn_q.weight",   "blk.0.ffn_up.weight",
                                             "blk.1.ffn_down.weight", "token_embd.weight",
                                             "output.weight",         "blk.0.ffn_norm.weight"};
    static const struct {
        const char *spec;
        double target[COUNT]; /* 2: not pruned */
    } cases[] = {
        {"magnitude:sparsity=0.8", {.8, .8, .8, 2, .8, 2}},
        {"magnitude:sparsity=0.8,only=ffn", {2, .8, .8, 2, 2, 2}},
        {"magnitude:sparsity=0.8,only=attn", {.8, 2, 2, 2, 2, 2}},
        {"magnitude:sparsity=0.8,only=embd", {2, 2, 2, .8, 2, 2}},
        {"magnitude_ste:sparsity=0.8,only=output", {2, 2, 2, 2, .8, 2}},
        {"rigl:sparsity=0.8,until=9,only=/^blk[.]\\d{1,2}[.]ffn_(up|down)/", {2, .8, .8, 2, 2, 2}},
        {"magnitude:sparsity=0.8,dense=output", {.8, .8, .8, 2, 2, 2}},
        {"set:sparsity=0.8,until=9,embeddings=true,dense=/blk[.]0/", {2, 2, .8, .8, .8, 2}},
        {"global_magnitude:sparsity=0.8,only=ffn,dense=/down/", {2, .8, 2, 2, 2, 2}},
        {"magnitude:sparsity=0.8,only=ffn,own=/down/=50%;embd=0.25", {2, .8, .5, .25, 2, 2}},
        {"static_sparse:sparsity=0.8,own=/ffn_up|a;b/=0.5;ffn=0.7;all=0", {0, .5, .7, 0, 0, 2}},
        {"iterative_nm:sparsity=2:4,dense=all,own=attn=0.25", {.25, 2, 2, 2, 2, 2}},
    };
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float w[COUNT][16];
    pare_trained t[COUNT];
    pare_pruner *p;
    for (size_t i = 0; i < COUNT; i++) {
        for (size_t k = 0; k < 16; k++) w[i][k] = 1 + (float)k;
        t[i] = (pare_trained){.name = names[i],
                              .dims = {4, 4},
                              .n_dims = i == NORM ? 1 : 2,
                              .w = w[i],
                              .w_forward = w[i],
                              .role = i == NORM    ? PARE_ROLE_OTHER
                                      : i == EMBD_ ? PARE_ROLE_EMBEDDING
                                                   : PARE_ROLE_LINEAR};
    }
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        assert_ok(pare_pruner_create(&p, rt, cases[k].spec, t, COUNT, 100, err));
        const char *text = pare_pruner_text(p); /* which reads as the same again */
        pare_pruner *again;
        assert_ok(pare_pruner_create(&again, rt, text, t, COUNT, 100, err));
        assert_string_equal(pare_pruner_text(again), text);
        for (size_t i = 0; i < COUNT; i++) {
            double found = pare_pruner_target(again, i), expected = cases[k].target[i];
            if (expected > 1 ? !isnan(found) : !(fabs(found - expected) < 1e-12))
                fail_msg("%s: %s: found %g", cases[k].spec, names[i], found);
            assert_true((pare_pruner_mask(again, i) != NULL) == (expected <= 1));
        }
        pare_pruner_free(again);
        pare_pruner_free(p);
    }
    /* tied, the output is the embedding */
    assert_ok(pare_pruner_create(&p, rt, "magnitude:only=output", t, OUT, 100, err));
    assert_true(pare_pruner_target(p, EMBD_) == 0.8 && isnan(pare_pruner_target(p, ATTN)));
    pare_pruner_free(p);
    /* the zeros of the rest do not stay */
    for (size_t i = 0; i < COUNT; i++) w[i][3] = 0;
    assert_ok(pare_pruner_create(&p, rt, "keep_zeros:only=ffn", t, COUNT, 100, err));
    assert_true(pare_pruner_mask(p, FFN)[0] == 0xFFF7 && !pare_pruner_mask(p, ATTN));
    pare_pruner_free(p);
    static const char *const bad[][2] = {
        {"magnitude:only=heads", "magnitude: only: found 'heads', expected attn, ffn"},
        {"magnitude:only=/(/", "magnitude: only: regex '('"},
        {"magnitude:only=/down$/", "only: found no tensor for '/down$/'"},
        {"magnitude:dense=/x/", "dense: found no tensor for '/x/'"},
        {"magnitude:own=ffn", "own: found 'ffn', expected a target and a share"},
        {"magnitude:own=ffn=1.5", "own: found 'ffn=1.5'"},
        {"magnitude:own=ffn=0.5;", "own: found ''"},
        {"magnitude:own=heads=0.5", "own: found 'heads', expected attn"},
        {"magnitude:own=all=0.5;/x/=0.5", "own: found no tensor for target 2"},
        {"magnitude:only=", "only: found 0 bytes"},
        {"no_prune:only=ffn", "is not known"},
    };
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        assert_fails(pare_pruner_create(&p, rt, bad[k][0], t, COUNT, 100, err), PARE_ERR_ARG,
                     bad[k][1]);
        assert_null(p);
    }
    pare_runtime_free(rt);
}

/* A tensor with a sparsity of its own has that one and no pattern, which need not divide it. */
static void patterns_spare_own_sparsities(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float a[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, b[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    pare_trained t[] = {
        {.name = "a", .dims = {2, 5}, .n_dims = 2, .w = a, .has_sparsity = true, .sparsity = 0.4},
        {.name = "b", .dims = {2, 4}, .n_dims = 2, .w = b}};
    static const char *const specs_nm[] = {"magnitude:sparsity=2:4", "iterative_nm:sparsity=2:4"};
    pare_pruner *p;
    for (int k = 0; k < 2; k++) {
        assert_ok(pare_pruner_create(&p, rt, specs_nm[k], t, 2, 100, err));
        assert_ok(pare_pruner_instant_sparsify(p, NULL, err));
        assert_int_equal(pare_pruner_mask(p, 0)[0], 0x3F0);
        assert_int_equal(pare_pruner_mask(p, 1)[0], 0xCC);
        pare_pruner_free(p);
    }
    t[0].has_sparsity = false;
    assert_fails(pare_pruner_create(&p, rt, specs_nm[0], t, 2, 100, err), PARE_ERR_ARG,
                 "a: magnitude: found rows of 5");
    pare_runtime_free(rt);
}

/* N:M of outputs is that of inputs of the transposed matrix, ties and all, on any number of
 * threads.
 */
static void patterns_of_outputs(void **state) {
    (void)state;
    enum { ROWS = 264, COLS = 75 }; /* two pieces of threads; rows that share words of bits */
    static float w[ROWS * COLS], turned[ROWS * COLS];
    uint64_t seed = 6;
    for (int threads = 1; threads <= 3; threads += 2)
        for (int k = 0; k < 2; k++) {
            pare_runtime *rt = test_runtime(threads, PARE_ISA_AMX);
            for (size_t i = 0; i < ROWS * COLS; i++) w[i] = rintf(4 * draw(&seed)); /* many ties */
            for (size_t i = 0; i < ROWS * COLS; i++) turned[i % COLS * ROWS + i / COLS] = w[i];
            const pare_trained t = {.name = "w", .dims = {ROWS, COLS}, .n_dims = 2, .w = w},
                               u = {.name = "w", .dims = {COLS, ROWS}, .n_dims = 2, .w = turned};
            pare_pruner *p, *q;
            assert_ok(pare_pruner_create(&p, rt,
                                         k ? "magnitude:sparsity=3:8,nm_axis=out"
                                           : "iterative_nm:sparsity=2:4,nm_axis=out",
                                         &t, 1, 100, err));
            assert_ok(pare_pruner_create(
                &q, rt, k ? "magnitude:sparsity=3:8" : "iterative_nm:sparsity=2:4,nm_axis=in", &u,
                1, 100, err));
            assert_ok(pare_pruner_instant_sparsify(p, NULL, err));
            assert_ok(pare_pruner_instant_sparsify(q, NULL, err));
            for (size_t i = 0; i < ROWS * COLS; i++)
                assert_int_equal(pare_bit(pare_pruner_mask(p, 0), i),
                                 pare_bit(pare_pruner_mask(q, 0), i % COLS * ROWS + i / COLS));
            pare_pruner_free(p);
            pare_pruner_free(q);
            assert_fails(
                pare_pruner_create(&p, rt, "magnitude:sparsity=2:5,nm_axis=out", &t, 1, 100, err),
                PARE_ERR_ARG, "w: magnitude: found columns of 264, expected a multiple");
            pare_runtime_free(rt);
        }
}

/* A convolution's weights [out][in][height][width]: tiles and channels hold whole kernels. */
static void convolutions(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float w[3 * 4 * 2 * 2];
    for (size_t i = 0; i < 48; i++) w[i] = 1 + (float)(i / 4 % 4); /* by input */
    const pare_trained t = {.name = "w", .dims = {3, 4, 2, 2}, .n_dims = 4, .w = w};
    pare_pruner *p;
    assert_ok(pare_pruner_create(&p, rt, "magnitude:sparsity=0.5,type=channel_in", &t, 1, 10, err));
    assert_ok(pare_pruner_instant_sparsify(p, NULL, err));
    for (size_t i = 0; i < 48; i++) assert_int_equal(w[i] != 0, i / 4 % 4 >= 2);
    pare_pruner_free(p);
    assert_ok(pare_pruner_create(&p, rt, "magnitude:sparsity=0.75,type=block_3x1", &t, 1, 10, err));
    assert_ok(pare_pruner_instant_sparsify(p, NULL, err));
    for (size_t i = 0; i < 48; i++) assert_int_equal(w[i] != 0, i / 4 % 4 == 3);
    pare_pruner_free(p);
    pare_runtime_free(rt);
}

/* JaxPruner's numbers; its kernels have inputs and outputs last, ours outputs and inputs first. */
static void erk_of_convolutions(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        double target[3];
    } cases[] = {{"magnitude:sparsity=0.5,dist=erk", {0, .31, .655}},
                 {"magnitude:sparsity=0.5,dist=erk,erk_kernel=false", {.21, .47, .56}},
                 {"static_sparse:sparsity=0.5,dist=erk,erk_power=2", {0, .033, .758}},
                 {"magnitude:sparsity=0.5,dist=erk,erk_power=0", {.5, .5, .5}}};
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float w[3][48] = {{0}};
    const pare_trained t[] = {{.name = "a", .dims = {4, 2}, .n_dims = 2, .w = w[0]},
                              {.name = "b", .dims = {6, 3}, .n_dims = 2, .w = w[1]},
                              {.name = "c", .dims = {6, 4, 2}, .n_dims = 3, .w = w[2]}};
    for (size_t k = 0; k < 4; k++) {
        pare_pruner *p;
        assert_ok(pare_pruner_create(&p, rt, cases[k].spec, t, 3, 100, err));
        for (size_t i = 0; i < 3; i++)
            if (fabs(pare_pruner_target(p, i) - cases[k].target[i]) > 0.01)
                fail_msg("%s: %s: found %g", cases[k].spec, t[i].name, pare_pruner_target(p, i));
        pare_pruner_free(p);
    }
    pare_runtime_free(rt);
}

/* ---- masks for others ---- */

static void summary_of_jaxpruner(void **state) {
    (void)state;
    float a[] = {1, 1, 1, 1}, b[] = {1, 0, 1, .001f}, c[] = {0, 0};
    const pare_trained t[] = {{.name = "a", .dims = {2, 2}, .n_dims = 2, .w = a},
                              {.name = "b", .dims = {4}, .n_dims = 1, .w = b},
                              {.name = "c", .dims = {2, 1}, .n_dims = 2, .w = c}};
    pare_sparsity_stats total;
    pare_sparsity_summary(&total, NULL, t, 3);
    assert_true(total.n_nonzero == 7 && total.n == 10 && fabs(total.sparsity - 0.3) < 1e-12);
    const uint64_t x = 0x0F, y = 0x3A, none = 0;
    assert_true(pare_mask_intersection(&x, &y, 8) == 0.5);
    assert_true(pare_mask_intersection(&none, &y, 8) == 0);
}

static void packed_masks(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float w[10] = {5, 1, 4, 1, 1, 3, 9, 1, 2, 8};
    const pare_trained t[] = {{.name = "w", .dims = {2, 5}, .n_dims = 2, .w = w},
                              {.name = "b", .dims = {9}, .n_dims = 1, .w = w}};
    pare_pruner *p;
    assert_ok(pare_pruner_create(&p, rt, "magnitude:sparsity=0.5", t, 2, 10, err));
    assert_ok(pare_pruner_instant_sparsify(p, NULL, err));
    uint8_t packed[2];
    pare_pruner_packed_mask(p, 0, packed); /* 1010 0110 01 */
    assert_true(packed[0] == 0xA6 && packed[1] == 0x40);
    pare_pruner_packed_mask(p, 1, packed);
    assert_true(packed[0] == 0xFF && packed[1] == 0x80);
    pare_pruner_free(p);
    pare_runtime_free(rt);
}

static void activations(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    float y[] = {1, -9, 3, 0, 2, 5, -1, 4};
    const pare_sparsity half = {0.5, 0, 0}, pattern = {0.5, 2, 4}, none = {0}, bad = {2, 0, 0};
    float x[8];
    memcpy(x, y, sizeof x);
    assert_ok(pare_sparsify_activations(rt, x, NULL, 2, 4, &half, NULL, err));
    const float largest[] = {0, 0, 3, 0, 2, 5, 0, 4}; /* signed: -9 is the smallest */
    assert_memory_equal(x, largest, sizeof x);
    memcpy(x, y, sizeof x);
    assert_ok(pare_sparsify_activations(rt, x, NULL, 2, 4, &pattern, NULL, err));
    const float groups[] = {1, 0, 3, 0, 0, 5, 0, 4};
    assert_memory_equal(x, groups, sizeof x);
    memcpy(x, y, sizeof x);
    const pare_structure block = {PARE_STRUCTURE_BLOCK, 2, 2};
    assert_ok(pare_sparsify_activations(rt, x, NULL, 2, 4, &half, &block, err));
    const float tiles[] = {0, 0, 3, 0, 0, 0, -1, 4};
    assert_memory_equal(x, tiles, sizeof x);
    memcpy(x, y, sizeof x);
    assert_ok(pare_sparsify_activations(rt, x, NULL, 2, 4, &none, NULL, err));
    assert_memory_equal(x, y, sizeof x);
    assert_fails(pare_sparsify_activations(rt, x, NULL, 2, 4, &bad, NULL, err), PARE_ERR_ARG,
                 "sparsity 2");
    assert_fails(pare_sparsify_activations(rt, x, NULL, 4, 2, &pattern, NULL, err), PARE_ERR_ARG,
                 "multiple of 4");
    pare_runtime_free(rt);
}

/* y = top-k(relu(x)) and a loss sum c y: its gradient by the mask is that of central differences,
 * in f64 and small enough that nothing else is chosen. */
static void activations_have_a_backward(void **state) {
    (void)state;
    enum { ROWS = 9, COLS = 24, SIZE = ROWS * COLS };
    static const struct {
        pare_sparsity sparsity;
        pare_structure type;
    } cases[] = {{{0.7, 0, 0}, {0}},
                 {{0.5, 2, 4}, {0}},
                 {{0.5, 0, 0}, {PARE_STRUCTURE_BLOCK, 3, 4}},
                 {{0.5, 0, 0}, {PARE_STRUCTURE_CHANNEL_IN, 0, 0}},
                 {{0, 0, 0}, {0}}};
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    uint64_t seed = 8;
    for (size_t k = 0; k < 5; k++) {
        float x[SIZE], c[SIZE], y[SIZE], plain[SIZE], dx[SIZE];
        uint64_t mask[SIZE / 64 + 1];
        memset(mask, 0xFF, sizeof mask);
        for (size_t i = 0; i < SIZE; i++) x[i] = draw(&seed) + 0.5f, c[i] = draw(&seed);
        for (size_t i = 0; i < SIZE; i++) y[i] = plain[i] = fmaxf(x[i], 0);
        assert_ok(pare_sparsify_activations(rt, y, mask, ROWS, COLS, &cases[k].sparsity,
                                            &cases[k].type, err));
        assert_ok(pare_sparsify_activations(rt, plain, NULL, ROWS, COLS, &cases[k].sparsity,
                                            &cases[k].type, err));
        assert_memory_equal(y, plain, sizeof y);
        assert_true(mask[SIZE / 64] >> SIZE % 64 == 0);
        memcpy(dx, c, sizeof dx);
        pare_mask_values(rt, dx, mask, SIZE);
        for (size_t i = 0; i < SIZE; i++) {
            double value[2];
            dx[i] = x[i] > 0 ? dx[i] : 0;
            for (int side = 0; side < 2; side++) {
                float moved[SIZE];
                for (size_t j = 0; j < SIZE; j++) moved[j] = fmaxf(x[j], 0);
                moved[i] = fmaxf(x[i] + (side ? -0x1p-20f : 0x1p-20f), 0);
                assert_ok(pare_sparsify_activations(rt, moved, NULL, ROWS, COLS, &cases[k].sparsity,
                                                    &cases[k].type, err));
                value[side] = 0;
                for (size_t j = 0; j < SIZE; j++) value[side] += (double)c[j] * (double)moved[j];
            }
            assert_float_equal(dx[i], (value[0] - value[1]) * 0x1p19, 0.1); /* of rounding x */
        }
    }
    pare_runtime_free(rt);
}

/* ---- what is refused ---- */

static void wrong_calls_are_refused(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"rgl", "did you mean 'rigl'?"},
        {"adamw", "is not known"},
        {"rigl:sparsity=2:4", "no mask can change"},
        {"set:sparsity=1:4", "no mask can change"},
        {"global_magnitude:sparsity=2:4", "a share of all"},
        {"iterative_nm:sparsity=0.5", "expected N:M"},
        {"magnitude:sparsity=1.5", "sparsity: found 1.5"},
        {"magnitude:until=5,from=10", "until: found 5"},
        {"magnitude:every=-1", "every: found -1"},
        {"magnitude:sparsity=2:4,dist=erk", "which every tensor gets"},
        {"magnitude:sparsity=3:5,from=0,until=9", "multiple of 5"},
        {"magnitude:dist=owl", "uniform|erk"},
        {"acdc:dense_until=5,sparse_from=3", "sparse_from: found 3"},
        {"magnitude:schedule=one_shot", "length of the training"},
        {"rigl", "until: found no step"},
        {"static_sparse:every=3", "is not known"},
    };
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    toy x;
    lay_out(&x);
    pare_pruner *p;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_fails(pare_pruner_create(&p, rt, cases[i][0], x.t, N, 0, err), PARE_ERR_ARG,
                     cases[i][1]);
        assert_null(p);
    }
    float *forward = x.t[0].w_forward;
    x.t[0].w_forward = NULL;
    assert_fails(pare_pruner_create(&p, rt, "random_ste", x.t, N, 40, err), PARE_ERR_ARG,
                 "b.w1: random_ste: found neither");
    x.t[0].w_forward = forward;
    x.t[3].has_sparsity = true;
    x.t[3].sparsity = NAN;
    assert_fails(pare_pruner_create(&p, rt, "static_sparse", x.t, N, 0, err), PARE_ERR_ARG,
                 "a.w2: found sparsity");
    x.t[3].has_sparsity = false;
    x.t[3].w = NULL;
    assert_fails(pare_pruner_create(&p, rt, "static_sparse", x.t, N, 0, err), PARE_ERR_ARG, "a.w2");
    pare_pruner_free(NULL);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedules_of_short_trainings),
        cmocka_unit_test(nan_scores_are_told),
        cmocka_unit_test(which_tensors_are_pruned),
        cmocka_unit_test(tensors_by_name),
        cmocka_unit_test(patterns_spare_own_sparsities),
        cmocka_unit_test(patterns_of_outputs),
        cmocka_unit_test(convolutions),
        cmocka_unit_test(erk_of_convolutions),
        cmocka_unit_test(summary_of_jaxpruner),
        cmocka_unit_test(packed_masks),
        cmocka_unit_test(activations),
        cmocka_unit_test(activations_have_a_backward),
        cmocka_unit_test(wrong_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
