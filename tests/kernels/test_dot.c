/* The few-rows kernels: every encoding that has one, every level, against a sum in double over the
 * codes (or decoded values) that the encoding itself reports, with a derived bound; bits that do
 * not depend on n or on the range of rows; buffers of exact size. Built twice: the second program
 * runs the levels above AVX2 emulated; packed formats give the bits of AVX2 there. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/blocks.h"
#include "support/test.h"
#include "tensor/pack.h"

#ifdef PARE_EMULATE
#define FIRST_LEVEL PARE_ISA_AVX512
#define LAST_LEVEL PARE_ISA_AVX512
#else
#define FIRST_LEVEL PARE_ISA_REF
#define LAST_LEVEL pare_isa_best()
#endif

enum { MAX_ROWS = 17, PANEL_ROWS = 50, SLACK = 64 };

static uint64_t seed = 1;

static uint32_t next(void) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}
static float uniform(void) { return (float)(next() % 65536) / 32768.0f - 1.0f; }

/* ---- matrices in buffers of exact size: what follows the 64 readable bytes belongs to ASan, and
 * they hold NaNs in every format ---- */

typedef enum pattern { RANDOM, ONES, ZEROS, TOP_BITS, ZERO_SCALES, TINY_SCALES, PATTERNS } pattern;

static void *exact_buffer(size_t bytes) {
    uint8_t *p = malloc(bytes + SLACK);
    memset(p + bytes, 0xff, SLACK);
    return p;
}

static uint16_t scale_bits(pattern p) {
    if (p == ZERO_SCALES) return next() & 1 ? 0x8000 : 0;
    if (p == TINY_SCALES) return (uint16_t)((next() & 0x83ff) | 1);
    if (p == RANDOM) return pare_f32_to_f16(uniform() * 0.1f);
    return p == ONES ? 0x7bff : 0xfbff; /* +-65504 */
}

/* Where a block has f16 scales; -1 ends. */
static void scale_places(int at[3], const pare_encoding *e) {
    static const struct {
        const char *name;
        int at[3];
    } places[] = {{"q4_1", {0, 2, -1}},     {"q5_1", {0, 2, -1}},         {"q2_k", {80, 82, -1}},
                  {"q3_k", {108, -1, -1}},  {"q4_k", {0, 2, -1}},         {"q5_k", {0, 2, -1}},
                  {"q6_k", {208, -1, -1}},  {"q6_k_tail", {208, -1, -1}}, {"q4_k_tail", {0, 2, -1}},
                  {"q5_k_tail", {0, 2, -1}}};
    memcpy(at, (int[3]){0, -1, -1}, sizeof(int[3]));
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (strcmp(e->name, places[i].name) == 0) memcpy(at, places[i].at, sizeof(int[3]));
}

static void set_scales(uint8_t *block, const int at[3], pattern p) {
    for (int k = 0; k < 3 && at[k] >= 0; k++) {
        uint16_t bits = scale_bits(p);
        memcpy(block + at[k], &bits, 2);
    }
}

static void fill_row(uint8_t *row, size_t row_bytes, const pare_encoding *e, size_t cols,
                     pattern p) {
    for (size_t i = 0; i < row_bytes; i++)
        row[i] = p == ONES ? 0xff : p == ZEROS ? 0 : p == TOP_BITS ? 0x80 : (uint8_t)next();
    int at[3];
    scale_places(at, e);
    const pare_encoding *full = e;
    char name[16];
    snprintf(name, sizeof name, "%.4s", e->name);
    if (strstr(e->name, "_tail")) full = pare_encoding_find(name);
    size_t n = cols / full->block_len;
    for (size_t b = 0; b < n; b++) set_scales(row + b * full->block_bytes, at, p);
    if (n * full->block_len < cols)
        set_scales(row + n * full->block_bytes,
                   strcmp(name, "q6_k") ? (int[3]){0, 2, -1} : (int[3]){0, -1, -1}, p);
}

