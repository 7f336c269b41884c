/* Recipes with methods on a tiny model: what every method of the registry must survive, but for
 * calls on files that fail (test_compress_calls.c). Files of the work folder are damaged; inputs
 * change before a resume; numbers are odd. Always: the same command goes on and ends with the bytes
 * of a run that was never disturbed, and until then nothing stands under the output's name. */
#include "support/calibrated_run.h"

#include "base/hash.h"
#include "methods/method.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>

/* Stops after the first block by a kill, then returns the work folder. */
static void leave_unfinished(const pare_compress_options *o, char *work, size_t n) {
    static char recipe[100]; /* the last one, and where it was stopped */
    static long first_k;
    snprintf(work, n, "%s.work", o->out);
    test_remove(o->out);
    test_remove(work);
    if (strcmp(recipe, o->recipe) != 0) first_k = 5;
    snprintf(recipe, sizeof recipe, "%s", o->recipe);
    for (long k = first_k;; k++) { /* until the first unit is in the manifest */
        assert_int_equal(run_apart(o, KILL, k, 0), -1);
        char *manifest = pare_path_join(work, "manifest"), *data = NULL;
        size_t size;
        bool one = pare_file_read_all(&data, &size, manifest, 1 << 20, NULL) == PARE_OK &&
                   strstr(data, "\"sha256\"") && strstr(data, "\"report\"");
        pare_free(data);
        pare_free(manifest);
        first_k = k;
        if (one) return;
        test_remove(work);
    }
}

/* Ctrl-C while the second block is calibrated. */
typedef struct interruption {
    volatile sig_atomic_t cancel;
    double at;
} interruption;

static void interrupt(void *arg, const char *stage, double done, double total, const char *unit) {
    interruption *i = arg;
    (void)total, (void)unit;
    if (strcmp(stage, "calibrate") == 0 && done >= i->at) i->cancel = 1;
}

static void interrupted(void **state) {
    (void)state;
    char out[1024], expected[65];
    snprintf(out, sizeof out, "%s", test_path("interrupted"));
    pare_compress_options o = options_of("wanda", out);
    assert_ok(run(&o, 1, err));
    snprintf(expected, sizeof expected, "%s", test_hash(out));
    test_remove(out);
    o.calib_samples = 2;
    for (double at = 0; at <= 7; at += 1) { /* 2 sequences, twice through 2 blocks */
        interruption i = {.at = at};
        pare_options options = pare_options_default();
        options.n_threads = 1;
        options.progress = interrupt;
        options.callback_arg = &i;
        options.cancel = &i.cancel;
        pare_runtime *rt;
        pare_compress_report *report = NULL;
        assert_ok(pare_runtime_create(&rt, &options, err));
        pare_error err = {0};
        pare_status st = pare_compress(&report, rt, &o, &err);
        pare_compress_report_free(report);
        pare_runtime_free(rt);
        if (i.cancel) { /* progress is throttled: it may not have come that far */
            assert_int_equal(st, PARE_ERR_INTERRUPTED);
            assert_non_null(strstr(err.message, "the same command goes on"));
            assert_false(pare_path_exists(out));
            assert_ok(run(&o, 1, err));
        }
        assert_string_equal(test_hash(out), expected);
        assert_clean(out);
        test_remove(out);
    }
}

static void damage(const char *path, long cut, long flip) {
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    if (cut >= 0) assert_int_equal(ftruncate(fd, cut), 0);
    if (flip >= 0) {
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, flip), 1);
        byte ^= 0x10;
        assert_int_equal(syscall(SYS_pwrite64, fd, &byte, 1, flip), 1);
    }
    close(fd);
}

