/* What pare_compress looks at before its work: room on the disk for OUT and what lies beside it, a
 * tokenizer. */
#include "support/model_files.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "base/os.h"
#include "pare/compress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

/* The disk as the library sees it. */
static unsigned long long room;

int statvfs(const char *path, struct statvfs *info) {
    (void)path;
    *info = (struct statvfs){.f_bsize = 1, .f_frsize = 1, .f_blocks = room, .f_bavail = room};
    return 0;
}

static char warnings[4096];

static void keep_warning(void *arg, const char *line) {
    size_t n = strlen(warnings);
    (void)arg;
    snprintf(warnings + n, sizeof warnings - n, "%s\n", line);
}

static pare_status compress(pare_compress_report **r, const pare_compress_options *o,
                            pare_error *err) {
    pare_options ro = pare_options_default();
    pare_runtime *rt;
    ro.n_threads = 2;
    ro.warn = keep_warning;
    warnings[0] = '\0';
    PARE_TRY(pare_runtime_create(&rt, &ro, err));
    pare_status st = pare_compress(r, rt, o, err);
    pare_runtime_free(rt);
    return st;
}

static void disk(void **state) {
    (void)state;
    static const char *const recipes[] = {"q8_0", "rtn:bits=4,group=32"};
    for (int i = 0; i < 2; i++) {
        char out[1024], work[1100];
        snprintf(out, sizeof out, "%s", test_path("room"));
        snprintf(work, sizeof work, "%s.work", out);
        pare_compress_options o = {
            .model = fixture_path("llama"), .out = out, .recipe = recipes[i], .dry_run = true};
        pare_compress_report *r = NULL;
        room = 0; /* a plan needs none */
        assert_ok(compress(&r, &o, err));
        const pare_compress_info *info = pare_compress_result(r);
        unsigned long long need = info->out_bytes + info->disk_bytes;
        assert_int_equal(info->disk_bytes > 0, i == 1);
        pare_compress_report_free(r);
        o.dry_run = false;
        char told[64];
        snprintf(told, sizeof told, "found %llu bytes free, expected %llu", need - 1, need);
        room = need - 1;
        assert_fails(compress(&r, &o, err), PARE_ERR_IO, told);
        assert_false(pare_path_exists(out));
        assert_false(pare_path_exists(work));
        room = need;
        assert_ok(compress(&r, &o, err));
        assert_true(pare_compress_result(r)->out_bytes <= need);
        pare_compress_report_free(r);
        test_remove(out);
    }
}

/* An output that is there already, of a run that was cut off behind it, needs no room. */
static void disk_behind_the_output(void **state) {
    (void)state;
    char out[1024];
    snprintf(out, sizeof out, "%s", test_path("behind"));
    pare_compress_options o = {
        .model = fixture_path("llama"), .out = out, .recipe = "q8_0", .keep_work = true};
    pare_compress_report *r = NULL;
    room = 1 << 30;
    assert_ok(compress(&r, &o, err));
    pare_compress_report_free(r);
    room = 0;
    assert_ok(compress(&r, &o, err));
    pare_compress_settle(r);
    pare_compress_report_free(r);
    test_remove(out);
}

static void tokenizer(void **state) {
    (void)state;
    char dense[1024], out[1024], file[1100];
    snprintf(dense, sizeof dense, "%s", test_path("dense"));
    snprintf(out, sizeof out, "%s", test_path("asked"));
    snprintf(file, sizeof file, "%s/tokenizer.json", dense);
    pare_compress_options o = {.model = fixture_path("llama"), .out = dense, .recipe = "f32"};
    pare_compress_report *r = NULL;
    room = 1 << 30;
    assert_ok(compress(&r, &o, err));
    pare_compress_report_free(r);
    o.model = dense;
    o.out = out;
    tiny_tokenizer(dense);
    assert_true(pare_path_exists(file));
    for (int there = 1; there >= 0; there--) {
        if (!there) test_remove(file);
        assert_ok(compress(&r, &o, err));
        assert_int_equal(strstr(warnings, "found no tokenizer") != NULL, !there);
        pare_compress_report_free(r);
        test_remove(out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disk),
        cmocka_unit_test(disk_behind_the_output),
        cmocka_unit_test(tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
