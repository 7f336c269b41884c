/* The machine's limits: plausible at the lowest and the highest level. */
#include "support/model_files.h"
#include "support/test.h"

#include "base/runtime.h"
#include "kernels/tile.h"
#include "pare/bench.h"

#include <string.h>

static void measured(void **state) {
    (void)state;
    for (int level = 0; level < 2; level++) {
        pare_runtime *rt = test_runtime(1, level ? pare_isa_best() : PARE_ISA_REF);
        pare_limits l;
        assert_ok(pare_limits_measure(&l, rt, err));
        /* millions a second on one core: between a sanitized build on a busy machine and a future
         * one */
        assert_in_range((uint64_t)(l.dram_read_bytes_per_s / 1e6), 20, 1000000);
        assert_in_range((uint64_t)(l.f32_flop_per_s / 1e6), 20, 10000000);
        assert_in_range((uint64_t)(l.bf16_flop_per_s / 1e6), 20, 100000000);
        bool own = level && pare_tile_kernels_get(pare_runtime_isa(rt))->bf16;
        assert_true(own == (l.bf16_flop_per_s != l.f32_flop_per_s)); /* else measured once */
        assert_in_range((uint64_t)(l.int8_op_per_s / 1e6), 20, 100000000);
        assert_in_range((uint64_t)(l.int4_op_per_s / 1e6), 20, 100000000);
        pare_runtime_free(rt);
    }
}

static volatile sig_atomic_t cancel = 1;

static void cancelled(void **state) {
    (void)state;
    pare_options options = pare_options_default();
    options.cancel = &cancel;
    pare_runtime *rt = NULL;
    assert_ok(pare_runtime_create(&rt, &options, err));
    pare_limits limits;
    assert_int_equal(pare_limits_measure(&limits, rt, NULL), PARE_ERR_INTERRUPTED);
    double rate;
    assert_int_equal(pare_limits_read_rate(&rate, rt, 1, NULL), PARE_ERR_INTERRUPTED);
    pare_runtime_free(rt);
}

/* No entry claims a level above the one asked for. */
static void kernel_list(void **state) {
    (void)state;
    for (int isa = 0; isa <= (int)pare_isa_best(); isa++) {
        pare_kernel_choice k;
        size_t n = 0;
        for (; pare_kernel_at(&k, n, (pare_isa)isa); n++) {
            assert_true(k.isa <= (pare_isa)isa);
            assert_true(strlen(k.name) && strlen(k.family));
        }
        assert_true(n > 0);
        assert_false(pare_kernel_at(&k, n + 7, (pare_isa)isa));
    }
}

/* Every repetition goes on from `depth`, where a sliding window (7) has left it behind, too: a row
 * that computed other tokens is an error. */
static void repetitions_begin_at_the_depth(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    pare_model *m;
    pare_bench_row row;
    pare_bench_options o = pare_bench_options_default();
    o.depth = 60;
    o.reps = 2;
    assert_ok(pare_model_load(&m, rt, fixture_path("gemma3"), err));
    assert_ok(pare_bench_decode(&row, rt, m, &o, 190, 2, err));
    assert_true(row.depth == 60 && row.batch == 2 && row.tokens_per_s > 0);
    assert_ok(pare_bench_prefill(&row, rt, m, &o, 190, 0, err));
    assert_true(row.depth == 60 && row.batch == 190 && row.tokens_per_s > 0);
    pare_error err = {0};
    assert_int_equal(pare_bench_decode(&row, rt, m, &o, 197, 1, &err), PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "found 197 tokens after 60 others, expected at most 256"));
    assert_int_equal(pare_bench_decode(&row, rt, m, &o, 1, 4097, &err), PARE_ERR_ARG);
    pare_model_free(m);
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(measured), cmocka_unit_test(cancelled),
                                       cmocka_unit_test(kernel_list),
                                       cmocka_unit_test(repetitions_begin_at_the_depth)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