static void damaged_work_files(void **state) {
    (void)state;
    char out[1024], work[1100], expected[65];
    snprintf(out, sizeof out, "%s", test_path("damaged"));
    pare_compress_options o = options_of("gptq", out);
    assert_int_equal(run_apart(&o, NEVER, 0, 0), 0);
    snprintf(expected, sizeof expected, "%s", test_hash(out));
    static const char *const files[] = {"manifest", "manifest.old", "unit-0", "states-0",
                                        "states-1"};
    for (size_t f = 0; f < 5; f++)
        for (int kind = 0; kind < 7; kind++) {
            leave_unfinished(&o, work, sizeof work);
            char *path = pare_path_join(work, files[f]);
            struct stat info;
            if (stat(path, &info) == 0) {
                long size = (long)info.st_size;
                const long cuts[] = {0, 1, size / 2, size - 1, -1, -1, -1};
                damage(path, cuts[kind], kind == 4 ? size / 3 : kind == 5 ? size - 2 : -1);
            }
            if (kind == 6) unlink(path); /* gone altogether */
            pare_free(path);
            if (run_apart(&o, NEVER, 0, 0) != 0)
                fail_msg("%s, damage %d: no resume", files[f], kind);
            if (strcmp(test_hash(out), expected) != 0)
                fail_msg("%s, damage %d: other bytes", files[f], kind);
            assert_clean(out);
        }
    test_remove(out);
}

/* The plan refuses what the run refuses. */
#define assert_both_fail(o, status, says)                                                          \
    do {                                                                                           \
        pare_compress_options own_ = (o);                                                          \
        assert_fails(run(&own_, 1, err), status, says);                                            \
        own_.dry_run = true;                                                                       \
        assert_fails(run(&own_, 1, err), status, says);                                            \
    } while (0)

/* Another recipe, seed, text, model: refused by name. Threads may change. */
static void changed_before_a_resume(void **state) {
    (void)state;
    char out[1024], work[1100], expected[65];
    snprintf(out, sizeof out, "%s", test_path("changed"));
    pare_compress_options o = options_of("gptq", out), other = o;
    assert_int_equal(run_apart(&o, NEVER, 0, 0), 0);
    snprintf(expected, sizeof expected, "%s", test_hash(out));
    leave_unfinished(&o, work, sizeof work);

    other.recipe = "gptq:bits=3";
    assert_both_fail(other, PARE_ERR_ARG, "recipe");
    other = o;
    other.calib_ctx = 17;
    assert_both_fail(other, PARE_ERR_ARG, "calib_ctx");
    other = o;
    other.calib_samples = 3;
    assert_both_fail(other, PARE_ERR_ARG, "calib_samples");
    other = o;
    other.model = tiny_model("another", &(tiny_options){.seed = 77});
    assert_both_fail(other, PARE_ERR_ARG, "model");
    other = o;
    other.keep = "attn_q";
    assert_both_fail(other, PARE_ERR_ARG, "keep");
    other = o;
    char changed[8192]; /* the same file with other contents */
    for (size_t i = 0; i < sizeof changed; i++) changed[i] = (char)('a' + i * i % 19);
    other.calib = test_write("changed.txt", changed, sizeof changed);
    assert_both_fail(other, PARE_ERR_ARG, "calib");
    const pare_options reseeded = {.n_threads = 1, .isa = PARE_ISA_AMX, .seed = 77};
    pare_runtime *rt;
    pare_compress_report *report = NULL;
    assert_ok(pare_runtime_create(&rt, &reseeded, err));
    assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "seed");
    pare_runtime_free(rt);
    rt = test_runtime(1, PARE_ISA_AMX);
    bool levels = pare_runtime_isa(rt) > PARE_ISA_REF;
    pare_runtime_free(rt);
    if (levels) {
        const pare_options plain = {.n_threads = 1, .isa = PARE_ISA_REF};
        assert_ok(pare_runtime_create(&rt, &plain, err));
        assert_fails(pare_compress(&report, rt, &o, err), PARE_ERR_ARG, "isa");
        pare_runtime_free(rt);
    }

    char before[65];
    other = o; /* the plan of what goes on, or begins anew, changes nothing */
    other.dry_run = true;
    snprintf(before, sizeof before, "%s", test_hash(work));
    assert_ok(run(&other, 1, err));
    other.recipe = "gptq:bits=3";
    other.restart = true;
    assert_ok(run(&other, 1, err));
    assert_string_equal(test_hash(work), before);
    assert_ok(run(&o, 3, err));
    assert_string_equal(test_hash(out), expected);
    test_remove(out);
    leave_unfinished(&o, work, sizeof work);
    other = o;
    other.recipe = "rtn";
    other.restart = true;
    assert_ok(run(&other, 1, err));
    test_remove(out);
}

