#include "support/test.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/os.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One test of a program: its name, or a pattern with * and ?. */
__attribute__((constructor)) static void filter_tests(void) {
    const char *pattern = getenv("PARE_TEST");
    if (pattern && *pattern) cmocka_set_test_filter(pattern);
}

static char folder[512];

void test_remove(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) {
        unlink(path);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        char child[1024];
        snprintf(child, sizeof child, "%s/%s", path, e->d_name);
        struct stat info;
        if (lstat(child, &info) == 0 && S_ISDIR(info.st_mode))
            test_remove(child);
        else
            unlink(child);
    }
    closedir(dir);
    rmdir(path);
}

static void remove_folder(void) { test_remove(folder); }

const char *test_folder(void) {
    if (!folder[0]) {
        const char *base = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%s/pare-test-XXXXXX", base && *base ? base : "/tmp");
        if (!mkdtemp(folder)) {
            perror(folder);
            exit(1);
        }
        atexit(remove_folder);
    }
    return folder;
}

const char *test_path(const char *name) {
    static char ring[16][1024];
    static int next;
    char *path = ring[next++ % 16];
    snprintf(path, sizeof ring[0], "%s/%s", test_folder(), name);
    return path;
}

const char *test_write(const char *name, const void *data, size_t n) {
    const char *path = test_path(name);
    FILE *f = fopen(path, "wb");
    if (!f || (n && fwrite(data, 1, n, f) != n) || fclose(f) != 0) {
        perror(path);
        exit(1);
    }
    return path;
}

static void hash_file(pare_sha256 *h, const char *path) {
    char *data;
    size_t size;
    assert_ok(pare_file_read_all(&data, &size, path, 1 << 28, err));
    pare_sha256_update(h, data, size);
    pare_free(data);
}

const char *test_hash(const char *path) {
    static char ring[8][65];
    static int next;
    char *out = ring[next++ % 8];
    char **names = NULL;
    size_t n = 0;
    pare_sha256 h;
    pare_sha256_init(&h);
    if (pare_path_is_folder(path))
        assert_ok(pare_folder_list(&names, &n, path, err));
    else
        hash_file(&h, path);
    for (size_t i = 0; i < n; i++) {
        char *inner = pare_path_join(path, names[i]);
        pare_sha256_update(&h, names[i], strlen(names[i]));
        hash_file(&h, inner);
        pare_free(inner);
        pare_free(names[i]);
    }
    pare_free(names);
    pare_sha256_hex(&h, out);
    return out;
}

const char *test_data_folder(void) {
    static char path[1024];
    const char *env = getenv("PARE_DATA"), *source = getenv("PARE_SOURCE");
    if (env && *env)
        snprintf(path, sizeof path, "%s", env);
    else
        snprintf(path, sizeof path, "%s/../shared/data", source && *source ? source : ".");
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return path;
    printf("skipped: no data folder at %s (set PARE_DATA)\n", path);
    return NULL;
}

const char *test_data(const char *name) {
    static char ring[16][1200];
    static int next;
    const char *base = test_data_folder();
    if (!base) return NULL;
    char *path = ring[next++ % 16];
    snprintf(path, sizeof ring[0], "%s/%s", base, name);
    if (access(path, R_OK) == 0) return path;
    printf("skipped: %s is not there\n", path);
    return NULL;
}

const char *test_model(const char *name) {
    static char ring[4][1200];
    static int next;
    const char *cache = getenv("PARE_CACHE"), *home = getenv("HOME");
    char *path = ring[next++ % 4];
    if (cache && *cache)
        snprintf(path, sizeof ring[0], "%s/models/%s.gguf", cache, name);
    else
        snprintf(path, sizeof ring[0], "%s/.cache/pare/models/%s.gguf", home ? home : ".", name);
    if (access(path, R_OK) == 0) return path;
    printf("skipped: %s is not there (scripts/models.sh fetches it)\n", path);
    return NULL;
}

bool test_is_slow(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__clang__)
    return true;
#else
    const char *level = getenv("PARE_ISA");
    return level && strcmp(level, "ref") == 0;
#endif
}

long test_fault_step(void) {
#ifdef __SANITIZE_ADDRESS__
    return 31;
#else
    return test_is_slow() ? 7 : 1;
#endif
}

pare_runtime *test_runtime(int n_threads, pare_isa isa) {
    pare_options options = pare_options_default();
    options.n_threads = n_threads;
    options.isa = isa;
    pare_runtime *rt = NULL;
    pare_error err = {0};
    if (pare_runtime_create(&rt, &options, &err) != PARE_OK) fail_msg("%s", err.message);
    return rt;
}

void test_edit_file(const char *path, const void *from, const void *to, size_t length) {
    static char all[4 << 20];
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    size_t n = fread(all, 1, sizeof all, f), at = 0;
    while (at + length <= n && memcmp(all + at, from, length) != 0) at++;
    assert_true(at + length <= n);
    assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
    assert_int_equal(fwrite(to, 1, length, f), length);
    assert_int_equal(fclose(f), 0);
}
