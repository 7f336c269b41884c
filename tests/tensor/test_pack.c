/* Packed panels: the codes, scales and values of the rows that they were made of, bit for bit, by
 * row and by panel; in place, at sizes that grow and shrink, with rows missing in the last panel.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/packed.h"
#include "support/test.h"
#include "tensor/pack.h"

enum { NR = PARE_PACKED_NR };

static float uniform(void) { return (float)rand() / (float)RAND_MAX * 2.0f - 1.0f; }

/* At most two of four are left, sometimes fewer. */
static void two_of_four(float *w, size_t n) {
    for (size_t i = 0; i < n; i += 4) {
        int left = 4, most = rand() % 8 ? 2 : rand() % 2;
        while (left > most) {
            float *v = w + i + rand() % 4;
            left -= *v != 0.0f;
            *v = 0.0f;
        }
    }
}

static pare_tensor encode(const pare_encoding *e, size_t rows, size_t cols) {
    float *w = malloc(rows * cols * sizeof *w);
    for (size_t i = 0; i < rows * cols; i++) {
        w[i] = uniform() * ldexpf(1.0f, (int)(i / 32 % 9) - 5);
    }
    if (e->block_bytes == 0) two_of_four(w, rows * cols);
    pare_tensor t = {0};
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    assert_ok(pare_tensor_encode(rt, &t, e, w, rows, cols, NULL, err));
    pare_runtime_free(rt);
    free(w);
    return t;
}

/* A copy in memory that has just the room that packing in place needs. */
static pare_tensor pack(const pare_tensor *t, pare_isa isa) {
    size_t cols = t->view.cols, bytes = pare_tensor_packed_bytes(t->enc, t->view.rows, cols);
    bool in_place = t->enc->n_parts == 1;
    size_t room = in_place && bytes < t->part_bytes[0] ? t->part_bytes[0] : bytes;
    pare_tensor packed = *t;
    void *memory = malloc(room + 64), *scratch = malloc(pare_tensor_pack_scratch(t->enc, cols));
    if (in_place) packed.view.part[0] = memcpy(memory, t->view.part[0], t->part_bytes[0]);
    packed.storage = NULL;
    pare_tensor_pack(&packed, isa, scratch, memory);
    assert_int_equal(packed.part_bytes[0], bytes);
    assert_non_null(packed.enc->packed);
    free(scratch);
    return packed;
}

static void check_values(const pare_tensor *t, const pare_tensor *p, size_t r) {
    size_t cols = t->view.cols;
    float *w = malloc(2 * cols * sizeof *w);
    t->enc->decode(w, &t->view, r, 0, cols);
    for (size_t c = 0; c < cols; c += 32) p->enc->decode(w + cols + c, &p->view, r, c, 32);
    for (size_t c = 0; c < cols; c++) assert_true(w[c] == w[cols + c]);
    free(w);
}

static void check_row(const pare_tensor *t, const pare_tensor *p, size_t r) {
    size_t cols = t->view.cols, groups = cols / t->enc->code_group;
    bool offsets = t->enc->has_offset;
    int8_t *q = malloc(2 * cols);
    float *scale = malloc(2 * groups * sizeof *scale),
          *offset = malloc(2 * groups * sizeof *offset);
    t->enc->codes(q, scale, offset, &t->view, r, 0, cols);
    p->enc->codes(q + cols, scale + groups, offset + groups, &p->view, r, 0, cols);
    assert_memory_equal(q, q + cols, cols);
    assert_memory_equal(scale, scale + groups, groups * sizeof *scale);
    if (offsets) assert_memory_equal(offset, offset + groups, groups * sizeof *offset);
    for (size_t i = 0; i < cols; i++) {
        assert_true(q[i] >= p->enc->code_min);
        assert_true(q[i] <= p->enc->code_max);
    }
    free(q);
    free(scale);
    free(offset);
}

