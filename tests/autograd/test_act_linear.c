/* Products with quantized inputs: as integers in `fast` and as rounded f32 in `exact` against sums
 * in f64 of the rounded numbers, for every kind of codes, all tails, every level and granularity.
 * Built a second time with PARE_EMULATE for levels that the machine lacks. */
#include "support/levels.h"
#include "support/test.h"

#include "autograd/ops.h"
#include "base/rng.h"
#include "tensor/linear.h"
#include "tensor/pack.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef PARE_EMULATE
enum { STEP = 5 }; /* of the cases: emulation is slow */
#else
enum { STEP = 1 };
#endif

enum { MAX_N = 40, MAX_OUT = 49, MAX_IN = 320 };

typedef struct world {
    pare_tensor plain, w; /* as decoded, and as multiplied */
    float values[MAX_OUT * MAX_IN], row_sums[MAX_OUT], bias[MAX_OUT];
    float x[MAX_N * MAX_IN], q[MAX_N * MAX_IN], y[MAX_N * MAX_OUT], other[MAX_N * MAX_OUT];
    size_t n, in, out;
    pare_act_site site;
    pare_act_scheme scheme;
    bool codes;
    pare_fwd f;
} world;

static world t;

static float normal(uint64_t stream, uint64_t i) {
    double u = 1.0 - (double)pare_rng_uniform(11, stream, 2 * i),
           v = (double)pare_rng_uniform(11, stream, 2 * i + 1);
    return (float)(sqrt(-2 * log(u)) * cos(2 * 3.14159265358979 * v));
}

static void pass(pare_worker *w, void *arg) {
    float *y = arg;
    pare_fwd f = t.f;
    f.w = w;
    if (t.f.own.base) f.own.base = (uint8_t *)t.f.own.base + (size_t)w->id * t.f.own.capacity;
    pare_op_out out = {.name = "w",
                       .w = &t.w,
                       .bias = t.bias,
                       .y = y,
                       .ldy = t.out,
                       .act = &t.site,
                       .codes = t.codes,
                       .row_sums = t.row_sums};
    pare_op_linear(&f, t.x, t.in, t.n, t.in, &out, 1);
}

/* Kept: threads that begin and end cost more than what they compute here. */
static pare_runtime *runtimes[8][4];
static pare_runtime *runtime_of(int n_threads, pare_isa isa) {
    pare_runtime **rt = &runtimes[isa][n_threads];
    return *rt ? *rt : (*rt = test_runtime(n_threads, isa));
}

static void run(float *y, pare_isa isa, pare_compute compute, int n_threads) {
    pare_runtime *rt = runtime_of(n_threads, isa);
    pare_worker worker;
    t.f = pare_fwd_plan(&worker, n_threads, isa, compute);
    pare_op_out out = {.act = &t.site};
    pare_op_linear(&t.f, NULL, t.in, t.n, t.in, &out, 1);
    t.f.arena =
        (pare_arena){.base = pare_big_alloc(t.f.arena.peak + 64), .capacity = t.f.arena.peak + 64};
    size_t own = (t.f.own.peak + 127) / 64 * 64;
    t.f.own = (pare_arena){.base = pare_big_alloc(own * (size_t)n_threads), .capacity = own};
    size_t arena_bytes = t.f.arena.capacity;
    t.f.linear_scratch = pare_big_alloc(t.f.linear_bytes);
    pare_team_run(rt, pass, y);
    pare_big_free(t.f.arena.base, arena_bytes);
    pare_big_free(t.f.own.base, own * (size_t)n_threads);
    pare_big_free(t.f.linear_scratch, t.f.linear_bytes);
}

/* One NaN or Inf in a row must not leave it. */
static void make_inputs(void) {
    for (size_t i = 0; i < t.n * t.in; i++)
        t.x[i] = normal(1, i) + (i % 37 == 0 ? 8.0f : 0.0f) - 0.4f;
    pare_act_range r = {-2.5f, 6.0f}; /* static: both ends are clamped */
    t.site = (pare_act_site){.scheme = &t.scheme, .grid = pare_act_grid_of(&t.scheme, r)};
    const pare_act_grid *grid = &t.site.grid;
    pare_act_grid all =
        pare_act_grid_of(&t.scheme, pare_act_range_of(PARE_ISA_REF, t.x, t.in, t.n, t.in));
    if (t.scheme.granularity == PARE_ACT_PER_TENSOR_DYNAMIC) grid = &all;
    if (t.scheme.granularity == PARE_ACT_PER_TOKEN) grid = NULL;
    pare_act_quantize_rows(&t.scheme, grid, PARE_ISA_REF, t.q, t.in, t.x, t.in, t.n, t.in);
}

