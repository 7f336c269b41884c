/* Unpacking at every level: codes as the encoding's own, expanded codes as its decode(), panels as
 * the plain kernels. All bit for bit. Built twice: the second program runs AVX-512 emulated. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/unpack.h"
#include "support/test.h"
#include "tensor/encoding.h"

#ifdef PARE_EMULATE
#define FIRST_LEVEL PARE_ISA_AVX512
#define FIRST_VECTOR_LEVEL PARE_ISA_AVX512
#define TOP_LEVEL PARE_ISA_AVX512
#define KERNELS_OF(isa) ((void)(isa), &pare_unpack_avx512_vbmi2)
#else
#define FIRST_LEVEL PARE_ISA_REF
#define FIRST_VECTOR_LEVEL PARE_ISA_AVX2
#define TOP_LEVEL pare_isa_best()
#define KERNELS_OF(isa) pare_unpack_kernels_get(isa)
#endif

enum { NR = PARE_TILE_NR, KC = PARE_TILE_KC, ROWS = 5 };

static float uniform(void) { return (float)rand() / (float)RAND_MAX * 2.0f - 1.0f; }

/* Takes w[ROWS][cols] over. */
static pare_tensor encoded(const pare_encoding *e, float *w, size_t cols) {
    pare_tensor t = {0};
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    assert_ok(pare_tensor_encode(rt, &t, e, w, ROWS, cols, NULL, err));
    pare_runtime_free(rt);
    free(w);
    return t;
}

/* Values of many sizes, in the pattern that the N:M encodings demand. */
static pare_tensor make_tensor(const pare_encoding *e, size_t cols) {
    float *w = malloc(ROWS * cols * sizeof *w);
    for (size_t i = 0; i < ROWS * cols; i++) {
        w[i] = uniform() * ldexpf(1.0f, (int)(i / 32 % 9) - 5);
        if (e->block_bytes == 0 && i % 4 >= 2) w[i] = 0.0f;
    }
    return encoded(e, w, cols);
}

static void check_row(const pare_unpack_kernels *k, const pare_tensor *t, size_t row, size_t col,
                      size_t n) {
    const pare_encoding *e = t->enc;
    int8_t q[KC], want_q[KC];
    float scale[KC / 16], want_scale[KC / 16], offset[KC / 16], want_offset[KC / 16];
    size_t groups = (n + e->code_group - 1) / e->code_group;
    e->codes(want_q, want_scale, want_offset, &t->view, row, col, n);
    if (k->codes[e->dot]) {
        k->codes[e->dot](q, scale, offset, &t->view, row, col, n);
        assert_memory_equal(q, want_q, n);
        assert_memory_equal(scale, want_scale, groups * sizeof *scale);
        if (e->has_offset) assert_memory_equal(offset, want_offset, groups * sizeof *offset);
    }
    float *w = malloc(n * sizeof *w), *want = malloc(n * sizeof *want);
    k->expand(w, want_q, want_scale, e->has_offset ? want_offset : NULL, e->code_group, n);
    e->decode(want, &t->view, row, col, n);
    assert_memory_equal(w, want, n * sizeof *w);
    free(w);
    free(want);

    uint8_t u8[KC];
    int16_t s16[KC];
    k->shift(u8, want_q, e->code_min, n);
    k->widen(s16, want_q, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(u8[i], want_q[i] - e->code_min);
        assert_int_equal(s16[i], want_q[i]);
    }
}

static void check_tensor(const pare_encoding *e, size_t cols) {
    pare_tensor t = make_tensor(e, cols);
    for (pare_isa isa = FIRST_LEVEL; isa <= TOP_LEVEL; isa++)
        for (size_t row = 0; row < ROWS; row++)
            for (size_t col = 0; col < cols; col += KC)
                check_row(KERNELS_OF(isa), &t, row, col, cols - col < KC ? cols - col : KC);
    pare_tensor_free(&t);
}

static void every_encoding(void **state) {
    (void)state;
    srand(1);
    const pare_encoding *e;
    for (size_t i = 0; (e = pare_encoding_at(i)); i++) {
        /* the driver's steps of KC inputs rely on this */
        assert_true(e->block_len > 0 && KC % e->block_len == 0);
        assert_true(e->span == 0 || KC % e->span == 0 || e->grid);
        if (!e->codes || (!e->encode_row && !e->encode_matrix)) continue;
        assert_true(e->code_group == 16 || e->code_group == 32);
        /* a whole block of inputs, and every tail of it that the encoding allows */
        size_t step = e->block_len < 32 ? 32 : e->block_len;
        for (size_t tail = step; tail <= KC; tail += step)
            check_tensor(e, KC + tail + (e->block_len == 1 ? 5 : 0));
    }
}

/* A row's pattern: of every m columns at most m / 2, or any share of all (m = 0), from none in the
 * first row to all in the last. */
