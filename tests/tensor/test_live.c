/* What a mask leaves of a matrix: found as its definition says, and the three products that leave
 * out the rest have the bits of the dense ones on the same zeros. Odd shapes, every structure, rows
 * of a matrix, one thread and three. Built a second time with PARE_EMULATE for levels that the
 * machine lacks. */
#include "support/levels.h"
#include "support/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/runtime.h"
#include "kernels/select.h"
#include "kernels/tile.h"
#include "tensor/linear.h"
#include "tensor/live.h"

enum { NR = PARE_TILE_NR };

static float *normal(size_t n, uint64_t stream) {
    float *v = pare_calloc(n + 16, sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = pare_rng_normal(3, stream, i);
    return v;
}

/* Tiles of height x width, each kept with a probability; width 0: two of every four inputs. The
 * caller frees. */
static uint64_t *tiles(size_t rows, size_t cols, size_t height, size_t width, float keep) {
    uint64_t *mask = pare_calloc(pare_bit_words(rows * cols), sizeof *mask);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            size_t four = c / 4, i = r * (cols + 4) + four,
                   first = (size_t)(pare_rng_uniform(4, 1, i) * 4),
                   other = (first + 1 + (size_t)(pare_rng_uniform(4, 2, i) * 3)) % 4;
            if (width == 0) {
                size_t at = r * cols + c;
                if (c % 4 == first || c % 4 == other) mask[at / 64] |= (uint64_t)1 << at % 64;
                continue;
            }
            size_t tile = r / height * (cols + 1) + c / width, k = r * cols + c;
            if (pare_rng_uniform(4, rows * 1000 + cols, tile) < keep)
                mask[k / 64] |= (uint64_t)1 << k % 64;
        }
    return mask;
}

static bool bit(const uint64_t *bits, size_t i) { return bits[i / 64] >> i % 64 & 1; }

typedef struct structure {
    size_t height, width;
    float keep;
} structure;
static const structure structures[] = {
    {16, 16, 0.2f}, {16, 16, 0.6f}, {8, 8, 0.1f}, {4, 4, 0.05f}, {1, 1, 0.03f}, {1, 1, 0.5f},
    {64, 1, 0.3f},  {1, 300, 0.2f}, {16, 16, 0},  {1, 1, 0.2f},  {1, 0, 0}};
enum { N_STRUCTURES = sizeof structures / sizeof *structures };

static void masks_are_read_as_defined(void **state) {
    (void)state;
    static const size_t shapes[][2] = {{1, 1},  {16, 64}, {17, 65},   {64, 128},
                                       {65, 1}, {3, 300}, {130, 100}, {200, 257}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t k = 0; k < N_STRUCTURES; k++)
            for (int threads = 1; threads <= 3; threads += 2) {
                size_t rows = shapes[s][0], cols = shapes[s][1];
                const structure *t = &structures[k];
                uint64_t *mask = tiles(rows, cols, t->height, t->width, t->keep);
                pare_runtime *rt = test_runtime(threads, pare_isa_best());
                pare_live *l;
                assert_ok(pare_live_create(&l, rows, cols, err));
                pare_live_set(rt, l, mask, false);
                for (size_t p = 0; p * NR < rows; p++)
                    for (size_t c = 0; c < cols; c++) {
                        bool any = false;
                        for (size_t r = p * NR; r < rows && r < p * NR + NR; r++)
                            any |= bit(mask, r * cols + c);
                        assert_int_equal(bit(l->by_output + p * pare_bit_words(cols), c), any);
                    }
                for (size_t p = 0; p * NR < cols; p++)
                    for (size_t r = 0; r < rows; r++) {
                        bool any = false;
                        for (size_t c = p * NR; c < cols && c < p * NR + NR; c++)
                            any |= bit(mask, r * cols + c);
                        assert_int_equal(bit(l->by_input + p * pare_bit_words(rows), r), any);
                    }
                assert_true(l->y >= 0 && l->y <= 1);
                if (t->width && t->keep == 0) assert_true(l->y == 0 && l->dx == 0 && l->dw == 0);
                pare_live_set(rt, l, NULL, false);
                assert_true(l->y == 1 && bit(l->by_output, 0));
                pare_live_free(l);
                pare_runtime_free(rt);
                pare_free(mask);
            }
}

static void lists_begin_anywhere(void **state) {
    (void)state;
    uint64_t bits[4];
    uint16_t list[256];
    for (size_t i = 0; i < 4; i++) bits[i] = 0x9E3779B97F4A7C15u * (i + 3);
    for (size_t begin = 0; begin < 256; begin += 7)
        for (size_t n = 0; begin + n <= 256; n += 5) {
            size_t count = pare_live_list(list, bits, begin, n), seen = 0;
            for (size_t i = 0; i < n; i++)
                if (bit(bits, begin + i)) assert_int_equal(list[seen++], i);
            assert_int_equal(count, seen);
            count = pare_live_pairs(list, bits, begin, n);
            seen = 0;
            for (size_t i = 0; i < n; i += 2)
                if (bit(bits, begin + i) || (i + 1 < n && bit(bits, begin + i + 1)))
                    assert_int_equal(list[seen++], i / 2);
            assert_int_equal(count, seen);
        }
}

