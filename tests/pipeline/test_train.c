/* pare_train on toy models: it learns, goes on from checkpoints with the same bytes, tells bad
 * options, and never keeps what is not finite. That a step is right: tests/train, and
 * scripts/interop/train_peer.py beside PyTorch. */
#include "support/toy_training.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/os.h"
#include "kernels/tile.h"
#include "pare/methods.h"
#include "pare/model.h"
#include "pare/train.h"
#include "pipeline/train_run.h"
#include "support/tiny_model.h"

int fsync(int fd) { return (void)fd, 0; } /* nothing here loses power */

static void it_learns(void **state) {
    (void)state;
    pare_train_report r;
    static const char *const archs[] = {"llama", "gpt2", "gemma2", "gemma3", "qwen3", "opt"};
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++) {
        pare_train_options o = toy_options();
        o.shape.arch = archs[i];
        o.steps = 60;
        toy_clean();
        assert_ok(toy_run(&r, &o, 2, NULL, err));
        assert_true(r.finished);
        assert_int_equal(r.steps, 60);
        if (!(r.val_loss < 3.2)) /* log 259 = 5.56 at first */
            fail_msg("%s: held-out loss %g", archs[i], r.val_loss);
        assert_false(pare_path_exists(toy.work));
        pare_runtime *rt = test_runtime(1, pare_isa_best());
        pare_model *m;
        assert_ok(pare_model_load(&m, rt, toy.out, err));
        assert_string_equal(pare_model_arch(m), archs[i]);
        pare_model_free(m);
        pare_runtime_free(rt);
    }
    /* of the shape of the one before, by its configuration */
    char config[700], first[65];
    pare_train_options again = toy_options();
    again.shape = (pare_train_shape){.config = config, .tokenizer = toy.tokenizer};
    again.steps = 60;
    snprintf(first, sizeof first, "%s", test_hash(toy.out));
    test_remove(test_path("shape"));
    assert_int_equal(rename(toy.out, test_path("shape")), 0);
    snprintf(config, sizeof config, "%s/config.json", test_path("shape"));
    assert_ok(toy_run(&r, &again, 2, NULL, err));
    assert_string_equal(test_hash(toy.out), first);
    /* from a model, with gradients of parts added up and layers computed twice */
    pare_train_options o = toy_options();
    o.shape = (pare_train_shape){0};
    o.from = toy.tokenizer;
    o.steps = 40;
    o.batch = 4;
    o.micro_batch = 3;
    o.recompute = true;
    o.schedule = "wsd";
    toy_clean();
    assert_ok(toy_run(&r, &o, 2, NULL, err));
    assert_true(r.val_loss < 3.2);
    toy_clean();
}

/* Stopped at every step, interrupted, on another number of threads: the same bytes at the end. */
static void it_goes_on_with_the_same_bytes(void **state) {
    (void)state;
    pare_train_options o = toy_options();
    pare_train_report r;
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    char expected[65];
    snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
    toy_clean();
    assert_ok(toy_run(&r, &o, 3, NULL, err));
    assert_string_equal(test_hash(toy.out), expected);
    for (uint64_t stop = 1; stop < o.steps; stop++) {
        toy_clean();
        o.stop_at = stop;
        assert_ok(toy_run(&r, &o, 1, NULL, err));
        assert_false(r.finished);
        assert_int_equal(r.steps, stop);
        assert_false(pare_path_exists(toy.out));
        o.stop_at = 0;
        o.resume = true;
        assert_ok(toy_run(&r, &o, 2, NULL, err));
        o.resume = false;
        assert_true(r.finished);
        assert_string_equal(test_hash(toy.out), expected);
    }
    /* an interrupt saves what is done */
    toy_clean();
    const volatile sig_atomic_t now = 1;
    assert_fails(toy_run(&r, &o, 1, &now, err), PARE_ERR_INTERRUPTED, "interrupted");
    assert_false(pare_path_exists(toy.out));
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_string_equal(test_hash(toy.out), expected);
    toy_clean();
}