static void two_runs_at_once(void **state) {
    (void)state;
    char out[1024], work[1100];
    snprintf(out, sizeof out, "%s", test_path("twice"));
    pare_compress_options o = options_of("wanda", out);
    snprintf(work, sizeof work, "%s.work", out);
    assert_int_equal(mkdir(work, 0777), 0);
    char *path = pare_path_join(work, "lock");
    pare_lock lock;
    assert_ok(pare_lock_take(&lock, path, err));
    assert_fails(run(&o, 1, err), PARE_ERR_ARG, "held by process");
    pare_lock_release(&lock);
    /* a dead process's lock is no lock; another machine's is one */
    char host[200], line[300];
    gethostname(host, sizeof host);
    snprintf(line, sizeof line, "process 1 on %s\n", host);
    assert_non_null(test_write("twice.work/lock", line, strlen(line)));
    assert_ok(run(&o, 1, err));
    test_remove(out);
    assert_int_equal(mkdir(work, 0777), 0);
    assert_non_null(test_write("twice.work/lock", "process 1 on elsewhere\n", 23));
    assert_fails(run(&o, 1, err), PARE_ERR_ARG, "elsewhere");
    pare_free(path);
    test_remove(work);
}

/* ---- what calibration refuses ---- */

static void bad_calibration(void **state) {
    (void)state;
    char out[1024];
    snprintf(out, sizeof out, "%s", test_path("bad"));
    pare_compress_options o = options_of("wanda", out);
    o.calib = NULL;
    assert_both_fail(o, PARE_ERR_ARG, "--calib");
    o.calib = test_path("absent");
    assert_both_fail(o, PARE_ERR_INPUT, "absent");
    o.calib = test_write("empty.txt", "", 0);
    assert_both_fail(o, PARE_ERR_INPUT, "found 0 tokens, expected at least 16");
    o.calib = test_write("short.txt", "only a few", 10);
    assert_both_fail(o, PARE_ERR_INPUT, "found 10 tokens");
    o = options_of("wanda", out);
    o.calib_ctx = 1;
    assert_both_fail(o, PARE_ERR_ARG, "calib-ctx");
    o.calib_ctx = TINY_CTX + 1;
    assert_both_fail(o, PARE_ERR_ARG, "calib-ctx");
    o = options_of("wanda@embd", out);
    assert_both_fail(o, PARE_ERR_ARG, "token_embd.weight");
    o = options_of("gptq + q8_0@ffn", out);
    assert_both_fail(o, PARE_ERR_ARG, "stored as int4_g64 by gptq");
    o.recipe = "gptq";
    o.max_memory = 1000;
    assert_both_fail(o, PARE_ERR_ARG, "max-memory");
    o.max_memory = 0;
    o.model = tiny_model("poisoned", &(tiny_options){.poison = NAN});
    assert_fails(run(&o, 1, err), PARE_ERR_INPUT, "found nan");
    o.model = tiny_model("huge", &(tiny_options){.scale = 1e8f});
    assert_fails(run(&o, 1, err), PARE_ERR_ARG, "scale that int4_g64 cannot store");
    assert_false(pare_path_exists(out));
}

/* Numbers that no method may work on, for every method (N1, N2), and a text of one letter, on which
 * all must (N19: its Hessians have hardly any rank). */
