/* pare_compress where calls on files fail (F3, F4), are cut off by signals, or are the last ones
 * (F1), for every method of the registry. Always: an error is one line and exit code 1, nothing
 * stands under the output's name, and the same command goes on and ends with the bytes of a run
 * that was never disturbed. */
#include "support/calibrated_run.h"

#include "methods/method.h"

/* A prefix searched and tuned. */
static const char cushion[] =
    "cushioncache:max_len=1,tau=1000000,n=8,texts=1,screen=1,pool=3,tune_texts=2,tune_n=8";

/* One run: every method of the registry with its defaults, then what makes calls of its own: a
 * prefix, a GGUF file, one in parts. */
typedef struct subject {
    const char *recipe;
    char out[1024], hashed[1024], expected[65];
    uint64_t split;
    long n_calls; /* of a run without faults, of those that count */
} subject;

static bool subject_at(subject *s, size_t i) {
    size_t n_methods = 0;
    while (pare_step_method_at(n_methods)) n_methods++;
    static const char *const more[] = {cushion, "wanda:sparsity=0.5 + q8_0",
                                       "wanda:sparsity=0.5 + q8_0"};
    *s = (subject){0};
    if (i >= n_methods + 3) return false;
    bool gguf = i > n_methods;
    s->recipe = i < n_methods ? pare_method_name(pare_step_method_at(i)) : more[i - n_methods];
    s->split = i == n_methods + 2 ? 40000 : 0;
    snprintf(s->hashed, sizeof s->hashed, "%s", test_path("results"));
    snprintf(s->out, sizeof s->out, "%s/%s", s->hashed, gguf ? "out.gguf" : "out");
    if (!gguf) snprintf(s->hashed, sizeof s->hashed, "%s", s->out);
    return true;
}

static pare_compress_options options(const subject *s) {
    pare_compress_options o = options_of(s->recipe, s->out);
    o.split_bytes = s->split;
    return o;
}

static void begin(void) {
    test_remove(test_path("results"));
    assert_int_equal(mkdir(test_path("results"), 0777), 0);
}

/* Runs it undisturbed: what comes out, and of how many of these calls. */
static void expect(subject *s, unsigned calls) {
    pare_compress_options o = options(s);
    fault_calls = calls;
    begin();
    int code = run_apart(&o, NEVER, 0, 0);
    if (code != 0) fail_msg("%s: exit code %d", s->recipe, code);
    s->n_calls = atomic_load(n_calls);
    snprintf(s->expected, sizeof s->expected, "%s", test_hash(s->hashed));
    if (!s->split) assert_clean(s->out);
    begin();
}

/* The same command again ends right. */
static void must_end(const subject *s, const char *after, long k) {
    pare_compress_options o = options(s);
    int code = run_apart(&o, NEVER, 0, 0);
    if (code != 0) fail_msg("%s, %s call %ld: no resume, exit code %d", s->recipe, after, k, code);
    if (strcmp(test_hash(s->hashed), s->expected) != 0)
        fail_msg("%s, %s call %ld: other bytes", s->recipe, after, k);
    if (!s->split) assert_clean(s->out);
}

/* ---- the last call ---- */

static bool is_there(const subject *s) {
    return pare_path_exists(s->out) && strcmp(test_hash(s->hashed), s->expected) == 0;
}

static void killed_after_every_call(void **state) {
    (void)state;
    subject s;
    for (size_t i = 0; subject_at(&s, i); i++) {
        if (s.split) continue; /* parts appear one after the other */
        expect(&s, CALL_CHANGES);
        assert_true(s.n_calls > 20);
        pare_compress_options o = options(&s);
        long step = test_fault_step(); /* of each recipe others */
        for (long k = (long)i % step; k < s.n_calls; k += step) {
            assert_int_equal(run_apart(&o, KILL, k, 0), -1);
            /* the rename of the output may have been the last call; then it must be whole */
            if (pare_path_exists(s.out)) {
                assert_true(is_there(&s));
                test_remove(s.out);
            }
            must_end(&s, "killed after", k);
            test_remove(s.out);
        }
    }
}

/* ---- failing calls ---- */

static const int errors[] = {ENOSPC, EIO};

