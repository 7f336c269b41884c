/* What the world does to a run of the program (robustness rows F11 and F12): signals at any time,
 * limits, closed and full outputs, folders that go away, odd names. A run ends in time with the
 * right code and at most one line of error; nothing half stands under the output's name; the same
 * command then gives the bytes of a run that was never disturbed. */
#include "support/program.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/os.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RUN "pare compress tiny -o %s -r gptq --calib text --calib-samples 12 --calib-ctx 64 -q"
static const char *const run_argv[] = {"pare", "compress",    "tiny",    "-o",   "small",
                                       "-r",   "gptq",        "--calib", "text", "--calib-samples",
                                       "12",   "--calib-ctx", "64",      "-q",   NULL};
static char expected[65];

static void must(const char *format, const char *out) {
    program_result r = program_runf(NULL, format, out);
    if (r.code != 0) fail_msg("%s: exit %d: %s", format, r.code, r.err);
    program_free(&r);
}

/* The same command as before, undisturbed: it starts or goes on. */
static void must_come_out_right(void) {
    must(RUN, "small");
    assert_string_equal(test_hash(test_path("small")), expected);
    assert_false(pare_path_exists(test_path("small.work")));
    test_remove(test_path("small"));
}

static int make_files(void **state) {
    (void)state;
    tiny_model("tiny", NULL);
    char text[20000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + i * i * 31 % 26);
    test_write("text", text, sizeof text);
    must(RUN, "small");
    snprintf(expected, sizeof expected, "%s", test_hash(test_path("small")));
    test_remove(test_path("small"));
    return 0;
}

