/* Activations in files (max_memory): values stay when they rest, runs end with the bytes of runs in
 * memory, and a disk without room is told. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "base/os.h"
#include "base/spill.h"
#include "pare/compress.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

static size_t files_in(const char *folder) {
    size_t n = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    while (readdir(dir)) n++;
    closedir(dir);
    return n - 2;
}

static void values_stay(void **state) {
    (void)state;
    enum { N = 100003 };
    const char *folder = test_path("spilled");
    assert_ok(pare_folder_make(folder, err));
    const char *const folders[] = {NULL, folder};
    for (size_t k = 0; k < 2; k++) {
        pare_spill s;
        assert_ok(pare_spill_make(&s, N, folders[k], err));
        assert_int_equal(s.in_file, k);
        for (size_t i = 0; i < N; i++) {
            assert_true(s.data[i] == 0.0f);
            s.data[i] = (float)i;
        }
        static const size_t ranges[][2] = {{0, N}, {5000, 3000}, {N - 10, 10}, {1, 1}};
        for (size_t r = 0; r < 4; r++) {
            pare_spill_rest(&s, ranges[r][0], ranges[r][1]);
            for (size_t i = 0; i < N; i++) assert_true(s.data[i] == (float)i);
        }
        assert_int_equal(files_in(folder), 0); /* it has no name */
        pare_spill_free(&s);
        pare_spill_free(&s);
    }
    pare_spill s;
    assert_fails(pare_spill_make(&s, 1, "/nowhere", err), PARE_ERR_IO, "/nowhere");
    pare_spill_free(&s);
    assert_fails(pare_spill_make(&s, SIZE_MAX / 4, NULL, err), PARE_ERR_NOMEM, "values");
    struct rlimit before, less = {4096, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    less.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &less), 0);
    assert_fails(pare_spill_make(&s, N, folder, err), PARE_ERR_IO, "for activations");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(files_in(folder), 0);
}

static void runs_have_the_same_bytes(void **state) {
    (void)state;
    /* more than the buffers of any run */
    static const struct {
        const char *recipe;
        size_t n_sequences;
    } runs[] = {{"awq:bits=4,group=32,samples=64,points=2", 64},
                {"signround:bits=4,group=32,iters=2,batch=1", 320}};
    static char words[8000];
    for (size_t i = 0; i < sizeof words - 1; i++) words[i] = (char)('a' + (i * i / 7 + i / 3) % 26);
    char text[1024], out[1024], expected[65];
    snprintf(text, sizeof text, "%s", test_write("text", words, sizeof words - 1));
    snprintf(out, sizeof out, "%s", test_path("out"));
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        pare_compress_options o = {.model = tiny_model("tiny", NULL),
                                   .out = out,
                                   .recipe = runs[i].recipe,
                                   .calib = text,
                                   .calib_samples = runs[i].n_sequences,
                                   .calib_ctx = 256};
        uint64_t memory = 0, work = 0; /* of the run before; what is resident may differ a little */
        for (int spills = 0; spills < 2; spills++) {
            if (spills) o.max_memory = memory - (1 << 20);
            pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
            pare_compress_report *report;
            assert_ok(pare_compress(&report, rt, &o, err));
            const pare_compress_info *info = pare_compress_result(report);
            assert_true((info->spill_bytes > 0) == spills);
            assert_true(!spills || info->work_bytes < work);
            assert_true(info->memory_bytes > info->work_bytes);
            assert_true(!spills || info->memory_bytes <= o.max_memory);
            work = info->work_bytes;
            memory = info->memory_bytes;
            pare_compress_report_free(report);
            pare_runtime_free(rt);
            if (spills)
                assert_string_equal(test_hash(out), expected);
            else
                snprintf(expected, sizeof expected, "%s", test_hash(out));
            test_remove(out);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(values_stay),
                                       cmocka_unit_test(runs_have_the_same_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
