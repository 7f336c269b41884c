/* Base: checked sizes, arena, tables, checksums, random numbers, files, the team of threads. */
#include "support/test.h"

#include "base/cpu.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/os.h"
#include "base/rng.h"
#include "base/sha256_blocks.h"
#include "base/team.h"

#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- memory --- */

static void checked_sizes(void **state) {
    (void)state;
    size_t n = 0;
    assert_true(pare_add_size(&n, SIZE_MAX - 1, 1) && n == SIZE_MAX);
    assert_false(pare_add_size(&n, SIZE_MAX, 1));
    assert_true(pare_mul_size(&n, (size_t)1 << 32, ((size_t)1 << 32) - 1));
    assert_false(pare_mul_size(&n, (size_t)1 << 32, (size_t)1 << 32));
    assert_true(pare_mul_size(&n, 0, SIZE_MAX) && n == 0);
    assert_true(pare_align_size(&n, 0, 64) && n == 0);
    assert_true(pare_align_size(&n, 1, 64) && n == 64);
    assert_true(pare_align_size(&n, 64, 64) && n == 64);
    assert_true(pare_align_size(&n, SIZE_MAX - 63, 64) && n == SIZE_MAX - 63);
    assert_false(pare_align_size(&n, SIZE_MAX - 62, 64));
}

static void allocations(void **state) {
    (void)state;
    assert_null(pare_calloc(SIZE_MAX / 2, 3));
    assert_null(pare_malloc(SIZE_MAX / 2, 3));
    void *p = pare_malloc(0, 8);
    assert_non_null(p);
    assert_null(pare_realloc(p, SIZE_MAX / 2, 3)); /* the old block stays */
    p = pare_realloc(p, 3, 8);
    assert_non_null(p);
    pare_free(p);
    uint8_t *z = pare_calloc(100, 3);
    for (size_t i = 0; i < 300; i++) assert_int_equal(z[i], 0);
    pare_free(z);
    char *s = pare_strndup("abcdef", 3), *t = pare_asprintf("%d-%s", 7, "x");
    assert_string_equal(s, "abc");
    assert_string_equal(t, "7-x");
    assert_true(pare_ends_with(t, "-x") && pare_ends_with(t, "") && pare_ends_with(t, "7-x"));
    assert_false(pare_ends_with(t, "07-x") || pare_ends_with(t, "7-"));
    pare_free(s);
    pare_free(t);
    pare_free(NULL);
    size_t sizes[] = {0, 1, 4096, (size_t)5 << 20};
    for (size_t i = 0; i < 4; i++) {
        uint8_t *b = pare_big_alloc(sizes[i]);
        assert_non_null(b);
        assert_int_equal((uintptr_t)b % 64, 0);
        for (size_t k = 0; k < sizes[i]; k += 997) assert_int_equal(b[k], 0);
        pare_big_free(b, sizes[i]);
    }
    assert_null(pare_big_alloc(SIZE_MAX - 10));
    pare_big_free(NULL, 100);
    assert_true(pare_peak_rss_bytes() > 100000);
}

static void arena_is_planned_then_filled(void **state) {
    (void)state;
    pare_arena plan = {NULL, SIZE_MAX, 0, 0};
    assert_null(pare_arena_alloc(&plan, 10, 4));
    assert_null(pare_arena_alloc(&plan, 1, 65));
    size_t mark = plan.used;
    assert_null(pare_arena_alloc(&plan, 3, 100));
    plan.used = mark;
    assert_null(pare_arena_alloc(&plan, 0, 8));
    assert_int_equal(plan.peak, 64 + 128 + 320);
    uint8_t *block = pare_big_alloc(plan.peak);
    pare_arena a = {block, plan.peak, 0, 0};
    assert_ptr_equal(pare_arena_alloc(&a, 10, 4), block);
    assert_ptr_equal(pare_arena_alloc(&a, 1, 65), block + 64);
    assert_ptr_equal(pare_arena_alloc(&a, 3, 100), block + 192);
    assert_null(pare_arena_alloc(&a, 1, 1)); /* full */
    assert_null(pare_arena_alloc(&a, SIZE_MAX, 2));
    assert_null(pare_arena_alloc(&a, SIZE_MAX - 10, 1));
    assert_int_equal(a.used, plan.peak);
    pare_big_free(block, plan.peak);
}

