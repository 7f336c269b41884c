/* linear_forward against f64, for every shape of its two paths: rows and inputs that end inside a
 * panel, several matrices on one input, encodings with and without codes or kernels of their own.
 * Results must not depend on the number of threads.
 *
 * Most encodings are the test's own: they are simple enough to be right, and cover what the
 * descriptor allows (groups of 16 and 32, signed codes, offsets, codes as wide as a byte). Those of
 * the registry follow. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/team.h"
#include "support/test.h"
#include "tensor/linear_panel.h"
#include "tensor/pack.h"

enum { BLOCK = 32 };

/* One block: 32 codes, and a scale and an offset for each 16. */
typedef struct coded_block {
    float scale[2], offset[2];
    int8_t q[BLOCK];
} coded_block;

static const coded_block *block_of(const pare_view *w, size_t row, size_t col) {
    return (const coded_block *)((const char *)w->part[0] + row * w->row_bytes) + col / BLOCK;
}

static void coded_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const coded_block *b = block_of(w, row, col + i);
        size_t j = (col + i) % BLOCK;
        y[i] = b->scale[j / 16] * (float)b->q[j] + b->offset[j / 16];
    }
}

static void coded_codes(int8_t *q, float *scale, float *offset, const pare_view *w, size_t row,
                        size_t col, size_t n, size_t group, bool has_offset) {
    for (size_t i = 0; i < n; i++) {
        const coded_block *b = block_of(w, row, col + i);
        size_t half = (col + i) % BLOCK / 16;
        q[i] = b->q[(col + i) % BLOCK];
        scale[i / group] = b->scale[half];
        if (has_offset) offset[i / group] = b->offset[half];
    }
}

#define CODED(NAME, GROUP, MIN, MAX, OFFSET)                                                       \
    static void NAME##_codes(int8_t *q, float *scale, float *offset, const pare_view *w,           \
                             size_t row, size_t col, size_t n) {                                   \
        coded_codes(q, scale, offset, w, row, col, n, GROUP, OFFSET);                              \
    }                                                                                              \
    static const pare_encoding NAME = {.name = #NAME,                                              \
                                       .block_len = BLOCK,                                         \
                                       .block_bytes = sizeof(coded_block),                         \
                                       .n_parts = 1,                                               \
                                       .decode = coded_decode,                                     \
                                       .codes = NAME##_codes,                                      \
                                       .code_group = GROUP,                                        \
                                       .code_min = MIN,                                            \
                                       .code_max = MAX,                                            \
                                       .has_offset = OFFSET};
CODED(u4_32, 32, 0, 15, true)
CODED(s4_32, 32, -8, 7, false)
CODED(u2_16, 16, 0, 3, true)
CODED(u5_32, 32, 0, 31, true)
CODED(s6_16, 16, -32, 31, false)
CODED(s7_32, 32, -64, 63, true)
CODED(s8_32, 32, -127, 127, false)
CODED(s8_16, 16, -128, 127, true)

static void plain_decode(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    const char *at = (const char *)w->part[0] + row * w->row_bytes;
    memcpy(y, at + col * sizeof(float), n * sizeof(float));
}
static const pare_encoding plain = {.name = "plain",
                                    .block_len = 1,
                                    .block_bytes = 4,
                                    .n_parts = 1,
                                    .decode = plain_decode,
                                    .dotf = PARE_DOTF_f32};
/* The same without a kernel of its own. */
static const pare_encoding decoded = {
    .name = "decoded", .block_len = 1, .block_bytes = 4, .n_parts = 1, .decode = plain_decode};

static const pare_encoding *const encodings[] = {&plain, &decoded, &u4_32, &s4_32, &u2_16,
                                                 &u5_32, &s6_16,   &s7_32, &s8_32, &s8_16};
enum { N_ENCODINGS = sizeof encodings / sizeof *encodings };

static double uniform(void) { return (double)rand() / RAND_MAX * 2.0 - 1.0; }

