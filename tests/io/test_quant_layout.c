/* Layouts of other programs: vectors by hand from their descriptions, random codes there and back
 * through each, one into another, and what is refused. */
#include "support/test.h"

#include "base/rng.h"
#include "io/quant_layout.h"
#include "kernels/blocks.h"
#include "tensor/grouped_row.h"

#include <stdio.h>
#include <stdlib.h>

/* Random grouped integers; free(). scale_sign < 0: scales of both signs. */
static pare_tensor random_tensor(const pare_encoding *enc, size_t rows, size_t cols,
                                 uint64_t seed) {
    const pare_grid_form *f = enc->grid;
    size_t row_bytes = pare_encoding_row_bytes(enc, cols);
    uint8_t *data = calloc(rows * row_bytes + 64, 1);
    pare_grouped_row row;
    assert_true(pare_grouped_row_alloc(&row, f, cols));
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < cols; i++)
            row.codes[i] =
                (uint8_t)(pare_rng_uniform(seed, r, i) * (float)(1 << f->bits)); /* all codes */
        for (size_t g = 0; g < pare_grid_groups(f, cols); g++) {
            row.scale[g] = pare_f32_to_f16(pare_rng_normal(seed + 1, r, g) * 0.01f);
            row.zero[g] =
                f->asymmetric
                    ? (uint8_t)(1 + pare_rng_uniform(seed + 2, r, g) * (float)((1 << f->bits) - 1))
                    : (uint8_t)(1 << (f->bits - 1));
        }
        pare_grouped_put(data + r * row_bytes, enc, cols, &row, f);
    }
    pare_grouped_row_free(&row);
    pare_tensor t = pare_tensor_wrap(enc, data, rows, cols);
    assert_ok(pare_tensor_validate(&t, err));
    return t;
}

typedef struct parts {
    void *p[PARE_LAYOUT_PARTS];
} parts;

static parts alloc_parts(const pare_layout *l) {
    parts x = {{NULL}};
    for (int k = 0; k < PARE_LAYOUT_PARTS; k++) {
        size_t n = pare_layout_part_bytes(l, k);
        assert_true((n != 0) == (pare_layout_part_at(l, k).suffix != NULL));
        if (n) x.p[k] = calloc(n, 1); /* as long as it is: the sanitizer sees each byte past it */
    }
    return x;
}

static void free_parts(parts *x) {
    for (int k = 0; k < PARE_LAYOUT_PARTS; k++) free(x->p[k]);
}

static parts pack(const pare_layout *l, const pare_tensor *t) {
    parts x = alloc_parts(l);
    assert_ok(pare_layout_pack(x.p, l, t, err));
    return x;
}

static uint8_t *unpack(const pare_encoding *enc, const pare_layout *l, const parts *x) {
    uint8_t *to = calloc(pare_encoding_row_bytes(enc, l->cols), l->rows);
    assert_ok(pare_layout_unpack(to, enc, l, (const void *const *)x->p, err));
    return to;
}

static uint32_t word(const void *p, size_t i) {
    uint32_t w;
    memcpy(&w, (const uint8_t *)p + 4 * i, 4);
    return w;
}

/* ---- by hand ---- */

/* One row of int4 or int3 whose codes are given, scale 1. */
static pare_tensor row_of(const pare_encoding *enc, size_t rows, size_t cols,
                          int (*code)(size_t r, size_t i)) {
    size_t row_bytes = pare_encoding_row_bytes(enc, cols);
    uint8_t *data = calloc(rows, row_bytes);
    pare_grouped_row row;
    assert_true(pare_grouped_row_alloc(&row, enc->grid, cols));
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < cols; i++) row.codes[i] = (uint8_t)code(r, i);
        for (size_t g = 0; g < pare_grid_groups(enc->grid, cols); g++) {
            row.scale[g] = pare_f32_to_f16(1);
            row.zero[g] = (uint8_t)(1 << (enc->grid->bits - 1));
        }
        pare_grouped_put(data + r * row_bytes, enc, cols, &row, enc->grid);
    }
    pare_grouped_row_free(&row);
    return pare_tensor_wrap(enc, data, rows, cols);
}

static int column_mod_8(size_t r, size_t i) { return (void)r, (int)(i % 8); }
static int row_mod_8(size_t r, size_t i) { return (void)i, (int)(r % 8); }