static void append_if_known(char *spec, size_t size, const pare_method *m, const char *name,
                            const char *value) {
    for (const pare_param *p = pare_method_params(m); p->name; p++) {
        if (strcmp(p->name, name) != 0) continue;
        size_t n = strlen(spec);
        snprintf(spec + n, size - n, "%c%s=%s", strchr(spec, ':') ? ',' : ':', name, value);
    }
}

/* Every sparse training and every optimizer of the registry, stopped in its middle: the same bytes
 * in the end. */
static void all_methods_go_on_with_the_same_bytes(void **state) {
    (void)state;
    size_t n_seen = 0;
    for (size_t i = 0; pare_method_at(i); i++) {
        const pare_method *m = pare_method_at(i);
        bool sparse = strcmp(pare_method_slot(m), "sparse_training") == 0;
        if (!sparse && strcmp(pare_method_slot(m), "optimizer") != 0) continue;
        char spec[200], expected[65];
        snprintf(spec, sizeof spec, "%s", pare_method_name(m));
        append_if_known(spec, sizeof spec, m, "sparsity",
                        strcmp(spec, "iterative_nm") == 0 ? "2:4" : "0.75");
        append_if_known(spec, sizeof spec, m, "every", "2");
        append_if_known(spec, sizeof spec, m, "from", "1");
        append_if_known(spec, sizeof spec, m, "until", "7");
        pare_train_options o = toy_options();
        pare_train_report r;
        if (sparse) {
            o.sparsity = spec;
            if (strcmp(pare_method_name(m), "adam_fisher") == 0) o.optim = "adam:lr=1e-2";
        } else {
            o.optim = spec;
        }
        o.steps = 9;
        n_seen++;
        toy_clean();
        if (toy_run(&r, &o, 1, NULL, &(pare_error){0}) != PARE_OK)
            assert_ok(toy_run(&r, &o, 1, NULL, err));
        snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
        if (sparse && strcmp(pare_method_name(m), "no_prune") != 0 &&
            strcmp(pare_method_name(m), "keep_zeros") != 0 && !(r.sparsity > 0.4))
            fail_msg("%s: sparsity %g", spec, r.sparsity);
        toy_clean();
        o.stop_at = 5;
        assert_ok(toy_run(&r, &o, 1, NULL, err));
        o.stop_at = 0;
        assert_ok(toy_run(&r, &o, 2, NULL, err));
        if (strcmp(test_hash(toy.out), expected) != 0) fail_msg("%s: other bytes", spec);
    }
    assert_true(n_seen >= 20);
    toy_clean();
}

/* Killed again and again while it goes on, at moments that differ: the same bytes in the end (F1).
 */
static void killed_at_any_moment(void **state) {
    (void)state;
    pare_train_options o = toy_options();
    pare_train_report r;
    char expected[65];
    o.sparsity = "rigl:sparsity=0.75,type=block_16x16,every=2,from=1,until=11";
    o.save_every = 1;
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    const pare_tile_kernels *tiles = pare_tile_kernels_get(pare_isa_best());
    if (!tiles->bf16 || tiles->bf16_pairs) assert_true(r.left_out > 0.3);
    snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
    toy_clean();
    fflush(NULL);
    int n_killed = 0;
    for (int i = 0; i < 30 && !pare_path_exists(toy.out); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            pare_error err = {0};
            _exit(toy_run(&r, &o, 1, NULL, &err) == PARE_OK ? 0 : 1);
        }
        struct timespec wait = {0, (i % 12 + 1) * 2000000L};
        nanosleep(&wait, NULL);
        kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status)) assert_int_equal(WEXITSTATUS(status), 0); /* it was faster */
        n_killed += WIFSIGNALED(status);
    }
    if (!pare_path_exists(toy.out)) assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_string_equal(test_hash(toy.out), expected);
    printf("  killed %d times\n", n_killed);
    toy_clean();
}

