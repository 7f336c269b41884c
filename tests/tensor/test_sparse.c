/* Sparse encodings: any share of zeros comes back, patterns are kept or refused with their place,
 * and damaged parts are found before anything is read through them. */
#include "support/test.h"

#include "base/memory.h"
#include "base/rng.h"
#include "kernels/blocks.h"
#include "tensor/encoding.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const bitmaps[] = {"bitmap_bf16", "bitmap_q8", "bitmap_q4"};
static const char *const patterns[] = {"nm24_bf16", "nm24_q8", "nm24_q4",
                                       "nm48_bf16", "nm48_q8", "nm48_q4"};
enum { N_BITMAPS = 3, N_PATTERNS = 6 };

static pare_runtime *rt; /* one for all */

static int set_up(void **state) {
    (void)state;
    rt = test_runtime(1, pare_isa_best());
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    pare_runtime_free(rt);
    return 0;
}

static bool is_q8(const pare_encoding *e) { return strstr(e->name, "q8") != NULL; }
static bool is_q4(const pare_encoding *e) { return strstr(e->name, "q4") != NULL; }
static int group_of(const pare_encoding *e) { return strstr(e->name, "48") ? 8 : 4; }

/* Encodes, checks, decodes as a whole and in pieces; zeros must come back as zeros, the others
 * within the type's precision. */
static void round_trip(const pare_encoding *e, const float *x, size_t rows, size_t cols) {
    float *y = pare_malloc(rows * cols, sizeof *y), *piece = pare_malloc(cols, sizeof *piece);
    pare_tensor t;
    assert_ok(pare_tensor_encode(rt, &t, e, x, rows, cols, NULL, err));
    assert_ok(pare_tensor_validate(&t, err));
    pare_tensor_decode(rt, y, &t);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            float v = x[r * cols + c], got = y[r * cols + c], max = 0.0f;
            size_t span = is_q4(e) ? 64 : 32;
            size_t first = c / span * span, last = first + span < cols ? first + span : cols;
            for (size_t i = first; i < last; i++) max = fmaxf(max, fabsf(x[r * cols + i]));
            /* bf16: 2^-9 of the value; q8: half a step, the scale at most 2^-7 too large */
            float bound = is_q8(e) ? max / 127.0f * 0.5f * (1.0f + 0x1p-7f) : fabsf(v) * 0x1p-8f;
            /* q4: the largest may be 12.5 scales and is cut to 9; the bf16 scale is 2^-8 off */
            if (is_q4(e)) bound = max * (3.5f / 12.5f + 0x1p-7f);
            if (v == 0.0f ? got != 0.0f : !(fabsf(got - v) <= bound * 1.0001f))
                fail_msg("%s %zu x %zu: [%zu][%zu] %g became %g", e->name, rows, cols, r, c,
                         (double)v, (double)got);
        }
    for (size_t r = 0; r < rows; r++)
        for (size_t col = 0; col < cols; col += 32)
            for (size_t n = 32; n < 32 + cols - col; n += 32) {
                size_t len = n < cols - col ? n : cols - col;
                e->decode(piece, &t.view, r, col, len);
                assert_memory_equal(piece, y + r * cols + col, len * sizeof *piece);
            }
    pare_tensor_free(&t);
    pare_free(y);
    pare_free(piece);
}

static void test_bitmap(void **state) {
    (void)state;
    static const size_t widths[] = {1, 2, 31, 32, 33, 63, 64, 65, 100, 576};
    static const double shares[] = {0.0, 0.03, 0.5, 0.9, 1.0}; /* of zeros */
    for (size_t k = 0; k < N_BITMAPS; k++)
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
            for (size_t s = 0; s < sizeof shares / sizeof *shares; s++)
                for (size_t rows = 1; rows <= 21; rows += 20) {
                    size_t cols = widths[i];
                    float *x = pare_malloc(rows * cols, sizeof *x);
                    for (size_t j = 0; j < rows * cols; j++)
                        x[j] = pare_rng_uniform(1, s, j) < shares[s] ? (j % 2 ? 0.0f : -0.0f)
                                                                     : pare_rng_normal(2, s, j);
                    round_trip(pare_encoding_find(bitmaps[k]), x, rows, cols);
                    pare_free(x);
                }
}