static void make_weights(const char *encoding, pare_runtime *rt) {
    const pare_encoding *enc = pare_encoding_find(encoding);
    assert_non_null(enc);
    for (size_t i = 0; i < t.out * t.in; i++) t.values[i] = normal(2, i) * 0.1f;
    for (size_t i = 0; i < t.out; i++) t.bias[i] = normal(3, i);
    assert_ok(pare_tensor_encode(rt, &t.w, enc, t.values, t.out, t.in, NULL, err));
    pare_tensor_decode(rt, t.values, &t.w);
    assert_ok(pare_tensor_repack(&t.w, pare_runtime_isa(rt), err));
    t.codes = t.w.enc->codes && t.w.enc->packed;
    for (size_t r = 0; r < t.out; r++) {
        double sum = 0;
        int8_t q[PARE_TILE_KC];
        float scale[PARE_TILE_KC / 16], offset[PARE_TILE_KC / 16];
        for (size_t i = 0; i < t.in; i++) sum += (double)t.values[r * t.in + i];
        t.row_sums[r] = (float)sum;
        for (size_t c = 0; t.w.enc->codes && c < t.in; c += PARE_TILE_KC) {
            size_t k = t.in - c < PARE_TILE_KC ? t.in - c : PARE_TILE_KC;
            t.w.enc->codes(q, scale, offset, &t.w.view, r, c, k);
            for (size_t i = 0; i < k; i++) t.codes &= q[i] != INT8_MIN;
        }
    }
}

static void check(const float *y, const char *encoding, int isa, int compute) {
    for (size_t i = 0; i < t.n; i++)
        for (size_t r = 0; r < t.out; r++) {
            double want = (double)t.bias[r], mag = 1 + fabs(want);
            for (size_t c = 0; c < t.in; c++) {
                double w = (double)t.values[r * t.in + c];
                want += (double)t.q[i * t.in + c] * w;
                /* codes are moved: terms as large as the largest code's */
                mag += (fabs((double)t.q[i * t.in + c]) + 8) * fabs(w);
            }
            double off = fabs((double)y[i * t.out + r] - want);
            if (!(off <= (double)t.in * (double)FLT_EPSILON * mag))
                fail_msg(
                    "%s isa %d compute %d act %d bits %d sym %d: n %zu of %zu x %zu, y[%zu][%zu]"
                    " found %g, expected %g",
                    encoding, isa, compute, t.scheme.granularity, t.scheme.bits, t.scheme.symmetric,
                    t.n, t.out, t.in, i, r, (double)y[i * t.out + r], want);
        }
}

static void against_f64(void **state) {
    (void)state;
    static const char *const encodings[] = {
        "int8_row", "int8_g64", "int4_g32", "uint4_g64", "int6_row", "uint8_g32", "q8_0",
        "q4_k",     "q6_k",     "iq4_nl",   "nm24_q8",   "bf16",     "f32"};
    static const size_t ns[] = {1, 2, 3, 5, 17, 40}, outs[] = {1, 16, 33, 49},
                        ins[] = {32, 96, 256, 320};
    for (size_t e = 0; e < sizeof encodings / sizeof *encodings; e++)
        for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++)
            for (size_t k = 0; k < 24; k += STEP) {
                t.n = ns[k % 6];
                t.out = outs[k % 4];
                t.in = ins[(k / 6) % 4];
                if (strcmp(encodings[e], "q4_k") == 0 || strcmp(encodings[e], "q6_k") == 0)
                    t.in = 256;
                if (strcmp(encodings[e], "nm24_q8") == 0) continue;
                t.scheme = (pare_act_scheme){.granularity = (pare_act_granularity)(k % 3),
                                             .bits = k % 5 == 0   ? 4
                                                     : k % 5 == 1 ? 6
                                                                  : 8,
                                             .symmetric = k % 2,
                                             .formula = k % 11 == 3   ? PARE_ACT_PAPER_EQ4
                                                        : k % 11 == 4 ? PARE_ACT_FULL
                                                                      : PARE_ACT_DEFAULT};
                pare_runtime *rt = runtime_of(1, (pare_isa)isa);
                make_weights(encodings[e], rt);
                make_inputs();
                for (int c = 0; c < 2; c++) {
                    pare_compute compute = c ? PARE_COMPUTE_FAST : PARE_COMPUTE_EXACT;
                    run(t.y, (pare_isa)isa, compute, 1);
                    check(t.y, encodings[e], isa, c);
                    run(t.other, (pare_isa)isa, compute, 3);
                    assert_memory_equal(t.y, t.other, t.n * t.out * sizeof *t.y);
                }
                pare_tensor_free(&t.w);
            }
}