/* An average of the weights and the best ones go on too, dense and sparse; the average is one. */
static void averages_and_the_best(void **state) {
    (void)state;
    static const char *const sparse[] = {NULL, "magnitude_ste:sparsity=0.5",
                                         "rigl:sparsity=0.5,type=block_16x16,every=2"};
    pare_train_report r;
    char expected[65];
    for (size_t k = 0; k < 3; k++)
        for (int best = 0; best < 2; best++) {
            pare_train_options o = toy_options();
            o.sparsity = sparse[k];
            o.ema = 0.8;
            o.keep_best = best;
            o.eval_every = 3;
            toy_clean();
            assert_ok(toy_run(&r, &o, 1, NULL, err));
            snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
            assert_true(r.best_val_loss <= r.val_loss);
            toy_clean();
            o.stop_at = 7;
            assert_ok(toy_run(&r, &o, 1, NULL, err));
            assert_int_equal(r.val_step, 6);
            o.stop_at = 0;
            assert_ok(toy_run(&r, &o, 3, NULL, err));
            assert_string_equal(test_hash(toy.out), expected);
        }
    /* a rate that grows until the run falls apart: the best is not the last */
    pare_train_options o = toy_options();
    o.steps = 40;
    o.schedule = "constant";
    o.warmup = 40;
    o.optim = "adamw:lr=2";
    o.eval_every = 1;
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    double last = r.val_loss, least = r.best_val_loss;
    assert_true(least < last);
    assert_int_equal(r.val_step, 40);
    o.keep_best = true;
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_true(r.val_loss == least && r.val_step < 40);
    o.from = test_path("best");
    o.shape = (pare_train_shape){0};
    test_remove(o.from);
    assert_int_equal(rename(toy.out, o.from), 0);
    o.steps = 1; /* evaluated again, after a step that does nothing */
    o.optim = "adamw:lr=0";
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_float_equal(r.val_loss, least, 1e-5);
    toy_clean();
}

/* A bit of a byte near the end. */
static void flip(const char *path) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -9, SEEK_END);
    int byte = fgetc(f);
    fseek(f, -9, SEEK_END);
    fputc(byte ^ 4, f);
    fclose(f);
}

/* Robustness row F8. */
static void a_damaged_checkpoint_is_told(void **state) {
    (void)state;
    pare_train_options o = toy_options();
    pare_train_report r;
    char expected[65];
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    snprintf(expected, sizeof expected, "%s", test_hash(toy.out));
    toy_clean();
    o.stop_at = 6;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    char path[700];
    snprintf(path, sizeof path, "%s/checkpoint-6.safetensors", toy.work);
    flip(path);
    o.stop_at = 0;
    o.keep_work = true; /* the one before it is whole */
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_non_null(strstr(toy_warnings(), "damaged"));
    assert_non_null(strstr(toy_warnings(), "the checkpoint before it, of step 4"));
    assert_string_equal(test_hash(toy.out), expected);

    /* without one before it, and a log that is damaged */
    toy_clean();
    o.stop_at = 2;
    o.keep_work = false;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    snprintf(path, sizeof path, "%s/log-2.jsonl", toy.work);
    flip(path);
    o.stop_at = 0;
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_INPUT, "log-2.jsonl: found another");
    snprintf(path, sizeof path, "%s/checkpoint-2.safetensors", toy.work);
    test_remove(path);
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_INPUT, "checkpoint-2");
    o.restart = true;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_string_equal(test_hash(toy.out), expected);
    toy_clean();

    /* a manifest that is damaged: the one before it has its checkpoint */
    o = toy_options();
    o.stop_at = 9;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    snprintf(path, sizeof path, "%s/manifest", toy.work);
    flip(path);
    o.stop_at = 0;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_non_null(strstr(toy_warnings(), "the manifest is damaged"));
    assert_string_equal(test_hash(toy.out), expected);
    toy_clean();
}

