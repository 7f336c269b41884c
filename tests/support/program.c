#include "support/program.h"

#include "support/test.h"

#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *program(void) {
    const char *cli = getenv("PARE_CLI");
    if (!cli || access(cli, X_OK) != 0) fail_msg("PARE_CLI names no program");
    return cli;
}

static char *read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t capacity = 1 << 16;
    char *data = malloc(capacity);
    *n = 0;
    for (size_t got; (got = fread(data + *n, 1, capacity - 1 - *n, f)) > 0;) {
        *n += got;
        if (*n + 1 == capacity) data = realloc(data, capacity *= 2);
    }
    data[*n] = '\0';
    fclose(f);
    return data;
}

/* In the child: the program's folder first in PATH, the test's folder as working folder, which also
 * takes the records. */
static void enter(void) {
    char path[4096], folder[1024], *copy = realpath(program(), NULL);
    if (!copy) _exit(126);
    snprintf(folder, sizeof folder, "%s", dirname(copy));
    const char *old = getenv("PATH");
    snprintf(path, sizeof path, "%s:%s", folder, old ? old : "/bin:/usr/bin");
    setenv("PATH", path, 1);
    if (chdir(test_folder()) != 0) _exit(126);
    setenv("PARE_RECORDS", "records.db", 1);
    signal(SIGINT, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
}

static void redirect(int fd, const char *path, int flags) {
    int file = open(path, flags, 0600);
    if (file < 0 || dup2(file, fd) < 0) _exit(126);
}

static int exit_code(int status) {
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

program_result program_run(const char *input, const char *command) {
    char in[1100], out[1100], err[1100];
    snprintf(in, sizeof in, "%s", input ? test_write("stdin", input, strlen(input)) : "/dev/null");
    snprintf(out, sizeof out, "%s", test_path("stdout"));
    snprintf(err, sizeof err, "%s", test_path("stderr"));
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        redirect(0, in, O_RDONLY);
        redirect(1, out, O_WRONLY | O_CREAT | O_TRUNC);
        redirect(2, err, O_WRONLY | O_CREAT | O_TRUNC);
        enter();
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    program_result r = {.code = exit_code(status)};
    r.out = read_file(out, &r.out_len);
    r.err = read_file(err, &r.err_len);
    return r;
}

program_result program_runf(const char *input, const char *format, ...) {
    char command[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    return program_run(input, command);
}

void program_free(program_result *r) {
    free(r->out);
    free(r->err);
    *r = (program_result){0};
}

pid_t program_start(const char *const *argv) {
    char out[1100], err[1100];
    snprintf(out, sizeof out, "%s", test_path("out"));
    snprintf(err, sizeof err, "%s", test_path("err"));
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const char *cli = program();
        redirect(0, "/dev/null", O_RDONLY);
        redirect(1, out, O_WRONLY | O_CREAT | O_TRUNC);
        redirect(2, err, O_WRONLY | O_CREAT | O_TRUNC);
        char *path = realpath(cli, NULL);
        enter();
        execv(path, (char *const *)argv);
        _exit(127);
    }
    return pid;
}

int program_wait(pid_t pid, double seconds) {
    for (double waited = 0; waited < seconds; waited += 0.01) {
        int status;
        if (waitpid(pid, &status, WNOHANG) == pid) return exit_code(status);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return -1;
}

size_t program_lines(const char *text) {
    size_t n = 0;
    for (; *text; text++) n += *text == '\n';
    return n;
}

json_t *program_json(const char *input, const char *command) {
    program_result r = program_runf(input, "%s --json", command);
    if (r.code != 0) fail_msg("%s: exit %d: %s", command, r.code, r.err);
    json_error_t error;
    json_t *object = json_loadb(r.out, r.out_len, JSON_REJECT_DUPLICATES, &error);
    if (!object) fail_msg("%s: not JSON: %s: %.200s", command, error.text, r.out);
    assert_true(json_is_object(object));
    const char *const common[] = {"pare", "verb", "machine"};
    void *it = json_object_iter(object);
    for (size_t i = 0; i < 3; i++, it = json_object_iter_next(object, it))
        assert_string_equal(json_object_iter_key(it), common[i]);
    program_has(object, "machine.cpu,machine.isa,machine.threads");
    program_free(&r);
    return object;
}

void program_has(json_t *object, const char *keys) {
    char copy[2048], *save;
    snprintf(copy, sizeof copy, "%s", keys);
    for (char *key = strtok_r(copy, ",", &save); key; key = strtok_r(NULL, ",", &save)) {
        json_t *at = object;
        for (char *part = key, *dot; at && part; part = dot ? dot + 1 : NULL) {
            dot = strchr(part, '.');
            if (dot) *dot = '\0';
            at = json_object_get(at, part);
        }
        if (!at) fail_msg("key %s is missing", key);
    }
}

void program_refuses(const char *command, const char *told) {
    program_result r = program_run(NULL, command);
    if (r.code != 2 || program_lines(r.err) != 1 || strncmp(r.err, "pare: ", 6) != 0 ||
        !strstr(r.err, told) || r.out_len)
        fail_msg("%s: exit %d, out '%s', err '%s'", command, r.code, r.out, r.err);
    program_free(&r);
}
