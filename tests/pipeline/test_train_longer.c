/* A run that has ended, or stands, goes on with another number of steps: as far as both take the
 * same steps, and then with the bytes of a run that had that number from the start. */
#include "support/toy_training.h"

#include "base/os.h"
#include "pipeline/train_run.h"

#include <stdio.h>
#include <string.h>

int fsync(int fd) { return (void)fd, 0; } /* nothing here loses power */

/* Ends of runs are no multiples of what is evaluated and told. */
static pare_train_options options(const char *schedule, const char *sparsity) {
    pare_train_options o = toy_options();
    o.schedule = schedule;
    o.sparsity = sparsity;
    o.warmup = 2;
    o.eval_every = 6;
    o.log_every = 4;
    o.save_every = 5;
    o.ema = 0.8;
    o.keep_best = true;
    o.keep_work = true;
    return o;
}

static const char *run_to(pare_train_options *o, uint64_t steps, int threads) {
    pare_train_report r;
    o->steps = steps;
    test_remove(toy.out);
    assert_ok(toy_run(&r, o, threads, NULL, err));
    assert_int_equal(r.steps, steps);
    return test_hash(toy.out);
}

static size_t n_checkpoints(uint64_t steps) {
    size_t n = 0;
    for (uint64_t i = 1; i <= steps; i++) {
        char path[700];
        snprintf(path, sizeof path, "%s/checkpoint-%llu.safetensors", toy.work,
                 (unsigned long long)i);
        n += pare_path_exists(path);
    }
    return n;
}

static void longer_ones_have_the_same_bytes(void **state) {
    (void)state;
    static const char rigl[] = "rigl:sparsity=0.5,every=2,from=1,until=9";
    static const char *const cases[][2] = {{"wsd", NULL},
                                           {"constant", NULL},
                                           {"wsd", rigl},
                                           {"constant", "magnitude_ste:from=2,until=9"}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        pare_train_options o = options(cases[k][0], cases[k][1]);
        char short_one[65], long_one[65];
        toy_clean();
        snprintf(short_one, sizeof short_one, "%s", run_to(&o, 14, 1));
        toy_clean();
        snprintf(long_one, sizeof long_one, "%s", run_to(&o, 27, 1));
        assert_string_not_equal(short_one, long_one);
        toy_clean();
        assert_string_equal(run_to(&o, 14, 2), short_one);
        assert_string_equal(run_to(&o, 14, 1), short_one); /* it has ended and is the same again */
        assert_string_equal(run_to(&o, 27, 1), long_one);
        size_t n = n_checkpoints(27);
        if (n < 2 || n > 3) fail_msg("%s: found %zu checkpoints", cases[k][0], n);
        /* on the way and shorter than at first; cut off behind the place that it went back to */
        toy_clean();
        o.stop_at = 7;
        pare_train_report r;
        assert_ok(toy_run(&r, &o, 1, NULL, err));
        o.stop_at = 0;
        assert_string_equal(run_to(&o, 14, 1), short_one);
        o.steps = 27;
        for (o.stop_at = 13; o.stop_at < 27; o.stop_at += 3) {
            test_remove(toy.out);
            assert_ok(toy_run(&r, &o, 1, NULL, err));
        }
        o.stop_at = 0;
        assert_string_equal(run_to(&o, 27, 2), long_one);
    }
    toy_clean();
}

static void others_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *schedule, *sparsity;
        bool keep;
        uint64_t stop;
        const char *part;
    } cases[] = {{"cosine", NULL, true, 0, "steps: found 27, expected 14"},
                 {"linear", NULL, true, 0, "schedule wsd with keep-work"},
                 {"constant", "magnitude:sparsity=0.5", true, 0, "steps: found 27, expected 14"},
                 {"wsd", NULL, false, 13, "steps: found 27, expected 14"}};
    pare_train_report r;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        pare_train_options o = options(cases[k].schedule, cases[k].sparsity);
        toy_clean();
        o.steps = 14;
        o.keep_work = cases[k].keep;
        o.stop_at = cases[k].stop;
        o.save_every = 0;
        assert_ok(toy_run(&r, &o, 1, NULL, err));
        test_remove(toy.out);
        o.steps = 27;
        o.stop_at = 0;
        assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, cases[k].part);
        o.steps = 14; /* and nothing is lost */
        assert_ok(toy_run(&r, &o, 1, NULL, err));
    }
    /* the warm-up follows the steps where it was not given */
    pare_train_options o = options("wsd", NULL);
    toy_clean();
    o.warmup = UINT64_MAX;
    o.steps = 40;
    o.stop_at = 3;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    o.steps = 80;
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG,
                 "steps: found 80, of which the warm-up is 4");
    o.optim = "sgd:lr=0.1"; /* not alone: the fields are named */
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "another warmup, optim");
    o = options("wsd", NULL);
    o.steps = 80;
    o.stop_at = 4;
    o.warmup = 2; /* what the message asks for */
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    /* of a schedule that cannot go on in any case the steps are the reason */
    o = options("cosine", NULL);
    toy_clean();
    o.warmup = UINT64_MAX;
    o.steps = 40;
    o.stop_at = 3;
    assert_ok(toy_run(&r, &o, 1, NULL, err));
    o.steps = 80;
    assert_fails(toy_run(&r, &o, 1, NULL, err), PARE_ERR_ARG, "steps: found 80, expected 40");
    toy_clean();
}

static void trunks(void **state) {
    (void)state;
    pare_train_options o = toy_options();
    static const struct {
        const char *schedule;
        uint64_t steps, warmup, trunk;
    } cases[] = {{"wsd", 110, 10, 91},       {"wsd", 14, 2, 12},     {"wsd", 10, 20, 10},
                 {"constant", 110, 10, 110}, {"cosine", 110, 10, 0}, {"linear", 110, 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        o.schedule = cases[i].schedule;
        o.steps = cases[i].steps;
        o.warmup = cases[i].warmup;
        uint64_t trunk = pare_train_trunk(&o);
        if (trunk != cases[i].trunk)
            fail_msg("%s, %d steps: found %d", o.schedule, (int)o.steps, (int)trunk);
        for (uint64_t s = o.warmup; s < trunk && i < 4; s++)
            assert_true(pare_train_rate(&o, s) == 1);
        if (i < 2) assert_true(pare_train_rate(&o, trunk) < 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(longer_ones_have_the_same_bytes),
                                       cmocka_unit_test(others_are_refused),
                                       cmocka_unit_test(trunks)};
    return cmocka_run_group_tests(tests, toy_set_up, NULL);
}
