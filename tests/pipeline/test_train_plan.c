/* What `pare train --dry-run` tells beside what a run takes: memory beside the peak of a process of
 * its own, disk beside the files; it leaves nothing behind and touches no run. */
#include "support/toy_training.h"

#include "base/memory.h"
#include "base/os.h"
#include "support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int fsync(int fd) { return (void)fd, 0; } /* nothing here loses power */

/* A sanitizer's own memory would be counted too. */
#ifdef __SANITIZE_ADDRESS__
enum { COUNTS_MORE = true };
#else
enum { COUNTS_MORE = false };
#endif

static pare_status estimate(pare_train_plan *p, const pare_train_options *o, pare_error *err) {
    const pare_options ro = {.n_threads = 2, .isa = PARE_ISA_AMX, .seed = 5};
    pare_runtime *rt;
    PARE_TRY(pare_runtime_create(&rt, &ro, err));
    pare_status st = pare_train_estimate(p, rt, o, err);
    pare_runtime_free(rt);
    return st;
}

/* Of a model that is large enough to be seen beside the process. */
static pare_train_options large_options(void) {
    pare_train_options o = toy_options();
    o.shape.dim = 256;
    o.shape.n_layers = 2;
    o.batch = 6;
    o.ctx = 128;
    o.steps = 2;
    o.eval_windows = 2;
    return o;
}

/* Bytes that a run takes beyond what its process has before; 0: it failed. */
static size_t peak_of(const pare_train_options *o) {
    size_t peak = 0;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        pare_train_report r;
        pare_error e = {0};
        pare_peak_rss_reset();
        size_t before = pare_peak_rss_bytes(), taken = 0;
        if (toy_run(&r, o, 2, NULL, &e) == PARE_OK) taken = pare_peak_rss_bytes() - before;
        _exit(write(ends[1], &taken, sizeof taken) != sizeof taken);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(read(ends[0], &peak, sizeof peak), sizeof peak);
    close(ends[0]);
    close(ends[1]);
    return peak;
}

/* Measured: 1.01 to 1.04 of the peak less 3 MiB (code and stacks that come into memory). */
static void memory_is_that_of_a_run(void **state) {
    (void)state;
    static const struct {
        const char *what, *optim, *sparsity;
        double ema;
        bool recompute, best;
        size_t micro;
    } cases[] = {
        {"adamw", "adamw", NULL, 0, false, false, 0},
        {"adafactor, recomputed", "adafactor", NULL, 0, true, false, 2},
        {"rigl, averaged", "sgd:lr=0.1", "rigl:sparsity=0.5,from=1,every=1", 0.9, false, true, 0},
        {"straight through", "adam", "magnitude_ste:sparsity=0.5", 0, false, false, 0},
        {"adahessian", "adahessian:n_samples=2", NULL, 0, false, false, 3}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        pare_train_options o = large_options();
        o.optim = cases[k].optim;
        o.sparsity = cases[k].sparsity;
        o.ema = cases[k].ema;
        o.recompute = cases[k].recompute;
        o.keep_best = cases[k].best;
        o.micro_batch = cases[k].micro;
        toy_clean();
        pare_train_plan p;
        assert_ok(estimate(&p, &o, err));
        assert_true(p.step_seconds > 0 && p.planned_seconds > 2 * p.step_seconds);
        assert_int_equal(p.weights_bytes, 4 * p.n_params);
        assert_int_equal(p.gradients_bytes, p.weights_bytes);
        assert_int_equal(p.tokens_per_step, 6 * 128);
        assert_int_equal(p.memory_bytes, p.weights_bytes + p.gradients_bytes + p.optimizer_bytes +
                                             p.masks_bytes + p.copies_bytes + p.passes_bytes +
                                             p.teacher_bytes + p.tokenizer_bytes);
        if (COUNTS_MORE) continue;
        size_t peak = peak_of(&o);
        double mib = 1 << 20, ratio = (double)p.memory_bytes / ((double)peak - 3 * mib);
        printf("  %s: planned %.1f MiB, taken %.1f\n", cases[k].what, (double)p.memory_bytes / mib,
               (double)peak / mib);
        if (!(ratio > 0.85 && ratio < 1.2))
            fail_msg("%s: planned %.1f MiB, taken %.1f", cases[k].what,
                     (double)p.memory_bytes / mib, (double)peak / mib);
    }
    toy_clean();
}

static uint64_t size_of(const char *folder, const char *name) {
    struct stat info;
    char path[800];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
}

static void disk_is_that_of_a_run(void **state) {
    (void)state;
    pare_train_plan p;
    pare_train_report r;
    pare_train_options o = large_options();
    o.steps = 3;
    o.ema = 0.9;
    o.sparsity = "rigl:sparsity=0.5,every=2";
    o.keep_work = true;
    char plan[700];
    snprintf(plan, sizeof plan, "%s.plan.work", toy.out);
    toy_clean();
    o.stop_at = 1; /* a run that is on its way stays as it is */
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    char before[65];
    snprintf(before, sizeof before, "%s", test_hash(toy.work));
    assert_ok(estimate(&p, &o, err));
    assert_string_equal(test_hash(toy.work), before);
    assert_false(pare_path_exists(toy.out));
    assert_false(pare_path_exists(plan));
    /* one that would not go on is refused as the run would be, but for a fresh start */
    o.steps = 4;
    assert_fails(estimate(&p, &o, err), PARE_ERR_ARG, "steps: found 4, expected 3");
    o.steps = 3;
    o.ctx = 64;
    assert_fails(estimate(&p, &o, err), PARE_ERR_ARG, "another ctx");
    assert_false(pare_path_exists(plan));
    o.restart = true;
    assert_ok(estimate(&p, &o, err));
    o.restart = false;
    o.ctx = 128;
    assert_string_equal(test_hash(toy.work), before);
    assert_ok(estimate(&p, &o, err));
    o.stop_at = 0;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    assert_int_equal(p.n_params, r.n_params);
    assert_int_equal(size_of(toy.work, "tokens"), p.tokens_bytes);
    /* headers of safetensors: a few KiB */
    assert_in_range(size_of(toy.work, "checkpoint-3.safetensors") - p.checkpoint_bytes, 8, 16384);
    assert_in_range(size_of(toy.out, "model.safetensors") - p.model_bytes, 8, 16384);
    assert_int_equal(p.disk_bytes, p.tokens_bytes + p.model_bytes + 2 * p.checkpoint_bytes);
    toy_clean();

    /* with a teacher, an adapter; what a run refuses is refused */
    o = toy_options_from(toy.tokenizer);
    o.distill = toy.tokenizer;
    assert_ok(estimate(&p, &o, err));
    assert_true(p.teacher_bytes > 0);
    o.distill = NULL;
    o.adapter = "lora:rank=2";
    assert_ok(estimate(&p, &o, err));
    assert_true(p.weights_bytes > p.gradients_bytes && p.gradients_bytes == 4 * p.n_params);
    o.optim = "adamww";
    assert_fails(estimate(&p, &o, err), PARE_ERR_ARG, "adamww");
    assert_false(pare_path_exists(plan));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(memory_is_that_of_a_run),
                                       cmocka_unit_test(disk_is_that_of_a_run)};
    return cmocka_run_group_tests(tests, toy_set_up, NULL);
}
