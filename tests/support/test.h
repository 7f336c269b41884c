/* What every test includes: cmocka with its prerequisites, and small helpers. */
#ifndef PARE_TESTS_SUPPORT_TEST_H
#define PARE_TESTS_SUPPORT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "pare/base.h"

/* Asserts PARE_OK and prints the message otherwise. */
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        pare_error assert_err_ = {0};                                                              \
        pare_error *err = &assert_err_;                                                            \
        if ((call) != PARE_OK) fail_msg("%s: %s", #call, err->message);                            \
    } while (0)

/* Asserts that a call (whose error argument is written `err`) fails with a status, and that its
 * message tells `part`. */
#define assert_fails(call, expected, part)                                                         \
    do {                                                                                           \
        pare_error assert_err_ = {0};                                                              \
        pare_error *err = &assert_err_;                                                            \
        pare_status assert_status_ = (call);                                                       \
        if (assert_status_ != (expected) || err->status != (expected) ||                           \
            !strstr(err->message, part))                                                           \
            fail_msg("%s: found %s \"%s\", expected %s \"%s\"", #call,                             \
                     pare_status_name(assert_status_), err->message, pare_status_name(expected),   \
                     part);                                                                        \
    } while (0)

/* Where the file first has `from`, it gets `to`; both of `length` bytes. */
void test_edit_file(const char *path, const void *from, const void *to, size_t length);
/* A new folder under $TMPDIR; the same for the whole process; removed at exit. */
const char *test_folder(void);
/* test_folder() + "/" + name; static ring of 16 buffers. */
const char *test_path(const char *name);
/* Writes bytes to a file in test_folder() and returns its path. */
const char *test_write(const char *name, const void *data, size_t n);

/* Removes a file, or a folder with all that is in it; what does not exist is no error. */
void test_remove(const char *path);
/* SHA-256 of a file, or over names and contents of a folder's files, as hex; static ring of 8. */
const char *test_hash(const char *path);

/* The data folder ($PARE_DATA, else ../shared/data beside the source tree), or NULL: then the test
 * prints that it skips. */
const char *test_data_folder(void);
/* Path of a file in the data folder, or NULL with a line that says so. */
const char *test_data(const char *name);

/* A real model by short name ("smollm2", "gemma3"): its path in the cache folder ($PARE_CACHE, else
 * ~/.cache/pare), or NULL with a line. scripts/models.sh fetches them. */
const char *test_model(const char *name);

/* Marks a plain computation that results are compared with: sanitizers need not look at it. */
#define TEST_PLAIN __attribute__((no_sanitize("address", "thread", "undefined")))

/* True where runs take several times as long as in gcc's build with its vector kernels: with a
 * sanitizer, another compiler, on the plain level. */
bool test_is_slow(void);
/* Sweeps over all places where a run may fail take each one of so many: all, or where runs are slow
 * every seventh, with a sanitizer every 31st. */
long test_fault_step(void);

/* A runtime with n threads and a level; fails the test when it cannot be made. */
pare_runtime *test_runtime(int n_threads, pare_isa isa);

#endif