/* What a failed run may leave: the work folder. */
static void check_failed(const subject *s, const char *how, long k, int code) {
    if (code != 1) fail_msg("%s, %s call %ld: exit code %d", s->recipe, how, k, code);
    if (pare_path_exists(s->out)) fail_msg("%s, %s call %ld: an output", s->recipe, how, k);
    char work[1100];
    snprintf(work, sizeof work, "%s.work", strrchr(s->out, '/') + 1);
    DIR *dir = opendir(test_path("results"));
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.' && strcmp(e->d_name, work) != 0)
            fail_msg("%s, %s call %ld: %s is left", s->recipe, how, k, e->d_name);
    closedir(dir);
}

/* Call k fails, alone or with all that follow. A run may do without a few (a lock's release). */
static void fail_at(const subject *s, int kind, long k) {
    const char *how = kind == FAIL_ONCE ? "failing" : "failing from";
    pare_compress_options o = options(s);
    int code = run_apart(&o, kind, k, errors[k % 2]);
    if (code != 0) {
        check_failed(s, how, k, code);
        must_end(s, how, k);
    } else if (strcmp(test_hash(s->hashed), s->expected) != 0) {
        fail_msg("%s, %s call %ld: other bytes", s->recipe, how, k);
    }
    begin();
}

/* All calls of one method, and of the others and of what makes calls of its own some: of each
 * others, since methods themselves make none. */
static long stride_of(const subject *s) {
    if (strcmp(s->recipe, "wanda") == 0) return test_fault_step();
    return s->n_calls / (test_is_slow() ? 3 : 10);
}

static void every_call_fails(void **state) {
    (void)state;
    subject s;
    for (size_t i = 0; subject_at(&s, i); i++) {
        expect(&s, CALL_ALL);
        assert_true(s.n_calls > 60);
        for (int kind = FAIL_ONCE; kind <= FAIL_FROM; kind++) {
            long stride = stride_of(&s);
            for (long k = 1 + ((long)i * 5 + kind) % stride; k <= s.n_calls; k += stride)
                fail_at(&s, kind, k);
        }
    }
}

/* ---- signals and short transfers ---- */

/* Nearly all calls are cut off, and no transfer is whole: as if nothing had been. */
static void interrupted_calls(void **state) {
    (void)state;
    subject s;
    for (size_t i = 0; subject_at(&s, i); i++) {
        expect(&s, CALL_ALL);
        pare_compress_options o = options(&s);
        int code = run_apart(&o, INTERRUPT, 0, 0);
        if (code != 0) fail_msg("%s: exit code %d", s.recipe, code);
        if (strcmp(test_hash(s.hashed), s.expected) != 0) fail_msg("%s: other bytes", s.recipe);
        assert_true(atomic_load(n_calls) > 2 * s.n_calls);
    }
}

/* ---- renames ---- */

/* Every rename (where runs are slow a third of them and the last), also as from one file system to
 * another and where rights are missing. A run does without those that keep states' room. */
static void renames_fail(void **state) {
    (void)state;
    static const int reasons[] = {EXDEV, EACCES};
    int n_all_without = 0;
    subject s;
    for (size_t i = 0; subject_at(&s, i); i++) {
        expect(&s, CALL_RENAME);
        assert_true(s.n_calls > 2);
        pare_compress_options o = options(&s);
        char work[1100];
        int n_without = 0;
        snprintf(work, sizeof work, "%s.work", s.out);
        for (long k = s.n_calls; k >= 1; k -= test_is_slow() ? 3 : 1) {
            int code = run_apart(&o, FAIL_ONCE, k, reasons[(k + (long)i) % 2]);
            n_without += code == 0;
            if (code == 0) {
                if (strcmp(test_hash(s.hashed), s.expected) != 0)
                    fail_msg("%s, failing rename %ld: other bytes", s.recipe, k);
            } else {
                check_failed(&s, "failing rename,", k, code);
                if (k == s.n_calls) assert_true(pare_path_exists(work));
                must_end(&s, "failing rename,", k);
            }
            begin();
        }
        assert_true(n_without <= 2); /* of three blocks one makes room, for the last */
        n_all_without += n_without;
    }
    assert_true(n_all_without > 0 || test_is_slow()); /* room is used again */
}

int main(void) {
    calibrated_run_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_after_every_call),
        cmocka_unit_test(every_call_fails),
        cmocka_unit_test(interrupted_calls),
        cmocka_unit_test(renames_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