static void odd_numbers(void **state) {
    (void)state;
    char bad[3][1024], letters[4000], dull[1024], out[1024];
    snprintf(bad[0], 1024, "%s", tiny_model("nan", &(tiny_options){.poison = NAN}));
    snprintf(bad[1], 1024, "%s", tiny_model("inf", &(tiny_options){.poison = -INFINITY}));
    snprintf(bad[2], 1024, "%s", tiny_model("overflowing", &(tiny_options){.last_norm = 3e38f}));
    memset(letters, 'a', sizeof letters);
    snprintf(dull, sizeof dull, "%s", test_write("dull.txt", letters, sizeof letters));
    snprintf(out, sizeof out, "%s", test_path("odd"));
    for (size_t m = 0; pare_step_method_at(m); m++) {
        bool calibrated = pare_step_method_at(m)->needs;
        pare_compress_options o = options_of(pare_method_name(pare_step_method_at(m)), out);
        for (int i = 0; i < (calibrated ? 3 : 2); i++) {
            o.model = bad[i];
            pare_error err = {0};
            pare_status st = run(&o, 1, &err);
            if (st != PARE_ERR_INPUT || !strstr(err.message, i == 2 ? "calibration: block 1"
                                                             : i    ? "inf"
                                                                    : "nan"))
                fail_msg("%s, model %d: found %s \"%s\"", o.recipe, i, pare_status_name(st),
                         err.message);
            assert_false(pare_path_exists(out));
            char *work = pare_asprintf("%s.work", out);
            test_remove(work);
            pare_free(work);
        }
        o.model = model;
        o.calib = dull;
        assert_ok(run(&o, 1, err));
        assert_clean(out);
        test_remove(out);
    }
}

/* ---- what comes out ---- */

static pare_compress_report *report_of(const pare_compress_options *o) {
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_compress_report *report = NULL;
    assert_ok(pare_compress(&report, rt, o, err));
    pare_runtime_free(rt);
    return report;
}

static double mean_output_error(const char *recipe) {
    char out[1024];
    snprintf(out, sizeof out, "%s", test_path("result"));
    pare_compress_options o = options_of(recipe, out);
    o.calib_samples = 16;
    pare_compress_report *report = report_of(&o);
    const pare_compress_info *info = pare_compress_result(report);
    double sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < info->n_layers; i++) {
        const pare_layer_report *l = &info->layers[i];
        if (l->output_error < 0) continue;
        sum += l->output_error;
        n++;
        assert_true(l->changed && l->error > 0);
    }
    assert_int_equal(n, 7 * TINY_LAYERS);
    pare_compress_report_free(report);
    test_remove(out);
    return sum / (double)n;
}

static double error_of_layer(const pare_compress_report *report, const char *name) {
    const pare_compress_info *info = pare_compress_result(report);
    for (size_t i = 0; i < info->n_layers; i++)
        if (strcmp(info->layers[i].name, name) == 0) return info->layers[i].output_error;
    fail_msg("%s: not in the report", name);
    return -1;
}

/* The first group of the first block sees the same inputs either way, what follows does not. */
static void in_sequence(void **state) {
    (void)state;
    char out[1024];
    snprintf(out, sizeof out, "%s", test_path("sequence"));
    pare_compress_options o = options_of("gptq:bits=3", out);
    pare_compress_report *once = report_of(&o);
    test_remove(out);
    o.true_sequential = true;
    pare_compress_report *anew = report_of(&o);
    static const char *const same[] = {"attn_q", "attn_k", "attn_v"}, *const other[] = {
                                                                          "attn_output", "ffn_gate",
                                                                          "ffn_up", "ffn_down"};
    char name[64];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "blk.0.%s.weight", same[i]);
        assert_true(error_of_layer(once, name) == error_of_layer(anew, name));
    }
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "blk.0.%s.weight", other[i]);
        assert_true(error_of_layer(once, name) != error_of_layer(anew, name));
        assert_true(error_of_layer(anew, name) > 0);
    }
    pare_compress_report_free(once);
    pare_compress_report_free(anew);
    test_remove(out);
    o.recipe = "awq";
    assert_fails(run(&o, 1, err), PARE_ERR_ARG, "true-sequential: found a step that scales");
    o = options_of("rtn", out);
    o.true_sequential = true;
    o.calib = NULL;
    assert_fails(run(&o, 1, err), PARE_ERR_ARG, "true-sequential: found no calibration text");
}

