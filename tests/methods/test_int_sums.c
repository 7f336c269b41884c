/* Sums of integers at the extremes (robustness row N14). Every encoding that a method of the
 * registry can ask for is multiplied with inputs in int8 where all codes and all inputs are as
 * large as they get, of both signs, against sums in 64 bits: over rows so wide that one sum of all
 * products would leave 32 bits (65,793 products of u8 and s8, 131,071 of s8 and s8), and over short
 * ones, where every product and sum is a number of f32 and the result is exact. Two neighbouring
 * products of u8 and s8 leave 16 bits: what saturates there is far off here. */
#include "support/test.h"

#include "base/memory.h"
#include "base/team.h"
#include "methods/method.h"
#include "tensor/linear.h"
#include "tensor/pack.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROWS = 17, /* a panel and a row */
    N_X = 5,
    WIDE = 131104, /* > 131,071 */
    SHORT = 256,   /* 255 * 127 * 256 < 2^24 */
    MAX_ENCODINGS = 64,
    MAX_PARAMS = 16
};

static pare_runtime *rt;

/* ---- the encodings that methods ask for ---- */

static const pare_encoding *encodings[MAX_ENCODINGS];
static size_t n_encodings, n_methods;

/* The i-th value of a parameter, or false. */
static bool value_of(const pare_param *p, int i, char *text, size_t n) {
    const char *at = p->choices;
    double value = p->min + i;
    switch (p->type) {
    case PARE_PARAM_INT:
    case PARE_PARAM_BOOL:
        snprintf(text, n, p->type == PARE_PARAM_BOOL ? i ? "true" : "false" : "%.0f", value);
        return p->type == PARE_PARAM_BOOL ? i < 2 : value <= fmin(p->max, p->min + 256);
    case PARE_PARAM_CHOICE:
        for (; i > 0 && at; i--) at = (at = strchr(at, '|')) ? at + 1 : NULL;
        if (at) snprintf(text, n, "%.*s", (int)strcspn(at, "|"), at);
        return at != NULL;
    default:
        return false;
    }
}

static const pare_encoding *encoding_of(const pare_method *m, const void *options) {
    pare_error err = {0};
    if (m->check && m->check(options, &err) != PARE_OK) return NULL;
    return m->encoding(options);
}

/* Does the encoding depend on the parameter, with the others as they are? */
static bool decides(const pare_method *m, const void *options, const pare_param *p) {
    const pare_encoding *first = encoding_of(m, options);
    void *other = malloc(m->options_size);
    char text[64];
    bool differs = false;
    assert_non_null(other);
    for (int i = 0; !differs && value_of(p, i, text, sizeof text); i++) {
        memcpy(other, options, m->options_size);
        assert_ok(pare_param_set(p, other, text, err));
        const pare_encoding *e = encoding_of(m, other);
        differs = e && e != first;
    }
    free(other);
    return differs;
}

static void take(const pare_encoding *e) {
    for (size_t i = 0; i < n_encodings; i++)
        if (encodings[i] == e) return;
    assert_true(n_encodings < MAX_ENCODINGS);
    encodings[n_encodings++] = e;
}

/* All values of params[0 .. n), each with all of the others. */
static void collect(const pare_method *m, void *options, const pare_param *const *params,
                    size_t n) {
    if (n == 0) {
        const pare_encoding *e = encoding_of(m, options);
        if (e) take(e);
        return;
    }
    char text[64];
    for (int i = 0; value_of(params[0], i, text, sizeof text); i++) {
        assert_ok(pare_param_set(params[0], options, text, err));
        collect(m, options, params + 1, n - 1);
    }
}

static void collect_all(void) {
    for (size_t k = 0; pare_step_method_at(k); k++) {
        const pare_method *m = pare_step_method_at(k);
        if (!m->encoding) continue; /* a later step says how the weights are stored */
        const pare_param *params[MAX_PARAMS];
        size_t n = 0;
        void *options = calloc(1, m->options_size);
        assert_non_null(options);
        pare_method_defaults(m, options);
        if (!encoding_of(m, options)) { /* rounding is an option */
            for (const pare_param *p = m->params; p->name; p++) {
                char text[64];
                pare_method_defaults(m, options);
                for (int i = 0; !encoding_of(m, options) && value_of(p, i, text, sizeof text); i++)
                    assert_ok(pare_param_set(p, options, text, err));
                if (encoding_of(m, options)) break;
            }
        }
        assert_non_null(encoding_of(m, options));
        for (const pare_param *p = m->params; p->name; p++)
            if (decides(m, options, p)) params[n++] = p;
        assert_true(n > 0 && n < MAX_PARAMS);
        collect(m, options, params, n);
        free(options);
        n_methods++;
    }
}

/* ---- products ---- */

/* Codes of row r: all large, all small, in turn, in halves. */
static int code_at(size_t r, size_t c, size_t cols, int max) {
    bool large = r % 4 == 0 ? true : r % 4 == 1 ? false : r % 4 == 2 ? c % 2 != 0 : c < cols / 2;
    return large ? max : 0;
}

static int zero_at(const pare_grid_form *g, size_t r) {
    if (!g->asymmetric) return 1 << (g->bits - 1);
    return r % 3 == 0 ? 0 : r % 3 == 1 ? (1 << g->bits) - 1 : 1 << (g->bits - 1);
}

