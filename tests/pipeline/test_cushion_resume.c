/* A search for a prefix's token that is cut off goes on within the token, and ends with the same
 * bytes: killed after calls that change files, interrupted, what it goes on from damaged. */
#include "support/calibrated_run.h"

#include "methods/cushion_search.h"
#include "model/model.h"
#include "model/prefix.h"
#include "pare/tokenizer.h"
#include "pipeline/cushion.h"

#include <jansson.h>

/* Groups of 16 and 2 on the screen, of 2 and 16 behind it. */
enum { N = 500, N_CANDIDATES = 18 };
static const char recipe[] = "cushioncache:max_len=2,tau=1000000,n=500,texts=1,screen=2,pool=18,"
                             "epochs=0";

static char out[1024], result[1024], work[1100], expected[65];

/* What the step does, with how far it is noted behind every group; its prefix becomes the file
 * `result`. */
static pare_status search(pare_runtime *rt, pare_error *err) {
    pare_cushion_options o;
    pare_method_defaults(pare_method_find("cushioncache"), &o);
    o.max_len = 2;
    o.tau = 1e6;
    o.n = N;
    o.texts = 1;
    o.screen = 2;
    o.pool = N_CANDIDATES;
    o.epochs = 0;
    json_t *fingerprint = json_pack("{s:i}", "of", 1);
    pare_cushion_input in = {.model = model, .text = text, .options = &o, .note_every_s = -1};
    pare_prefix *p = NULL;
    pare_source *source = NULL;
    char *record = NULL;
    pare_status st = pare_work_open(&in.work, rt, out, fingerprint, 1, false, err);
    if (st == PARE_OK) st = pare_cushion_make(&p, &record, rt, &in, err);
    if (st == PARE_OK) st = pare_source_open(&source, model, err);
    if (st == PARE_OK) st = pare_prefix_save(p, pare_source_config(source), record, result, err);
    if (st == PARE_OK) pare_work_remove(in.work);
    pare_source_close(source);
    pare_work_close(in.work);
    pare_prefix_free(p);
    pare_free(record);
    json_decref(fingerprint);
    return st;
}

/* In a process of its own, which is killed behind that call (-1: never); its exit code, -1 killed.
 */
