/* What is left of memory, by the machine's and by control groups' own files, which this program
 * replaces; and that what cannot be there is refused before it is mapped. */
#include "support/model_files.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "pare/bench.h"
#include "pare/model.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Files of the system come from the test's folder while `replaced` is set. */
static bool replaced;

FILE *fopen(const char *path, const char *mode) {
    static FILE *(*real)(const char *, const char *);
    char instead[4096];
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "fopen");
    if (replaced && (strncmp(path, "/proc/", 6) == 0 || strncmp(path, "/sys/", 5) == 0)) {
        snprintf(instead, sizeof instead, "%s/system%s", test_folder(), path);
        path = instead;
    }
    return real(path, mode);
}

/* Writes a file of the system; text NULL: it is not there. */
static void put(const char *path, const char *text) {
    char name[512];
    snprintf(name, sizeof name, "system%s", path);
    for (char *at = strchr(name, '/'); at; at = strchr(at + 1, '/')) {
        *at = '\0';
        mkdir(test_path(name), 0755);
        *at = '/';
    }
    if (text)
        test_write(name, text, strlen(text));
    else
        remove(test_path(name));
}

#define GROUP "/sys/fs/cgroup/a/b"

static void groups_limit_the_machine(void **state) {
    (void)state;
    replaced = true;
    assert_int_equal(pare_available_bytes(), 0); /* nothing is known */
    assert_true(pare_has_memory(1e30));
    put("/proc/meminfo", "MemTotal:  9 kB\nMemAvailable:   4000000 kB\n");
    assert_int_equal(pare_available_bytes(), 4096000000);
    put("/proc/self/cgroup", "4:memory:/old\n0::/a/b\n");
    assert_int_equal(pare_available_bytes(), 4096000000);
    put(GROUP "/memory.max", "max\n");
    put(GROUP "/memory.current", "500\n");
    assert_int_equal(pare_available_bytes(), 4096000000);
    put(GROUP "/memory.max", "1000000000\n");
    put(GROUP "/memory.current", "700000000\n");
    assert_int_equal(pare_available_bytes(), 300000000);
    assert_true(pare_has_memory(3e8) && !pare_has_memory(3e8 + 1));
    /* copies of files make room; those in the group's own memory do not */
    put(GROUP "/memory.stat", "anon 1\nfile 9\ninactive_file 100000000\nactive_file 50000000\n");
    assert_int_equal(pare_available_bytes(), 450000000);
    /* the group around it has less */
    put("/sys/fs/cgroup/a/memory.max", "200000000\n");
    put("/sys/fs/cgroup/a/memory.current", "150000000\n");
    assert_int_equal(pare_available_bytes(), 50000000);
    put("/sys/fs/cgroup/a/memory.current", "250000000\n");
    assert_int_equal(pare_available_bytes(), 1);
    put("/sys/fs/cgroup/a/memory.max", NULL);
    /* the machine has less */
    put("/proc/meminfo", "MemAvailable:   400000 kB\n");
    assert_int_equal(pare_available_bytes(), 409600000);
    replaced = false;
}

/* Weights, scratch and what benchmarks measure on: an error, and nothing is mapped. */
static void more_than_there_is_is_refused(void **state) {
    (void)state;
    void *p = pare_big_alloc((size_t)100 << 20);
    assert_non_null(p);
    pare_big_free(p, (size_t)100 << 20);
    pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
    put("/proc/meminfo", "MemAvailable:   65536 kB\n");
    put("/proc/self/cgroup", NULL);
    replaced = true;
    assert_null(pare_big_alloc((size_t)100 << 20));
    p = pare_big_alloc((size_t)60 << 20); /* not looked at */
    assert_non_null(p);
    pare_big_free(p, (size_t)60 << 20);

    pare_limits limits;
    pare_kernel_bench_options o = pare_kernel_bench_options_default();
    const size_t rows = 1;
    o.rows = &rows;
    o.n_rows = 1;
    o.out_dim = 4096; /* two matrices of 48 MiB */
    o.in_dim = 3072;
    o.n_heads = o.n_kv_heads = 1;
    o.reps = 1;
    pare_error err = {0};
    const char *only[] = {"linear_fast"};
    o.kernels = only;
    o.n_kernels = 1;
    assert_int_equal(pare_bench_kernels(&limits, rt, &o, &err), PARE_ERR_NOMEM);
    assert_non_null(strstr(err.message, "4096 x 3072: found 67108864 bytes of memory, expected"));
    only[0] = "attention";
    o.ctx = 1 << 20;
    assert_int_equal(pare_bench_kernels(&limits, rt, &o, &err), PARE_ERR_NOMEM);
    assert_non_null(strstr(err.message, "no memory for 1048576 positions"));

    replaced = false;
    pare_model *m;
    pare_session *s;
    pare_session_options so = pare_session_options_default();
    assert_ok(pare_model_load(&m, rt, tiny_model("tiny", NULL), err));
    so.n_batch = 1 << 20; /* its scratch alone */
    replaced = true;
    assert_int_equal(pare_session_create(&s, m, &so, &err), PARE_ERR_NOMEM);
    assert_non_null(strstr(err.message, "scratch of a pass"));
    replaced = false;
    pare_model_free(m);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_limit_the_machine),
        cmocka_unit_test(more_than_there_is_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
