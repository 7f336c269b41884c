/* Runs the program named by $PARE_CLI and keeps what it says. */
#ifndef PARE_TESTS_SUPPORT_PROGRAM_H
#define PARE_TESTS_SUPPORT_PROGRAM_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct program_result {
    int code; /* exit code; 128 + signal where one killed it */
    char *out, *err;
    size_t out_len, err_len;
} program_result;

/* Runs a shell command line in test_folder(); "pare" is the program. input: to its standard input,
 * NULL = nothing. */
program_result program_run(const char *input, const char *command);
__attribute__((format(printf, 2, 3))) program_result program_runf(const char *input,
                                                                  const char *format, ...);
void program_free(program_result *r);

/* Starts one and returns its process id; output goes to the files named out and err in
 * test_folder(). */
pid_t program_start(const char *const *argv);
/* Its exit code, or -1 when it has not ended after so many seconds (it is killed then). */
int program_wait(pid_t pid, double seconds);

/* The number of lines of a text. */
size_t program_lines(const char *text);
/* Asserts exit code 2, one line on stderr that holds `told`, and nothing on stdout. */
void program_refuses(const char *command, const char *told);

/* Runs with --json, expects exit 0, exactly one object on standard output and the common keys; the
 * object is the caller's (json_decref). */
json_t *program_json(const char *input, const char *command);
/* Fails unless every key of "a,b.c,d" is there; b.c is in the object b. */
void program_has(json_t *object, const char *keys);

#endif