static int input_at(size_t i, size_t c, size_t cols) {
    bool positive = i == 0   ? true
                    : i == 1 ? false
                    : i == 2 ? c % 2 != 0
                    : i == 3 ? c % 4 < 2
                             : c >= cols / 2;
    return positive ? 127 : -127;
}

static pare_tensor make_weights(const pare_encoding *e, size_t cols) {
    size_t groups = pare_grid_groups(e->grid, cols);
    float *w = malloc(ROWS * cols * sizeof *w), *scale = malloc(ROWS * groups * sizeof *scale);
    uint8_t *zero = malloc(ROWS * groups);
    pare_tensor t;
    assert_true(w && scale && zero);
    for (size_t r = 0; r < ROWS; r++) {
        int z = zero_at(e->grid, r), max = (1 << e->grid->bits) - 1;
        for (size_t c = 0; c < cols; c++) w[r * cols + c] = (float)(code_at(r, c, cols, max) - z);
        for (size_t g = 0; g < groups; g++) {
            scale[r * groups + g] = 1.0f;
            zero[r * groups + g] = (uint8_t)z;
        }
    }
    assert_ok(pare_tensor_encode_grid(rt, &t, e, w, ROWS, cols, scale, zero, err));
    free(w);
    free(scale);
    free(zero);
    return t;
}

typedef struct call {
    pare_isa isa;
    void *scratch;
    const float *x;
    size_t n, cols;
    pare_linear_out out;
} call;

static void forward(pare_worker *w, void *arg) {
    const call *c = arg;
    pare_linear_forward(w, c->isa, PARE_COMPUTE_FAST, c->scratch, c->x, c->cols, c->n, NULL,
                        &c->out, 1);
}

/* sums[N_X][ROWS] in 64 bits; the f32 sums differ by their rounding, once a group of 32. */
static void check(const pare_encoding *e, const float *y, const int64_t *sums, const int64_t *sizes,
                  size_t n, size_t cols, const char *how) {
    for (size_t i = 0; i < n; i++)
        for (size_t r = 0; r < ROWS; r++) {
            double expected = (double)sums[i * ROWS + r], found = (double)y[i * ROWS + r];
            double tol = cols <= SHORT ? 0.0
                                       : (double)FLT_EPSILON * (double)(cols / 32) *
                                             (double)sizes[i * ROWS + r];
            if (!(fabs(found - expected) <= tol))
                fail_msg("%s, %s, %zu inputs, input %zu, row %zu: found %.0f, expected %.0f",
                         e->name, how, cols, i, r, found, expected);
        }
}

static void multiply(const pare_encoding *e, pare_isa isa, size_t cols, const float *x,
                     const int64_t *sums, const int64_t *sizes) {
    float y[N_X * ROWS];
    void *scratch = aligned_alloc(
        64, (pare_linear_scratch_bytes(N_X, cols, 1, PARE_COMPUTE_FAST) + 63) & ~(size_t)63);
    assert_non_null(scratch);
    pare_tensor t = make_weights(e, cols);
    pare_runtime *own = test_runtime(1, isa);
    for (int packed = 0; packed < 2; packed++) {
        if (packed) assert_ok(pare_tensor_repack(&t, isa, err));
        for (int few = 0; few < 2; few++) {
            call c = {isa, scratch, x, few ? 1 : N_X, cols, {.w = &t, .y = y, .ldy = ROWS}};
            char how[80];
            snprintf(how, sizeof how, "%s, %s, %zu rows", pare_isa_name(isa),
                     packed ? "packed" : "as stored", c.n);
            pare_team_run(own, forward, &c);
            check(e, y, sums, sizes, c.n, cols, how);
        }
    }
    pare_runtime_free(own);
    pare_tensor_free(&t);
    free(scratch);
}

static void at_width(const pare_encoding *e, size_t cols) {
    int64_t sums[N_X * ROWS], sizes[N_X * ROWS];
    float *x = malloc(N_X * cols * sizeof *x);
    assert_non_null(x);
    int max = (1 << e->grid->bits) - 1;
    for (size_t i = 0; i < N_X; i++) {
        for (size_t c = 0; c < cols; c++) x[i * cols + c] = (float)input_at(i, c, cols);
        for (size_t r = 0; r < ROWS; r++) {
            int64_t sum = 0, size = 0, z = zero_at(e->grid, r);
            for (size_t c = 0; c < cols; c++) {
                int64_t code = code_at(r, c, cols, max);
                sum += (code - z) * input_at(i, c, cols);
                size += 127 * (code + z); /* codes and zero points may be summed apart */
            }
            sums[i * ROWS + r] = sum;
            sizes[i * ROWS + r] = size;
        }
    }
    multiply(e, PARE_ISA_REF, cols, x, sums, sizes);
    if (pare_isa_best() != PARE_ISA_REF) multiply(e, pare_isa_best(), cols, x, sums, sizes);
    free(x);
}

static void sums_at_the_extremes(void **state) {
    (void)state;
    collect_all();
    assert_true(n_methods > 0 && n_encodings > 0);
    for (size_t i = 0; i < n_encodings; i++) {
        assert_non_null(encodings[i]->grid);
        at_width(encodings[i], SHORT);
        /* one sum of all could only be meant where a row has one scale */
        if (!encodings[i]->grid->group) at_width(encodings[i], WIDE);
    }
}

int main(void) {
    rt = test_runtime(2, PARE_ISA_AMX);
    const struct CMUnitTest tests[] = {cmocka_unit_test(sums_at_the_extremes)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_runtime_free(rt);
    return failed;
}