static pare_tensor make_weights(const pare_encoding *e, size_t rows, size_t cols) {
    pare_tensor t = {.enc = e, .view = {.rows = rows, .cols = cols}};
    t.view.row_bytes = cols / e->block_len * e->block_bytes;
    t.part_bytes[0] = rows * t.view.row_bytes;
    t.storage_bytes = t.part_bytes[0] + 64;
    t.view.part[0] = t.storage = pare_big_alloc(t.storage_bytes);
    assert_non_null(t.storage);
    if (e->block_len == 1)
        for (size_t i = 0; i < rows * cols; i++) ((float *)t.storage)[i] = (float)uniform();
    for (size_t i = 0; e->block_len == BLOCK && i < rows * cols / BLOCK; i++) {
        coded_block *b = (coded_block *)t.storage + i;
        for (int h = 0; h < 2; h++) {
            bool copy = h && e->code_group == 32;
            b->scale[h] = copy ? b->scale[0] : (float)(uniform() / 16);
            b->offset[h] = copy ? b->offset[0] : e->has_offset ? (float)uniform() : 0.0f;
        }
        for (int j = 0; j < BLOCK; j++)
            b->q[j] = (int8_t)(e->code_min + rand() % (e->code_max - e->code_min + 1));
    }
    return t;
}

/* --- one call on a number of threads --- */

enum { MAX_OUTS = 3 };

typedef struct call {
    pare_isa isa;
    pare_compute compute;
    void *scratch;
    const float *x;
    size_t ldx, n, n_outs;
    pare_linear_out outs[MAX_OUTS];
    bool twice; /* calls follow each other without a pause in a forward pass */
    const pare_tile_kernels
        *tiles; /* the path of many rows with these; NULL: as the level has it */
} call;

static void forward(pare_worker *w, void *arg) {
    const call *c = arg;
    if (c->tiles) {
        const pare_linear_job job = {.dots = pare_dot_kernels_get(c->isa),
                                     .tiles = c->tiles,
                                     .unpack = pare_unpack_kernels_get(c->isa),
                                     .act = pare_act_grid_kernels_get(c->isa),
                                     .compute = c->compute,
                                     .scratch = c->scratch,
                                     .x = c->x,
                                     .ldx = c->ldx,
                                     .n = c->n,
                                     .in = c->outs[0].w->view.cols,
                                     .outs = c->outs,
                                     .n_outs = c->n_outs};
        pare_linear_many(w, &job);
        return;
    }
    for (int i = 0; i < 1 + c->twice; i++)
        pare_linear_forward(w, c->isa, c->compute, c->scratch, c->x, c->ldx, c->n, NULL, c->outs,
                            c->n_outs);
}

/* Levels to test; with PARE_EMULATE those above the machine's. */
static pare_isa first_level(void) {
#ifdef PARE_EMULATE
    return PARE_ISA_AVX512;
#else
    return PARE_ISA_REF;
#endif
}

static pare_isa best(void) {
#ifdef PARE_EMULATE
    return PARE_ISA_AMX;
#else
    return pare_isa_best();
#endif
}

/* Scratch of exactly the promised size. */
static void run(call *c, int n_threads) {
    size_t in = c->outs[0].w->view.cols;
    size_t bytes = pare_linear_scratch_bytes(c->n, in, n_threads, c->compute);
    c->scratch = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    assert_non_null(c->scratch);
    memset(c->scratch, 0xff, bytes); /* NaN: nothing may be read that was not written */
    for (size_t o = 0; o < c->n_outs; o++)
        memset(c->outs[o].y, 0x5a, c->n * c->outs[o].ldy * sizeof(float));
    pare_runtime *rt = test_runtime(n_threads, c->isa);
    pare_team_run(rt, forward, c);
    pare_runtime_free(rt);
    free(c->scratch);
}

/* --- against f64 --- */

/* Most that x in int8 can add to an output: half a step (with a little for its own rounding) times
 * |w| per input. A step is max|x| / 127 of `group` inputs. */
static double input_error(const float *w, const float *x, size_t cols, size_t group) {
    double sum = 0.0;
    for (size_t g = 0; g < cols; g += group) {
        double max = 0.0, weights = 0.0;
        for (size_t j = g; j < cols && j < g + group; j++) {
            max = fmax(max, fabs((double)x[j]));
            weights += fabs((double)w[j]);
        }
        sum += 0.5001 * max / 127 * weights;
    }
    return sum;
}

