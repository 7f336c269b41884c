/* Allocation faults (robustness row F5) over calibrated runs, for every method of the registry: an
 * allocation of every chain of callers fails, one alone, the next with all that follow. Always: no
 * crash, no leak, a clear status; what was finished is good for a resume, which gives the bytes of
 * a run that was never disturbed. */
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
#include "pare/compress.h"
#include "pare/methods.h"
#include "support/tiny_model.h"

#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

int fsync(int fd) { return (void)fd, 0; } /* nothing here loses power */

static char model[600], text[600], out[600], work[600];

static int n_warnings;

static void count_warning(void *arg, const char *line) {
    (void)arg, (void)line;
    n_warnings++;
}

static pare_status run(const void *recipe, pare_error *err) {
    const pare_options options = {.n_threads = 1, .isa = PARE_ISA_AMX, .warn = count_warning};
    const pare_compress_options o = {.model = model,
                                     .out = out,
                                     .recipe = recipe,
                                     .calib = text,
                                     .calib_samples = 2,
                                     .calib_ctx = 16};
    pare_runtime *rt;
    pare_compress_report *report = NULL;
    PARE_TRY(pare_runtime_create(&rt, &options, err));
    pare_status st = pare_compress(&report, rt, &o, err);
    pare_compress_report_free(report);
    pare_runtime_free(rt);
    return st;
}

static void check_after(const char *recipe, long k, pare_status st, const char *expected) {
    /* without memory a folder cannot be listed, so it stays; the next run removes it */
    char *left = pare_asprintf("%s.tmp-%ld", out, (long)getpid());
    if (pare_path_exists(left) && !persistent)
        fail_msg("%s, allocation %ld: %s is left", recipe, k, left);
    test_remove(left);
    pare_free(left);
    if (st != PARE_OK) {
        if (pare_path_exists(out)) fail_msg("%s, allocation %ld: %s exists", recipe, k, out);
        if (!pare_path_exists(work)) return;
        if (k % 3 != 0) { /* of the others some resumed from the same place */
            test_remove(work);
            return;
        }
        assert_ok(run(recipe, err));
    }
    if (strcmp(test_hash(out), expected) != 0)
        fail_msg("%s, allocation %ld: other bytes", recipe, k);
    if (pare_path_exists(work) && !n_warnings)
        fail_msg("%s, allocation %ld: %s stays without a word", recipe, k, work);
    test_remove(work);
    test_remove(out);
}

static void allocations_fail(const char *recipe) {
    assert_ok(run(recipe, err));
    test_remove(out);
    size_t first = fault_places(run, recipe, recipe);
    char expected[65];
    snprintf(expected, sizeof expected, "%s", test_hash(out));
    test_remove(out);
    for (size_t i = first; i < n_places; i += (size_t)test_fault_step()) {
        pare_error err;
        n_warnings = 0;
        pare_status st = fault_run(run, recipe, i, &err);
        check_after(recipe, places[i], st, expected);
    }
}

static void every_method(void **state) {
    (void)state;
    fault_init();
    for (size_t m = 0; pare_step_method_at(m); m++)
        allocations_fail(pare_method_name(pare_step_method_at(m)));
    allocations_fail("cushioncache:max_len=1,tau=1000000,n=8,texts=1,screen=1,pool=3,tune_texts=2,"
                     "tune_n=8");
    assert_true(n_places > 100 && n_places < SEEN / 2);
}

/* The system gives so many threads more; -1: as many as are asked for. */
static int threads_left = -1;

int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg) {
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (threads_left == 0) return EAGAIN;
    if (threads_left > 0) threads_left--;
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return real(t, a, fn, arg);
}

static size_t n_running(void) {
    size_t n = 0;
    DIR *dir = opendir("/proc/self/task");
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir));) n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* Whichever thread of five the system does not give: the runtime says so, and those that run end.
 */
static void threads_fail(void **state) {
    (void)state;
    const size_t running = n_running();
    const pare_options options = {.n_threads = 5, .isa = PARE_ISA_AMX};
    for (int k = 0; k < 4; k++) {
        pare_error err = {0};
        pare_runtime *rt = NULL;
        threads_left = k;
        count = live = fail_at = 0;
        persistent = false;
        armed = true;
        pare_status st = pare_runtime_create(&rt, &options, &err);
        armed = false;
        threads_left = -1;
        assert_true(st == PARE_ERR_NOMEM && !rt);
        char found[64];
        snprintf(found, sizeof found, "room for %d, expected 5", k + 1);
        assert_non_null(strstr(err.message, found));
        if (k == 0)
            assert_int_equal(live, 0); /* the C library keeps stacks of threads that ended */
        /* one that was joined may still be listed for a moment */
        for (int i = 0; i < 1000 && n_running() != running; i++) usleep(10000);
        assert_int_equal(n_running(), running);
    }
}

int main(void) {
    snprintf(model, sizeof model, "%s", tiny_model("tiny", NULL));
    char words[4000];
    for (size_t i = 0; i < sizeof words; i++) words[i] = (char)('a' + i * i * 31 % 26);
    snprintf(text, sizeof text, "%s", test_write("calib.txt", words, sizeof words));
    snprintf(out, sizeof out, "%s", test_path("out"));
    snprintf(work, sizeof work, "%s.work", out);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_method),
                                       cmocka_unit_test(threads_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
