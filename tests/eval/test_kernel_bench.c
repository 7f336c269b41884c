/* The kernel benchmark: what it counts, against closed forms; the errors that it measures. */
#include "support/test.h"

#include "pare/bench.h"

#include <math.h>

enum { MAX_ROWS = 64, OUT = 48, IN = 256, CTX = 70, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 32 };

typedef struct rows {
    pare_kernel_row row[MAX_ROWS];
    size_t n;
} rows;

static void keep(void *arg, const pare_kernel_row *row) {
    rows *r = arg;
    assert_true(r->n < MAX_ROWS);
    r->row[r->n++] = *row;
}

/* the last three only where they are counted */
static const char *const measured[] = {"linear_exact", "linear_fast", "attention", "attention_fast",
                                       "kv_load"};
static const char *const encodings[] = {"f32", "q8_0", "q4_k", "nm24_q8"};
static const size_t counts[] = {1, 30};

static pare_kernel_bench_options options(rows *r) {
    pare_kernel_bench_options o = pare_kernel_bench_options_default();
    o.out_dim = OUT;
    o.in_dim = IN;
    o.rows = counts;
    o.n_rows = 2;
    o.encodings = encodings;
    o.n_encodings = 4;
    o.kernels = measured;
    o.n_kernels = 5;
    o.n_heads = HEADS;
    o.n_kv_heads = KV_HEADS;
    o.head_dim = HEAD_DIM;
    o.ctx = CTX;
    o.reps = 1;
    o.on_row = keep;
    o.arg = r;
    return o;
}

static void run(rows *r, int n_threads, pare_isa isa, bool attention) {
    pare_kernel_bench_options o = options(r);
    pare_runtime *rt = test_runtime(n_threads, isa);
    pare_limits limits;
    r->n = 0;
    if (!attention) o.n_kernels = 2;
    assert_ok(pare_bench_kernels(&limits, rt, &o, err));
    assert_int_equal(r->n, 4 * 2 * 2 + (attention ? 5 * (2 + 1) + 1 : 0));
    pare_runtime_free(rt);
}

static const pare_kernel_row *find(const rows *r, const char *kernel, const char *encoding,
                                   size_t n) {
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->row[i].kernel, kernel) == 0 && strcmp(r->row[i].encoding, encoding) == 0 &&
            r->row[i].rows == n)
            return &r->row[i];
    fail_msg("no row for %s, %s, %zu", kernel, encoding, n);
    return NULL;
}

/* Bytes and operations as the shapes give them. */
static void counted(void **state) {
    (void)state;
    rows r;
    run(&r, 1, pare_isa_best(), true);
    for (size_t i = 0; i < 2; i++) {
        double n = (double)counts[i], all = 2.0 * OUT * IN * n;
        const pare_kernel_row *q8 = find(&r, "linear_fast", "q8_0", counts[i]);
        assert_true(q8->bytes == OUT * (IN / 32) * 34.0 && q8->ops == all);
        assert_true(find(&r, "linear_exact", "f32", counts[i])->bytes == OUT * IN * 4.0);
        assert_true(find(&r, "linear_fast", "nm24_q8", counts[i])->ops == all / 2);
        /* the last of n tokens sees CTX positions, the one before it one less */
        const pare_kernel_row *a = find(&r, "attention", "f16", counts[i]);
        assert_true(a->bytes == 2.0 * CTX * KV_HEADS * HEAD_DIM * 2);
        assert_true(a->ops == 4.0 * HEADS * HEAD_DIM * (n * CTX - n * (n - 1) / 2));
    }
    /* two heads to a kv head: in integers for q4_0, not for q8_0; and few rows only */
    const pare_kernel_row *fast = find(&r, "attention_fast", "q4_0", 1);
    assert_true(fast->bytes == 2.0 * CTX * KV_HEADS * 18 &&
                fast->ops == 4.0 * HEADS * HEAD_DIM * CTX);
    assert_true(find(&r, "kv_load", "q8_0", CTX)->bytes == 2.0 * CTX * KV_HEADS * 34);
    for (size_t i = 0; i < r.n; i++)
        assert_true(r.row[i].seconds > 0 && r.row[i].read_limit > 0 && r.row[i].bytes > 0);
    assert_true(isnan(find(&r, "attention", "f16", 1)->rms_error));
}

/* `exact` keeps its promise; `fast` errs by its 8-bit activations, 0.5 / 127 of the largest of 32
 * (some 2 sigma) at most, evenly spread: below 0.01 of the result, and not by nothing. */
static void check_errors(const rows *r) {
    for (size_t i = 0; i < r->n; i++) {
        const pare_kernel_row *row = &r->row[i];
        bool fast = strcmp(row->kernel, "linear_fast") == 0;
        assert_true(row->rms_error <= (fast ? 0.01 : 1e-6));
        if (fast && strcmp(row->encoding, "f32") != 0) assert_true(row->rms_error > 1e-4);
    }
}

/* At each level; they do not depend on the number of threads. */
static void errors(void **state) {
    (void)state;
    rows one, two;
    run(&one, 1, PARE_ISA_REF, false);
    check_errors(&one);
    run(&one, 1, pare_isa_best(), false);
    check_errors(&one);
    run(&two, 2, pare_isa_best(), false);
    for (size_t i = 0; i < one.n; i++) assert_true(one.row[i].rms_error == two.row[i].rms_error);
}

static void refused(void **state) {
    (void)state;
    rows r;
    pare_limits limits;
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    pare_kernel_bench_options o = options(&r);
    o.reps = 0;
    assert_fails(pare_bench_kernels(&limits, rt, &o, err), PARE_ERR_ARG, "repetitions: found 0");
    o = options(&r);
    o.rows = (const size_t[]){0, 1};
    assert_fails(pare_bench_kernels(&limits, rt, &o, err), PARE_ERR_ARG, "rows: found 0");
    o = options(&r);
    o.encodings = (const char *const[]){"f32", "q8_0", "q8_7", "f16"};
    assert_fails(pare_bench_kernels(&limits, rt, &o, err), PARE_ERR_ARG, "'q8_7'");
    o = options(&r);
    o.kernels = (const char *const[]){"rope", "attention", "", "argmax"};
    assert_fails(pare_bench_kernels(&limits, rt, &o, err), PARE_ERR_ARG, "kernel ''");
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(counted), cmocka_unit_test(errors),
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