static void another_run_is_not_mixed_in(void **state) {
    (void)state;
    pare_train_options o = toy_options();
    pare_train_report r;
    toy_clean();
    o.stop_at = 3;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    o.batch = 4;
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "batch");
    o = toy_options();
    o.optim = "sgd:lr=0.1";
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "optim");
    toy_clean();
    o = toy_options();
    o.resume = true;
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "no checkpoint");
    toy_clean();
}

/* Robustness row N21. */
static void what_is_not_finite_ends_the_run(void **state) {
    (void)state;
    pare_train_options o = toy_options();
    pare_train_report r;
    toy_clean();
    o.shape = (pare_train_shape){0};
    o.from = tiny_model("huge", &(tiny_options){.last_norm = 3e38f});
    o.steps = 40;
    o.save_every = 1;
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_INPUT, "not finite 10 times in a row");
    assert_false(pare_path_exists(toy.out));
    toy_clean();
}

static void bad_options_are_told(void **state) {
    (void)state;
    pare_train_report r;
    pare_train_options o = toy_options();
    toy_clean();
#define BAD(change, status, part)                                                                  \
    do {                                                                                           \
        o = toy_options();                                                                         \
        change;                                                                                    \
        assert_fails(toy_run(&r, &o, 1, NULL, err), status, part);                                 \
        toy_clean();                                                                               \
    } while (0)
    BAD(o.n_data = 0, PARE_ERR_ARG, "text");
    BAD(o.steps = 0, PARE_ERR_ARG, "0 steps");
    BAD(o.schedule = "cosinus", PARE_ERR_ARG, "cosine");
    BAD(o.optim = "adamww", PARE_ERR_ARG, "adamw");
    BAD(o.lr_scale = "embd=0", PARE_ERR_ARG, "lr-scale: found 'embd=0', expected a target and a");
    BAD(o.lr_scale = "ffn=0.5,", PARE_ERR_ARG, "lr-scale: found ''");
    BAD(o.lr_scale = "heads=2", PARE_ERR_ARG, "lr-scale: found 'heads', expected attn");
    BAD(o.lr_scale = "embd=1,/xyz/=2", PARE_ERR_ARG, "lr-scale: found no tensor for target 2");
    BAD(o.lr_scale = "embd=1,embd=2", PARE_ERR_ARG, "lr-scale: found no tensor for target 2");
    BAD(o.min_lr = 2, PARE_ERR_ARG, "2");
    BAD(o.ema = 1, PARE_ERR_ARG, "ema");
    BAD(o.temperature = 0, PARE_ERR_ARG, "temperature");
    BAD(o.distill = "/nowhere", PARE_ERR_INPUT, "nowhere");
    BAD(o.shape.arch = "lama", PARE_ERR_UNSUPPORTED, "llama");
    BAD(o.shape.n_heads = 5, PARE_ERR_INPUT, "heads");
    BAD(o.shape.dim = 0, PARE_ERR_ARG, "dim");
    BAD(o.shape.tokenizer = "/nowhere", PARE_ERR_INPUT, "nowhere");
    BAD(o.ctx = 40000, PARE_ERR_INPUT, "windows of 40000");
    BAD(o.out = toy.tokenizer, PARE_ERR_INPUT, "base");
    BAD((o.from = toy.tokenizer, o.ctx = TINY_CTX + 1), PARE_ERR_ARG, "at most the model's");
#undef BAD
}