static void vectors(void **state) {
    (void)state;
    pare_layout l = {.kind = PARE_LAYOUT_PACK, .bits = 4, .rows = 8, .cols = 32, .group = 32};
    pare_tensor t = row_of(pare_encoding_find("int4_g32"), 8, 32, column_mod_8);
    parts x = pack(&l, &t);
    for (size_t i = 0; i < 32; i++) assert_int_equal(word(x.p[PARE_LAYOUT_CODES], i), 0x76543210);
    int64_t shape[2];
    memcpy(shape, x.p[PARE_LAYOUT_SHAPE], sizeof shape);
    assert_true(shape[0] == 8 && shape[1] == 32);
    assert_null(x.p[PARE_LAYOUT_ZEROS]);
    free_parts(&x);

    l.kind = PARE_LAYOUT_GPTQ;
    l.g_idx = true;
    x = pack(&l, &t);
    for (size_t i = 0; i < 32; i++) assert_int_equal(word(x.p[PARE_LAYOUT_CODES], i), 0x76543210);
    assert_int_equal(word(x.p[PARE_LAYOUT_ZEROS], 0), 0x77777777);
    assert_int_equal(word(x.p[PARE_LAYOUT_G_IDX], 31), 0);
    free_parts(&x);
    l.kind = PARE_LAYOUT_GPTQ_V2;
    x = pack(&l, &t);
    assert_int_equal(word(x.p[PARE_LAYOUT_ZEROS], 0), 0x88888888);
    free_parts(&x);
    free((void *)t.view.part[0]);

    t = row_of(pare_encoding_find("int4_g32"), 8, 32, row_mod_8);
    l.kind = PARE_LAYOUT_AWQ;
    x = pack(&l, &t);
    for (size_t i = 0; i < 32; i++) assert_int_equal(word(x.p[PARE_LAYOUT_CODES], i), 0x75316420);
    assert_int_equal(word(x.p[PARE_LAYOUT_ZEROS], 0), 0x88888888);
    free_parts(&x);
    free((void *)t.view.part[0]);

    /* three bits: 32 codes in three words, down the columns of GPTQ and along the rows of PACK */
    t = row_of(pare_encoding_find("int3_g32"), 32, 32, column_mod_8);
    static const uint32_t stream[3] = {0x88FAC688, 0xC688FAC6, 0xFAC688FA};
    l = (pare_layout){.kind = PARE_LAYOUT_GPTQ, .bits = 3, .rows = 32, .cols = 32, .group = 32};
    x = pack(&l, &t);
    for (size_t i = 0; i < 96; i++)
        assert_int_equal(word(x.p[PARE_LAYOUT_CODES], i), stream[i / 32]);
    free_parts(&x);
    l.kind = PARE_LAYOUT_PACK;
    x = pack(&l, &t);
    for (size_t i = 0; i < 96; i++)
        assert_int_equal(word(x.p[PARE_LAYOUT_CODES], i), stream[i % 3]);
    free_parts(&x);
    free((void *)t.view.part[0]);
}

/* ---- there and back ---- */

static size_t group_of(const pare_grid_form *f, size_t cols) { return f->group ? f->group : cols; }

static void there_and_back(void **state) {
    (void)state;
    static const char *const suffixes[] = {"g32", "g64", "g128", "row"};
    static const size_t shapes[][2] = {{32, 128}, {96, 256}, {40, 384}, {8, 576}};
    size_t n_done = 0;
    for (int kind = PARE_LAYOUT_PACK; kind <= PARE_LAYOUT_AWQ; kind++)
        for (unsigned bits = 2; bits <= 8; bits++)
            for (int asymmetric = 0; asymmetric < 2; asymmetric++)
                for (size_t s = 0; s < 4; s++)
                    for (size_t k = 0; k < 4; k++) {
                        char name[32], reason[160];
                        snprintf(name, sizeof name, "%sint%u_%s", asymmetric ? "u" : "", bits,
                                 suffixes[s]);
                        const pare_encoding *enc = pare_encoding_find(name);
                        if (!enc) continue;
                        size_t rows = shapes[k][0], cols = shapes[k][1];
                        pare_layout l = {.kind = (pare_layout_kind)kind,
                                         .bits = bits,
                                         .asymmetric = asymmetric,
                                         .rows = rows,
                                         .cols = cols,
                                         .group = group_of(enc->grid, cols),
                                         .g_idx = k % 2 == 0};
                        if (!pare_layout_holds(&l, reason)) continue;
                        if (enc->grid->group && cols % enc->grid->group) l.group = 64;
                        if (enc->grid->group == 32) l.group = 32;
                        pare_tensor t = random_tensor(enc, rows, cols, 7 + bits);
                        parts x = pack(&l, &t);
                        bool in_order = true;
                        if (l.g_idx && x.p[PARE_LAYOUT_G_IDX])
                            assert_ok(pare_layout_check_g_idx(&in_order, &l, x.p[PARE_LAYOUT_G_IDX],
                                                              err));
                        assert_true(in_order);
                        const pare_encoding *back = pare_layout_encoding(&l, true);
                        uint8_t *y = unpack(back, &l, &x);
                        pare_tensor u = pare_tensor_wrap(back, y, rows, cols);
                        if (back == enc) assert_memory_equal(y, t.view.part[0], t.part_bytes[0]);
                        float *a = malloc(cols * sizeof *a), *b = malloc(cols * sizeof *b);
                        for (size_t r = 0; r < rows; r++) {
                            enc->decode(a, &t.view, r, 0, cols);
                            back->decode(b, &u.view, r, 0, cols);
                            assert_memory_equal(a, b, cols * sizeof *a);
                        }
                        free(a);
                        free(b);
                        free(y);
                        free((void *)t.view.part[0]);
                        free_parts(&x);
                        n_done++;
                    }
    assert_true(n_done > 250);
}

