/* Memory that is out in pare_train (robustness row F5): an allocation of every chain of callers
 * fails, one alone, the next with all that follow it. No crash, no leak, a clear status; the same
 * command then ends with the bytes of a run that was never disturbed. */
#include "support/alloc_faults.h"

#if !FAULTS
#include <stdio.h>

int main(void) {
    printf("skipped: the allocator cannot be replaced here\n");
    return 77;
}
#else

#include "base/memory.h"
#include "base/os.h"
#include "pare/train.h"
#include "support/tiny_model.h"

#include <stdio.h>

int fsync(int fd) { return (void)fd, 0; } /* nothing here loses power */

static char model[600], text[600], out[600], work[600];

static int n_warnings;

static void count_warning(void *arg, const char *line) {
    (void)arg, (void)line;
    n_warnings++;
}

/* What is trained. */
typedef enum subject { NEW_MODEL, OLD_MODEL, ADAPTER } subject;

static pare_status run(const void *arg, pare_error *err) {
    const subject what = *(const subject *)arg;
    const bool fresh = what == NEW_MODEL;
    const pare_options ro = {.n_threads = 1, .isa = PARE_ISA_AMX, .warn = count_warning};
    const char *files[1] = {text};
    pare_train_options o = pare_train_options_default();
    o.out = out;
    if (fresh)
        o.shape = (pare_train_shape){
            .arch = "gemma2", .dim = 16, .n_layers = 1, .n_heads = 2, .tokenizer = model};
    else
        o.from = model;
    o.data = files;
    o.n_data = 1;
    o.steps = 3;
    o.batch = 1;
    o.ctx = 8;
    o.save_every = o.eval_every = o.log_every = 1;
    o.eval_windows = 1;
    o.sparsity = fresh ? "rigl:sparsity=0.5,every=1,from=1,until=2" : "magnitude_ste:sparsity=0.5";
    if (what == ADAPTER) {
        o.sparsity = NULL;
        o.adapter = "lora:rank=2,targets=qv";
        o.optim = "adahessian";
    }
    o.distill = what == OLD_MODEL ? model : NULL;
    o.ema = 0.5;
    o.keep_best = true;
    pare_runtime *rt;
    pare_train_report report;
    PARE_TRY(pare_runtime_create(&rt, &ro, err));
    pare_status st = pare_train(&report, rt, &o, err);
    pare_runtime_free(rt);
    return st;
}

static void clean(void) {
    char temporary[700];
    snprintf(temporary, sizeof temporary, "%s.tmp-%ld", out, (long)getpid());
    test_remove(temporary); /* without memory it could not be removed by the run */
    test_remove(out);
    test_remove(work);
}

static void allocations_fail(subject what) {
    static const char *const names[] = {"a new model", "one that exists", "an adapter"};
    char expected[65];
    pare_error err;
    clean();
    assert_ok(run(&what, err));
    snprintf(expected, sizeof expected, "%s", test_hash(out));
    clean();
    size_t first = fault_places(run, &what, names[what]);
    clean();
    for (size_t i = first; i < n_places; i += (size_t)test_fault_step()) {
        n_warnings = 0;
        if (fault_run(run, &what, i, &err) != PARE_OK) {
            if (pare_path_exists(out)) fail_msg("allocation %ld: an output", places[i]);
            if (i % 5 == 0 && pare_path_exists(work) && !pare_path_exists(out))
                assert_ok(run(&what, err)); /* of the others some resumed from the same place */
        }
        if (pare_path_exists(out) && !n_warnings && strcmp(test_hash(out), expected) != 0)
            fail_msg("allocation %ld: other bytes", places[i]);
        clean();
    }
}

static void new_models(void **state) {
    (void)state;
    allocations_fail(NEW_MODEL);
}
static void models_that_exist(void **state) {
    (void)state;
    allocations_fail(OLD_MODEL);
}
static void adapters(void **state) {
    (void)state;
    allocations_fail(ADAPTER);
}

int main(void) {
    char line[400];
    memset(line, 'a', sizeof line);
    for (size_t i = 0; i < sizeof line; i += 7) line[i] = (char)('b' + i % 20);
    snprintf(model, sizeof model, "%s", tiny_model("base", NULL));
    snprintf(text, sizeof text, "%s", test_write("text.txt", line, sizeof line));
    snprintf(out, sizeof out, "%s", test_path("trained"));
    snprintf(work, sizeof work, "%s.work", out);
    fault_init();
    const struct CMUnitTest tests[] = {cmocka_unit_test(new_models),
                                       cmocka_unit_test(models_that_exist),
                                       cmocka_unit_test(adapters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