static int search_apart(long kill_behind) {
    fflush(NULL);
    atomic_store(n_calls, 0);
    pid_t pid = fork();
    if (pid == 0) {
        fault_kind = kill_behind < 0 ? NEVER : KILL;
        fault_at = kill_behind;
        pare_error err = {0};
        pare_runtime *rt = test_runtime(1, PARE_ISA_AMX);
        pare_status st = search(rt, &err);
        if (st != PARE_OK) fprintf(stderr, "%s\n", err.message);
        _exit(st == PARE_OK ? 0 : pare_status_exit_code(st));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void must_end(const char *after, long k) {
    int code = search_apart(-1);
    if (code != 0) fail_msg("%s %ld: no resume, exit code %d", after, k, code);
    if (strcmp(test_hash(result), expected) != 0) fail_msg("%s %ld: other bytes", after, k);
    assert_false(pare_path_exists(work));
    test_remove(result);
}

/* What the manifest says of the step that is not over; the caller's. NULL: nothing. */
static json_t *state_kept(size_t *n_steps) {
    char path[1200];
    snprintf(path, sizeof path, "%s/manifest", work);
    json_t *manifest = json_load_file(path, 0, NULL), *kept = json_object_get(manifest, "kept"),
           *state = json_incref(json_object_get(kept, "cushion_token"));
    *n_steps = json_array_size(json_object_get(kept, "cushion"));
    json_decref(manifest);
    return state;
}

static long number(const json_t *state, const char *key) {
    return (long)json_integer_value(json_object_get(state, key));
}

static void killed(void **state) {
    (void)state;
    size_t n_within = 0, n_searching = 0, n_steps;
    fault_calls = CALL_CHANGES;
    assert_int_equal(search_apart(-1), 0);
    snprintf(expected, sizeof expected, "%s", test_hash(result));
    test_remove(result);
    const long n = atomic_load(n_calls), step = test_is_slow() ? 7 : 2;
    for (long k = 1; k < n; k += step) {
        assert_int_equal(search_apart(k), -1);
        json_t *kept = state_kept(&n_steps);
        if (kept && number(kept, "step") == (long)n_steps) {
            n_within++;
            n_searching += number(kept, "tried") > 0;
        }
        json_decref(kept);
        test_remove(result); /* its rename may have been the last call */
        must_end("killed after call", k);
    }
    /* most places are within a token */
    print_message("%zu of %ld places within a token, %zu behind its screen\n", n_within, n / step,
                  n_searching);
    assert_true(n_within > (size_t)(n / step) / 5 && n_searching > 0);
}

/* What it goes on from is cut to nothing, to half, has a bit turned, is gone. */
static void damaged(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        char path[1200];
        size_t n_steps;
        json_t *kept = NULL;
        for (long at = 20; !kept || number(kept, "tried") == 0; at++) { /* where a group is over */
            json_decref(kept);
            test_remove(work);
            assert_int_equal(search_apart(at), -1);
            kept = state_kept(&n_steps);
        }
        snprintf(path, sizeof path, "%s/screen-%ld-%ld.safetensors", work, number(kept, "step"),
                 number(kept, "screened"));
        assert_true(pare_path_exists(path));
        json_decref(kept);
        if (k == 3) {
            test_remove(path);
        } else if (k == 2) {
            FILE *f = fopen(path, "r+b");
            assert_non_null(f);
            assert_int_equal(fseek(f, -3, SEEK_END), 0);
            int c = fgetc(f);
            assert_int_equal(fseek(f, -3, SEEK_END), 0);
            assert_true(fputc(c ^ 4, f) != EOF);
            assert_int_equal(fclose(f), 0);
        } else {
            assert_int_equal(truncate(path, k ? 90 : 0), 0);
        }
        /* also when it is killed again before it has noted more, or has just done so */
        for (long again = 0; again < 24; again += 6) assert_int_equal(search_apart(again), -1);
        must_end("damaged", k);
    }
}

/* --- the step of a recipe, interrupted --- */

static volatile sig_atomic_t stop;

/* At the end of the second token's screen; progress is throttled, but an end is always told. */
static void stop_there(void *arg, const char *stage, double done, double total, const char *unit) {
    (void)arg, (void)unit;
    if (strcmp(stage, "cushion: screen") == 0 && done > 0.99 * total) stop = 1;
}

static pare_status compress(bool stops, pare_error *err) {
    pare_options options = pare_options_default();
    pare_compress_options o = options_of(recipe, out);
    pare_compress_report *report = NULL;
    pare_runtime *rt;
    options.n_threads = 1;
    options.isa = PARE_ISA_AMX;
    options.progress = stops ? stop_there : NULL;
    options.cancel = &stop;
    stop = 0;
    assert_ok(pare_runtime_create(&rt, &options, err));
    pare_status st = pare_compress(&report, rt, &o, err);
    pare_compress_report_free(report);
    pare_runtime_free(rt);
    return st;
}

/* It notes how far it is, whenever that was done last. */
static void interrupted(void **state) {
    (void)state;
    size_t n_steps;
    fault_kind = NEVER;
    assert_ok(compress(false, err));
    snprintf(expected, sizeof expected, "%s", test_hash(out));
    test_remove(out);
    assert_fails(compress(true, err), PARE_ERR_INTERRUPTED, "goes on");
    json_t *kept = state_kept(&n_steps);
    assert_int_equal(n_steps, 1);
    assert_int_equal(number(kept, "step"), 1);
    assert_int_equal(number(kept, "screened"), N_CANDIDATES);
    json_decref(kept);
    assert_ok(compress(false, err));
    assert_string_equal(test_hash(out), expected);
    assert_clean(out);
}

int main(void) {
    calibrated_run_init();
    snprintf(out, sizeof out, "%s", test_path("out"));
    snprintf(result, sizeof result, "%s", test_path("result"));
    snprintf(work, sizeof work, "%s.work", out);
    const struct CMUnitTest tests[] = {cmocka_unit_test(killed), cmocka_unit_test(damaged),
                                       cmocka_unit_test(interrupted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