/* Prune and quantize in one run: the zeros of the first step stay, and the second's codes are in
 * the file. */
static void steps_compose(void **state) {
    (void)state;
    char out[1024];
    snprintf(out, sizeof out, "%s", test_path("composed"));
    pare_compress_options o = options_of("wanda:sparsity=2:4 + gptq:bits=4,group=32 + q8_0", out);
    pare_compress_report *report = report_of(&o);
    const pare_compress_info *info = pare_compress_result(report);
    size_t n = 0;
    for (size_t i = 0; i < info->n_layers; i++) {
        const pare_layer_report *l = &info->layers[i];
        if (strcmp(l->name, "token_embd.weight") == 0) assert_string_equal(l->encoding, "q8_0");
        if (strncmp(l->name, "blk.", 4) != 0 || strstr(l->name, "norm")) continue;
        assert_string_equal(l->encoding, "int4_g32");
        assert_true(l->sparsity >= 0.5);
        n++;
    }
    assert_int_equal(n, 7 * TINY_LAYERS);
    assert_true(info->calib_samples == 2 && info->calib_ctx == 16);
    pare_compress_report_free(report);
    test_remove(out);
    double gptq = mean_output_error("gptq:bits=3,group=32"),
           pruned = mean_output_error("sparsegpt:sparsity=0.5");
    assert_true(gptq > 0.01 && gptq < 0.3);
    assert_true(pruned > 0.05 && pruned < 0.7);
}

/* An encoding with calibration text weighs errors by the inputs: other bytes, and it resumes. */
static void encodings_take_importance(void **state) {
    (void)state;
    char out[1024], plain[65], weighed[65];
    snprintf(out, sizeof out, "%s", test_path("weighed.gguf"));
    pare_compress_options o = options_of("q4_0", out);
    assert_int_equal(run_apart(&o, KILL, 40, 0), -1);
    assert_int_equal(run_apart(&o, NEVER, 0, 0), 0);
    snprintf(weighed, sizeof weighed, "%s", test_hash(out));
    test_remove(out);
    assert_int_equal(run_apart(&o, NEVER, 0, 0), 0);
    assert_string_equal(test_hash(out), weighed);
    test_remove(out);
    o.calib = NULL;
    assert_int_equal(run_apart(&o, NEVER, 0, 0), 0);
    snprintf(plain, sizeof plain, "%s", test_hash(out));
    assert_string_not_equal(plain, weighed);
    test_remove(out);
}

/* Memory, disk, time; the samples that tell the time leave no trace in the report. */
static void the_plan_says_what_it_takes(void **state) {
    (void)state;
    for (size_t m = 0; pare_step_method_at(m); m++) {
        pare_compress_options o = options_of(pare_method_name(pare_step_method_at(m)), NULL);
        o.dry_run = true;
        pare_compress_report *report = report_of(&o);
        const pare_compress_info *info = pare_compress_result(report);
        assert_true(info->planned_seconds > 0 && info->planned_seconds < 3600);
        assert_int_equal(info->n_fallbacks, 0);
        for (size_t i = 0; i < info->n_layers; i++)
            assert_true(info->layers[i].error == 0 && info->layers[i].output_error == -1);
        if (pare_step_method_at(m)->needs) {
            assert_true(info->disk_bytes > 3 * 2 * 16 * TINY_DIM * 4);
            assert_true(info->work_bytes > TINY_DIM * TINY_DIM * 4);
        }
        pare_compress_report_free(report);
    }
}

int main(void) {
    calibrated_run_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_compose),
        cmocka_unit_test(in_sequence),
        cmocka_unit_test(encodings_take_importance),
        cmocka_unit_test(the_plan_says_what_it_takes),
        cmocka_unit_test(bad_calibration),
        cmocka_unit_test(odd_numbers),
        cmocka_unit_test(two_runs_at_once),
        cmocka_unit_test(interrupted),
        cmocka_unit_test(changed_before_a_resume),
        cmocka_unit_test(damaged_work_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