static void wait_ms(long ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* ---- signals ---- */

/* One signal stops safely, a second one at once; both within seconds (sanitizers: more of them). */
static void signals_stop(void **state) {
    (void)state;
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    size_t n_stopped = 0;
    for (int i = 0; i < 12; i++) {
        int sig = signals[i % 3], twice = i >= 9;
        pid_t pid = program_start(run_argv);
        wait_ms(5 + 7L * i);
        kill(pid, sig);
        if (twice) kill(pid, sig);
        int code = program_wait(pid, test_is_slow() ? 60 : 20);
        if (code != 0 && code != 128 + sig) fail_msg("signal %d: exit code %d", sig, code);
        n_stopped += code != 0;
        if (code == 0) test_remove(test_path("small"));
        assert_false(pare_path_exists(test_path("small")));
        must_come_out_right();
    }
    assert_true(n_stopped > 0);
}

static void stopped_and_continued(void **state) {
    (void)state;
    pid_t pid = program_start(run_argv);
    for (int i = 0; i < 3; i++) {
        wait_ms(15);
        kill(pid, SIGSTOP);
        wait_ms(15);
        kill(pid, SIGCONT);
    }
    assert_int_equal(program_wait(pid, 100), 0);
    assert_string_equal(test_hash(test_path("small")), expected);
    test_remove(test_path("small"));
}

/* ---- outputs ---- */

/* Nobody reads, nobody can: the model is written all the same, and only the latter is an error. */
static void standard_outputs(void **state) {
    (void)state;
    static const struct {
        const char *how;
        int code;
    } cases[] = {{">/dev/full", 1}, {">&-", 1}, {"2>&-", 0}, {"<&-", 0}, {">&- 2>&- <&-", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        program_result r = program_runf(NULL, RUN " %s", "small", cases[i].how);
        if (r.code != cases[i].code) fail_msg("%s: exit %d: %s", cases[i].how, r.code, r.err);
        assert_true(program_lines(r.err) <= 1);
        program_free(&r);
        if (strcmp(test_hash(test_path("small")), expected) != 0)
            fail_msg("%s: other bytes", cases[i].how);
        test_remove(test_path("small"));
    }
    program_result r =
        program_runf(NULL, "(" RUN "; echo code $? >&2) | true", "small"); /* SIGPIPE */
    assert_non_null(strstr(r.err, "code 0"));
    program_free(&r);
    assert_string_equal(test_hash(test_path("small")), expected);
    test_remove(test_path("small"));
}

/* ---- limits ---- */

/* Right or refused with a line: never a crash, never a file cut short under the output's name. */
static void limits(void **state) {
    (void)state;
    static const char *const cases[] = {"-n 8",     "-n 12",     "-n 16",     "-s 256",
                                        "-f 8",     "-f 100",    "-f 300",    "-v 20000",
                                        "-v 60000", "-v 150000", "-v 1000000"};
    size_t n_right = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
#ifdef __SANITIZE_ADDRESS__
        if (cases[i][1] == 'v' || cases[i][1] == 'd') continue; /* it takes terabytes itself */
#endif
        bool limited = cases[i][1] != 's';
        program_result r = program_runf(NULL, "ulimit %s; " RUN " -t 1", cases[i], "small");
        bool loaded = !strstr(r.err, "error while loading shared libraries");
        if (loaded && r.code != 0 && (r.code > 2 || program_lines(r.err) != 1 || !limited))
            fail_msg("ulimit %s: exit %d: %s", cases[i], r.code, r.err);
        if (r.code != 0) assert_false(pare_path_exists(test_path("small")));
        n_right += r.code == 0;
        program_free(&r);
        test_remove(test_path("small"));
        if (pare_path_exists(test_path("small.work"))) must_come_out_right();
    }
    assert_true(n_right >= 2);
}

/* ---- folders and names ---- */

static void folders_that_are_not_there(void **state) {
    (void)state;
    program_result r = program_runf(NULL, RUN, "absent/small");
    assert_true(r.code == 2 && program_lines(r.err) == 1 && strstr(r.err, "absent"));
    program_free(&r);
    r = program_runf(NULL, RUN, "text/small"); /* a file */
    assert_true(r.code == 2 && program_lines(r.err) == 1 && strstr(r.err, "text"));
    program_free(&r);
    mkdir(test_path("locked"), 0777);
    chmod(test_path("locked"), 0555);
    r = program_runf(NULL, RUN, "locked/small");
    if (geteuid() == 0) /* whom no permission stops */
        assert_int_equal(r.code, 0);
    else
        assert_true(r.code == 2 && program_lines(r.err) == 1 && strstr(r.err, "locked"));
    program_free(&r);
    chmod(test_path("locked"), 0777);
}

/* The folder of the output, with the work folder in it, goes away while the run is at work. */
static void folder_that_goes_away(void **state) {
    (void)state;
    const char *argv[sizeof run_argv / sizeof run_argv[0]];
    memcpy(argv, run_argv, sizeof argv);
    argv[4] = "sub/small";
    for (int i = 0; i < 3; i++) {
        mkdir(test_path("sub"), 0777);
        pid_t pid = program_start(argv);
        wait_ms(20 + 20L * i);
        test_remove(test_path("sub"));
        int code = program_wait(pid, 100);
        if (code < 0 || code > 2) fail_msg("exit code %d", code);
        test_remove(test_path("sub"));
    }
}

static void odd_names(void **state) {
    (void)state;
    static const char *const names[] = {"sp ace",   "qu'ote", "new\nline", "%s%n",   "\xC3\xB6",
                                        "\xFF\xFE", "-r",     "a.tmp-1",   "x.work", "semi;colon"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char out[200];
        snprintf(out, sizeof out, "./%s", names[i]);
        const char *argv[sizeof run_argv / sizeof run_argv[0]];
        memcpy(argv, run_argv, sizeof argv);
        argv[4] = out;
        int code = program_wait(program_start(argv), 100);
        if (code != 0) fail_msg("%s: exit code %d", names[i], code);
        assert_string_equal(test_hash(test_path(names[i])), expected);
        test_remove(test_path(names[i]));
    }
    must("LC_ALL=de_DE.UTF-8 LC_NUMERIC=de_DE.UTF-8 " RUN, "small");
    assert_string_equal(test_hash(test_path("small")), expected);
    test_remove(test_path("small"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signals_stop),
        cmocka_unit_test(stopped_and_continued),
        cmocka_unit_test(standard_outputs),
        cmocka_unit_test(limits),
        cmocka_unit_test(folders_that_are_not_there),
        cmocka_unit_test(folder_that_goes_away),
        cmocka_unit_test(odd_names),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