static pare_tensor random_pattern(const pare_encoding *e, size_t cols, size_t m) {
    float *w = calloc(ROWS * cols, sizeof *w);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < cols; c++) {
            size_t stored = 0;
            for (size_t i = m ? c - c % m : c; i < c; i++) stored += w[r * cols + i] != 0.0f;
            bool kept = (size_t)rand() % (ROWS - 1) < r && (!m || stored < m / 2);
            if (kept) w[r * cols + c] = uniform() + (rand() % 2 ? 2.0f : -2.0f);
        }
    return encoded(e, w, cols);
}

/* From every multiple of 32 columns on, to every such multiple and to the row's end; nothing is
 * written behind it. */
static void check_sparse(const pare_unpack_kernels *k, const pare_tensor *t, size_t row, size_t col,
                         size_t n) {
    const pare_encoding *e = t->enc;
    if (e->codes) {
        if (!k->codes[e->dot]) return;
        int8_t *q = malloc(n + 1), *want_q = malloc(n);
        float scale[40], want[40];
        q[n] = 99;
        k->codes[e->dot](q, scale, NULL, &t->view, row, col, n);
        e->codes(want_q, want, NULL, &t->view, row, col, n);
        assert_memory_equal(q, want_q, n);
        assert_memory_equal(scale, want, (n + 31) / 32 * sizeof *scale);
        assert_int_equal(q[n], 99);
        free(q);
        free(want_q);
        return;
    }
    if (!k->decode[e->dotf]) return;
    float *y = malloc((n + 1) * sizeof *y), *want = malloc(n * sizeof *want);
    y[n] = 99.0f;
    k->decode[e->dotf](y, &t->view, row, col, n);
    e->decode(want, &t->view, row, col, n);
    assert_memory_equal(y, want, n * sizeof *y);
    assert_true(y[n] == 99.0f);
    free(y);
    free(want);
}

static void sparse_rows(void **state) {
    (void)state;
    const struct {
        const char *name;
        size_t m;
    } forms[] = {{"bitmap_bf16", 0}, {"bitmap_q8", 0}, {"bitmap_q4", 0},
                 {"nm48_bf16", 8},   {"nm48_q8", 8},   {"nm48_q4", 8}};
    const size_t widths[] = {8,   24,  32,  40,  56,  64,  72,  96,
                             248, 256, 264, 288, 504, 512, 544, 1000};
    srand(3);
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
        for (size_t v = 0; v < 2 * sizeof widths / sizeof *widths; v++) {
            size_t cols = widths[v / 2];
            if (v % 2 && !forms[f].m) cols -= 3; /* a bitmap has any width */
            pare_tensor t = random_pattern(pare_encoding_find(forms[f].name), cols, forms[f].m);
            for (pare_isa isa = FIRST_VECTOR_LEVEL; isa <= TOP_LEVEL; isa++)
                for (size_t row = 0; row < ROWS; row++)
                    for (size_t col = 0; col < cols; col += 32)
                        for (size_t n = 32; n < cols - col + 32; n += 32)
                            check_sparse(KERNELS_OF(isa), &t, row, col,
                                         n < cols - col ? n : cols - col);
            pare_tensor_free(&t);
        }
}

static void panels(void **state) {
    (void)state;
    srand(2);
    static uint32_t in[KC * NR];
    static float scale[KC / 16 * NR], offset[KC / 16 * NR];
    for (size_t i = 0; i < KC * NR; i++) in[i] = (uint32_t)rand() * 2654435761u;
    for (size_t i = 0; i < KC / 16 * NR; i++) {
        scale[i] = (float)(rand() % 2047 - 1023); /* 11 bits: products with codes are exact */
        offset[i] = uniform();
    }
    const pare_unpack_kernels *ref = &pare_unpack_ref;
    for (pare_isa isa = FIRST_VECTOR_LEVEL; isa <= TOP_LEVEL; isa++)
        for (size_t k = 4; k <= KC; k = k < 32 ? k + 4 : k * 2) {
            const pare_unpack_kernels *level = KERNELS_OF(isa);
            size_t bytes = k * NR * sizeof(float);
            float *w = malloc(bytes), *want = malloc(bytes);
            for (uint32_t group = 16; group <= 32; group += 16)
                for (int with = 0; with < 2; with++) {
                    level->expand_panel(w, in, scale, with ? offset : NULL, group, k);
                    ref->expand_panel(want, in, scale, with ? offset : NULL, group, k);
                    assert_memory_equal(w, want, bytes);
                }
            level->bf16_panel(w, in, k);
            ref->bf16_panel(want, in, k);
            assert_memory_equal(w, want, bytes);
            level->f16_panel(w, in, k);
            ref->f16_panel(want, in, k);
            assert_memory_equal(w, want, bytes);
            level->pair_panel((uint32_t *)w, (const uint16_t *)in, k);
            ref->pair_panel((uint32_t *)want, (const uint16_t *)in, k);
            assert_memory_equal(w, want, bytes / 2);
            free(w);
            free(want);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_encoding),
                                       cmocka_unit_test(sparse_rows), cmocka_unit_test(panels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