/* Only one value in the whole matrix, at every place; full first and last columns. */
static void test_bitmap_places(void **state) {
    (void)state;
    enum { ROWS = 3, COLS = 97 };
    float x[ROWS * COLS];
    for (size_t k = 0; k < N_BITMAPS; k++) {
        for (size_t j = 0; j < ROWS * COLS; j += 5) {
            memset(x, 0, sizeof x);
            x[j] = -1.5f;
            round_trip(pare_encoding_find(bitmaps[k]), x, ROWS, COLS);
        }
        memset(x, 0, sizeof x);
        for (size_t r = 0; r < ROWS; r++) x[r * COLS] = x[r * COLS + COLS - 1] = 2.0f;
        round_trip(pare_encoding_find(bitmaps[k]), x, ROWS, COLS);
    }
}

static void test_bitmap_size(void **state) {
    (void)state;
    static float x[8 * 576];
    for (size_t j = 0; j < 8 * 576; j++) x[j] = j % 2 ? 0.0f : 1.0f;
    pare_tensor t;
    size_t shape[2];
    assert_ok(pare_tensor_encode(rt, &t, pare_encoding_find("bitmap_q8"), x, 8, 576, NULL, err));
    assert_int_equal(pare_tensor_part_shape(&t, 0, shape), 2);
    assert_int_equal(shape[0], 8);
    assert_int_equal(shape[1], 9);
    assert_int_equal(pare_tensor_part_shape(&t, 1, shape), 1);
    assert_int_equal(shape[0], 9);
    assert_int_equal(pare_tensor_part_shape(&t, 2, shape), 1);
    assert_int_equal(shape[0], 8 * 288);
    assert_int_equal(pare_tensor_part_shape(&t, 3, shape), 2);
    assert_int_equal(shape[1], 18);
    assert_int_equal(pare_tensor_bytes(&t), 8 * 72 + 72 + 8 * 288 + 8 * 36);
    pare_tensor again; /* the same parts, borrowed */
    assert_ok(pare_tensor_wrap_parts(&again, t.enc, 8, 576, t.view.part, t.part_bytes, err));
    assert_ok(pare_tensor_validate(&again, err));
    pare_tensor_free(&t);
}

/* The bytes of the 4-bit forms, by hand: values that are levels come back exactly. */
static void test_nibbles(void **state) {
    (void)state;
    float x[128] = {0}, y[128];
    static const float kept[] = {9, -11, 2, -2, 3, 7, -9};
    for (size_t i = 0; i < 7; i++) x[i < 4 ? 9 * i : 64 + i] = 0.5f * kept[i];
    pare_tensor t;
    assert_ok(pare_tensor_encode(rt, &t, pare_encoding_find("bitmap_q4"), x, 1, 128, NULL, err));
    uint64_t offsets[2];
    memcpy(offsets, t.view.part[1], sizeof offsets);
    assert_int_equal(offsets[1], 8); /* seven, and one that completes the byte */
    assert_int_equal(t.part_bytes[2], 4);
    assert_memory_equal(t.view.part[2], "\xf7\x81\x62\x0e", 4);
    assert_memory_equal(t.view.part[3], "\x00\x3f\x00\x3f", 4); /* 0.5 twice */
    pare_tensor_decode(rt, y, &t);
    assert_memory_equal(y, x, sizeof y);
    pare_tensor_free(&t);
    /* 2:4: columns 0 and 1 of each four; value 8 is the first in the high nibbles */
    for (size_t i = 0; i < 128; i++) x[i] = i % 4 < 2 ? (i / 4 % 2 ? -5.5f : 4.5f) : 0.0f;
    assert_ok(pare_tensor_encode(rt, &t, pare_encoding_find("nm24_q4"), x, 1, 128, NULL, err));
    assert_int_equal(t.part_bytes[1], 32);
    assert_memory_equal(t.view.part[1], "\x77\x77\xff\xff\x77\x77\xff\xff\x77", 9);
    assert_memory_equal(t.view.part[2], "\x00\x3f\x00\x3f", 4);
    pare_tensor_decode(rt, y, &t);
    assert_memory_equal(y, x, sizeof y);
    pare_tensor_free(&t);
}

