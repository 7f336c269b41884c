/* Files and folders where the system's calls fail, are cut off by signals and move less than they
 * were given: an operation is done as a whole, or fails with a line and leaves nothing behind. */
#include "support/call_faults.h"

#include "base/memory.h"
#include "base/os.h"

#include <stdio.h>
#include <stdlib.h>

enum { N = 3 << 20 };
static uint8_t *data; /* [N] */

static void set_fault(int kind, unsigned calls, long at, int error) {
    fault_kind = kind;
    fault_calls = calls;
    fault_at = at;
    fault_errno = error;
    atomic_store(n_calls, 0);
}

static int no_fault(void **state) {
    (void)state;
    set_fault(NEVER, CALL_ALL, 0, 0);
    return 0;
}

/* Of what stands in the folder: the names that begin so. */
static size_t n_beside(const char *begin) {
    char **names;
    size_t n, count = 0;
    assert_ok(pare_folder_list(&names, &n, test_folder(), err));
    for (size_t i = 0; i < n; i++) {
        count += strncmp(names[i], begin, strlen(begin)) == 0;
        pare_free(names[i]);
    }
    pare_free(names);
    return count;
}

/* Pieces that fill the buffer, one larger than it, a header at the end. */
static pare_status write_file(const char *path, pare_error *err) {
    pare_writer w;
    pare_status st = pare_writer_open(&w, path, err);
    if (st == PARE_OK) st = pare_writer_write(&w, "head", 4, err);
    if (st == PARE_OK) st = pare_writer_write(&w, data, 1000, err);
    if (st == PARE_OK) st = pare_writer_write(&w, data, N, err);
    if (st == PARE_OK) st = pare_writer_write_at(&w, "HEAD", 4, 0, err);
    if (st == PARE_OK) st = pare_writer_write(&w, data, 77, err);
    if (st == PARE_OK) st = pare_writer_commit(&w, err);
    pare_writer_discard(&w);
    return st;
}

static void assert_whole(const char *path) {
    char *got;
    size_t n;
    assert_ok(pare_file_read_all(&got, &n, path, 2 * N, err));
    assert_int_equal(n, 4 + 1000 + N + 77);
    assert_memory_equal(got, "HEAD", 4);
    assert_memory_equal(got + 4, data, 1000);
    assert_memory_equal(got + 1004, data, N);
    assert_memory_equal(got + 1004 + N, data, 77);
    pare_free(got);
}

static void cut_off(void **state) {
    (void)state;
    set_fault(INTERRUPT, CALL_ALL, 0, 0);
    assert_ok(write_file(test_path("cut"), err));
    assert_true(atomic_load(n_calls) > 60); /* halves of halves */
    assert_whole(test_path("cut"));
    assert_ok(pare_file_copy(test_path("copy"), test_path("cut"), err));
    assert_ok(pare_file_move(test_path("moved"), test_path("copy"), err));
    assert_whole(test_path("moved"));
    char *temporary;
    assert_ok(pare_folder_begin(&temporary, test_path("folder"), err));
    assert_ok(pare_folder_commit(temporary, test_path("folder"), err));
    assert_ok(pare_folder_make(test_path("a/b/c"), err));
    pare_free(temporary);
    char *got;
    size_t n;
    int in[2], old = dup(STDIN_FILENO);
    assert_int_equal(pipe(in), 0);
    assert_int_equal(syscall(SYS_write, in[1], data, 5000), 5000);
    syscall(SYS_close, in[1]);
    dup2(in[0], STDIN_FILENO);
    assert_ok(pare_stdin_read_all(&got, &n, N, err));
    dup2(old, STDIN_FILENO);
    assert_int_equal(n, 5000);
    assert_memory_equal(got, data, n);
    pare_free(got);
    pare_file f;
    assert_ok(pare_file_open(&f, test_path("cut"), err));
    uint8_t rest[8];
    assert_fails(pare_file_read_at(&f, rest, 8, f.size - 5, err), PARE_ERR_IO,
                 "the file ended at byte 3146809, expected 3 more");
    pare_file_close(&f);
}

/* Whatever the call: an error, nothing under the name, no temporary. */
static void writers_fail(void **state) {
    (void)state;
    set_fault(NEVER, CALL_ALL, 0, 0);
    assert_ok(write_file(test_path("written"), err));
    long total = atomic_load(n_calls);
    assert_true(total > 8);
    pare_path_remove(test_path("written"));
    for (int kind = FAIL_ONCE; kind <= FAIL_FROM; kind++)
        for (long k = 1; k <= total; k++) {
            pare_error err = {0};
            set_fault(kind, CALL_ALL, k, k % 2 ? EIO : ENOSPC);
            pare_status st = write_file(test_path("written"), &err);
            no_fault(NULL);
            if (st != PARE_ERR_IO || !strstr(err.message, "written: "))
                fail_msg("call %ld: found %s \"%s\"", k, pare_status_name(st), err.message);
            if (n_beside("written")) fail_msg("call %ld: something is left", k);
        }
}

static void a_close_fails(void **state) {
    (void)state;
    set_fault(FAIL_ONCE, CALL_CLOSE, 1, EIO);
    assert_fails(write_file(test_path("closed"), err), PARE_ERR_IO,
                 "closed: close: Input/output error");
    assert_int_equal(n_beside("closed"), 0);
    no_fault(NULL);
    assert_ok(write_file(test_path("closed"), err));
    assert_whole(test_path("closed"));
}