/* Inputs that share a step in int8; 0: x is not quantized. */
static size_t input_group(const call *c, const pare_encoding *e) {
    if (c->compute == PARE_COMPUTE_EXACT) return 0;
    if (e->packed && c->n <= pare_dot_kernels_get(c->isa)->packed_max_n) return PARE_ACT_GROUP;
    if (c->n > PARE_DOT_MAX_N || e->dot == PARE_DOT_NONE || e->block_bytes)
        return e->codes && c->isa < PARE_ISA_AMX ? PARE_ACT_GROUP : 0;
    return PARE_ACT_GROUP;
}

/* Are both factors rounded to bf16, or would be if they were not? */
static bool rounds_to_bf16(const call *c, const pare_encoding *e) {
    const pare_tile_kernels *tiles = c->tiles ? c->tiles : pare_tile_kernels_get(c->isa);
    if (c->compute == PARE_COMPUTE_EXACT || !tiles->bf16 || input_group(c, e)) return false;
    return tiles->bf16_first || !e->codes;
}

static void check_out(const call *c, const pare_linear_out *o) {
    size_t cols = o->w->view.cols, rows = o->w->view.rows;
    const pare_encoding *e = o->w->enc;
    size_t group = input_group(c, e);
    bool bf16 = rounds_to_bf16(c, e);
    float *w = malloc(cols * sizeof *w);
    for (size_t r = 0; r < rows; r++) {
        e->decode(w, &o->w->view, r, 0, cols);
        for (size_t i = 0; i < c->n; i++) {
            const float *x = c->x + i * c->ldx;
            double want = o->bias ? o->bias[r] : 0.0, mag = fabs(want);
            for (size_t j = 0; j < cols; j++) {
                want += (double)w[j] * x[j];
                mag += fabs((double)w[j] * x[j]);
            }
            double tol = (double)(cols + 2) * FLT_EPSILON * mag;
            /* codes and offsets may be far larger than the weight that they add up to */
            if (group) tol = input_error(w, x, cols, group) + 1e-5 * (mag + (double)cols);
            if (bf16) tol += 0x1.02p-7 * mag; /* 2^-8 of each factor */
            double got = o->y[i * o->ldy + r];
            if (!(fabs(got - want) <= tol))
                fail_msg("%s, %s, %s: n %zu rows %zu cols %zu: y[%zu][%zu] = %.9g, expected %.9g "
                         "within %.3g",
                         e->name, pare_isa_name(c->isa), c->compute ? "fast" : "exact", c->n, rows,
                         cols, i, r, got, want, tol);
        }
    }
    free(w);
    for (size_t i = 0; i < c->n; i++)
        for (size_t r = rows; r < o->ldy; r++) {
            uint32_t bits;
            memcpy(&bits, &o->y[i * o->ldy + r], 4);
            assert_int_equal(bits, 0x5a5a5a5a);
        }
}

static void set_inputs(call *c, size_t n, size_t cols) {
    c->n = n;
    c->ldx = cols + 3;
    float *x = malloc(n * c->ldx * sizeof *x);
    for (size_t i = 0; i < n * c->ldx; i++) x[i] = (float)(uniform() * (1.0 + 9.0 * (i % 37 == 0)));
    c->x = x;
}

static void add_out(call *c, pare_tensor *t, bool bias) {
    pare_linear_out *o = &c->outs[c->n_outs++];
    size_t rows = t->view.rows;
    *o = (pare_linear_out){.w = t, .ldy = rows + c->n_outs};
    o->y = malloc(c->n * o->ldy * sizeof *o->y);
    float *b = bias ? malloc(rows * sizeof *b) : NULL;
    for (size_t r = 0; b && r < rows; r++) b[r] = (float)uniform();
    o->bias = b;
}

static void free_call(call *c) {
    for (size_t o = 0; o < c->n_outs; o++) {
        free((void *)c->outs[o].bias);
        free(c->outs[o].y);
    }
    free((void *)c->x);
}