static void rates_follow_their_schedule(void **state) {
    (void)state;
    pare_train_options o = pare_train_options_default();
    o.steps = 110;
    o.warmup = 10;
    o.min_lr = 0.1;
    assert_float_equal(pare_train_rate(&o, 0), 0.1, 1e-12);
    assert_float_equal(pare_train_rate(&o, 9), 1, 1e-12);
    assert_float_equal(pare_train_rate(&o, 60), 0.55, 1e-12);
    assert_float_equal(pare_train_rate(&o, 110), 0.1, 1e-12);
    o.schedule = "linear";
    assert_float_equal(pare_train_rate(&o, 35), 0.775, 1e-12);
    o.schedule = "wsd";
    assert_float_equal(pare_train_rate(&o, 80), 1, 1e-12);
    assert_float_equal(pare_train_rate(&o, 100), 0.55, 1e-12);
    o.schedule = "constant";
    assert_float_equal(pare_train_rate(&o, 100), 1, 1e-12);
    o.warmup = UINT64_MAX;
    assert_float_equal(pare_train_rate(&o, 0), 0.2, 1e-12); /* 5% of 110 steps */
}

static float *after_one_step(const char *optim, const char *lr_scale, const char *tensor,
                             size_t *n) {
    pare_train_options o = toy_options_from(toy.tokenizer);
    pare_train_report r;
    o.steps = 1;
    o.warmup = 0;
    o.schedule = "constant";
    o.optim = optim;
    o.lr_scale = lr_scale;
    toy_clean();
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    return toy_tensor(toy.out, tensor, n);
}

/* One step of sgd: the way from where it stood is the factor's part of the way without one. */
static void rates_of_their_own(void **state) {
    (void)state;
    static const char scale[] = "/ffn_(up|down)/=4;ffn=0.25,embd=50%,/attn_norm/=2";
    static const struct {
        const char *tensor;
        double factor;
    } cases[] = {{"model.embed_tokens.weight", 0.5},
                 {"model.layers.0.mlp.gate_proj.weight", 0.25},
                 {"model.layers.1.mlp.down_proj.weight", 4}, /* the first that takes it */
                 {"model.layers.1.self_attn.q_proj.weight", 1},
                 {"model.layers.0.input_layernorm.weight", 2},
                 {"model.layers.0.post_attention_layernorm.weight", 1}}; /* no matrix of ffn */
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        size_t n;
        float *before = after_one_step("sgd:lr=0", NULL, cases[k].tensor, &n),
              *plain = after_one_step("sgd:lr=0.5", NULL, cases[k].tensor, &n),
              *scaled = after_one_step("sgd:lr=0.5", scale, cases[k].tensor, &n);
        double moved = 0;
        for (size_t i = 0; i < n; i++) {
            double way = (double)plain[i] - (double)before[i];
            moved += fabs(way);
            /* both ways end in a weight that is rounded */
            assert_float_equal((double)scaled[i] - (double)before[i], cases[k].factor * way,
                               6e-8 * (4 + cases[k].factor) * (fabs((double)before[i]) + 1));
        }
        assert_true(moved > 1e-4);
        pare_free(before);
        pare_free(plain);
        pare_free(scaled);
    }
    /* it is part of what makes a run */
    pare_train_options o = toy_options();
    pare_train_report r;
    toy_clean();
    o.lr_scale = "all=0.5";
    o.stop_at = 3;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    o.lr_scale = "all=0.25";
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "another lr_scale");
    o.lr_scale = NULL;
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "lr_scale");
    toy_clean();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_learns),
                                       cmocka_unit_test(it_goes_on_with_the_same_bytes),
                                       cmocka_unit_test(all_methods_go_on_with_the_same_bytes),
                                       cmocka_unit_test(killed_at_any_moment),
                                       cmocka_unit_test(averages_and_the_best),
                                       cmocka_unit_test(a_damaged_checkpoint_is_told),
                                       cmocka_unit_test(another_run_is_not_mixed_in),
                                       cmocka_unit_test(what_is_not_finite_ends_the_run),
                                       cmocka_unit_test(bad_options_are_told),
                                       cmocka_unit_test(rates_follow_their_schedule),
                                       cmocka_unit_test(rates_of_their_own)};
    return cmocka_run_group_tests(tests, toy_set_up, NULL);
}