static void tables(void **state) {
    (void)state;
    enum { N = 5000 };
    pare_table t = {0};
    char(*keys)[16] = malloc(N * sizeof *keys);
    assert_int_equal(pare_table_get(&t, "a", 1), -1);
    for (int i = 0; i < N; i++) {
        snprintf(keys[i], sizeof keys[i], "key%d", i);
        assert_int_equal(pare_table_add(&t, keys[i], strlen(keys[i]), i), 1);
    }
    assert_int_equal(pare_table_add(&t, "key17", 5, 99), 0);
    assert_int_equal(pare_table_add(&t, "", 0, 5), 1);
    for (int i = 0; i < N; i++) assert_int_equal(pare_table_get(&t, keys[i], strlen(keys[i])), i);
    assert_int_equal(pare_table_get(&t, "", 0), 5);
    assert_int_equal(pare_table_get(&t, "key5000", 7), -1);
    assert_int_equal(pare_table_get(&t, "key17x", 5), 17); /* length decides, not a NUL */
    pare_table_free(&t);
    pare_table_free(NULL);
    free(keys);
}

/* --- errors --- */

static void errors(void **state) {
    (void)state;
    pare_error err = {0};
    assert_int_equal(pare_fail(&err, PARE_ERR_INPUT, "a\n%s\x1b[2J", "b\t"), PARE_ERR_INPUT);
    assert_string_equal(err.message, "a?b??[2J");
    assert_int_equal(err.status, PARE_ERR_INPUT);
    assert_int_equal(pare_fail_prefix(&err, "file %d", 3), PARE_ERR_INPUT);
    assert_string_equal(err.message, "file 3: a?b??[2J");
    assert_int_equal(pare_fail(NULL, PARE_ERR_IO, "x"), PARE_ERR_IO);
    char longer[3000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    pare_fail(&err, PARE_ERR_INPUT, "%s", longer);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    pare_fail_prefix(&err, "%s", longer);
    assert_true(strlen(err.message) < sizeof err.message);
    assert_int_equal(pare_status_exit_code(PARE_OK), 0);
    assert_int_equal(pare_status_exit_code(PARE_ERR_IO), 1);
    assert_int_equal(pare_status_exit_code(PARE_ERR_UNSUPPORTED), 2);
    assert_int_equal(pare_status_exit_code(PARE_ERR_INTERRUPTED), 130);
    assert_string_equal(pare_status_name(PARE_ERR_NOMEM), "PARE_ERR_NOMEM");
}

/* --- checksums and random numbers: published vectors --- */

static void crc32_vectors(void **state) {
    (void)state;
    assert_int_equal(pare_crc32(0, "", 0), 0);
    assert_int_equal(pare_crc32(0, "123456789", 9), 0xcbf43926);
    for (size_t cut = 0; cut <= 9; cut++) /* in two pieces */
        assert_int_equal(pare_crc32(pare_crc32(0, "123456789", cut), &"123456789"[cut], 9 - cut),
                         0xcbf43926);
    static const char fox[] = "The quick brown fox jumps over the lazy dog";
    assert_int_equal(pare_crc32(0, fox, strlen(fox)), 0x414fa339);
}

/* Of any length from any address, begun anew and gone on with: bit by bit. */
static void crc32_lengths(void **state) {
    (void)state;
    static uint8_t data[420];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(pare_rng_uniform(4, 3, i) * 256);
    for (size_t at = 0; at < 20; at++) {
        uint32_t first = at % 2 ? 0xdeadbeef : 0, c = ~first;
        for (size_t n = 0; n <= 400; n++) {
            uint8_t *copy = malloc(n + 1); /* a read past the end shows under a sanitizer */
            memcpy(copy, data + at, n);
            assert_int_equal(pare_crc32(first, copy, n), ~c);
            free(copy);
            c ^= data[at + n];
            for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
        }
    }
}

static void sha_hex(char hex[65], const void *data, size_t n, size_t piece) {
    pare_sha256 h;
    pare_sha256_init(&h);
    for (size_t i = 0; i < n; i += piece)
        pare_sha256_update(&h, (const char *)data + i, n - i < piece ? n - i : piece);
    pare_sha256_hex(&h, hex);
}

static void sha256_vectors(void **state) {
    (void)state;
    static const char two_blocks[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    char hex[65], *million = malloc(1000000);
    memset(million, 'a', 1000000);
    sha_hex(hex, "", 0, 1);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha_hex(hex, "abc", 3, 3);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    for (size_t piece = 1; piece < 57; piece++) {
        sha_hex(hex, two_blocks, 56, piece);
        assert_string_equal(hex,
                            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    }
    sha_hex(hex, million, 1000000, 999);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(million);
}

/* The processor's rounds and plain ones, of any number of blocks from any address. */
static void sha256_by_instructions(void **state) {
    (void)state;
    enum { N = 9 };
    static uint8_t data[64 * N + 64];
    if (!(pare_cpu_features() & PARE_CPU_SHA)) skip();
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(pare_rng_uniform(4, 2, i) * 256);
    for (size_t n = 0; n <= N; n++)
        for (size_t at = 0; at < 20; at += 7) {
            uint32_t a[8], b[8];
            for (size_t i = 0; i < 8; i++) a[i] = b[i] = (uint32_t)(i * 0x9E3779B9u + n);
            pare_sha256_blocks_plain(a, data + at, n);
            pare_sha256_blocks_sha(b, data + at, n);
            assert_memory_equal(a, b, sizeof a);
        }
}

/* Random123's known answers for philox4x32-10: counter (index, stream), key (seed). */
static void philox_vectors(void **state) {
    (void)state;
    static const struct {
        uint64_t seed, stream, index;
        uint32_t out[4];
    } known[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x0370734413198a2e,
         0x85a308d3243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        uint32_t out[4];
        pare_philox(out, known[i].seed, known[i].stream, known[i].index);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

static void random_distributions(void **state) {
    (void)state;
    enum { N = 100000 };
    double sum = 0, sum2 = 0, normal = 0, normal2 = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = (double)pare_rng_uniform(1, 2, i), v = (double)pare_rng_normal(1, 3, i);
        assert_true(u >= 0 && u < 1);
        assert_true(isfinite(v));
        sum += u;
        sum2 += u * u;
        normal += v;
        normal2 += v * v;
    }
    /* five standard errors: sqrt(1/12), sqrt(4/45), 1, sqrt(2), each over sqrt(N) */
    double root = sqrt((double)N);
    assert_true(fabs(sum / N - 0.5) < 5 * 0.2887 / root);
    assert_true(fabs(sum2 / N - 1.0 / 3) < 5 * 0.2981 / root);
    assert_true(fabs(normal / N) < 5 * 1 / root);
    assert_true(fabs(normal2 / N - 1) < 5 * 1.4142 / root);
    assert_true(pare_rng_uniform(1, 2, 3) == pare_rng_uniform(1, 2, 3));
    assert_true(pare_rng_uniform(1, 2, 3) != pare_rng_uniform(2, 2, 3));
    assert_true(pare_rng_uniform(1, 2, 3) != pare_rng_uniform(1, 3, 3));
}

/* --- files --- */

static void only_regular_files_open(void **state) {
    (void)state;
    pare_file f;
    const char *fifo = test_path("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_fails(pare_file_open(&f, fifo, err), PARE_ERR_INPUT, "found a pipe");
    assert_fails(pare_file_open(&f, test_folder(), err), PARE_ERR_INPUT, "found a folder");
    assert_fails(pare_file_open(&f, "/dev/zero", err), PARE_ERR_INPUT, "found a device");
    assert_fails(pare_file_open(&f, test_path("none"), err), PARE_ERR_INPUT, "none: open:");
    assert_int_equal(f.fd, -1);
    pare_file_close(&f);
    const char *path = test_write("ten", "0123456789", 10);
    assert_ok(pare_file_open(&f, path, err));
    assert_int_equal(f.size, 10);
    char text[11] = {0};
    assert_ok(pare_file_read_at(&f, text, 4, 6, err));
    assert_string_equal(text, "6789");
    assert_ok(pare_file_read_at(&f, text, 0, 10, err));
    assert_fails(pare_file_read_at(&f, text, 5, 6, err), PARE_ERR_IO,
                 "ended at byte 10, expected 1");
    pare_file_close(&f);
    pare_file_close(&f);
    pare_file_close(NULL);
}

static void whole_files(void **state) {
    (void)state;
    char *data;
    size_t n;
    const char *path = test_write("five", "a\0bcd", 5);
    assert_ok(pare_file_read_all(&data, &n, path, 5, err));
    assert_int_equal(n, 5);
    assert_memory_equal(data, "a\0bcd", 6);
    pare_free(data);
    assert_fails(pare_file_read_all(&data, &n, path, 4, err), PARE_ERR_INPUT,
                 "found 5 bytes, expected at most 4");
    assert_null(data);
    assert_ok(pare_file_read_all(&data, &n, test_write("zero", "", 0), 0, err));
    assert_int_equal(n, 0);
    assert_string_equal(data, "");
    pare_free(data);
    const char *copy = test_path("copy");
    assert_ok(pare_file_copy(copy, path, err));
    assert_ok(pare_file_read_all(&data, &n, copy, 5, err));
    assert_memory_equal(data, "a\0bcd", 5);
    pare_free(data);
    assert_true(pare_same_file(copy, copy));
    assert_false(pare_same_file(copy, path));
    assert_false(pare_same_file(copy, test_path("none")));
    char *resolved = pare_path_resolve(test_path("x/.."));
    assert_null(resolved); /* x does not exist */
    assert_int_equal(symlink("five", test_path("link")), 0);
    resolved = pare_path_resolve(test_path("link"));
    assert_non_null(strstr(resolved, "/five"));
    pare_free(resolved);
    pare_path_remove(copy);
    assert_false(pare_path_exists(copy));
    pare_path_remove(copy);
    char *joined = pare_path_join("a/", "b"), *joined2 = pare_path_join("a", "b");
    assert_string_equal(joined, "a/b");
    assert_string_equal(joined2, "a/b");
    pare_free(joined);
    pare_free(joined2);
}

/* How many files of the test's folder have names with that text. */
static size_t count_files(const char *text) {
    char **names;
    size_t n, found = 0;
    assert_ok(pare_folder_list(&names, &n, test_folder(), err));
    for (size_t i = 0; i < n; i++) {
        if (i) assert_true(strcmp(names[i - 1], names[i]) < 0);
        found += strstr(names[i], text) != NULL;
    }
    for (size_t i = 0; i < n; i++) pare_free(names[i]);
    pare_free(names);
    return found;
}

/* Into the room of an older file: the same file by its inode, as long as what was written; without
 * one, or where the older one is dropped, as any. */
static void writers_take_room(void **state) {
    (void)state;
    const size_t old[] = {0, 100, 3 << 20}, n = 2 << 20;
    uint8_t *data = malloc(n), *before = malloc(3 << 20);
    for (size_t i = 0; i < n; i++) data[i] = (uint8_t)(pare_rng_uniform(7, 1, i) * 256);
    memset(before, 'x', 3 << 20);
    char path[600], spare[600];
    snprintf(path, sizeof path, "%s", test_path("in-room"));
    for (int there = 0; there < 2; there++)
        for (size_t i = 0; i < 3; i++) {
            struct stat was = {0}, is;
            pare_writer w;
            snprintf(spare, sizeof spare, "%s", test_path("room"));
            if (there) {
                test_write("room", before, old[i]);
                assert_int_equal(stat(spare, &was), 0);
            }
            assert_ok(pare_writer_open_over(&w, path, spare, err));
            assert_false(pare_path_exists(spare));
            assert_false(pare_path_exists(path));
            assert_ok(pare_writer_write(&w, data, n, err));
            assert_ok(pare_writer_commit(&w, err));
            char *all;
            size_t size;
            assert_ok(pare_file_read_all(&all, &size, path, 1 << 30, err));
            assert_int_equal(size, n);
            assert_memory_equal(all, data, n);
            assert_int_equal(stat(path, &is), 0);
            if (there) assert_true(is.st_ino == was.st_ino);
            pare_free(all);
            test_remove(path);
        }
    pare_writer w;
    test_write("room", before, 100);
    assert_ok(pare_writer_open_over(&w, path, spare, err));
    char *temporary = strdup(w.temporary);
    pare_writer_discard(&w);
    assert_false(pare_path_exists(temporary) || pare_path_exists(path) || pare_path_exists(spare));
    free(temporary);
    free(data);
    free(before);
}

static void writers_are_atomic(void **state) {
    (void)state;
    const char *path = test_path("atomic.bin");
    pare_writer w;
    assert_ok(pare_writer_open(&w, path, err));
    /* around the size of the buffer, so that all paths are taken */
    size_t total = 0, pieces[] = {3, 1048570, 3, 0, 2000000, 1, 1048576, 5};
    uint8_t *data = malloc(2000000);
    for (size_t i = 0; i < 2000000; i++) data[i] = (uint8_t)(i * 7 + i / 999);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        assert_ok(pare_writer_write(&w, data, pieces[i], err));
        total += pieces[i];
        assert_int_equal(w.offset, total);
    }
    assert_ok(pare_writer_pad(&w, 5000, err));
    assert_ok(pare_writer_write_at(&w, "HEAD", 4, 1, err));
    assert_ok(pare_writer_write(&w, "tail", 4, err));
    total += 5004;
    assert_false(pare_path_exists(path));
    assert_int_equal(count_files("atomic.bin"), 1); /* the temporary */
    assert_ok(pare_writer_commit(&w, err));
    pare_writer_discard(&w); /* does nothing any more */
    assert_int_equal(count_files("atomic.bin"), 1);
    char *back;
    size_t n, at = 0;
    assert_ok(pare_file_read_all(&back, &n, path, 1 << 30, err));
    assert_int_equal(n, total);
    assert_memory_equal(back + 1, "HEAD", 4);
    memcpy(back, data, 3); /* what the header overwrote */
    memcpy(back + 3, data, 3);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        assert_memory_equal(back + at, data, pieces[i]);
        at += pieces[i];
    }
    for (size_t i = 0; i < 5000; i++) assert_int_equal(back[at + i], 0);
    assert_memory_equal(back + at + 5000, "tail", 4);
    pare_free(back);
    free(data);

    /* dropped: the old file stays as it was, and nothing else */
    assert_ok(pare_writer_open(&w, path, err));
    assert_ok(pare_writer_write(&w, "new", 3, err));
    pare_writer_discard(&w);
    assert_int_equal(count_files("atomic.bin"), 1);
    pare_file f;
    assert_ok(pare_file_open(&f, path, err));
    assert_int_equal(f.size, total);
    pare_file_close(&f);
    assert_fails(pare_writer_open(&w, test_folder(), err), PARE_ERR_INPUT, "found a folder");
    assert_fails(pare_writer_open(&w, test_path("no/such/x"), err), PARE_ERR_INPUT, "create");
    pare_writer_discard(&w);
    pare_writer_discard(&(pare_writer){0});
}

/* What a process that was killed left of a file is removed by the next writer of that name; what
 * another one is writing, or has called alike, is not. */
static void writers_remove_what_was_left(void **state) {
    (void)state;
    const char *path = test_path("left.bin");
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        pare_writer w;
        bool ok = pare_writer_open(&w, path, NULL) == PARE_OK &&
                  pare_writer_write(&w, "half", 4, NULL) == PARE_OK;
        kill(getpid(), ok ? SIGKILL : SIGTERM);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    char *stale = pare_asprintf("%s.tmp-%ld", path, (long)pid),
         *used = pare_asprintf("%s.tmp-%ld", path, (long)getppid()),
         *longer = pare_asprintf("%s.tmp-%ldx", path, (long)pid);
    assert_true(pare_path_exists(stale));
    FILE *files[] = {fopen(used, "w"), fopen(longer, "w")};
    for (size_t i = 0; i < 2; i++) assert_true(files[i] && fclose(files[i]) == 0);
    pare_writer w;
    assert_ok(pare_writer_open(&w, path, err));
    assert_false(pare_path_exists(stale));
    assert_true(pare_path_exists(used) && pare_path_exists(longer));
    assert_ok(pare_writer_write(&w, "whole", 5, err));
    assert_ok(pare_writer_commit(&w, err));
    assert_true(pare_path_exists(path));
    assert_true(unlink(used) == 0 && unlink(longer) == 0);
    pare_free(stale);
    pare_free(used);
    pare_free(longer);
}

static void folders_are_atomic(void **state) {
    (void)state;
    const char *target = test_path("out");
    char *temporary, *file;
    assert_ok(pare_folder_begin(&temporary, target, err));
    assert_true(pare_path_is_folder(temporary));
    assert_false(pare_path_exists(target));
    file = pare_path_join(temporary, "a");
    pare_writer w;
    assert_ok(pare_writer_open(&w, file, err));
    assert_ok(pare_writer_commit(&w, err));
    assert_ok(pare_folder_commit(temporary, target, err));
    assert_false(pare_path_exists(temporary));
    assert_true(pare_path_exists(test_path("out/a")));
    pare_free(temporary);
    pare_free(file);
    /* what a user keeps there is never replaced; a file neither; an empty folder is taken */
    assert_fails(pare_folder_begin(&temporary, target, err), PARE_ERR_INPUT,
                 "found a folder with files, expected a new or empty folder");
    assert_fails(pare_folder_begin(&temporary, test_write("file", "", 0), err), PARE_ERR_INPUT,
                 "found a file");
    target = test_path("out2");
    assert_int_equal(mkdir(target, 0700), 0);
    assert_ok(pare_folder_begin(&temporary, test_path("out2/"), err));
    assert_ok(pare_folder_commit(temporary, test_path("out2/"), err));
    assert_true(pare_path_is_folder(target));
    pare_free(temporary);
    /* a folder with files appeared meanwhile */
    target = test_path("out3");
    assert_ok(pare_folder_begin(&temporary, target, err));
    assert_int_equal(mkdir(target, 0700), 0);
    test_write("out3/x", "", 0);
    assert_fails(pare_folder_commit(temporary, target, err), PARE_ERR_INPUT, "with files");
    pare_folder_discard(temporary);
    assert_false(pare_path_exists(temporary));
    pare_free(temporary);
    pare_folder_discard(NULL);
}

/* --- threads --- */

enum { ITEMS = 1009, ROUNDS = 200 };

typedef struct team_job {
    atomic_int taken[ITEMS], shared[ITEMS], near[ROUNDS], ran[7], broken;
    int plain[ROUNDS]; /* written by one thread, read by all after the barrier */
} team_job;

static void team_body(pare_worker *w, void *arg) {
    team_job *job = arg;
    atomic_fetch_add(&job->ran[w->id], 1);
    for (size_t i; (i = pare_take(w, 10)) < ITEMS;)
        for (size_t k = i; k < i + 10 && k < ITEMS; k++) atomic_fetch_add(&job->taken[k], 1);
    pare_barrier(w);
    size_t begin, end;
    pare_share(w, ITEMS, 16, &begin, &end);
    if (begin % 16 && begin != ITEMS) atomic_store(&job->broken, 1);
    for (size_t k = begin; k < end; k++) atomic_fetch_add(&job->shared[k], 1);
    for (int round = 0; round < ROUNDS; round++) {
        if (round % w->n == w->id) job->plain[round] = round + 1;
        pare_barrier(w);
        if (job->plain[round] != round + 1) atomic_store(&job->broken, 1);
        /* the next dynamic loop begins at 0 again */
        size_t mine = pare_take(w, 1);
        if (mine >= (size_t)w->n) atomic_store(&job->broken, 1);
        pare_barrier(w);
    }
}

/* Loops of neighbours, one after the other without a barrier; one worker is late, so that others
 * take its share, and finds it gone. */
static void near_body(pare_worker *w, void *arg) {
    team_job *job = arg;
    for (size_t round = 0; round < ROUNDS; round++) {
        size_t n = round % 50, item, last = 0;
        if (round % 40 == 7 && w->id == w->n - 1) usleep(300);
        for (pare_near loop = {0}; pare_take_near(w, &loop, n, &item);) {
            if (item >= n) atomic_store(&job->broken, 1);
            if (loop.at == 0 && item < last) atomic_store(&job->broken, 1);
            last = item;
            atomic_fetch_add(&job->near[round], 1 + (int)item);
        }
    }
    pare_barrier(w);
    for (size_t round = 0; round < ROUNDS; round++) {
        int n = (int)round % 50;
        if (atomic_load(&job->near[round]) != n * (n + 1) / 2) atomic_store(&job->broken, 1);
    }
}

static void count_range(void *arg, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) atomic_fetch_add(&((atomic_int *)arg)[i], 1);
}

static void teams(void **state) {
    (void)state;
    static const int counts[] = {1, 2, 3, 7};
    for (size_t c = 0; c < 4; c++) {
        pare_runtime *rt = test_runtime(counts[c], PARE_ISA_REF);
        assert_int_equal(pare_runtime_threads(rt), counts[c]);
        team_job *job = calloc(1, sizeof *job);
        pare_team_run(rt, team_body, job);
        for (int again = 0; again < 20; again++) {
            for (size_t round = 0; round < ROUNDS; round++) atomic_store(&job->near[round], 0);
            pare_team_run(rt, near_body, job);
        }
        for (int i = 0; i < ITEMS; i++) {
            assert_int_equal(atomic_load(&job->taken[i]), 1);
            assert_int_equal(atomic_load(&job->shared[i]), 1);
        }
        for (int i = 0; i < 7; i++)
            assert_int_equal(atomic_load(&job->ran[i]), i < counts[c] ? 1 : 0);
        assert_int_equal(atomic_load(&job->broken), 0);
        static const size_t chunks[] = {0, 1, 7, 64, 1008, 1009, 5000};
        for (size_t k = 0; k < 7; k++) {
            for (size_t n = 0; n <= ITEMS; n += n == 0 ? 1 : n == 1 ? 62 : 946) {
                atomic_int *hits = calloc(ITEMS, sizeof *hits);
                pare_parallel_for(rt, n, chunks[k], count_range, hits);
                for (size_t i = 0; i < ITEMS; i++)
                    assert_int_equal(atomic_load(&hits[i]), i < n ? 1 : 0);
                free(hits);
            }
        }
        free(job);
        pare_runtime_free(rt);
    }
}

static void shares_cover(void **state) {
    (void)state;
    static const size_t grains_of[] = {1, 2, 5, 16, 32};
    for (int threads = 1; threads <= 9; threads++)
        for (size_t n = 0; n < 70; n++)
            for (size_t k = 0; k < 5; k++) {
                size_t grain = grains_of[k];
                size_t next = 0, largest = 0, smallest = SIZE_MAX;
                for (int id = 0; id < threads; id++) {
                    pare_worker w = {.id = id, .n = threads};
                    size_t begin, end;
                    pare_share(&w, n, grain, &begin, &end);
                    assert_int_equal(begin, next);
                    assert_true(end >= begin && (end % grain == 0 || end == n));
                    next = end;
                    size_t grains = (end - begin + grain - 1) / grain;
                    if (grains > largest) largest = grains;
                    if (grains < smallest) smallest = grains;
                }
                assert_int_equal(next, n);
                assert_true(largest - smallest <= 1);
            }
}

static void runtimes(void **state) {
    (void)state;
    pare_runtime *rt = NULL;
    pare_options o = pare_options_default();
    o.n_threads = -1;
    assert_fails(pare_runtime_create(&rt, &o, err), PARE_ERR_ARG, "threads: found -1");
    o.n_threads = 1025;
    assert_fails(pare_runtime_create(&rt, &o, err), PARE_ERR_ARG, "expected 0 to 1024");
    assert_null(rt);
    o = pare_options_default();
    assert_ok(pare_runtime_create(&rt, &o, err));
    assert_true(pare_runtime_threads(rt) >= 1);
    assert_true(pare_runtime_isa(rt) <= pare_isa_best());
    pare_runtime_free(rt);
    pare_runtime_free(NULL);
    pare_isa isa;
    for (int i = 0; i < PARE_ISA_COUNT; i++) {
        assert_ok(pare_isa_parse(&isa, pare_isa_name((pare_isa)i), err));
        assert_int_equal(isa, i);
    }
    assert_fails(pare_isa_parse(&isa, "sse9", err), PARE_ERR_ARG, "avx2");
    char *old = getenv("PARE_ISA") ? strdup(getenv("PARE_ISA")) : NULL;
    setenv("PARE_ISA", "ref", 1);
    assert_ok(pare_runtime_create(&rt, &o, err));
    assert_int_equal(pare_runtime_isa(rt), PARE_ISA_REF);
    pare_runtime_free(rt);
    setenv("PARE_ISA", "bogus", 1);
    assert_fails(pare_runtime_create(&rt, &o, err), PARE_ERR_ARG, "$PARE_ISA");
    if (old)
        setenv("PARE_ISA", old, 1);
    else
        unsetenv("PARE_ISA");
    free(old);
    assert_true(pare_isa_best() < PARE_ISA_AVX2 || (pare_cpu_features() & PARE_CPU_AVX2));
    assert_non_null(pare_cpu_name());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checked_sizes),
        cmocka_unit_test(allocations),
        cmocka_unit_test(arena_is_planned_then_filled),
        cmocka_unit_test(tables),
        cmocka_unit_test(errors),
        cmocka_unit_test(crc32_vectors),
        cmocka_unit_test(crc32_lengths),
        cmocka_unit_test(sha256_vectors),
        cmocka_unit_test(sha256_by_instructions),
        cmocka_unit_test(philox_vectors),
        cmocka_unit_test(random_distributions),
        cmocka_unit_test(only_regular_files_open),
        cmocka_unit_test(whole_files),
        cmocka_unit_test(writers_are_atomic),
        cmocka_unit_test(writers_take_room),
        cmocka_unit_test(writers_remove_what_was_left),
        cmocka_unit_test(folders_are_atomic),
        cmocka_unit_test(teams),
        cmocka_unit_test(shares_cover),
        cmocka_unit_test(runtimes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