/* Random patterns with up to m/2 of m values, from none to all of them. */
static void test_patterns(void **state) {
    (void)state;
    static const size_t widths[] = {8, 16, 32, 40, 64, 104, 576};
    for (size_t k = 0; k < N_PATTERNS; k++)
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
            for (int fill = 0; fill < 3; fill++) { /* empty, full, at random */
                const pare_encoding *e = pare_encoding_find(patterns[k]);
                size_t rows = 17, cols = widths[i], m = (size_t)group_of(e);
                float *x = pare_calloc(rows * cols, sizeof *x);
                for (size_t g = 0; g < rows * cols / m; g++)
                    for (size_t kept = 0; kept < (fill ? m / 2 : 0); kept++) {
                        size_t at = (size_t)(pare_rng_uniform(5, kept, g) * (float)m);
                        if (fill == 1)
                            while (x[g * m + at] != 0.0f) at = (at + 1) % m;
                        x[g * m + at] = pare_rng_normal(6, kept, g);
                    }
                round_trip(e, x, rows, cols);
                pare_free(x);
            }
}

static void test_pattern_violated(void **state) {
    (void)state;
    enum { ROWS = 40, COLS = 64 };
    pare_runtime *two = test_runtime(2, pare_isa_best()); /* the first bad row whoever finds it */
    float x[ROWS * COLS];
    for (size_t k = 0; k < N_PATTERNS; k++) {
        const pare_encoding *e = pare_encoding_find(patterns[k]);
        size_t m = (size_t)group_of(e);
        pare_tensor t;
        pare_error err = {0};
        char expected[100];
        memset(x, 0, sizeof x);
        for (size_t i = 0; i < m / 2; i++) x[33 * COLS + 56 + i] = 1.0f; /* just allowed */
        assert_ok(pare_tensor_encode(two, &t, e, x, ROWS, COLS, NULL, err));
        pare_tensor_free(&t);
        x[33 * COLS + 56 + m / 2] = 1e-30f; /* one too many */
        for (size_t i = 0; i < COLS; i++) x[37 * COLS + i] = 1.0f;
        assert_int_equal(pare_tensor_encode(two, &t, e, x, ROWS, COLS, NULL, &err), PARE_ERR_ARG);
        assert_null(t.storage);
        snprintf(expected, sizeof expected, "row 33, columns 56 to %zu: found %zu values", 55 + m,
                 m / 2 + 1);
        if (!strstr(err.message, expected)) fail_msg("%s: %s", e->name, err.message);
        assert_int_equal(pare_tensor_encode(two, &t, e, x, ROWS, 12, NULL, &err), PARE_ERR_ARG);
        assert_non_null(strstr(err.message, "found 12 columns, expected a multiple of 8"));
    }
    pare_runtime_free(two);
}

/* ---- damaged parts: D2, D3 ---- */

typedef struct damaged {
    pare_tensor t; /* owned, sound */
    uint8_t *part[PARE_MAX_PARTS];
} damaged;

static damaged damaged_make(const char *name) {
    enum { ROWS = 4, COLS = 72 };
    const pare_encoding *e = pare_encoding_find(name);
    float x[ROWS * COLS];
    damaged d;
    for (size_t j = 0; j < ROWS * COLS; j++)
        x[j] = j % 4 < 2 ? 0.0f : 0.5f + pare_rng_uniform(3, 0, j);
    assert_ok(pare_tensor_encode(rt, &d.t, e, x, ROWS, COLS, NULL, err));
    for (size_t i = 0; i < e->n_parts; i++) d.part[i] = (uint8_t *)d.t.view.part[i];
    return d;
}

static void refused(const damaged *d, const char *text) {
    pare_error err = {0};
    assert_int_equal(pare_tensor_validate(&d->t, &err), PARE_ERR_INPUT);
    if (!strstr(err.message, text)) fail_msg("'%s' lacks '%s'", err.message, text);
}

static void add64(uint8_t *p, size_t i, uint64_t v) {
    uint64_t now;
    memcpy(&now, p + 8 * i, 8);
    now += v;
    memcpy(p + 8 * i, &now, 8);
}