/* All codes of x and w at the ends of their ranges: nothing saturates. */
static void extremes(void **state) {
    (void)state;
    t.n = 5;
    t.out = 17;
    t.in = 320;
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++)
        for (int sign = 0; sign < 8; sign++) {
            pare_runtime *rt = runtime_of(1, (pare_isa)isa);
            t.scheme = (pare_act_scheme){
                .granularity = PARE_ACT_PER_TENSOR_STATIC, .bits = 8, .symmetric = sign & 4};
            make_weights("int8_row", rt);
            make_inputs();
            const pare_encoding *enc = pare_encoding_find("int8_row");
            float scale[MAX_OUT];
            for (size_t i = 0; i < t.out * t.in; i++) t.values[i] = sign & 1 ? -127.0f : 127.0f;
            for (size_t r = 0; r < t.out; r++) {
                scale[r] = 1;
                t.row_sums[r] = (float)t.in * t.values[0];
            }
            pare_tensor_free(&t.w);
            assert_ok(
                pare_tensor_encode_grid(rt, &t.w, enc, t.values, t.out, t.in, scale, NULL, err));
            assert_ok(pare_tensor_repack(&t.w, (pare_isa)isa, err));
            t.codes = true;
            t.site.grid = pare_act_grid_of(&t.scheme, (pare_act_range){-1, 2});
            for (size_t i = 0; i < t.n * t.in; i++) t.x[i] = sign & 2 ? -100.0f : 100.0f;
            pare_act_quantize_rows(&t.scheme, &t.site.grid, PARE_ISA_REF, t.q, t.in, t.x, t.in, t.n,
                                   t.in);
            run(t.y, (pare_isa)isa, PARE_COMPUTE_FAST, 1);
            check(t.y, "extremes", isa, 1);
            pare_tensor_free(&t.w);
        }
}

/* A tensor of one token is that token, and a NaN makes its row NaN, or (dynamic) all. */
static void one_token_and_nan(void **state) {
    (void)state;
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++)
        for (int c = 0; c < 2; c++) {
            pare_compute compute = c ? PARE_COMPUTE_FAST : PARE_COMPUTE_EXACT;
            pare_runtime *rt = runtime_of(1, (pare_isa)isa);
            t.n = 1;
            t.out = 33;
            t.in = 96;
            t.scheme = (pare_act_scheme){.granularity = PARE_ACT_PER_TOKEN, .bits = 8};
            make_weights("int8_row", rt);
            make_inputs();
            run(t.y, (pare_isa)isa, compute, 2);
            t.scheme.granularity = PARE_ACT_PER_TENSOR_DYNAMIC;
            run(t.other, (pare_isa)isa, compute, 2);
            assert_memory_equal(t.y, t.other, t.out * sizeof *t.y);
            for (int g = 0; g < 3; g++) {
                t.n = 4;
                t.scheme.granularity = (pare_act_granularity)g;
                make_inputs();
                t.x[2 * t.in + 5] = NAN;
                run(t.y, (pare_isa)isa, compute, 1);
                for (size_t i = 0; i < t.n * t.out; i++) {
                    bool odd = i / t.out == 2 || g == PARE_ACT_PER_TENSOR_DYNAMIC;
                    assert_true((isnan(t.y[i]) != 0) == odd);
                }
            }
            pare_tensor_free(&t.w);
        }
}

/* Calibration passes x on as it is, and sees all of it. */
static void calibration(void **state) {
    (void)state;
    pare_act_range seen[2];
    pare_runtime *rt = runtime_of(1, pare_isa_best());
    t.n = 17;
    t.out = 16;
    t.in = 96;
    t.scheme = (pare_act_scheme){.granularity = PARE_ACT_PER_TENSOR_STATIC, .bits = 8};
    make_weights("f32", rt);
    make_inputs();
    memcpy(t.q, t.x, sizeof t.q);
    seen[0] = seen[1] = pare_act_range_none;
    t.site.seen = seen;
    run(t.y, pare_isa_best(), PARE_COMPUTE_EXACT, 2);
    check(t.y, "calibration", 0, 0);
    pare_act_range all = pare_act_range_join(seen[0], seen[1]),
                   want = pare_act_range_of(PARE_ISA_REF, t.x, t.in, t.n, t.in);
    assert_true(all.min == want.min && all.max == want.max);
    pare_tensor_free(&t.w);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_f64), cmocka_unit_test(extremes),
                                       cmocka_unit_test(one_token_and_nan),
                                       cmocka_unit_test(calibration)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < 32; i++) pare_runtime_free(runtimes[i / 4][i % 4]);
    return failed;
}
