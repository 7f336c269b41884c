/* pare_train where calls on files fail (F3, F4) or are the last ones (F1): killed after its k-th
 * call for every k, failing once or from then on, cut off by signals. The same command goes on and
 * ends with the bytes of a run that was never disturbed. */
#include "support/call_faults.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "base/os.h"
#include "pare/train.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

static char model[600], text[600], out[600], work[600];
static bool adapter;                /* a small one is trained, else a new model */
static unsigned counted = CALL_ALL; /* calls that fail */

static pare_status run(pare_error *err) {
    const char *files[1] = {text};
    pare_train_options o = pare_train_options_default();
    o.out = out;
    o.shape = (pare_train_shape){
        .arch = "llama", .dim = 16, .n_layers = 1, .n_heads = 2, .tokenizer = model};
    o.data = files;
    o.n_data = 1;
    o.steps = 3;
    o.batch = 1;
    o.ctx = 8;
    o.save_every = 1;
    o.eval_windows = 1;
    o.sparsity = "rigl:sparsity=0.5,every=1,from=1,until=2";
    if (adapter) {
        o.shape = (pare_train_shape){0};
        o.from = model;
        o.sparsity = NULL;
        o.adapter = "lora:rank=2,targets=qv";
    }
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    pare_train_report report;
    pare_status st = pare_train(&report, rt, &o, err);
    pare_runtime_free(rt);
    return st;
}

/* In a process of its own with a fault; its exit code, or -1 when it was killed. */
static int run_apart(int kind, long at, int error) {
    fflush(NULL);
    atomic_store(n_calls, 0);
    pid_t pid = fork();
    if (pid == 0) {
        fault_calls = kind == KILL ? CALL_CHANGES : counted;
        fault_kind = kind;
        fault_at = at;
        fault_errno = error;
        pare_error err = {0};
        pare_status st = run(&err);
        if (st != PARE_OK && (!err.message[0] || strchr(err.message, '\n'))) _exit(99);
        _exit(st == PARE_OK ? 0 : pare_status_exit_code(st));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void clean(void) {
    test_remove(out);
    test_remove(work);
}

/* What an undisturbed run makes, and of how many calls. */
static long expect(char hash[65]) {
    clean();
    assert_int_equal(run_apart(NEVER, 0, 0), 0);
    long n = atomic_load(n_calls);
    snprintf(hash, 65, "%s", test_hash(out));
    clean();
    return n;
}

static void killed_after_every_call(void **state) {
    (void)state;
    char expected[65];
    expect(expected);
    long k = 1;
    for (int code = -1; code != 0; k += test_fault_step()) {
        code = run_apart(KILL, k, 0);
        if (code != -1 && code != 0) fail_msg("call %ld: exit code %d", k, code);
        bool there = pare_path_exists(out); /* then it is complete */
        if (code == -1 && !there && run_apart(NEVER, 0, 0) != 0)
            fail_msg("no resume after call %ld", k);
        if (strcmp(test_hash(out), expected) != 0) fail_msg("other bytes after call %ld", k);
        clean();
    }
    assert_true(k > 20);
}

/* Nothing but the work folder may be left of a run that failed. */
static void check_failed(long k, int code) {
    if (code != 1) fail_msg("call %ld: exit code %d", k, code);
    DIR *dir = opendir(test_folder());
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        if (strncmp(e->d_name, "trained", 7) == 0 && strcmp(e->d_name, "trained.work") != 0)
            fail_msg("call %ld: %s is left", k, e->d_name);
    closedir(dir);
}

/* Call k fails, alone or with all that follow. A run may do without a few (a lock's release). */
static void fail_at(int kind, long k, int error, const char *expected) {
    int code = run_apart(kind, k, error);
    if (code != 0) {
        check_failed(k, code);
        if (run_apart(NEVER, 0, 0) != 0) fail_msg("call %ld: no resume", k);
    }
    if (strcmp(test_hash(out), expected) != 0) fail_msg("call %ld: other bytes", k);
    clean();
}

static void every_call_fails(void **state) {
    (void)state;
    static const int errors[] = {ENOSPC, EIO};
    for (int a = 0; a < 2; a++) {
        adapter = a;
        char expected[65];
        long n = expect(expected);
        long step = test_fault_step();
        if (a && step < 5) step = 5;
        assert_true(n > 60);
        for (int kind = FAIL_ONCE; kind <= FAIL_FROM; kind++)
            for (long k = 1 + kind; k <= n; k += step) fail_at(kind, k, errors[k % 2], expected);
    }
    adapter = false;
}

/* As from one file system to another, or without the rights. */
static void renames_fail(void **state) {
    (void)state;
    static const int reasons[] = {EXDEV, EACCES};
    for (int a = 0; a < 2; a++) {
        adapter = a;
        char expected[65];
        counted = CALL_RENAME;
        long n = expect(expected);
        for (long k = 1; k <= n; k++) fail_at(FAIL_ONCE, k, reasons[(k + a) % 2], expected);
        counted = CALL_ALL;
    }
    adapter = false;
}

/* Nearly all calls are cut off, and no transfer is whole: as if nothing had been. */
static void interrupted_calls(void **state) {
    (void)state;
    char expected[65];
    long n = expect(expected);
    assert_int_equal(run_apart(INTERRUPT, 0, 0), 0);
    assert_string_equal(test_hash(out), expected);
    assert_true(atomic_load(n_calls) > n + n / 2);
    clean();
}

int main(void) {
    call_faults_init();
    char line[400];
    for (size_t i = 0; i < sizeof line; i++) line[i] = (char)('a' + i * i % 23);
    snprintf(model, sizeof model, "%s", tiny_model("base", NULL));
    snprintf(text, sizeof text, "%s", test_write("text.txt", line, sizeof line));
    snprintf(out, sizeof out, "%s", test_path("trained"));
    snprintf(work, sizeof work, "%s.work", out);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_after_every_call), cmocka_unit_test(every_call_fails),
        cmocka_unit_test(renames_fail), cmocka_unit_test(interrupted_calls)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