/* both sides of where the paths end: 4 and 8 rows, 16 with AMX */
static const size_t ns[] = {1, 4, 5, 8, 9, 16, 17, 33};
static const size_t shapes[][2] = {{1, 32}, {15, 64}, {16, 256}, {17, 288}, {33, 512}, {100, 96}};

static void check_shape(const pare_encoding *e, size_t rows, size_t cols) {
    pare_tensor t = make_weights(e, rows, cols);
    for (size_t i = 0; i < sizeof ns / sizeof *ns; i++)
        for (int compute = 0; compute < 2; compute++)
            for (pare_isa isa = first_level(); isa <= best(); isa++) {
                call c = {.isa = isa, .compute = (pare_compute)compute};
                set_inputs(&c, ns[i], cols);
                add_out(&c, &t, i % 2);
                run(&c, 1);
                check_out(&c, &c.outs[0]);
                free_call(&c);
            }
    pare_big_free(t.storage, t.storage_bytes);
}

static void every_shape_is_right(void **state) {
    (void)state;
    srand(1);
    for (size_t e = 0; e < N_ENCODINGS; e++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            check_shape(encodings[e], shapes[s][0], shapes[s][1]);
    for (size_t cols = 1; cols < 600; cols = cols * 3 + 1) {
        check_shape(&plain, 19, cols);
        check_shape(&decoded, 19, cols);
    }
}

/* Random weights in an encoding of the registry; half of them zero for sparse ones. */
static pare_tensor make_registered(const pare_encoding *e, size_t rows, size_t cols, bool packed) {
    float *w = malloc(rows * cols * sizeof *w);
    for (size_t i = 0; i < rows * cols; i++)
        w[i] = e->block_bytes == 0 && i % 4 >= 2 ? 0.0f : (float)uniform();
    pare_runtime *rt = test_runtime(1, pare_isa_best());
    pare_tensor t = {0};
    assert_ok(pare_tensor_encode(rt, &t, e, w, rows, cols, NULL, err));
    if (packed) assert_ok(pare_tensor_repack(&t, pare_isa_best(), err));
    pare_runtime_free(rt);
    free(w);
    return t;
}

/* As they are stored, and packed. */
static void registered_encodings_are_right(void **state) {
    (void)state;
    srand(6);
    const size_t counts[] = {1, 4, 5, 8, 9, 16, 17};
    const pare_encoding *e;
    for (size_t k = 0; (e = pare_encoding_at(k)); k++) {
        if (!e->encode_row && !e->encode_matrix) continue;
        size_t cols = 576 % e->block_len ? 512 : 576;
        for (int packed = 0; packed < (pare_encoding_packed(e) ? 2 : 1); packed++) {
            pare_tensor t = make_registered(e, 21, cols, packed);
            for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
                for (int compute = 0; compute < 2; compute++)
                    for (pare_isa isa = first_level(); isa <= best(); isa++) {
                        call c = {.isa = isa, .compute = (pare_compute)compute};
                        set_inputs(&c, counts[i], cols);
                        add_out(&c, &t, false);
                        run(&c, 1);
                        check_out(&c, &c.outs[0]);
                        free_call(&c);
                    }
            pare_tensor_free(&t);
        }
    }
}

/* Row i of n is what it is alone, bit for bit, up to as many rows as pare_linear_alike_rows says:
 * speculative decoding rests on it. */
static void check_alike(const pare_tensor *t, pare_compute compute, pare_isa isa, size_t n) {
    pare_tensor w = *t;
    call c = {.isa = isa, .compute = compute};
    set_inputs(&c, n, w.view.cols);
    add_out(&c, &w, false);
    run(&c, 1);
    for (size_t i = 0; i < n; i++) {
        call one = {.isa = isa, .compute = compute, .x = c.x + i * c.ldx, .ldx = c.ldx, .n = 1};
        add_out(&one, &w, false);
        run(&one, 1);
        if (memcmp(one.outs[0].y, c.outs[0].y + i * c.outs[0].ldy, w.view.rows * sizeof(float)) !=
            0)
            fail_msg("%s, %s, %s: row %zu of %zu differs", w.enc->name, pare_isa_name(isa),
                     compute ? "fast" : "exact", i, n);
        one.x = NULL;
        free_call(&one);
    }
    free_call(&c);
}

static void rows_alike_have_the_bits_of_one(void **state) {
    (void)state;
    srand(9);
    const pare_encoding *e;
    for (size_t k = 0; (e = pare_encoding_at(k)); k++) {
        if (!e->encode_row && !e->encode_matrix) continue;
        const size_t cols = 576 % e->block_len ? 512 : 576, most = pare_linear_alike_rows(e);
        assert_in_range(most, 4, PARE_DOT_MAX_N);
        for (int packed = 0; packed < (pare_encoding_packed(e) ? 2 : 1); packed++) {
            pare_tensor t = make_registered(e, 21, cols, packed);
            for (size_t n = 2; n <= most; n += n == 2 ? 2 : most - n ? most - n : 1)
                for (int compute = 0; compute < 2; compute++)
                    for (pare_isa isa = first_level(); isa <= best(); isa++)
                        check_alike(&t, (pare_compute)compute, isa, n);
            pare_tensor_free(&t);
        }
    }
}

/* Packed matrices beside one that takes the other path, more rows than one slab: the same bits for
 * any number of threads; each row as if it were alone; a range of rows its part. */
static void packed_matrices(void **state) {
    (void)state;
    srand(8);
    const size_t counts[] = {1, 3, 20, 515, 1030};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        pare_tensor t[MAX_OUTS] = {make_registered(pare_encoding_find("q4_k_tail"), 70, 320, true),
                                   make_registered(pare_encoding_find("q8_0"), 40, 320, true),
                                   make_registered(pare_encoding_find("f16"), 9, 320, true)};
        call c = {.isa = best(), .compute = PARE_COMPUTE_FAST};
        set_inputs(&c, counts[i], 320);
        for (int o = 0; o < MAX_OUTS; o++) add_out(&c, &t[o], o == 1);
        run(&c, 1);
        for (int o = 0; o < MAX_OUTS; o++) check_out(&c, &c.outs[o]);
        float *first[MAX_OUTS];
        for (int o = 0; o < MAX_OUTS; o++) {
            size_t bytes = c.n * c.outs[o].ldy * sizeof(float);
            first[o] = memcpy(malloc(bytes), c.outs[o].y, bytes);
        }
        run(&c, 3);
        for (int o = 0; o < MAX_OUTS; o++)
            assert_memory_equal(first[o], c.outs[o].y, c.n * c.outs[o].ldy * sizeof(float));

        bool any_n = pare_dot_kernels_get(best())->packed_max_n == SIZE_MAX;
        for (int o = 0; o < 2 && any_n; o++) {
            call last = c;
            last.n = 1;
            last.x = c.x + (c.n - 1) * c.ldx;
            last.n_outs = 0;
            add_out(&last, &t[o], false);
            last.outs[0].bias = c.outs[o].bias;
            last.outs[0].row0 = 16;
            last.outs[0].rows = t[o].view.rows - 16;
            run(&last, 2);
            assert_memory_equal(last.outs[0].y, first[o] + (c.n - 1) * c.outs[o].ldy + 16,
                                (t[o].view.rows - 16) * sizeof(float));
            last.outs[0].bias = NULL;
            last.x = NULL;
            free_call(&last);
        }
        for (int o = 0; o < MAX_OUTS; o++) {
            free(first[o]);
            pare_tensor_free(&t[o]);
        }
        free_call(&c);
    }
}