/* What one layout gave goes through another and comes back. */
static void gptq_and_awq(void **state) {
    (void)state;
    const pare_encoding *enc = pare_encoding_find("uint4_g64");
    pare_tensor t = random_tensor(enc, 48, 192, 3);
    pare_layout gptq = {PARE_LAYOUT_GPTQ, 4,     true,  48,   192, 64,
                        PARE_SCALE_F16,   false, false, false};
    pare_layout awq = gptq;
    awq.kind = PARE_LAYOUT_AWQ;
    parts x = pack(&gptq, &t);
    uint8_t *first = unpack(enc, &gptq, &x);
    pare_tensor u = pare_tensor_wrap(enc, first, 48, 192);
    parts y = pack(&awq, &u);
    uint8_t *second = unpack(enc, &awq, &y);
    pare_tensor v = pare_tensor_wrap(enc, second, 48, 192);
    parts z = pack(&gptq, &v);
    for (int k = 0; k <= PARE_LAYOUT_ZEROS; k++)
        assert_memory_equal(x.p[k], z.p[k], pare_layout_part_bytes(&gptq, k));
    free_parts(&x);
    free_parts(&y);
    free_parts(&z);
    free(first);
    free(second);
    free((void *)t.view.part[0]);
}

/* compressed-tensors before 2026-06: floor(32 / bits) codes in a word. */
static void padded_words(void **state) {
    (void)state;
    enum { ROWS = 33, COLS = 64 };
    pare_layout l = {.kind = PARE_LAYOUT_PACK,
                     .bits = 3,
                     .asymmetric = true,
                     .rows = ROWS,
                     .cols = COLS,
                     .group = 32,
                     .padded = true};
    assert_int_equal(pare_layout_part_at(&l, PARE_LAYOUT_CODES).dims[1], 7);
    assert_int_equal(pare_layout_part_at(&l, PARE_LAYOUT_ZEROS).dims[0], 4);
    parts x = alloc_parts(&l);
    uint32_t *codes = x.p[PARE_LAYOUT_CODES], *zeros = x.p[PARE_LAYOUT_ZEROS];
    uint16_t *scale = x.p[PARE_LAYOUT_SCALES];
    int64_t *shape = x.p[PARE_LAYOUT_SHAPE];
    shape[0] = ROWS;
    shape[1] = COLS;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < COLS; i++)
            codes[r * 7 + i / 10] |= (uint32_t)((r + i * 5) % 8) << i % 10 * 3;
        for (size_t g = 0; g < 2; g++) {
            scale[r * 2 + g] = pare_f32_to_f16(0.5f);
            zeros[r / 10 * 2 + g] |= (uint32_t)((r + g) % 8) << r % 10 * 3;
        }
    }
    const pare_encoding *enc = pare_layout_encoding(&l, true);
    assert_string_equal(enc->name, "uint3_g32");
    uint8_t *y = unpack(enc, &l, &x);
    pare_tensor t = pare_tensor_wrap(enc, y, ROWS, COLS);
    for (size_t r = 0; r < ROWS; r++) {
        float w[COLS];
        enc->decode(w, &t.view, r, 0, COLS);
        for (size_t i = 0; i < COLS; i++)
            assert_true(w[i] == 0.5f * (float)((int)((r + i * 5) % 8) - (int)((r + i / 32) % 8)));
    }
    free(y);
    free_parts(&x);
}