static void renames_fail(void **state) {
    (void)state;
    static const int errors[] = {EXDEV, EACCES};
    for (int i = 0; i < 2; i++) {
        test_write("renamed", "old", 3);
        set_fault(FAIL_ONCE, CALL_RENAME, 1, errors[i]);
        assert_fails(write_file(test_path("renamed"), err), PARE_ERR_IO,
                     i ? "renamed: rename: Permission denied"
                       : "renamed: rename: Invalid cross-device link");
        assert_int_equal(n_beside("renamed"), 1); /* the old one */
        char *temporary;
        assert_ok(pare_folder_begin(&temporary, test_path("later"), err));
        set_fault(FAIL_ONCE, CALL_RENAME, 1, errors[i]);
        assert_fails(pare_folder_commit(temporary, test_path("later"), err), PARE_ERR_IO,
                     "later: rename");
        assert_false(pare_path_exists(test_path("later")) || pare_path_exists(temporary));
        pare_free(temporary);
    }
}

/* A folder whose name is not sure to stay is none: the next run may have it. */
static void folder_syncs_fail(void **state) {
    (void)state;
    for (long k = 1; k <= 2; k++) {
        char *temporary, *inner;
        no_fault(NULL);
        assert_ok(pare_folder_begin(&temporary, test_path("synced"), err));
        inner = pare_path_join(temporary, "file");
        assert_ok(write_file(inner, err));
        set_fault(FAIL_ONCE, CALL_SYNC, k, EIO);
        assert_fails(pare_folder_commit(temporary, test_path("synced"), err), PARE_ERR_IO,
                     "synced: sync");
        assert_false(pare_path_exists(test_path("synced")) || pare_path_exists(temporary));
        pare_free(inner);
        pare_free(temporary);
    }
}

/* Folders in whose place no rename can put another are told before the work, not behind it. */
static void places_of_folders(void **state) {
    (void)state;
    assert_ok(pare_folder_make(test_path("empty"), err));
    assert_ok(pare_folder_check(test_path("empty"), err));
    assert_ok(pare_folder_check(test_path("empty//"), err));
    static const char *const nameless[] = {"empty/.", "empty/..", "new/.", "new/..", "new/./"};
    for (size_t i = 0; i < sizeof nameless / sizeof *nameless; i++) {
        assert_fails(pare_folder_check(test_path(nameless[i]), err), PARE_ERR_INPUT, "expected ");
        assert_false(pare_path_exists(test_path("new")));
    }
    assert_int_equal(symlink(test_path("empty"), test_path("link")), 0);
    assert_fails(pare_folder_check(test_path("link"), err), PARE_ERR_INPUT, "found a link");
    assert_fails(pare_folder_check(test_path("link/"), err), PARE_ERR_INPUT, "found a link");
    static const char *const mounts[] = {"/dev/mqueue", "/dev/hugepages", "/sys/fs/bpf"};
    for (size_t i = 0; i < 3; i++) {
        struct stat here, above;
        char *parent = pare_path_join(mounts[i], "..");
        pare_error err = {0};
        if (stat(mounts[i], &here) == 0 && stat(parent, &above) == 0 &&
            here.st_dev != above.st_dev) /* empty or not, readable or not */
            assert_int_equal(pare_folder_check(mounts[i], &err), PARE_ERR_INPUT);
        pare_free(parent);
    }
}

/* What a lock's file says counts also where it comes in pieces; where it cannot be read, or no lock
 * can be had, nobody knows. */
static void locks(void **state) {
    (void)state;
    const char *path = test_write("lock", "process 1 on elsewhere\n", 23);
    pare_lock lock;
    set_fault(INTERRUPT, CALL_ALL, 0, 0);
    assert_fails(pare_lock_take(&lock, path, err), PARE_ERR_ARG, "process 1 on elsewhere");
    set_fault(FAIL_ONCE, CALL_READ, 1, EIO);
    assert_fails(pare_lock_take(&lock, path, err), PARE_ERR_IO, "lock: read");
    path = test_write("lock", "", 0);
    set_fault(FAIL_ONCE, CALL_LOCK, 1, ENOLCK);
    assert_fails(pare_lock_take(&lock, path, err), PARE_ERR_IO, "lock: lock: No locks available");
    set_fault(INTERRUPT, CALL_ALL, 0, 0);
    assert_ok(pare_lock_take(&lock, path, err));
    char *said;
    size_t n;
    assert_ok(pare_file_read_all(&said, &n, path, 1000, err));
    assert_true(n > 10 && said[n - 1] == '\n');
    pare_free(said);
    pare_lock other;
    assert_fails(pare_lock_take(&other, path, err), PARE_ERR_ARG, "held by process");
    pare_lock_release(&lock);
}

int main(void) {
    call_faults_init();
    data = malloc(N);
    assert_non_null(data);
    for (size_t i = 0; i < N; i++) data[i] = (uint8_t)(i * i >> 7);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(cut_off, no_fault),
        cmocka_unit_test_teardown(writers_fail, no_fault),
        cmocka_unit_test_teardown(a_close_fails, no_fault),
        cmocka_unit_test_teardown(renames_fail, no_fault),
        cmocka_unit_test_teardown(folder_syncs_fail, no_fault),
        cmocka_unit_test_teardown(places_of_folders, no_fault),
        cmocka_unit_test_teardown(locks, no_fault),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    return failed;
}