/* A layer: y, then dx += and dw (+)= from dy, of rows [row0, row0 + rows) of w. */
typedef struct layer {
    size_t n, out, in, row0, rows;
    pare_isa isa;
    pare_compute compute; /* fast: w and x in bf16 */
    pare_tensor w, x;
    const float *dy;
    float *y, *dx, *dw;
    bool add;
    const pare_live *live;
    void *scratch;
} layer;

static void run(pare_worker *w, void *arg) {
    const layer *l = arg;
    pare_linear_out o = {
        .w = &l->w, .y = l->y, .ldy = l->rows + 1, .row0 = l->row0, .rows = l->rows, .many = true};
    pare_linear_grad g = {&l->w, l->dy, l->rows, l->row0, l->rows};
    pare_linear_forward(w, l->isa, l->compute, l->scratch, l->x.view.part[0], l->in, l->n, NULL, &o,
                        1);
    pare_linear_backward_input(w, l->isa, l->compute, l->scratch, l->dx, l->in, l->n, &g, 1);
    pare_linear_backward_weight(w, l->isa, l->compute, l->scratch, l->dw, l->dy, l->rows, l->rows,
                                &l->x, l->add, l->live, l->row0);
}

/* y, dx, dw one after the other. */
static float *products(layer l, const void *w, const void *x, int threads, const pare_live *live,
                       bool add) {
    size_t max = l.out > l.in ? l.out : l.in;
    size_t bytes = pare_linear_scratch_bytes(l.n, max, threads, l.compute) +
                   pare_linear_backward_scratch_bytes(l.n, max, threads, l.compute);
    size_t floats = l.n * (l.rows + 1) + l.n * l.in + l.rows * l.in;
    const pare_encoding *e = pare_encoding_find(l.compute == PARE_COMPUTE_FAST ? "bf16" : "f32");
    l.y = pare_calloc(floats, sizeof *l.y);
    for (size_t i = 0; i < floats; i++) l.y[i] = 0.5f;
    l.dx = l.y + l.n * (l.rows + 1);
    l.dw = l.dx + l.n * l.in;
    l.scratch = pare_big_alloc(bytes);
    l.w = pare_tensor_wrap(e, w, l.out, l.in);
    l.x = pare_tensor_wrap(e, x, l.n, l.in);
    l.w.live = l.live = live;
    l.add = add;
    pare_runtime *rt = test_runtime(threads, l.isa);
    pare_team_run(rt, run, &l);
    pare_runtime_free(rt);
    pare_big_free(l.scratch, bytes);
    return l.y;
}

/* The upper halves of x, behind each other in its place. */
static void halve(float *x, size_t n) {
    uint16_t *to = (uint16_t *)x;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        to[i] = (uint16_t)(bits >> 16);
    }
}

/* by_weight: also where panels would be chosen. */
static void check(layer l, const structure *t, bool by_weight) {
    uint64_t *mask = tiles(l.out, l.in, t->height, t->width, t->keep);
    float *w = normal(l.out * l.in, 1), *x = normal(l.n * l.in, 2), *dy = normal(l.n * l.rows, 3);
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    pare_live *live;
    for (size_t i = 0; i < l.out * l.in; i++)
        if (!bit(mask, i)) w[i] = 0;
    assert_ok(pare_live_create(&live, l.out, l.in, err));
    bool fast = l.compute == PARE_COMPUTE_FAST;
    if (fast) {
        halve(w, l.out * l.in);
        halve(x, l.n * l.in);
    }
    pare_live_set(rt, live, mask, fast);
    pare_runtime_free(rt);
    if (by_weight) live->y_by_weight = live->dx_by_weight = true;
    l.dy = dy;
    for (int isa = FIRST_LEVEL; isa <= (int)TOP_LEVEL; isa++)
        for (int add = 0; add < 2; add++) {
            l.isa = (pare_isa)isa;
            float *dense = products(l, w, x, 1, NULL, add);
            for (int threads = 1; threads <= 3; threads += 2) {
                float *got = products(l, w, x, threads, live, add);
                size_t before = l.n * (l.rows + 1) + l.n * l.in;
                assert_memory_equal(got, dense, before * sizeof *got);
                size_t n_left_out = 0;
                for (size_t i = 0; i < l.rows * l.in; i++) {
                    float g = got[before + i];
                    bool same = memcmp(&g, &dense[before + i], sizeof g) == 0,
                         kept = bit(mask, l.row0 * l.in + i), zero = g == (add ? 0.5f : 0.0f);
                    n_left_out += !same;
                    if (!same && (kept || !zero))
                        fail_msg("%s: dw[%zu] of %zu x %zu: found %g, expected %g",
                                 pare_isa_name(l.isa), i, l.rows, l.in, (double)g,
                                 (double)dense[before + i]);
                }
                if (t->width && t->keep == 0 && isa <= PARE_ISA_AVX512)
                    assert_int_equal(n_left_out, l.rows * l.in);
                pare_free(got);
            }
            pare_free(dense);
        }
    pare_live_free(live);
    pare_free(mask);
    pare_free(w);
    pare_free(x);
    pare_free(dy);
}