static void fill_floats(uint8_t *data, size_t n, const pare_encoding *e) {
    for (size_t i = 0; i < n; i++) {
        float v = uniform();
        uint16_t half = e->dotf == PARE_DOTF_f16 ? pare_f32_to_f16(v) : pare_f32_to_bf16(v);
        if (e->dotf == PARE_DOTF_f32)
            memcpy(data + 4 * i, &v, 4);
        else
            memcpy(data + 2 * i, &half, 2);
    }
}

/* Sparse forms go through their encoder, then into exact buffers. */
static pare_tensor make_sparse(pare_runtime *rt, const pare_encoding *e, size_t rows, size_t cols,
                               pattern p) {
    float *w = calloc(rows * cols, sizeof *w);
    int m = strncmp(e->name, "nm24", 4) == 0 ? 4 : strncmp(e->name, "nm48", 4) == 0 ? 8 : 0;
    for (size_t i = 0; i < rows * cols; i++) {
        bool keep = p == ONES || (p == RANDOM && next() % 10 < 3) || (p > ZEROS && next() & 1);
        if (m) { /* at most half of each group */
            int kept = 0;
            for (size_t k = i / (size_t)m * (size_t)m; k < i; k++) kept += w[k] != 0.0f;
            keep &= kept < m / 2;
        }
        if (keep) w[i] = uniform() + (p == ONES ? 3.0f : 0.0f);
    }
    pare_tensor t;
    assert_ok(e->encode_matrix(rt, &t, w, rows, cols, NULL, err));
    free(w);
    for (uint32_t k = 0; k < e->n_parts; k++) {
        void *copy = exact_buffer(t.part_bytes[k]);
        memcpy(copy, t.view.part[k], t.part_bytes[k]);
        t.view.part[k] = copy;
    }
    return t;
}

static pare_tensor make_rows(pare_runtime *rt, const pare_encoding *e, size_t rows, size_t cols,
                             pattern p) {
    if (!e->encode_row) return make_sparse(rt, e, rows, cols, p);
    size_t row_bytes = pare_encoding_row_bytes(e, cols);
    assert_true(row_bytes > 0);
    uint8_t *data = exact_buffer(rows * row_bytes);
    if (e->dotf)
        fill_floats(data, rows * cols, e);
    else
        for (size_t r = 0; r < rows; r++) fill_row(data + r * row_bytes, row_bytes, e, cols, p);
    return pare_tensor_wrap(e, data, rows, cols);
}

static void drop(pare_tensor *t) {
    for (uint32_t k = 0; k < t->enc->n_parts; k++) free((void *)t->view.part[k]);
    for (uint32_t k = 0; k < t->enc->n_parts; k++) t->view.part[k] = NULL;
    pare_tensor_free(t);
}

/* What the kernels take: rows, or packed panels in a buffer of exact size. */
static pare_tensor make(pare_runtime *rt, const pare_encoding *e, size_t rows, size_t cols,
                        pattern p, bool packed) {
    pare_tensor t = make_rows(rt, e, rows, cols, p), from = t;
    if (!packed) return t;
    size_t bytes = pare_tensor_packed_bytes(e, rows, cols);
    void *scratch = malloc(pare_tensor_pack_scratch(e, cols));
    pare_tensor_pack(&t, PARE_ISA_REF, scratch, exact_buffer(bytes));
    t.storage = NULL;
    free(scratch);
    drop(&from);
    return t;
}

/* Forms that have a kernel; dense and 2:4 codes have one when they are packed. */
static bool has_kernel(const pare_encoding *e, size_t cols, bool packed) {
    if (e->grid) return false; /* in panels of q4_0, q5_0, q8_0: tests/tensor/test_pack.c */
    if (packed) return pare_tensor_packed_bytes(e, 1, cols) > 0;
    return e->dotf || (e->dot && !pare_packed_formats[e->dot].bits);
}