/* Groups in another order, and of lengths that no encoding has: f16. Whole multiples of 128: g128.
 */
static void other_groups(void **state) {
    (void)state;
    enum { ROWS = 16, COLS = 64 };
    const pare_encoding *enc = pare_encoding_find("uint4_g32");
    pare_tensor t = random_tensor(enc, ROWS, COLS, 11);
    pare_layout l = {.kind = PARE_LAYOUT_GPTQ,
                     .bits = 4,
                     .asymmetric = true,
                     .rows = ROWS,
                     .cols = COLS,
                     .group = 32,
                     .g_idx = true};
    parts x = pack(&l, &t);
    int32_t *g_idx = x.p[PARE_LAYOUT_G_IDX];
    for (int i = 0; i < COLS; i++) g_idx[i] = i % 2;
    bool in_order;
    assert_ok(pare_layout_check_g_idx(&in_order, &l, g_idx, err));
    assert_false(in_order);
    const pare_encoding *f16 = pare_layout_encoding(&l, false);
    assert_string_equal(f16->name, "f16");
    uint16_t *y = (uint16_t *)unpack(f16, &l, &x);
    for (size_t r = 0; r < ROWS; r++) {
        pare_grouped_row row;
        assert_true(pare_grouped_row_alloc(&row, enc->grid, COLS));
        pare_grouped_get(&row, &t.view, enc, r);
        for (size_t i = 0; i < COLS; i++) {
            float w = pare_f16_to_f32(row.scale[i % 2]) * (float)(row.codes[i] - row.zero[i % 2]);
            assert_int_equal(y[r * COLS + i], pare_f32_to_f16(w));
        }
        pare_grouped_row_free(&row);
    }
    uint8_t *to = calloc(ROWS, pare_encoding_row_bytes(enc, COLS));
    assert_fails(pare_layout_unpack(to, enc, &l, (const void *const *)x.p, err), PARE_ERR_INPUT,
                 "not in order");
    g_idx[5] = 2;
    assert_fails(pare_layout_check_g_idx(&in_order, &l, g_idx, err), PARE_ERR_INPUT, "input 5");
    g_idx[5] = -1;
    assert_fails(pare_layout_unpack(to, enc, &l, (const void *const *)x.p, err), PARE_ERR_INPUT,
                 "found group -1");
    free(to);
    free(y);
    free_parts(&x);
    free((void *)t.view.part[0]);

    l.cols = 512;
    static const struct {
        size_t group;
        const char *name;
    } lengths[] = {{256, "uint4_g128"},
                   {96, "uint4_g32"},
                   {16, "f16"},
                   {192, "uint4_g64"},
                   {512, "uint4_row"}};
    for (size_t i = 0; i < 5; i++) {
        l.group = lengths[i].group;
        assert_string_equal(pare_layout_encoding(&l, true)->name, lengths[i].name);
    }
}

/* ---- refused ---- */

