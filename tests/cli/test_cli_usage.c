/* The command line without a model: help, usage errors, exit codes, output that cannot be written,
 * colour. */
#include "support/program.h"
#include "support/test.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char verbs[32][32]; /* as the overview lists them */
static size_t n_verbs;

static int find_verbs(void **state) {
    (void)state;
    program_result r = program_run(NULL, "pare help");
    const char *p = strstr(r.out, "Verbs:\n");
    for (p = p ? p + 7 : ""; *p == ' ' && n_verbs < 32; p = strchr(p, '\n') + 1)
        sscanf(p, "%31s", verbs[n_verbs++]);
    program_free(&r);
    return n_verbs == 0;
}

static void overview(void **state) {
    (void)state;
    const char *const same[] = {"pare", "pare help", "pare --help", "pare -h"};
    program_result first = program_run(NULL, same[0]);
    assert_int_equal(first.code, 0);
    for (size_t i = 1; i < 4; i++) {
        program_result r = program_run(NULL, same[i]);
        assert_int_equal(r.code, 0);
        assert_string_equal(r.out, first.out);
        assert_string_equal(r.err, "");
        program_free(&r);
    }
    program_free(&first);
    program_result r = program_run(NULL, "pare --version");
    assert_int_equal(r.code, 0);
    const char *mpi = pare_mpi_name();
    char line[300];
    snprintf(line, sizeof line, "pare " PARE_VERSION " (%s)\n", mpi ? mpi : "without MPI");
    assert_string_equal(r.out, line);
    program_free(&r);
}

/* Every verb: both ways to its help, no wide line, two examples at least, the common options. */
static void help(void **state) {
    (void)state;
    for (size_t i = 0; i < n_verbs; i++) {
        program_result r = program_runf(NULL, "pare help %s", verbs[i]);
        program_result same = program_runf(NULL, "pare %s --help", verbs[i]);
        assert_int_equal(r.code, 0);
        assert_int_equal(same.code, 0);
        assert_string_equal(r.out, same.out);
        for (const char *p = r.out; *p; p = strchr(p, '\n') + 1) {
            size_t n = strcspn(p, "\n");
            bool example = strncmp(p, "  pare ", 7) == 0 || strncmp(p, "  echo ", 7) == 0;
            if (n > 100 && !example) fail_msg("%s: wide line: %.*s", verbs[i], (int)n, p);
        }
        const char *examples = strstr(r.out, "\nExamples:\n"), *end = examples + 11;
        assert_non_null(examples);
        size_t n = 0;
        for (; strncmp(end, "  ", 2) == 0; end = strchr(end, '\n') + 1) n++;
        assert_in_range(n, 2, 4);
        const char *const common[] = {"--threads", "--seed",   "--isa",  "--deterministic",
                                      "--quiet",   "--strict", "--json", "--help"};
        for (size_t k = 0; k < 8; k++) assert_non_null(strstr(r.out, common[k]));
        program_free(&r);
        program_free(&same);
    }
}