/* ---- inputs ---- */

typedef struct input {
    float *x; /* [n][cols], exact */
    size_t n, cols;
    pare_act act;
    void *act_memory;
} input;

static input make_input(const pare_encoding *e, size_t n, size_t cols) {
    input in = {.n = n, .cols = cols, .x = malloc(n * cols * sizeof(float))};
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < cols; c++) {
            float v = uniform() * ldexpf(1.0f, (int)(c / 32 % 7) - 3);
            if (i == 1) v = 1.0f; /* every q is 127 */
            if (i == 2) v = c & 1 ? -1.0f : 1.0f;
            if (i == 3) v = 0.0f;
            if (i == 4) v = -0x1p-40f;
            in.x[i * cols + c] = v;
        }
    if (!e->dot) return in;
    const pare_dot_kernels *k = pare_dot_kernels_get(PARE_ISA_REF);
    in.act_memory = aligned_alloc(64, pare_act_place(&in.act, NULL, n, cols));
    (void)pare_act_place(&in.act, in.act_memory, n, cols);
    k->quantize(&in.act, in.x, cols, n, cols);
    return in;
}

static void drop_input(input *in) {
    free(in->x);
    free(in->act_memory);
}

static void run(float *y, size_t ldy, pare_isa isa, const pare_tensor *t, size_t begin, size_t end,
                const input *in, size_t first, size_t n) {
    const pare_dot_kernels *k = pare_dot_kernels_get(isa);
#ifdef PARE_EMULATE /* with the extensions that this processor may lack */
    if (isa == PARE_ISA_AVX512) k = &pare_dot_avx512_vbmi2;
#endif
    if (t->enc->dot) {
        pare_act a = pare_act_row(&in->act, first);
        a.n = n;
        k->dot[t->enc->dot](y, ldy, &t->view, begin, end, &a);
    } else
        k->dotf[t->enc->dotf](y, ldy, &t->view, begin, end, in->x + first * in->cols, in->cols, n);
}

/* ---- the oracle ---- */

/* Exact sum and the sum of magnitudes that rounding errors are relative to. */
static void exact_dot(double *sum, double *magnitude, const pare_tensor *t, size_t r,
                      const input *in, size_t i) {
    const pare_encoding *e = t->enc;
    size_t cols = in->cols, padded = (cols + 31) / 32 * 32;
    *sum = *magnitude = 0.0;
    if (!e->dot) {
        float *w = malloc(padded * sizeof *w);
        e->decode(w, &t->view, r, 0, cols);
        for (size_t c = 0; c < cols; c++) {
            *sum += (double)w[c] * in->x[i * cols + c];
            *magnitude += fabs((double)w[c] * in->x[i * cols + c]);
        }
        free(w);
        return;
    }
    int8_t *q = calloc(padded, 1);
    float *scale = calloc(padded, sizeof *scale), *offset = calloc(padded, sizeof *offset);
    e->codes(q, scale, offset, &t->view, r, 0, cols);
    for (size_t c = 0; c < cols; c++) {
        double x = (double)in->act.d[i * in->act.d_stride + c / PARE_ACT_GROUP] *
                   in->act.q[i * in->act.q_stride + c];
        double w = (double)scale[c / e->code_group] * q[c];
        double o = e->has_offset ? offset[c / e->code_group] : 0.0;
        *sum += (w + o) * x;
        /* kernels may split a code into an unsigned one and up to 32 less */
        *magnitude += (fabs(w) + 32 * fabs((double)scale[c / e->code_group]) + fabs(o)) * fabs(x);
    }
    free(q);
    free(scale);
    free(offset);
}

/* Levels above AVX2 do the same sums of integers and the same float operations. */
static void check_as_avx2(const float *y, size_t ldy, const pare_tensor *t, const input *in) {
    float *want = malloc(in->n * ldy * sizeof *want);
    run(want, ldy, PARE_ISA_AVX2, t, 0, t->view.rows, in, 0, in->n);
    for (size_t i = 0; i < in->n; i++)
        assert_memory_equal(want + i * ldy, y + i * ldy, t->view.rows * sizeof *y);
    free(want);
}