static void refusals(void **state) {
    (void)state;
    const pare_encoding *enc = pare_encoding_find("int4_g32");
    pare_tensor t = random_tensor(enc, 40, 64, 5);
    pare_layout l = {.kind = PARE_LAYOUT_GPTQ, .bits = 4, .rows = 40, .cols = 64, .group = 32};
    parts x = pack(&l, &t);
    uint8_t *to = calloc(40, pare_encoding_row_bytes(enc, 64));
    const void *const *p = (const void *const *)x.p;
    assert_ok(pare_layout_unpack(to, enc, &l, p, err));

    /* a file of version 2 under the name of version 1, and the other way round */
    pare_layout other = l;
    other.kind = PARE_LAYOUT_GPTQ_V2;
    assert_fails(pare_layout_unpack(to, enc, &other, p, err), PARE_ERR_INPUT,
                 "found 7, expected 8");
    uint8_t *zeros = x.p[PARE_LAYOUT_ZEROS];
    zeros[4 * 5 + 4] = 0x87; /* group 1, row 9 */
    assert_fails(pare_layout_unpack(to, enc, &l, p, err), PARE_ERR_INPUT,
                 "zero point of row 9, group 1: found 9");
    zeros[4 * 5 + 4] = 0x77;

    uint16_t *scale = x.p[PARE_LAYOUT_SCALES];
    scale[40 + 3] = 0x7C00; /* Inf in f16, a number in bf16 */
    assert_fails(pare_layout_unpack(to, enc, &l, p, err), PARE_ERR_INPUT,
                 "scale of row 3, group 1");
    other = l;
    other.scale = PARE_SCALE_BF16; /* 0x7C00 is 2.7e36 there */
    assert_fails(pare_layout_unpack(to, enc, &other, p, err), PARE_ERR_INPUT, "f16 can hold");
    free_parts(&x);

    l.kind = PARE_LAYOUT_PACK;
    x = pack(&l, &t);
    ((int64_t *)x.p[PARE_LAYOUT_SHAPE])[1] = 63;
    assert_fails(pare_layout_unpack(to, enc, &l, (const void *const *)x.p, err), PARE_ERR_INPUT,
                 "weight_shape: found [40, 63]");
    free_parts(&x);
    free(to);
    free((void *)t.view.part[0]);

    /* a zero point of 0 */
    enc = pare_encoding_find("uint4_g32");
    t = random_tensor(enc, 40, 64, 6);
    ((uint8_t *)t.view.part[0])[35 * t.view.row_bytes + 2] = 0;
    l.kind = PARE_LAYOUT_GPTQ;
    l.asymmetric = true;
    x = alloc_parts(&l);
    assert_fails(pare_layout_pack(x.p, &l, &t, err), PARE_ERR_UNSUPPORTED, "row 35, group 0");
    free_parts(&x);
    l.kind = PARE_LAYOUT_GPTQ_V2;
    x = pack(&l, &t);
    free_parts(&x);
    free((void *)t.view.part[0]);

    char reason[160];
    l = (pare_layout){.kind = PARE_LAYOUT_GPTQ, .bits = 5, .rows = 64, .cols = 64, .group = 32};
    assert_false(pare_layout_holds(&l, reason));
    l.bits = 3;
    l.rows = 40;
    assert_false(pare_layout_holds(&l, reason));
    l.rows = 64;
    assert_true(pare_layout_holds(&l, reason));
    l.cols = 72;
    assert_false(pare_layout_holds(&l, reason));
}

/* ---- GGUF's blocks ---- */

static void blocks_say_the_same(void **state) {
    (void)state;
    enum { ROWS = 5, COLS = 192 };
    static const char *const kinds[] = {"int2_g64",  "int3_g32",  "int4_g32",  "int4_row",
                                        "int5_g128", "int6_g64",  "int8_g32",  "uint2_g32",
                                        "uint3_g64", "uint4_g64", "uint5_row", "uint6_g32"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const pare_encoding *enc = pare_encoding_find(kinds[i]);
        const pare_encoding *blocks = pare_grouped_blocks(enc->grid);
        pare_tensor t = random_tensor(enc, ROWS, COLS, 20 + i);
        uint8_t *y = calloc(ROWS, pare_encoding_row_bytes(blocks, COLS));
        pare_grouped_row row, back;
        pare_grid_form form;
        assert_true(pare_grouped_form(&form, blocks));
        assert_true(pare_grouped_row_alloc(&row, enc->grid, COLS));
        assert_true(pare_grouped_row_alloc(&back, &form, COLS));
        pare_tensor u = pare_tensor_wrap(blocks, y, ROWS, COLS);
        for (size_t r = 0; r < ROWS; r++) {
            float a[COLS], b[COLS];
            pare_grouped_get(&row, &t.view, enc, r);
            pare_grouped_put(y + r * u.view.row_bytes, blocks, COLS, &row, enc->grid);
            enc->decode(a, &t.view, r, 0, COLS);
            blocks->decode(b, &u.view, r, 0, COLS);
            for (size_t c = 0; c < COLS; c++)
                if (a[c] != b[c]) fail_msg("%s: %g is %g", kinds[i], (double)a[c], (double)b[c]);
            /* and taken apart again: the bytes of the blocks */
            uint8_t again[COLS * 2];
            pare_grouped_get(&back, &u.view, blocks, r);
            pare_grouped_put(again, blocks, COLS, &back, &form);
            assert_memory_equal(again, y + r * u.view.row_bytes, u.view.row_bytes);
        }
        pare_grouped_row_free(&row);
        pare_grouped_row_free(&back);
        free(y);
        free((void *)t.view.part[0]);
    }
    assert_null(pare_grouped_blocks(pare_encoding_find("uint8_g32")->grid));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors),
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(gptq_and_awq),
        cmocka_unit_test(padded_words),
        cmocka_unit_test(other_groups),
        cmocka_unit_test(refusals),
        cmocka_unit_test(blocks_say_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