static void test_damaged_bitmap(void **state) {
    (void)state;
    for (size_t k = 0; k < N_BITMAPS; k++) {
        damaged d = damaged_make(bitmaps[k]);
        assert_ok(pare_tensor_validate(&d.t, err));
        d.part[0][0] ^= 1; /* one bit more than values */
        refused(&d, is_q4(d.t.enc) ? "row 0: found end offset 36, expected 38"
                                   : "row 0: found end offset 36, expected 37");
        d.part[0][0] ^= 1;
        d.part[0][8 * (2 * 2 + 1) + 1] ^= 1; /* column 72 of row 2 */
        refused(&d, "row 2: found ");
        d.part[0][8 * (2 * 2 + 1) + 1] ^= 1;
        /* a bit past the end instead of one inside: the count agrees */
        d.part[0][8 * (2 * 2 + 1) + 1] ^= 1, d.part[0][8 * 2 * 2] ^= 4;
        refused(&d, "row 2: found bits set past the last column");
        d.part[0][8 * (2 * 2 + 1) + 1] ^= 1, d.part[0][8 * 2 * 2] ^= 4;
        add64(d.part[1], 0, 1);
        refused(&d, "first offset 1, expected 0");
        add64(d.part[1], 0, (uint64_t)-1);
        add64(d.part[1], 2, (uint64_t)1 << 63); /* far out, and no longer in order */
        refused(&d, "row 1: found end offset 92233720368547758");
        add64(d.part[1], 2, (uint64_t)1 << 63);
        add64(d.part[1], 3, (uint64_t)-50);
        refused(&d, "row 2: found end offset 58, expected 108");
        add64(d.part[1], 3, 50);
        d.t.part_bytes[2] -= 1;
        refused(&d, "values: found ");
        d.t.part_bytes[2] += 1;
        d.t.part_bytes[1] -= 8;
        refused(&d, "part '.offsets': found 32 bytes, expected 40");
        d.t.part_bytes[1] += 8;
        const uint16_t nan = 0x7FC0;
        memcpy(d.part[k == 0 ? 2 : 3] + 2 * (k == 2 ? 7 : 11), &nan, 2);
        refused(&d, k == 0 ? "value 11: found NaN" : "row 3, columns from 64: found a scale");
        pare_tensor_free(&d.t);
    }
}

static void test_damaged_pattern(void **state) {
    (void)state;
    for (size_t k = 0; k < N_PATTERNS; k++) {
        damaged d = damaged_make(patterns[k]);
        bool quarter = group_of(d.t.enc) == 4;
        assert_ok(pare_tensor_validate(&d.t, err));
        uint8_t was = d.part[0][11];
        static const uint8_t wrong[] = {0x00, 0xFF, 0x0F, 0xF0, 0x3C, 0x07, 0xFE};
        for (size_t i = 0; i < sizeof wrong; i++) {
            d.part[0][11] = wrong[i];
            if (!quarter && __builtin_popcount(wrong[i]) == 4)
                assert_ok(pare_tensor_validate(&d.t, err));
            else if (quarter && wrong[i] == 0x3C)
                assert_ok(pare_tensor_validate(&d.t, err));
            else
                refused(&d, "row 1, columns from 16: found mask");
        }
        d.part[0][11] = was;
        d.t.part_bytes[1] -= 4;
        refused(&d, "part '.values'");
        d.t.part_bytes[1] += 4;
        const uint16_t infinity = 0xFF80;
        bool scaled = is_q8(d.t.enc) || is_q4(d.t.enc);
        memcpy(d.part[scaled ? 2 : 1] + 2 * (is_q4(d.t.enc) ? 7 : 11), &infinity, 2);
        refused(&d, scaled ? "row 3, columns from 64: found a scale"
                           : "row 0, columns from 16: found NaN");
        pare_tensor_free(&d.t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bitmap),           cmocka_unit_test(test_bitmap_places),
        cmocka_unit_test(test_bitmap_size),      cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_pattern_violated), cmocka_unit_test(test_damaged_bitmap),
        cmocka_unit_test(test_damaged_pattern),  cmocka_unit_test(test_nibbles),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