/* By panels: as by rows, and zeros in the rows that are missing. In pieces as well. */
static void check_panel(const pare_tensor *p, pare_isa isa, size_t row0) {
    size_t cols = p->view.cols, group = p->enc->code_group, groups = cols / group;
    const uint8_t *panel = (const uint8_t *)p->view.part[0] +
                           row0 / NR * pare_packed_panel_bytes(*p->enc->packed, cols);
    int8_t *codes = malloc(cols * NR), *q = malloc(cols);
    float *scale = malloc(groups * NR * sizeof *scale),
          *offset = malloc(groups * NR * sizeof *scale);
    float *s = malloc(groups * sizeof *s), *o = malloc(groups * sizeof *o);
    for (size_t c = 0, n; c < cols; c += n) {
        n = cols - c < 256 ? cols - c : 256;
        pare_unpack_kernels_get(isa)->packed[p->enc->dot](codes + c * NR, scale + c / group * NR,
                                                          offset + c / group * NR, panel, c, n);
    }
    for (size_t r = 0; r < NR; r++) {
        bool there = row0 + r < p->view.rows;
        if (there) p->enc->codes(q, s, o, &p->view, row0 + r, 0, cols);
        for (size_t c = 0; c < cols; c++) {
            size_t g = c / group;
            if (there) assert_int_equal(codes[(c / 4 * NR + r) * 4 + c % 4], q[c]);
            assert_true(scale[g * NR + r] == (there ? s[g] : 0.0f));
            if (p->enc->has_offset) assert_true(offset[g * NR + r] == (there ? o[g] : 0.0f));
        }
    }
    free(codes);
    free(q);
    free(scale);
    free(offset);
    free(s);
    free(o);
}

static void check_encoding(const pare_encoding *e) {
    static const size_t row_counts[] = {1, 15, 16, 17, 40};
    static const size_t blocks[] = {1, 2, 5, 9};
    for (size_t i = 0; i < 5; i++)
        for (size_t k = 0; k < 4; k++) {
            size_t len = e->block_len < 32 ? 32 : e->block_len;
            pare_tensor t = encode(e, row_counts[i], blocks[k] * len);
            for (pare_isa isa = PARE_ISA_REF; isa <= pare_isa_best(); isa++) {
                pare_tensor p = pack(&t, isa);
                for (size_t r = 0; r < t.view.rows; r++) check_values(&t, &p, r);
                for (size_t r = 0; r < t.view.rows && e->codes; r++) check_row(&t, &p, r);
                for (size_t r = 0; r < t.view.rows && e->codes; r += NR) check_panel(&p, isa, r);
                free((void *)p.view.part[0]);
            }
            pare_tensor_free(&t);
        }
}

static void every_packed_encoding(void **state) {
    (void)state;
    srand(1);
    bool seen[PARE_DOT_COUNT] = {false};
    const pare_encoding *e;
    for (size_t i = 0; (e = pare_encoding_at(i)); i++) {
        if (!pare_encoding_packed(e)) {
            assert_int_equal(pare_tensor_packed_bytes(e, 16, 256), 0);
            continue;
        }
        seen[pare_encoding_packed(e)->dot] = true;
        if (e->codes && !e->grid) assert_int_equal(pare_encoding_packed(e)->dot, e->dot);
        check_encoding(e);
    }
    for (int k = 1; k < PARE_DOT_COUNT; k++)
        assert_int_equal(seen[k], pare_packed_formats[k].bits != 0);
}

/* What a model pays in memory: as stored, or a few hundredths of a bit more. */
static void sizes(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double bits;
    } expected[] = {{"q4_0", 4.5},    {"q4_1", 5},      {"q5_0", 5.5},     {"q5_1", 6},
                    {"q8_0", 8.5},    {"iq4_nl", 4.5},  {"q2_k", 2.625},   {"q3_k", 3.5625},
                    {"nm24_q8", 5.5}, {"nm24_q4", 3.5}, {"nm24_bf16", 9},  {"q4_k", 4.625},
                    {"q5_k", 5.625},  {"q6_k", 6.5625}, {"iq4_xs", 4.3125}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const pare_encoding *e = pare_encoding_find(expected[i].name);
        double bits = 8.0 * (double)pare_tensor_packed_bytes(e, 160, 1024) / (160 * 1024);
        assert_true(bits == expected[i].bits);
        assert_int_equal(pare_tensor_packed_bytes(e, SIZE_MAX / 2, 1024), 0);
        assert_int_equal(pare_tensor_packed_bytes(e, 16, SIZE_MAX / 2 + 1), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_packed_encoding),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