static void all_products(pare_compute compute) {
    static const size_t shapes[][3] = {/* n, out, in */
                                       {3, 17, 15},   {16, 64, 64},  {40, 33, 300},
                                       {64, 300, 48}, {300, 20, 70}, {7, 560, 65}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t k = 0; k < N_STRUCTURES; k++)
            check((layer){.n = shapes[i][0],
                          .out = shapes[i][1],
                          .in = shapes[i][2],
                          .rows = shapes[i][1],
                          .compute = compute},
                  &structures[k], false);
    for (size_t k = 0; k < N_STRUCTURES; k++) { /* rows of a matrix, of whole panels and not */
        layer l = {.n = 21, .out = 96, .in = 50, .row0 = 32, .rows = 48, .compute = compute};
        check(l, &structures[k], false);
        l.row0 = 23;
        l.rows = 40;
        check(l, &structures[k], false);
    }
}

static void products_have_the_bits_of_the_dense_ones(void **state) {
    (void)state;
    all_products(PARE_COMPUTE_EXACT);
}

/* In bf16, by pairs, where the level has such products; else of bf16 weights. */
static void products_in_fast_have_them_too(void **state) {
    (void)state;
    all_products(PARE_COMPUTE_FAST);
}

/* Rows by 64 and not, one slab and two, inputs and outputs of one block and of more, with tails. */
static void single_weights_have_the_bits_of_the_dense_ones(void **state) {
    (void)state;
    static const size_t shapes[][3] = {/* n, out, in */
                                       {64, 16, 64}, {64, 3, 1},     {128, 33, 300}, {257, 70, 65},
                                       {64, 300, 7}, {300, 20, 257}, {600, 64, 48}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t k = 4; k < N_STRUCTURES; k++)
            check((layer){.n = shapes[i][0],
                          .out = shapes[i][1],
                          .in = shapes[i][2],
                          .rows = shapes[i][1]},
                  &structures[k], true);
    for (size_t k = 4; k < N_STRUCTURES; k++) {
        check((layer){.n = 64, .out = 96, .in = 50, .row0 = 32, .rows = 48}, &structures[k], true);
        check((layer){.n = 64, .out = 96, .in = 50, .row0 = 23, .rows = 40}, &structures[k], true);
    }
}

/* What is chosen: lists where little is left but of all panels, for rows that fill pieces. */
static void chosen_by_what_is_left(void **state) {
    (void)state;
    static const struct {
        structure s;
        bool by_weight;
    } cases[] = {{{1, 0, 0}, true},       {{1, 1, 0.2f}, true}, {{1, 1, 0.75f}, false},
                 {{16, 16, 0.2f}, false}, {{4, 4, 0.3f}, true}, {{64, 1, 0.3f}, false}};
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    bool has = pare_tile_kernels_get(pare_runtime_isa(rt))->weights != NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const structure *t = &cases[i].s;
        uint64_t *mask = tiles(320, 256, t->height, t->width, t->keep);
        pare_live *l;
        assert_ok(pare_live_create(&l, 320, 256, err));
        pare_live_set(rt, l, mask, false);
        assert_int_equal(l->y_by_weight, has && cases[i].by_weight);
        assert_true(!l->y_by_weight || l->y == l->kept);
        pare_live_set(rt, l, NULL, false);
        assert_true(!l->y_by_weight && !l->dx_by_weight);
        pare_live_free(l);
        pare_free(mask);
    }
    pare_runtime_free(rt);
    assert_false(pare_live_takes_rows(0));
    assert_false(pare_live_takes_rows(63));
    assert_true(pare_live_takes_rows(64));
    assert_false(pare_live_takes_rows(100));
    assert_true(pare_live_takes_rows(257));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_are_read_as_defined),
        cmocka_unit_test(lists_begin_anywhere),
        cmocka_unit_test(products_have_the_bits_of_the_dense_ones),
        cmocka_unit_test(products_in_fast_have_them_too),
        cmocka_unit_test(single_weights_have_the_bits_of_the_dense_ones),
        cmocka_unit_test(chosen_by_what_is_left)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