/* AVX512-BF16: of matrices on one input those of bf16 numbers take its products in `fast`, with an
 * error that f32 would not have; the others, and `exact`, are as without. */
static void bf16_beside_others(void **state) {
    (void)state;
#if defined(__x86_64__)
#ifndef PARE_EMULATE
    if (!(pare_cpu_features() & PARE_CPU_AVX512_BF16)) skip();
#endif
    srand(9);
    const char *const names[][MAX_OUTS] = {{"bf16", "bitmap_bf16", "q8_0"},
                                           {"nm48_bf16", "f16", "f32"}};
    const size_t counts[] = {17, 33, 70, 515}, widths[] = {32, 288, 320};
    for (size_t i = 0; i < 2 * sizeof counts / sizeof *counts; i++)
        for (size_t v = 0; v < sizeof widths / sizeof *widths; v++)
            for (int compute = 0; compute < 2; compute++) {
                size_t cols = widths[v] + (i % 2 ? 8 : 0); /* q8_0: whole blocks */
                pare_tensor t[MAX_OUTS];
                call c = {.isa = PARE_ISA_AVX512,
                          .compute = (pare_compute)compute,
                          .tiles = &pare_tile_avx512_bf16};
                set_inputs(&c, counts[i / 2], cols);
                for (int o = 0; o < MAX_OUTS; o++) {
                    t[o] = make_registered(pare_encoding_find(names[i % 2][o]), 33, cols, false);
                    add_out(&c, &t[o], o == 1);
                }
                run(&c, 1 + (int)i % 3);
                double most = 0.0;
                for (int o = 0; o < MAX_OUTS; o++) check_out(&c, &c.outs[o]);
                float *w = malloc(cols * sizeof *w);
                t[0].enc->decode(w, &t[0].view, 3, 0, cols);
                for (size_t m = 0; m < c.n; m++) {
                    double sum = 0.0;
                    for (size_t j = 0; j < cols; j++) sum += (double)w[j] * c.x[m * c.ldx + j];
                    most = fmax(most, fabs(c.outs[0].y[m * c.outs[0].ldy + 3] - sum));
                }
                assert_true((most > 1e-4) == (compute == PARE_COMPUTE_FAST));
                free(w);
                for (int o = 0; o < MAX_OUTS; o++) pare_tensor_free(&t[o]);
                free_call(&c);
            }
#endif
}