/* Exit 2, one line on stderr, nothing on stdout. */
static void usage_errors(void **state) {
    (void)state;
    const struct {
        const char *command, *told;
    } cases[] = {
        {"pare ifno", "did you mean 'info'?"},
        {"pare help tokenise", "did you mean 'tokenize'?"},
        {"pare zzzzzzzz", "'pare help' lists them"},
        {"pare --json info", "before a verb"},
        {"pare tokenize m --decdoe", "unknown option '--decdoe', did you mean '--decode'?"},
        {"pare tokenize m --thread=2", "unknown option '--thread', did you mean '--threads'?"},
        {"pare tokenize m --xyzzyxyzzy", "'pare help tokenize' lists them"},
        {"pare tokenize m -z", "unknown option '-z'"},
        {"pare tokenize", "found 0 arguments, expected MODEL [FILE|-]"},
        {"pare tokenize a b c", "found 3 arguments"},
        {"pare tokenize m --threads", "--threads: found nothing, expected N"},
        {"pare tokenize m --threads=", "--threads: found ''"},
        {"pare tokenize m --threads 1x", "--threads: found '1x', expected a whole number from 0"},
        {"pare tokenize m --threads 1025", "from 0 to 1024"},
        {"pare tokenize m --threads -1", "found '-1'"},
        {"pare tokenize m --threads ' 1'", "found ' 1'"},
        {"pare tokenize m --seed 99999999999999999999", "--seed: found '9999"},
        {"pare tokenize m --isa avx3", "did you mean 'avx2'?"},
        {"pare tokenize m --json=1", "--json: found '1', expected no value"},
        {"pare methods --slot prunner", "expected one of: pruner"},
        {"pare run m --stop ''", "--stop: found nothing"},
        {"pare tokenize /does/not/exist", "/does/not/exist"},
        {"PARE_ISA=sse9 pare tokenize m", "$PARE_ISA"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        program_refuses(cases[i].command, cases[i].told);
}

/* Control bytes of arguments and files do not reach the terminal. */
static void echoed_safely(void **state) {
    (void)state;
    program_result r = program_run(NULL, "pare \"$(printf 'a\\033[31m\\nb')\"");
    assert_int_equal(r.code, 2);
    assert_int_equal(program_lines(r.err), 1);
    assert_null(strchr(r.err, '\033'));
    program_free(&r);
}

/* A full disk is a failure; a reader that has had enough is not. */
static void output_errors(void **state) {
    (void)state;
    program_result r = program_run(NULL, "pare help > /dev/full");
    assert_int_equal(r.code, 1);
    assert_int_equal(program_lines(r.err), 1);
    assert_non_null(strstr(r.err, "standard output: No space left"));
    program_free(&r);
    r = program_run(NULL, "(pare info --cpu; echo $? >&2) | true");
    assert_string_equal(r.err, "0\n");
    program_free(&r);
}

/* Reads what a child writes to a terminal of ours. */
static size_t run_on_terminal(char *out, size_t size, bool no_color) {
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("NO_COLOR", no_color ? "1" : "", 1);
        setenv("TERM", "xterm", 1);
        int slave = open(ptsname(master), O_RDWR);
        dup2(slave, 1);
        dup2(slave, 2);
        execl(getenv("PARE_CLI"), "pare", "info", "--cpu", (char *)NULL);
        _exit(127);
    }
    size_t n = 0;
    struct pollfd fd = {.fd = master, .events = POLLIN};
    while (n + 1 < size && poll(&fd, 1, 10000) > 0) {
        ssize_t got = read(master, out + n, size - 1 - n); /* EIO: the child has ended */
        if (got <= 0) break;
        n += (size_t)got;
    }
    out[n] = '\0';
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(master);
    return n;
}

static void colour(void **state) {
    (void)state;
    char out[16384];
    run_on_terminal(out, sizeof out, false);
    assert_non_null(strchr(out, '\033'));
    run_on_terminal(out, sizeof out, true);
    assert_null(strchr(out, '\033'));
    assert_non_null(strstr(out, "isa"));
    program_result r = program_run(NULL, "pare info --cpu");
    assert_null(strchr(r.out, '\033'));
    program_free(&r);
}

/* A list of methods: no wide line, and a summary that is cut keeps its beginning. */
static void methods_in_a_list(void **state) {
    (void)state;
    program_result r = program_run(NULL, "pare methods --slot pruner");
    json_t *o = program_json(NULL, "pare methods --slot pruner --json");
    json_t *list = json_object_get(o, "methods");
    size_t n_cut = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_object_get(json_array_get(list, i), "summary"));
        char begin[21];
        snprintf(begin, sizeof begin, "%s", text);
        if (!strstr(r.out, begin)) fail_msg("no beginning: %s", text);
        n_cut += !strstr(r.out, text);
    }
    for (const char *p = r.out; *p; p = strchr(p, '\n') + 1)
        if (strcspn(p, "\n") > 100) fail_msg("wide line: %.*s", (int)strcspn(p, "\n"), p);
    assert_true(n_cut > 0 && strstr(r.out, "..\n"));
    json_decref(o);
    program_free(&r);
}

/* A method in full: no wide line but the example, no help that is cut. */
static void method_in_full(void **state) {
    (void)state;
    program_result r = program_run(NULL, "pare methods magnitude");
    json_t *o = program_json(NULL, "pare methods magnitude --json");
    json_t *params = json_object_get(json_array_get(json_object_get(o, "methods"), 0), "params");
    assert_int_equal(r.code, 0);
    for (const char *p = r.out; *p; p = strchr(p, '\n') + 1) {
        size_t n = strcspn(p, "\n");
        if (n > 100) fail_msg("wide line: %.*s", (int)n, p);
    }
    assert_true(json_array_size(params) >= 2);
    for (size_t i = 0; i < json_array_size(params); i++) {
        const char *text = json_string_value(json_object_get(json_array_get(params, i), "help"));
        if (!strstr(r.out, text)) fail_msg("cut: %s", text);
    }
    json_decref(o);
    program_free(&r);
}

static void machine(void **state) {
    (void)state;
    json_t *o = program_json(NULL, "pare info --cpu --threads 1");
    program_has(o, "isa,kernels,dram_read_bytes_per_s,bf16_flop_per_s,int8_op_per_s,int4_op_per_s");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "machine"), "threads")),
                     1);
    json_decref(o);
    o = program_json(NULL, "PARE_ISA=ref pare info --cpu");
    assert_string_equal(json_string_value(json_object_get(o, "isa")), "ref");
    json_decref(o);
    o = program_json(
        NULL, "LC_ALL=de_DE.UTF-8 LC_NUMERIC=de_DE.UTF-8 pare info --cpu --measure --isa ref");
    assert_true(json_number_value(json_object_get(o, "dram_read_bytes_per_s")) > 1e6);
    json_decref(o);
    for (const char *const *isa = (const char *const[]){"avx512", "amx", NULL}; *isa; isa++) {
        pare_isa level;
        assert_ok(pare_isa_parse(&level, *isa, err));
        program_result r = program_runf(NULL, "pare info --cpu --strict --isa %s", *isa);
        assert_int_equal(r.code, level > pare_isa_best() ? 3 : 0); /* a fallback that is said */
        program_free(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(methods_in_a_list), cmocka_unit_test(method_in_full),
        cmocka_unit_test(overview),          cmocka_unit_test(help),
        cmocka_unit_test(usage_errors),      cmocka_unit_test(echoed_safely),
        cmocka_unit_test(output_errors),     cmocka_unit_test(colour),
        cmocka_unit_test(machine),
    };
    return cmocka_run_group_tests(tests, find_verbs, NULL);
}