static void check_values(const pare_tensor *t, const input *in, pare_isa isa) {
    size_t rows = t->view.rows, n = in->n, ldy = rows + 3;
    float *y = malloc(n * ldy * sizeof *y);
    for (size_t k = 0; k < n * ldy; k++) y[k] = 12345.0f;
    run(y, ldy, isa, t, 0, rows, in, 0, n);
    if (t->enc->packed && isa > PARE_ISA_AVX2) check_as_avx2(y, ldy, t, in);
    /* an addition for each block (of 8 columns for floats), a few roundings within */
    double additions = (double)in->cols / (t->enc->dot ? 16 : isa == PARE_ISA_REF ? 1 : 8) + 16;
    for (size_t i = 0; i < n; i++) {
        for (size_t r = 0; r < rows; r++) {
            double sum, magnitude;
            exact_dot(&sum, &magnitude, t, r, in, i);
            double error = fabs(y[i * ldy + r] - sum), bound = additions * FLT_EPSILON * magnitude;
            if (!(error <= bound))
                fail_msg("%s, %s: %zu x %zu, y[%zu][%zu] = %.9g, expected %.9g, error %.3g > %.3g",
                         t->enc->name, pare_isa_name(isa), rows, in->cols, i, r, y[i * ldy + r],
                         sum, error, bound);
        }
        for (size_t r = rows; r < ldy; r++) assert_true(y[i * ldy + r] == 12345.0f);
    }
    free(y);
}

/* The same bits for each row of x alone, and for any range of rows. */
static void check_bits(const pare_tensor *t, const input *in, pare_isa isa) {
    size_t rows = t->view.rows, n = in->n;
    float *all = calloc(n * rows, sizeof *all), *one = calloc(n * rows, sizeof *one);
    run(all, rows, isa, t, 0, rows, in, 0, n);
    for (size_t i = 0; i < n; i++) run(one + i * rows, rows, isa, t, 0, rows, in, i, 1);
    if (memcmp(all, one, n * rows * sizeof *all) != 0)
        fail_msg("%s, %s: n = %zu differs from n = 1", t->enc->name, pare_isa_name(isa), n);
    size_t step = t->enc->packed ? 16 : 2, first = t->enc->packed ? 16 : 1;
    for (size_t split = first; split < rows; split += step) {
        for (size_t k = 0; k < n * rows; k++) one[k] = 12345.0f;
        run(one, rows, isa, t, split, rows, in, 0, n);
        for (size_t i = 0; i < n; i++)
            for (size_t r = 0; r < split; r++) assert_true(one[i * rows + r] == 12345.0f);
        run(one, rows, isa, t, 0, split, in, 0, n);
        assert_memory_equal(all, one, n * rows * sizeof *all);
    }
    free(all);
    free(one);
}

/* ---- shapes ---- */

static size_t n_cols(const pare_encoding *e, size_t out[16]) {
    static const size_t small[] = {32, 64, 96, 224, 256, 288, 544, 1056},
                        super[] = {256, 512, 768, 1280},
                        tails[] = {64, 128, 192, 256, 320, 576, 1088},
                        any[] = {1,   7,   8,    31,   33,   64,   100, 250,
                                 257, 515, 1000, 1030, 1057, 3072, 3109},
                        eights[] = {8, 24, 32, 40, 64, 256, 264, 1000};
    const size_t *from = any;
    size_t n = sizeof any / sizeof *any;
#define USE(list) from = list, n = sizeof list / sizeof *list
    if (e->block_len == 8) USE(eights);
    if (e->block_len == 32) USE(small);
    if (e->block_len == 64) USE(tails);
    if (e->block_len == 256) USE(super);
    memcpy(out, from, n * sizeof *out);
    return n;
}