/* Three matrices of different encodings on one input, more rows of x than one slab holds. */
static void matrices_share_an_input(void **state) {
    (void)state;
    srand(2);
    const size_t counts[] = {1, 3, 8, 20, 515, 1030};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int compute = 0; compute < 2; compute++) {
            pare_tensor t[MAX_OUTS] = {make_weights(&u4_32, 40, 288), make_weights(&s8_16, 17, 288),
                                       make_weights(&plain, 9, 288)};
            call c = {.isa = best(), .compute = (pare_compute)compute};
            set_inputs(&c, counts[i], 288);
            for (int o = 0; o < MAX_OUTS; o++) add_out(&c, &t[o], o == 1);
            run(&c, 2);
            for (int o = 0; o < MAX_OUTS; o++) check_out(&c, &c.outs[o]);
            free_call(&c);
            for (int o = 0; o < MAX_OUTS; o++) pare_big_free(t[o].storage, t[o].storage_bytes);
        }
}

static void threads_do_not_change_results(void **state) {
    (void)state;
    srand(3);
    const size_t counts[] = {1, 5, 8, 9, 130, 515};
    const int threads[] = {2, 3, 7};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int compute = 0; compute < 2; compute++) {
            pare_tensor t[MAX_OUTS] = {make_weights(&u4_32, 250, 320),
                                       make_weights(&s6_16, 16, 320),
                                       make_weights(&decoded, 33, 320)};
            call c = {.isa = best(), .compute = (pare_compute)compute};
            set_inputs(&c, counts[i], 320);
            for (int o = 0; o < MAX_OUTS; o++) add_out(&c, &t[o], o == 1);
            float *first[MAX_OUTS];
            run(&c, 1);
            for (int o = 0; o < MAX_OUTS; o++) {
                size_t bytes = c.n * c.outs[o].ldy * sizeof(float);
                first[o] = memcpy(malloc(bytes), c.outs[o].y, bytes);
            }
            for (size_t k = 0; k < 2 * sizeof threads / sizeof *threads; k++) {
                c.twice = k % 2;
                run(&c, threads[k / 2]);
                for (int o = 0; o < MAX_OUTS; o++)
                    assert_memory_equal(first[o], c.outs[o].y, c.n * c.outs[o].ldy * sizeof(float));
            }
            for (int o = 0; o < MAX_OUTS; o++) {
                free(first[o]);
                pare_big_free(t[o].storage, t[o].storage_bytes);
            }
            free_call(&c);
        }
}

