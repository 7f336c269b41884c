/* Runs of recipes on a tiny model with a calibration text, in processes of their own whose calls on
 * files fail: what the tests of the pipeline share. One source of a program includes it. */
#ifndef PARE_TESTS_SUPPORT_CALIBRATED_RUN_H
#define PARE_TESTS_SUPPORT_CALIBRATED_RUN_H

#include "support/call_faults.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "base/os.h"
#include "pare/compress.h"
#include "pare/methods.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static const char *model, *text;

static inline void calibrated_run_init(void) {
    call_faults_init();
    model = strdup(tiny_model("tiny", NULL));
    static char words[20000];
    for (size_t i = 0; i < sizeof words; i++)
        words[i] = (char)(i % 60 == 59     ? '\n'
                          : i * i % 7 == 3 ? ' '
                                           : 'a' + (int)(i * i * 31 % 26));
    text = strdup(test_write("calib.txt", words, sizeof words));
}

static inline pare_compress_options options_of(const char *recipe, const char *out) {
    return (pare_compress_options){.model = model,
                                   .out = out,
                                   .recipe = recipe,
                                   .calib = text,
                                   .calib_samples = 2,
                                   .calib_ctx = 16};
}

static inline pare_status run(const pare_compress_options *o, int threads, pare_error *err) {
    pare_runtime *rt = test_runtime(threads, PARE_ISA_AMX);
    pare_compress_report *report = NULL;
    pare_status st = pare_compress(&report, rt, o, err);
    pare_compress_report_free(report);
    pare_runtime_free(rt);
    return st;
}

/* Nothing stands beside an output whose name begins as its own, but for `allowed` (or NULL). */
static inline void assert_alone(const char *out, const char *allowed) {
    char *folder = strdup(out), *name = strrchr(folder, '/');
    *name++ = '\0';
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        if (strncmp(e->d_name, name, strlen(name)) == 0 && strcmp(e->d_name, name) != 0 &&
            (!allowed || strcmp(e->d_name, allowed) != 0))
            fail_msg("%s is left", e->d_name);
    closedir(dir);
    free(folder);
}

static inline void assert_clean(const char *out) { assert_alone(out, NULL); }

/* Runs in a process of its own with a fault; its exit code, -1 when it was killed, 99 when it said
 * nothing of its error or more than a line. */
static inline int run_apart(const pare_compress_options *o, int kind, long at, int error) {
    fflush(NULL);
    atomic_store(n_calls, 0);
    pid_t pid = fork();
    if (pid == 0) {
        fault_kind = kind;
        fault_at = at;
        fault_errno = error;
        pare_error err = {0};
        pare_status st = run(o, 1, &err);
        if (st != PARE_OK && (!err.message[0] || strchr(err.message, '\n'))) _exit(99);
        _exit(st == PARE_OK ? 0 : pare_status_exit_code(st));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#endif