static void check_encoding(pare_runtime *rt, const pare_encoding *e, bool packed) {
    static const size_t row_counts[] = {1, 2, 3, 5, 8, MAX_ROWS};
    size_t cols[16], count = n_cols(e, cols), turn = 0;
    for (size_t c = 0; c < count; c++)
        for (pattern p = 0; p < PATTERNS && has_kernel(e, cols[c], packed); p++) {
            size_t rows = row_counts[turn % 6], n = 1 + turn * 5 % PARE_DOT_MAX_N;
            if (packed && turn % 3 == 0) rows = PANEL_ROWS;
            pare_tensor t = make(rt, e, rows, cols[c], p, packed);
            input in = make_input(t.enc, n, cols[c]);
            for (pare_isa isa = FIRST_LEVEL; isa <= LAST_LEVEL; isa++) {
                check_values(&t, &in, isa);
                check_bits(&t, &in, isa);
            }
            drop_input(&in);
            drop(&t);
            turn++;
        }
}

static void every_encoding(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    bool dots[PARE_DOT_COUNT] = {false}, dotfs[PARE_DOTF_COUNT] = {false};
    const pare_encoding *e;
    for (size_t i = 0; (e = pare_encoding_at(i)); i++) {
        if (e->grid) continue;
        const pare_encoding *packed = pare_encoding_packed(e);
        if (has_kernel(e, 1024, false)) dots[e->dot] = dotfs[e->dotf] = true;
        if (packed) dots[packed->dot] = dotfs[packed->dotf] = true;
        check_encoding(rt, e, false);
        check_encoding(rt, e, true);
    }
    for (int k = 0; k < PARE_DOT_COUNT; k++) assert_true(dots[k]);
    for (int k = 0; k < PARE_DOTF_COUNT; k++) assert_true(dotfs[k]);
    pare_runtime_free(rt);
}

/* Long rows: more than one prefetch distance, many steps of the main loops. */
static void long_rows(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    const pare_encoding *e;
    for (size_t i = 0; (e = pare_encoding_at(i)); i++) {
        for (int packed = 0; packed < 2; packed++) {
            if (!has_kernel(e, 16384, packed)) continue;
            pare_tensor t = make(rt, e, 3, 16384, RANDOM, packed);
            input in = make_input(t.enc, 2, 16384);
            for (pare_isa isa = FIRST_LEVEL; isa <= LAST_LEVEL; isa++) check_values(&t, &in, isa);
            drop_input(&in);
            drop(&t);
        }
    }
    pare_runtime_free(rt);
}

/* A NaN or infinity in x gives NaN, not a number, in every output and in no other row. */
static void bad_inputs_show(void **state) {
    (void)state;
    pare_runtime *rt = test_runtime(1, PARE_ISA_REF);
    const pare_encoding *e;
    for (size_t k = 0; (e = pare_encoding_at(k)); k++) {
        bool packed = pare_encoding_packed(e) != NULL;
        if (!e->dot || !has_kernel(e, 512, packed)) continue;
        pare_tensor t = make(rt, e, 5, 512, RANDOM, packed);
        for (size_t at = 0; at < 512; at += 73) {
            input in = make_input(e, 3, 512);
            in.x[512 + at] = at & 1 ? NAN : INFINITY;
            pare_dot_kernels_get(PARE_ISA_REF)->quantize(&in.act, in.x, 512, 3, 512);
            for (pare_isa isa = FIRST_LEVEL; isa <= LAST_LEVEL; isa++) {
                float y[15];
                run(y, 5, isa, &t, 0, 5, &in, 0, 3);
                for (int i = 0; i < 15; i++) assert_int_equal(isnan(y[i]) != 0, i / 5 == 1);
            }
            drop_input(&in);
        }
        drop(&t);
    }
    pare_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_encoding),
        cmocka_unit_test(long_rows),
        cmocka_unit_test(bad_inputs_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