/* On the path for many rows an input's result does not depend on its neighbours. */
static void rows_do_not_change_results(void **state) {
    (void)state;
    srand(4);
    for (int compute = 0; compute < 2; compute++) {
        pare_tensor t = make_weights(&u4_32, 35, 544);
        call all = {.isa = best(), .compute = (pare_compute)compute};
        set_inputs(&all, 600, 544);
        add_out(&all, &t, false);
        run(&all, 2);
        call part = all;
        part.n_outs = 0;
        part.n = 40;
        part.x = all.x + 507 * all.ldx;
        add_out(&part, &t, false);
        run(&part, 1);
        assert_memory_equal(part.outs[0].y, all.outs[0].y + 507 * all.outs[0].ldy,
                            part.n * part.outs[0].ldy * sizeof(float));
        part.x = NULL;
        free_call(&part);
        free_call(&all);
        pare_big_free(t.storage, t.storage_bytes);
    }
}

/* A range of a matrix's rows gives its part of the outputs, with its part of the bias. */
static void ranges_of_rows_give_their_part(void **state) {
    (void)state;
    srand(7);
    const size_t counts[] = {2, 40};
    for (size_t i = 0; i < 2; i++)
        for (size_t e = 0; e < N_ENCODINGS; e++) {
            pare_tensor t = make_weights(encodings[e], 83, 320);
            call all = {.isa = best(), .compute = PARE_COMPUTE_EXACT};
            set_inputs(&all, counts[i], 320);
            add_out(&all, &t, true);
            run(&all, 2);
            call part = all;
            part.n_outs = 0;
            add_out(&part, &t, false);
            pare_linear_out *o = &part.outs[0];
            o->bias = all.outs[0].bias;
            o->row0 = 17;
            o->rows = 50;
            o->ldy = 51;
            run(&part, 2);
            for (size_t n = 0; n < part.n; n++)
                for (size_t r = 0; r < 51; r++) {
                    float y = o->y[n * 51 + r], want = all.outs[0].y[n * all.outs[0].ldy + 17 + r];
                    if (r == 50) /* not touched */
                        assert_memory_equal(&y, "\x5a\x5a\x5a\x5a", 4);
                    else if (counts[i] > PARE_DOT_MAX_N)
                        assert_true(y == want);
                    else /* the whole matrix took the path for few rows */
                        assert_true(fabsf(y - want) < 1e-3f * (1.0f + fabsf(want)));
                }
            o->bias = NULL;
            part.x = NULL;
            free_call(&part);
            free_call(&all);
            pare_big_free(t.storage, t.storage_bytes);
        }
}

/* A NaN or an infinity in an input reaches the outputs of its row, and only those. */
static void nan_stays_in_its_row(void **state) {
    (void)state;
    srand(5);
    const size_t counts[] = {3, 20};
    for (size_t i = 0; i < 2; i++)
        for (int compute = 0; compute < 2; compute++)
            for (int inf = 0; inf < 2; inf++) {
                pare_tensor t = make_weights(&s4_32, 18, 64);
                call c = {.isa = best(), .compute = (pare_compute)compute};
                set_inputs(&c, counts[i], 64);
                ((float *)c.x)[1 * c.ldx + 40] = inf ? INFINITY : NAN;
                add_out(&c, &t, false);
                run(&c, 2);
                for (size_t r = 0; r < counts[i] * 18; r++) {
                    float y = c.outs[0].y[r / 18 * c.outs[0].ldy + r % 18];
                    assert_true(isfinite(y) == (r / 18 != 1));
                }
                free_call(&c);
                pare_big_free(t.storage, t.storage_bytes);
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_is_right),
        cmocka_unit_test(registered_encodings_are_right),
        cmocka_unit_test(rows_alike_have_the_bits_of_one),
        cmocka_unit_test(packed_matrices),
        cmocka_unit_test(bf16_beside_others),
        cmocka_unit_test(ranges_of_rows_give_their_part),
        cmocka_unit_test(matrices_share_an_input),
        cmocka_unit_test(threads_do_not_change_results),
        cmocka_unit_test(rows_do_not_change_results),
        cmocka_unit_test(nan_stays_in_its_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
