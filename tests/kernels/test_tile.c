/* Tile kernels: every level against the plain ones, over all tails.
 *
 * Bounds: a product of m x k numbers summed in any order differs by at most k * eps * sum |a b|
 * from any other order. Integer sums are exact: with scales that are powers of two and small sums
 * every order and every fused operation gives the same bits. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/tile.h"
#include "support/test.h"

enum { NR = PARE_TILE_NR, KC = PARE_TILE_KC, M_MAX = 70 };

static const size_t ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 16, 17, 31, 32, 33, 47, 64, 70};

/* The levels that this program can run, above the plain one. */
static const struct {
    const char *name;
    pare_isa needs;
    unsigned features; /* that it needs besides, PARE_CPU_* */
    const pare_tile_kernels *kernels;
} levels[] = {
#if defined(__x86_64__)
    {"avx2", PARE_ISA_AVX2, 0, &pare_tile_avx2},
#ifdef PARE_EMULATE
    {"avx512", PARE_ISA_AVX2, 0, &pare_tile_avx512},
    {"avx512_bf16", PARE_ISA_AVX2, 0, &pare_tile_avx512_bf16},
    {"amx", PARE_ISA_AVX2, 0, &pare_tile_amx},
#else
    {"avx512", PARE_ISA_AVX512, 0, &pare_tile_avx512},
    {"avx512_bf16", PARE_ISA_AVX512, PARE_CPU_AVX512_BF16, &pare_tile_avx512_bf16},
    {"amx", PARE_ISA_AMX, 0, &pare_tile_amx},
#endif
#endif
};
enum { N_LEVELS = sizeof levels / sizeof *levels };

static bool runs(size_t level) {
    return levels[level].needs <= pare_isa_best() &&
           (levels[level].features & ~pare_cpu_features()) == 0;
}

/* Exact-size memory: a kernel that reads or writes past its operands is seen by the sanitizer. */
static void *exact(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    assert_non_null(p);
    return p;
}

static double uniform(void) { return (double)rand() / RAND_MAX * 2.0 - 1.0; }

static void transposes(void **state) {
    (void)state;
    const size_t ks[] = {1, 2, 7, 8, 9, 15, 16, 33, 64, 255, 256};
    for (size_t l = 0; l < N_LEVELS; l++)
        for (size_t t = 0; t < sizeof ks / sizeof *ks && runs(l); t++) {
            size_t k = ks[t], ld = k + t % 3;
            uint32_t *in = malloc(((NR - 1) * ld + k) * sizeof *in), *out = exact(k * NR * 4);
            for (size_t i = 0; i < (NR - 1) * ld + k; i++) in[i] = (uint32_t)i * 2654435761u;
            levels[l].kernels->transpose(out, in, ld, k);
            for (size_t i = 0; i < k; i++)
                for (size_t r = 0; r < NR; r++) assert_int_equal(out[i * NR + r], in[r * ld + i]);
            free(in);
            free(out);
        }
}

/* The same bits as the plain one, with nothing written beside. */
static void places(void **state) {
    (void)state;
    enum { N = 4, LDY = N * NR + 5 };
    srand(10);
    for (size_t l = 0; l < N_LEVELS; l++)
        for (size_t i = 0; i < sizeof ms / sizeof *ms && runs(l); i++)
            for (size_t n = 1; n <= N; n++)
                for (int add = 0; add < 2; add++) {
                    size_t m = ms[i], c_panel = (m + 3) * NR;
                    size_t y_bytes = ((m - 1) * LDY + n * NR) * sizeof(float);
                    float *c = exact(N * c_panel * sizeof *c), *bias = exact(n * NR * sizeof *bias);
                    float *y = malloc(y_bytes), *want = malloc(y_bytes);
                    for (size_t j = 0; j < N * c_panel; j++) c[j] = (float)uniform();
                    for (size_t j = 0; j < n * NR; j++) bias[j] = (float)uniform();
                    for (size_t j = 0; j < y_bytes / sizeof *y; j++)
                        y[j] = want[j] = (float)uniform();
                    levels[l].kernels->place(y, LDY, c, c_panel, m, n, bias, add);
                    pare_tile_ref.place(want, LDY, c, c_panel, m, n, bias, add);
                    assert_memory_equal(y, want, y_bytes);
                    free(c);
                    free(bias);
                    free(y);
                    free(want);
                }
}

static void f32_product(const pare_tile_kernels *tiles, size_t m, size_t k, bool integers) {
    size_t lda = k + 5;
    float *a = malloc(((m - 1) * lda + k) * sizeof *a), *panel = exact(k * NR * sizeof *panel);
    float *c = exact(m * NR * sizeof *c), *want = exact(m * NR * sizeof *want);
    for (size_t i = 0; i < (m - 1) * lda + k; i++)
        a[i] = integers ? (float)(rand() % 17 - 8) : (float)uniform();
    for (size_t i = 0; i < k * NR; i++)
        panel[i] = integers ? (float)(rand() % 17 - 8) : (float)uniform();
    for (int add = 0; add < 2; add++) {
        for (size_t i = 0; i < m * NR; i++) c[i] = want[i] = add ? (float)(rand() % 9) : NAN;
        tiles->f32(c, a, lda, panel, m, k, add);
        pare_tile_ref.f32(want, a, lda, panel, m, k, add);
        for (size_t i = 0; i < m; i++)
            for (size_t r = 0; r < NR; r++) {
                double mag = add ? 8.0 : 0.0;
                for (size_t j = 0; j < k; j++)
                    mag += fabs((double)a[i * lda + j] * panel[j * NR + r]);
                double tol = integers ? 0.0 : (double)(k + 1) * FLT_EPSILON * mag;
                assert_true(fabs((double)c[i * NR + r] - want[i * NR + r]) <= tol);
            }
    }
    free(a);
    free(panel);
    free(c);
    free(want);
}

static void f32_products(void **state) {
    (void)state;
    const size_t ks[] = {1, 2, 3, 31, 32, 64, 255, 256};
    srand(1);
    for (size_t l = 0; l < N_LEVELS; l++)
        for (size_t i = 0; i < sizeof ms / sizeof *ms && runs(l); i++)
            for (size_t j = 0; j < sizeof ks / sizeof *ks; j++) {
                f32_product(levels[l].kernels, ms[i], ks[j], true);
                f32_product(levels[l].kernels, ms[i], ks[j], false);
            }
}

/* A part of the inputs, and a part of the rows: the bits of the whole product, with zeros in the
 * panel where inputs are left out. */
static void f32_parts(const pare_tile_kernels *tiles, size_t m, size_t k, unsigned keep) {
    enum { SPREAD = 3 };
    size_t lda = k + 5, n = 0, rows_of_a = m * SPREAD;
    float *a = malloc(rows_of_a * lda * sizeof *a), *panel = exact(k * NR * sizeof *panel);
    float *some = exact((k + 1) * NR * sizeof *some), *c = exact(rows_of_a * NR * sizeof *c),
          *want = exact(rows_of_a * NR * sizeof *want);
    uint16_t inputs[KC], rows[M_MAX];
    for (size_t i = 0; i < rows_of_a * lda; i++) a[i] = (float)uniform();
    for (size_t j = 0; j < k; j++) {
        bool kept = (unsigned)rand() % 8 < keep;
        for (size_t r = 0; r < NR; r++) panel[j * NR + r] = kept ? (float)uniform() : 0.0f;
        if (!kept) continue;
        memcpy(some + n * NR, panel + j * NR, NR * sizeof *some);
        inputs[n++] = (uint16_t)j;
    }
    for (size_t i = 0; i < m; i++) rows[i] = (uint16_t)(i * SPREAD + (size_t)rand() % SPREAD);
    for (int add = 0; add < 2; add++) {
        for (size_t i = 0; i < m * NR; i++) c[i] = want[i] = add ? (float)uniform() : NAN;
        tiles->f32_inputs(c, a, lda, some, inputs, m, n, add);
        tiles->f32(want, a, lda, panel, m, k, add);
        assert_memory_equal(c, want, m * NR * sizeof *c);
        for (size_t i = 0; i < rows_of_a * NR; i++) c[i] = want[i] = (float)uniform();
        tiles->f32_rows(c, a, lda, rows, panel, m, k, add);
        for (size_t i = 0; i < m; i++)
            tiles->f32(want + (size_t)rows[i] * NR, a + rows[i] * lda, lda, panel, 1, k, add);
        assert_memory_equal(c, want, rows_of_a * NR * sizeof *c); /* the others as they were */
    }
    free(a);
    free(panel);
    free(some);
    free(c);
    free(want);
}

static void f32_parts_have_the_bits_of_the_whole(void **state) {
    (void)state;
    const size_t ks[] = {1, 2, 31, 64, 256};
    srand(7);
    for (size_t j = 0; j < sizeof ks / sizeof *ks; j++)
        for (size_t i = 0; i < sizeof ms / sizeof *ms; i++)
            for (unsigned keep = 0; keep <= 8; keep += 4) {
                f32_parts(&pare_tile_ref, ms[i], ks[j], keep);
                for (size_t l = 0; l < N_LEVELS && runs(l); l++)
                    f32_parts(levels[l].kernels, ms[i], ks[j], keep);
            }
}

static void picks(const pare_tile_kernels *tiles, size_t n, size_t first, unsigned keep) {
    size_t room = (n + 7) / 8 * 8, found = 0;
    float *w = calloc(n + 1, sizeof *w), *value = malloc((room + 1) * sizeof *value);
    uint8_t *place = malloc(room + 1);
    static const float odd[] = {-0.0f, NAN, 1e-42f, -INFINITY};
    for (size_t i = 0; i < n; i++)
        w[i] = (unsigned)rand() % 8 < keep ? (float)uniform() : rand() % 4 ? 0 : odd[rand() % 4];
    size_t count = tiles->pick(value, place, w, n, first);
    for (size_t i = 0; i < n; i++) {
        if (w[i] == 0.0f) continue;
        assert_true(found < count);
        assert_memory_equal(&value[found], &w[i], sizeof *w);
        assert_int_equal(place[found++], first + i);
    }
    assert_int_equal(count, found);
    free(w);
    free(value);
    free(place);
}

static void picks_what_is_not_zero(void **state) {
    (void)state;
    srand(8);
    for (size_t n = 0; n <= 64; n++)
        for (unsigned keep = 0; keep <= 8; keep += 2) {
            picks(&pare_tile_ref, n, n * 3, keep);
            for (size_t l = 0; l < N_LEVELS && runs(l); l++)
                if (levels[l].kernels->pick) picks(levels[l].kernels, n, n * 3, keep);
        }
}

/* Lists of the single weights of two pieces of inputs, k in the second: the bits of f32 over all
 * inputs. */
static void weights_product(const pare_tile_kernels *tiles, size_t n_lists, size_t k,
                            unsigned keep) {
    enum { T = PARE_TILE_PIECE, IN = 2 * T };
    float *x = exact(T * IN * sizeof *x), *panel = exact(IN * NR * sizeof *panel),
          *want = exact(T * NR * sizeof *want), *xt = exact(IN * T * sizeof *xt),
          *c = malloc(n_lists * T * sizeof *c), *before = malloc(n_lists * T * sizeof *before);
    for (size_t i = 0; i < T * IN; i++) x[i] = (float)uniform();
    for (size_t i = 0; i < IN * NR; i++)
        panel[i] = (unsigned)rand() % 8 < keep && i / NR < T + k ? (float)uniform() : 0.0f;
    for (size_t i = 0; i < T * IN; i++) {
        size_t t = i / IN, j = i % IN, piece = j / T;
        xt[piece * T * T + (t / NR * T + j % T) * NR + t % NR] = x[i];
    }
    for (int add = 0; add < 2; add++) {
        for (size_t i = 0; i < n_lists * T; i++) before[i] = (float)uniform();
        for (size_t i = 0; i < T * NR; i++)
            want[i] = i % NR < n_lists ? before[i % NR * T + i / NR] : 0;
        for (size_t piece = 0; piece < 2; piece++) {
            float *value = malloc((n_lists * T + 1) * sizeof *value);
            uint8_t *place = malloc(n_lists * T + 1), *count = malloc(n_lists);
            size_t at = 0;
            for (size_t l = 0; l < n_lists; l++) {
                float row[T];
                for (size_t j = 0; j < T; j++) row[j] = panel[(piece * T + j) * NR + l];
                count[l] = (uint8_t)tiles->pick(value + at, place + at, row, T, 0);
                at += count[l];
            }
            tiles->weights(c, piece ? c : NULL, piece && add ? before : NULL, xt + piece * T * T,
                           value, place, count, n_lists);
            free(value);
            free(place);
            free(count);
        }
        tiles->f32(want, x, IN, panel, T, IN, add);
        for (size_t l = 0; l < n_lists; l++)
            for (size_t t = 0; t < T; t++)
                assert_memory_equal(&c[l * T + t], &want[t * NR + l], sizeof *c);
    }
    free(x);
    free(panel);
    free(want);
    free(xt);
    free(c);
    free(before);
}

static void weights_have_the_bits_of_the_whole(void **state) {
    (void)state;
    const size_t ks[] = {0, 1, 31, 64};
    srand(9);
    for (size_t n = 1; n <= NR; n++)
        for (size_t j = 0; j < sizeof ks / sizeof *ks; j++)
            for (unsigned keep = 0; keep <= 8; keep += 2) {
                weights_product(&pare_tile_ref, n, ks[j], keep);
                for (size_t l = 0; l < N_LEVELS && runs(l); l++)
                    if (levels[l].kernels->weights)
                        weights_product(levels[l].kernels, n, ks[j], keep);
            }
}

/* A bf16 number as the units read it: denormals count as zero. */
static float from_bf16(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return fabsf(f) < FLT_MIN ? 0.0f : f;
}

static uint16_t random_bf16(bool integer) {
    float f = integer ? (float)(rand() % 17 - 8) : (float)uniform();
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (uint16_t)(bits >> 16);
}

static void bf16_product(const pare_tile_kernels *tiles, size_t m, size_t k, bool integers) {
    size_t lda = k + 32, ldc = integers ? NR : 3 * NR;
    uint16_t *a = malloc(((m - 1) * lda + k) * sizeof *a), *panel = exact(k * NR * sizeof *panel);
    float *c = exact(((m - 1) * ldc + NR) * sizeof *c);
    for (size_t i = 0; i < (m - 1) * lda + k; i++) a[i] = random_bf16(integers);
    for (size_t i = 0; i < k * NR; i++) panel[i] = random_bf16(integers);
    for (int add = 0; add < 2; add++) {
        for (size_t i = 0; i < (m - 1) * ldc + NR; i++) c[i] = 99.0f;
        for (size_t i = 0; i < m * NR; i++) c[i / NR * ldc + i % NR] = add ? (float)(i % 9) : NAN;
        tiles->bf16(c, ldc, a, lda, panel, m, k, add);
        for (size_t i = 0; i < m * NR; i++) {
            size_t row = i / NR, r = i % NR;
            double want = add ? (double)(i % 9) : 0.0, mag = want;
            for (size_t j = 0; j < k; j++) {
                double term = (double)from_bf16(a[row * lda + j]) *
                              from_bf16(panel[(j / 2 * NR + r) * 2 + j % 2]);
                want += term;
                mag += fabs(term);
            }
            double tol = integers ? 0.0 : (double)(k + 1) * FLT_EPSILON * mag;
            assert_true(fabs((double)c[row * ldc + r] - want) <= tol);
        }
    }
    for (size_t i = 0; i < (m - 1) * ldc + NR; i++) /* nothing beside */
        if (i % ldc >= NR) assert_true(c[i] == 99.0f);
    free(a);
    free(panel);
    free(c);
}

/* Sums in c, the last inputs and the place: the bits of bf16 and place one after the other. */
static void bf16_placed(const pare_tile_kernels *tiles, size_t m, size_t k) {
    size_t lda = k + 32, ldy = 3 * NR + 1, y_bytes = ((m - 1) * ldy + NR) * sizeof(float);
    uint16_t *a = malloc(((m - 1) * lda + k) * sizeof *a), *panel = exact(k * NR * sizeof *panel);
    float *c = exact(m * NR * sizeof *c), *sums = exact(m * NR * sizeof *sums);
    float *y = malloc(y_bytes), *want = malloc(y_bytes), *bias = exact(NR * sizeof *bias);
    float *none = exact(NR * sizeof *none);
    for (size_t i = 0; i < (m - 1) * lda + k; i++) a[i] = random_bf16(false);
    for (size_t i = 0; i < k * NR; i++) panel[i] = random_bf16(false);
    for (size_t i = 0; i < m * NR; i++) c[i] = (float)uniform();
    for (size_t i = 0; i < NR; i++) bias[i] = (float)uniform(), none[i] = 0;
    for (int way = 0; way < 8; way++) {
        bool add = way & 1, first = way & 2, biased = way & 4;
        for (size_t i = 0; i < y_bytes / sizeof *y; i++) y[i] = want[i] = (float)uniform();
        memcpy(sums, c, m * NR * sizeof *c);
        tiles->bf16(sums, NR, a, lda, panel, m, k, !first);
        tiles->place(want, ldy, sums, 0, m, 1, biased ? bias : none, add);
        tiles->bf16_place(y, ldy, first ? NULL : c, a, lda, panel, biased ? bias : NULL, m, k, add);
        assert_memory_equal(y, want, y_bytes);
    }
    void *all[] = {a, panel, c, sums, y, want, bias, none};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* A part of the pairs, and a part of the rows: the bits of the whole, as of f32. */
static void bf16_parts(const pare_tile_kernels *tiles, size_t m, size_t k, unsigned keep) {
    enum { SPREAD = 3 };
    size_t lda = k + 32, n = 0, rows_of_a = m * SPREAD, count = rows_of_a * NR;
    uint16_t *a = malloc(rows_of_a * lda * sizeof *a), *panel = exact(k * NR * sizeof *panel);
    uint16_t *some = exact((k + 2) * NR * sizeof *some), pairs[KC / 2], rows[M_MAX];
    float *c = exact(count * sizeof *c), *want = exact(count * sizeof *want);
    for (size_t i = 0; i < rows_of_a * lda; i++) a[i] = random_bf16(false);
    for (size_t j = 0; j < k / 2; j++) {
        bool kept = (unsigned)rand() % 8 < keep;
        uint16_t *pair = panel + j * 2 * NR;
        for (size_t r = 0; r < 2 * NR; r++) pair[r] = kept ? random_bf16(false) : 0;
        if (!kept) continue;
        memcpy(some + n * 2 * NR, pair, 2 * NR * sizeof *some);
        pairs[n++] = (uint16_t)j;
    }
    for (size_t i = 0; i < m; i++) rows[i] = (uint16_t)(i * SPREAD + (size_t)rand() % SPREAD);
    for (int add = 0; add < 2; add++) {
        for (size_t i = 0; i < m * NR; i++) c[i] = want[i] = add ? (float)uniform() : NAN;
        tiles->bf16_pairs(c, a, lda, some, pairs, m, n, add);
        tiles->bf16(want, NR, a, lda, panel, m, k, add);
        assert_memory_equal(c, want, m * NR * sizeof *c);
        for (size_t i = 0; i < count; i++) c[i] = want[i] = (float)uniform();
        tiles->bf16_rows(c, a, lda, rows, panel, m, k, add);
        for (size_t i = 0; i < m; i++)
            tiles->bf16(want + (size_t)rows[i] * NR, NR, a + rows[i] * lda, lda, panel, 1, k, add);
        assert_memory_equal(c, want, count * sizeof *c); /* the others as they were */
    }
    void *all[] = {a, panel, some, c, want};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void bf16_products(void **state) {
    (void)state;
    const size_t ks[] = {32, 64, 256};
    srand(4);
    for (size_t l = 0; l < N_LEVELS; l++)
        for (size_t i = 0; i < sizeof ms / sizeof *ms && runs(l); i++)
            for (size_t j = 0; j < 3 && levels[l].kernels->bf16; j++) {
                bf16_product(levels[l].kernels, ms[i], ks[j], true);
                bf16_product(levels[l].kernels, ms[i], ks[j], false);
                if (levels[l].kernels->bf16_place) bf16_placed(levels[l].kernels, ms[i], ks[j]);
                for (unsigned keep = 0; keep <= 8 && levels[l].kernels->bf16_pairs; keep += 4)
                    bf16_parts(levels[l].kernels, ms[i], ks[j], keep);
            }
}

/* Blocks and panels at once: the bits of run after run, panel after panel, and of place. */
static void bf16_blocks(const pare_tile_kernels *tiles, size_t m, size_t n_panels) {
    enum { RUNS = 3, STRIDE = KC * NR + 64 };
    static const size_t ks[RUNS] = {KC, 64, 32};
    size_t lda = KC + 32, ldy = (n_panels + 1) * NR + 1, c_stride = (m + 3) * NR;
    size_t y_bytes = ((m - 1) * ldy + n_panels * NR) * sizeof(float);
    uint16_t *a = malloc(RUNS * m * lda * sizeof *a);
    uint16_t *w = exact(RUNS * n_panels * STRIDE * sizeof *w);
    float *c = exact(n_panels * c_stride * sizeof *c),
          *sums = exact(n_panels * c_stride * sizeof *c);
    float *y = malloc(y_bytes), *want = malloc(y_bytes),
          *bias = exact(n_panels * NR * sizeof *bias);
    pare_tile_run runs[RUNS];
    for (size_t i = 0; i < RUNS * m * lda; i++) a[i] = random_bf16(false);
    for (size_t i = 0; i < RUNS * n_panels * STRIDE; i++) w[i] = random_bf16(false);
    for (size_t i = 0; i < n_panels * NR; i++) bias[i] = (float)uniform();
    for (size_t r = 0; r < RUNS; r++)
        runs[r] = (pare_tile_run){a + r * m * lda, w + r * n_panels * STRIDE, 2 * ks[r]};
    for (int way = 0; way < 8; way++) {
        bool more = way & 1, places = way & 2, add = way & 4;
        if (add && !places) continue;
        for (size_t i = 0; i < n_panels * c_stride; i++) c[i] = sums[i] = (float)uniform();
        for (size_t i = 0; i < y_bytes / sizeof *y; i++) y[i] = want[i] = (float)uniform();
        for (size_t p = 0; p < n_panels; p++)
            for (size_t r = 0; r < RUNS; r++)
                tiles->bf16(sums + p * c_stride, NR, runs[r].a, lda,
                            (const uint16_t *)runs[r].panels + p * STRIDE, m, ks[r], more || r > 0);
        if (places) tiles->place(want, ldy, sums, c_stride, m, n_panels, bias, add);
        const pare_tile_block block = {.runs = runs,
                                       .n_runs = RUNS,
                                       .lda = 2 * lda,
                                       .panel_stride = 2 * STRIDE,
                                       .n_panels = n_panels,
                                       .m = m,
                                       .c = c,
                                       .c_stride = c_stride,
                                       .more = more,
                                       .y = places ? y : NULL,
                                       .ldy = ldy,
                                       .bias = places ? bias : NULL,
                                       .add = add};
        tiles->bf16_block(&block);
        assert_memory_equal(y, want, y_bytes);
        for (size_t p = 0; p < n_panels && !places; p++)
            assert_memory_equal(c + p * c_stride, sums + p * c_stride, m * NR * sizeof *c);
    }
    void *all[] = {a, w, c, sums, y, want, bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* Runs side by side, some with inputs or panels in common: exact sums of whole numbers. */
static void bf16_laced(const pare_tile_kernels *tiles, size_t m, size_t n_panels) {
    enum { LACED = 3, RUNS = 2 * LACED, K = 64, LDA = K + 32 };
    uint16_t *a = malloc(RUNS * m * LDA * sizeof *a),
             *w = exact(RUNS * n_panels * K * NR * sizeof *w);
    float *c = exact(n_panels * m * NR * sizeof *c),
          *want = exact(n_panels * m * NR * sizeof *want);
    static const struct {
        uint8_t a, w;
    } parts[RUNS] = {{0, 0}, {1, 0}, {1, 1}, {2, 2}, {3, 3}, {3, 4}};
    pare_tile_run runs[RUNS];
    for (size_t i = 0; i < RUNS * m * LDA; i++) a[i] = random_bf16(true);
    for (size_t i = 0; i < RUNS * n_panels * K * NR; i++) w[i] = random_bf16(true);
    for (size_t i = 0; i < n_panels * m * NR; i++) want[i] = 0;
    for (size_t r = 0; r < RUNS; r++) {
        runs[r] =
            (pare_tile_run){a + parts[r].a * m * LDA, w + parts[r].w * n_panels * K * NR, 2 * K};
        for (size_t p = 0; p < n_panels; p++)
            tiles->bf16(want + p * m * NR, NR, runs[r].a, LDA,
                        (const uint16_t *)runs[r].panels + p * K * NR, m, K, true);
    }
    const pare_tile_block block = {.runs = runs,
                                   .n_runs = RUNS,
                                   .laced = LACED,
                                   .lda = 2 * LDA,
                                   .panel_stride = 2 * K * NR,
                                   .n_panels = n_panels,
                                   .m = m,
                                   .c = c,
                                   .c_stride = m * NR};
    tiles->bf16_block(&block);
    assert_memory_equal(c, want, n_panels * m * NR * sizeof *c);
    void *all[] = {a, w, c, want};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void blocks_in_bf16(void **state) {
    (void)state;
    srand(8);
    for (size_t l = 0; l < N_LEVELS; l++)
        for (size_t i = 0; i < sizeof ms / sizeof *ms && runs(l); i++)
            for (size_t n = 1; n <= 4 && levels[l].kernels->bf16_block; n++)
                bf16_blocks(levels[l].kernels, ms[i], n), bf16_laced(levels[l].kernels, ms[i], n);
}

/* Signed bytes: sums in integers are exact, and so is a scale that is a power of two. */
static void s8_blocks(const pare_tile_kernels *tiles, size_t m, size_t n_panels) {
    enum { RUNS = 2, STRIDE = 256 * NR + 64, D = 3 };
    static const size_t ks[RUNS] = {256, 64};
    size_t lda = 256 + 64, ldy = (n_panels + 1) * NR + 1, c_stride = (m + 3) * NR;
    size_t y_bytes = ((m - 1) * ldy + n_panels * NR) * sizeof(float);
    int8_t *a = malloc(RUNS * m * lda), *w = exact(RUNS * n_panels * STRIDE);
    int32_t *c = exact(n_panels * c_stride * sizeof *c);
    float *y = malloc(y_bytes), *want = malloc(y_bytes), *d = exact(m * D * sizeof *d);
    float *row = exact(3 * n_panels * NR * sizeof *row), *moved = exact(m * sizeof *moved);
    float *scale = row, *bias = row + n_panels * NR, *row_sums = bias + n_panels * NR;
    pare_tile_run runs[RUNS];
    for (size_t i = 0; i < RUNS * m * lda; i++) a[i] = (int8_t)(rand() % 256 - 128);
    for (size_t i = 0; i < RUNS * n_panels * STRIDE; i++) w[i] = (int8_t)(rand() % 256 - 128);
    for (size_t i = 0; i < m; i++) d[i * D] = i % 2 ? 0.25f : 2, moved[i] = (float)(i % 5) - 2;
    for (size_t i = 0; i < n_panels * NR; i++) {
        scale[i] = i % 3 ? 0.5f : 4;
        bias[i] = (float)(rand() % 100) / 4;
        row_sums[i] = (float)(rand() % 100) / 4;
    }
    for (size_t r = 0; r < RUNS; r++)
        runs[r] = (pare_tile_run){a + r * m * lda, w + r * n_panels * STRIDE, ks[r]};
    for (int way = 0; way < 16; way++) {
        bool more = way & 1, places = way & 2, add = way & 4, moves = way & 8;
        if ((add || moves) && !places) continue;
        for (size_t i = 0; i < n_panels * c_stride; i++) c[i] = rand() % 1000 - 500;
        for (size_t i = 0; i < y_bytes / sizeof *y; i++) y[i] = want[i] = (float)(rand() % 64);
        const pare_tile_block block = {.runs = runs,
                                       .n_runs = RUNS,
                                       .lda = lda,
                                       .panel_stride = STRIDE,
                                       .n_panels = n_panels,
                                       .m = m,
                                       .c = c,
                                       .c_stride = c_stride,
                                       .more = more,
                                       .y = places ? y : NULL,
                                       .ldy = ldy,
                                       .bias = bias,
                                       .add = add,
                                       .d = d,
                                       .d_stride = D,
                                       .scale = scale,
                                       .moved = moves ? moved : NULL,
                                       .row_sums = row_sums};
        int32_t *sums = exact(n_panels * m * NR * sizeof *sums);
        for (size_t i = 0; i < m * n_panels * NR; i++) {
            size_t t = i / (n_panels * NR), o = i % (n_panels * NR), p = o / NR;
            int32_t sum = more ? c[p * c_stride + t * NR + o % NR] : 0;
            for (size_t r = 0; r < RUNS; r++)
                for (size_t k = 0; k < ks[r]; k++)
                    sum += a[(r * m + t) * lda + k] *
                           w[(r * n_panels + p) * STRIDE + k / 4 * 4 * NR + o % NR * 4 + k % 4];
            sums[i] = sum;
            float *to = want + t * ldy + o, value = (float)sum * scale[o] * d[t * D] + bias[o];
            if (moves) value += moved[t] * row_sums[o];
            if (places) *to = add ? *to + value : value;
        }
        tiles->s8_block(&block);
        assert_memory_equal(y, want, y_bytes);
        for (size_t i = 0; i < m * n_panels * NR && !places; i++) {
            size_t t = i / (n_panels * NR), o = i % (n_panels * NR);
            assert_int_equal(c[o / NR * c_stride + t * NR + o % NR], sums[i]);
        }
        free(sums);
    }
    void *all[] = {a, w, c, y, want, d, row, moved};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void blocks_in_s8(void **state) {
    (void)state;
    srand(10);
    for (size_t l = 0; l < N_LEVELS; l++)
        for (size_t i = 0; i < sizeof ms / sizeof *ms && runs(l); i++)
            for (size_t n = 1; n <= 4 && levels[l].kernels->s8_block; n++)
                s8_blocks(levels[l].kernels, ms[i], n);
}

/* Codes to pairs: the bits of weights in f32 that are split and paired, for any scales. */
static void codes_to_pairs(void **state) {
    (void)state;
    enum { K = 96 };
    static const float scales[] = {0,      1e-3f,  -0.37f,   3.1e38f, 1e36f,   1e-38f,
                                   2e-36f, 1e-27f, INFINITY, NAN,     -1e-30f, 5e4f};
    enum { N = sizeof scales / sizeof *scales };
    srand(9);
    for (size_t l = 0; l < N_LEVELS; l++) {
        const pare_tile_kernels *tiles = levels[l].kernels;
        if (!runs(l) || !tiles->pair_codes) continue;
        for (int round = 0; round < 64; round++) {
            uint32_t group = round % 2 ? 16 : 32, k = K - (uint32_t)round / 8 % 2 * 4;
            bool usual = round & 2, has_offset = round & 4;
            uint32_t codes[K / 4 * NR], pairs[K / 2 * NR];
            float scale[K / 16 * NR], offset[K / 16 * NR];
            for (size_t i = 0; i < K / 4 * NR; i++) codes[i] = (uint32_t)rand() * 2654435761u;
            for (size_t i = 0; i < K / 16 * NR; i++) {
                scale[i] = usual ? (float)uniform() : scales[rand() % N];
                offset[i] = usual ? (float)uniform() : scales[rand() % N];
            }
            tiles->pair_codes(pairs, codes, scale, has_offset ? offset : NULL, group, k);
            for (size_t j = 0; j < k; j++)
                for (size_t r = 0; r < NR; r++) {
                    float row[32] = {0};
                    uint16_t part[32], *parts[] = {part};
                    int8_t code = (int8_t)(codes[j / 4 * NR + r] >> (8 * (j % 4)));
                    row[0] = (float)code * scale[j / group * NR + r];
                    if (has_offset) row[0] = row[0] + offset[j / group * NR + r];
                    tiles->split(parts, 1, row, 32);
                    uint16_t got = (uint16_t)(pairs[j / 2 * NR + r] >> (j % 2 * 16));
                    bool both_nan = from_bf16(got) != from_bf16(got) &&
                                    from_bf16(part[0]) != from_bf16(part[0]);
                    if (!both_nan && from_bf16(got) != from_bf16(part[0]))
                        fail_msg("%g and %g", (double)row[0], (double)from_bf16(got));
                }
        }
    }
}

/* One part is the nearest; three add up to the number. */
static void splits_into_bf16(void **state) {
    (void)state;
    enum { N = 96 };
    srand(5);
    for (size_t l = 0; l < N_LEVELS; l++) {
        if (!levels[l].kernels->split || !runs(l)) continue;
        float x[N];
        uint16_t memory[3][N], *parts[3] = {memory[0], memory[1], memory[2]};
        for (int i = 0; i < N; i++) x[i] = ldexpf((float)uniform(), rand() % 100 - 50);
        const float special[] = {0.0f, -0.0f, FLT_MAX, -FLT_MAX, 1.0f, 0x1.01p0f, 0x1.03p0f};
        memcpy(x, special, sizeof special);
        levels[l].kernels->split(parts, 3, x, N);
        for (int i = 0; i < N; i++)
            assert_true(x[i] == from_bf16(memory[0][i]) +
                                    (from_bf16(memory[1][i]) + from_bf16(memory[2][i])));
        x[2] = x[3] = 0x1.FEp127f; /* the largest of bf16 */
        levels[l].kernels->split(parts, 1, x, N);
        for (int i = 0; i < N; i++)
            assert_true(fabs((double)x[i] - from_bf16(memory[0][i])) <= fabs(x[i]) * 0x1p-8);
        assert_int_equal(memory[0][5], 0x3F80); /* ties go to even */
        assert_int_equal(memory[0][6], 0x3F82);
        uint32_t nan_bits = 0x7F800001;
        memcpy(&x[0], &nan_bits, 4);
        x[1] = -INFINITY;
        for (int n_parts = 1; n_parts <= 3; n_parts += 2) {
            levels[l].kernels->split(parts, n_parts, x, N);
            float sum[2] = {0};
            for (int p = 0; p < n_parts; p++)
                for (int i = 0; i < 2; i++) sum[i] += from_bf16(memory[p][i]);
            assert_false(isfinite(sum[0]));
            assert_false(isfinite(sum[1]));
        }
    }
}

/* Panels of pairs hold what split makes of each number, and bf16 as it is. */
static void pairs_of_rows(void **state) {
    (void)state;
    enum { LD = NR + 3 };
    static const size_t ks[] = {1, 2, 3, 31, 32, 255, 256};
    static float rows[KC * LD + 32], padded[(KC * LD + 32) / 32 * 32];
    static uint16_t half[(KC * LD + 32) / 32 * 32], *parts[] = {half};
    srand(11);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        rows[i] = ldexpf((float)uniform(), rand() % 60 - 30);
    rows[3] = FLT_MAX;
    rows[4] = -FLT_MAX;
    rows[5] = NAN;
    rows[LD + 5] = -INFINITY;
    rows[LD + 6] = 0x1.01p0f;
    rows[LD + 7] = 0x1.03p0f;
    memcpy(padded, rows, sizeof padded);
    for (size_t l = 0; l < N_LEVELS; l++) {
        const pare_tile_kernels *tiles = levels[l].kernels;
        if (!tiles->pair_f32 || !runs(l)) continue;
        tiles->split(parts, 1, padded, sizeof padded / sizeof *padded);
        for (size_t j = 0; j < sizeof ks / sizeof *ks; j++) {
            size_t k = ks[j], units = (k + 1) / 2 * NR;
            float *from = malloc(((k - 1) * LD + NR) * sizeof *from);
            uint16_t *from_half = malloc(((k - 1) * LD + NR) * sizeof *from_half);
            memcpy(from, rows, ((k - 1) * LD + NR) * sizeof *from);
            memcpy(from_half, half, ((k - 1) * LD + NR) * sizeof *from_half);
            uint32_t *got[2] = {exact(units * sizeof **got), exact(units * sizeof **got)};
            tiles->pair_f32(got[0], from, LD, k);
            tiles->pair_bf16(got[1], from_half, LD, k);
            for (size_t i = 0; i < units; i++) {
                size_t row = i / NR * 2;
                uint32_t want = half[row * LD + i % NR];
                if (row + 1 < k) want |= (uint32_t)half[(row + 1) * LD + i % NR] << 16;
                assert_int_equal(got[0][i], want);
                assert_int_equal(got[1][i], want);
            }
            free(from);
            free(from_half);
            free(got[0]);
            free(got[1]);
        }
    }
}

typedef enum fill { RANDOM, POWERS, EXTREME_HIGH, EXTREME_LOW, FILLS } fill;

typedef struct int_case {
    size_t m, k;
    uint32_t group;
    int code_max;
    bool wide, offset;
    fill fill;
} int_case;

typedef struct int_data {
    pare_tile_act a;
    pare_tile_panel p;
    float *c, *want;
} int_data;

static int input_code(fill f) {
    return f == EXTREME_HIGH ? 127 : f == EXTREME_LOW ? -127 : rand() % 255 - 127;
}

/* Random: any scale. Otherwise powers of two, so that all sums are exact. */
static float scale_value(fill f) {
    return f == RANDOM ? (float)uniform() : ldexpf(rand() % 2 ? 1.0f : -1.0f, rand() % 2 - 4);
}

static int_data make_int(const int_case *t) {
    size_t k = t->k, m = t->m, groups = k / t->group;
    int8_t *q = exact(m * k);
    int16_t *q16 = exact(m * k * 2);
    float *d = exact(m * k / 32 * 4), *sum = exact(m * groups * 4);
    for (size_t i = 0; i < m * k; i++) q16[i] = q[i] = (int8_t)input_code(t->fill);
    for (size_t i = 0; i < m * k / 32; i++) d[i] = scale_value(t->fill);
    for (size_t i = 0; i < m * groups; i++) {
        int s = 0;
        for (size_t j = 0; j < t->group; j++) s += q[i * t->group + j];
        sum[i] = d[i * t->group / 32] * (float)s;
    }
    uint8_t *u8 = exact(k * NR);
    int16_t *s16 = exact(k * NR * 2);
    for (size_t i = 0; i < k * NR; i++) {
        int code = t->fill >= EXTREME_HIGH ? t->code_max : rand() % (t->code_max + 1);
        u8[i] = (uint8_t)code;
        s16[i] = (int16_t)(code - 128);
    }
    float *scale = exact(groups * NR * 4), *offset = exact(groups * NR * 4);
    for (size_t i = 0; i < groups * NR; i++) {
        scale[i] = scale_value(t->fill);
        offset[i] = scale_value(t->fill);
    }
    int_data r = {
        .a = {q, q16, d, sum, k, k / 32, groups},
        .p = {t->wide ? (void *)s16 : (void *)u8, scale, offset, k, t->group, t->code_max}};
    if (t->wide)
        free(u8);
    else
        free(s16);
    if (!t->offset) {
        free(offset);
        r.p.offset = NULL;
    }
    r.c = exact(m * NR * 4);
    r.want = exact(m * NR * 4);
    return r;
}

static void free_int(int_data *t) {
    const void *all[] = {t->a.q, t->a.q16,   t->a.d,      t->a.sum, t->p.q,
                         t->c,   t->p.scale, t->p.offset, t->want};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free((void *)all[i]);
}

/* Sum of the magnitudes of all terms of an output. */
static double int_magnitude(const int_data *t, size_t i, size_t r) {
    double mag = 0.0;
    for (size_t g = 0; g < t->p.k / t->p.group; g++) {
        double isum = 32.0 * 255 * 127;
        mag += isum * fabs((double)t->p.scale[g * NR + r] *
                           t->a.d[i * t->a.d_stride + g * t->p.group / 32]);
        if (t->p.offset)
            mag += fabs((double)t->p.offset[g * NR + r] * t->a.sum[i * t->a.sum_stride + g]);
    }
    return mag;
}

static void int_product(const pare_tile_kernels *tiles, const int_case *t) {
    int_data x = make_int(t);
    for (int add = 0; add < 2; add++) {
        for (size_t i = 0; i < t->m * NR; i++) x.c[i] = x.want[i] = add ? 3.0f : NAN;
        (t->wide ? tiles->s16 : tiles->u8)(x.c, &x.a, &x.p, t->m, add);
        (t->wide ? pare_tile_ref.s16 : pare_tile_ref.u8)(x.want, &x.a, &x.p, t->m, add);
        for (size_t i = 0; i < t->m; i++)
            for (size_t r = 0; r < NR; r++) {
                double tol = 0.0, got = x.c[i * NR + r], want = x.want[i * NR + r];
                if (t->fill == RANDOM)
                    tol = 3.0 * (double)(t->k / 16 + 1) * FLT_EPSILON * int_magnitude(&x, i, r);
                if (!(fabs(got - want) <= tol))
                    fail_msg(
                        "m %zu k %zu group %u code_max %d wide %d offset %d fill %d: c[%zu][%zu] "
                        "%g, expected %g",
                        t->m, t->k, t->group, t->code_max, t->wide, t->offset, t->fill, i, r, got,
                        want);
            }
    }
    free_int(&x);
}

static void int_products(void **state) {
    (void)state;
    const int code_max[] = {3, 15, 31, 63, 127, 255};
    const size_t ks[] = {32, 64, 224, 256};
    srand(2);
    for (size_t l = 0; l < N_LEVELS; l++) {
        const pare_tile_kernels *tiles = levels[l].kernels;
        for (size_t i = 0; i < sizeof ms / sizeof *ms && runs(l); i++)
            for (size_t v = 0; v < sizeof ks / sizeof *ks * 2 * 6 * FILLS; v++) {
                int_case t = {.m = ms[i],
                              .k = ks[v % 4],
                              .group = v / 4 % 2 ? 16 : 32,
                              .code_max = code_max[v / 8 % 6],
                              .fill = (fill)(v / 48),
                              .offset = true};
                if (t.code_max <= tiles->u8_max) int_product(tiles, &t);
                if (t.code_max < 255 || !tiles->s16) continue;
                t.wide = true;
                int_product(tiles, &t);
                t.offset = false;
                int_product(tiles, &t);
            }
    }
}

/* Of two panels and of one with itself, in f32 and in bf16 (pairs, so that the numbers are those).
 */
static void grams(void **state) {
    (void)state;
    static const size_t ks[] = {0, 1, 2, 7, 64, 256};
    srand(4);
    for (size_t l = 0; l < N_LEVELS; l++)
        for (size_t v = 0; v < 4 * sizeof ks / sizeof *ks && runs(l); v++) {
            const pare_tile_kernels *tiles = levels[l].kernels;
            size_t k = ks[v / 4], padded = (k + 1) / 2 * 2;
            bool halves = v % 2 && tiles->gram_bf16, one = v % 4 / 2;
            float *a = exact(padded * NR * 4), *b = exact(padded * NR * 4), *c = exact(NR * NR * 4);
            uint32_t *a2 = exact(padded * NR * 2), *b2 = exact(padded * NR * 2);
            for (size_t i = 0; i < padded * NR; i++) { /* few bits: products are exact */
                a[i] = i < k * NR ? (float)(rand() % 255 - 127) / 64.0f : 0.0f;
                b[i] = i < k * NR ? (float)(rand() % 255 - 127) / 64.0f : 0.0f;
            }
            for (size_t i = 0; i < NR * NR; i++) c[i] = k == 7 ? 3.0f : NAN;
            if (halves) {
                tiles->pair_f32(a2, a, NR, k);
                tiles->pair_f32(b2, b, NR, k);
                tiles->gram_bf16(c, a2, one ? a2 : b2, padded, k == 7);
            } else {
                tiles->gram(c, a, one ? a : b, k, k == 7);
            }
            for (size_t i = 0; i < NR; i++)
                for (size_t j = 0; j < NR; j++) {
                    double want = k == 7 ? 3.0 : 0.0;
                    for (size_t t = 0; t < k; t++)
                        want += (double)a[t * NR + i] * (one ? a : b)[t * NR + j];
                    if (c[i * NR + j] != (float)want)
                        fail_msg("%s k %zu bf16 %d one %d: c[%zu][%zu] %g, expected %g",
                                 levels[l].name, k, halves, one, i, j, c[i * NR + j], want);
                }
            double *to = exact((NR * 19 - 3) * sizeof *to);
            for (size_t i = 0; i < NR * 19 - 3; i++) to[i] = (double)i;
            tiles->gather(to, 19, c);
            for (size_t i = 0; i < NR * 19 - 3; i++)
                assert_true(to[i] ==
                            (double)i + (i % 19 < NR ? (double)c[i / 19 * NR + i % 19] : 0.0));
            free(to);
            free(a);
            free(b);
            free(c);
            free(a2);
            free(b2);
        }
}

static void squares(void **state) {
    (void)state;
    enum { LD = 21 };
    srand(6);
    for (size_t l = 0; l < N_LEVELS && runs(l); l++)
        for (size_t n = 0; n < 20; n++) {
            float *x = exact((n ? (n - 1) * LD + NR : 1) * sizeof *x);
            double *sums = exact(NR * sizeof *sums);
            for (size_t i = 0; n && i < (n - 1) * LD + NR; i++) x[i] = (float)rand() * 0x1p-20f;
            for (size_t c = 0; c < NR; c++) sums[c] = (double)c;
            levels[l].kernels->squares(sums, x, LD, n);
            for (size_t c = 0; c < NR; c++) {
                double want = (double)c;
                for (size_t i = 0; i < n; i++) want += (double)x[i * LD + c] * x[i * LD + c];
                assert_true(sums[c] == want);
            }
            free(x);
            free(sums);
        }
}

/* A row's sums do not depend on the rows around it. */
static void rows_are_independent(void **state) {
    (void)state;
    srand(3);
    for (size_t l = 0; l < N_LEVELS && runs(l); l++) {
        const pare_tile_kernels *tiles = levels[l].kernels;
        int_case t = {.m = M_MAX, .k = 256, .group = 32, .code_max = 15, .offset = true};
        int_data x = make_int(&t);
        float *a = exact(M_MAX * KC * 4), *panel = exact(KC * NR * 4), one[NR];
        for (size_t i = 0; i < M_MAX * KC; i++) a[i] = (float)uniform();
        for (size_t i = 0; i < KC * NR; i++) panel[i] = (float)uniform();
        float *single = exact(sizeof one);
        tiles->u8(x.c, &x.a, &x.p, M_MAX, false);
        tiles->f32(x.want, a, KC, panel, M_MAX, KC, false);
        for (size_t i = 0; i < M_MAX; i++) {
            pare_tile_act row = x.a;
            row.q += i * row.q_stride;
            row.d += i * row.d_stride;
            row.sum += i * row.sum_stride;
            tiles->u8(single, &row, &x.p, 1, false);
            assert_memory_equal(single, x.c + i * NR, sizeof one);
            tiles->f32(single, a + i * KC, KC, panel, 1, KC, false);
            assert_memory_equal(single, x.want + i * NR, sizeof one);
        }
        free(single);
        free(a);
        free(panel);
        free_int(&x);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transposes),
        cmocka_unit_test(places),
        cmocka_unit_test(f32_products),
        cmocka_unit_test(f32_parts_have_the_bits_of_the_whole),
        cmocka_unit_test(picks_what_is_not_zero),
        cmocka_unit_test(weights_have_the_bits_of_the_whole),
        cmocka_unit_test(bf16_products),
        cmocka_unit_test(blocks_in_bf16),
        cmocka_unit_test(blocks_in_s8),
        cmocka_unit_test(codes_to_pairs),
        cmocka_unit_test(splits_into_bf16),
        cmocka_unit_test(pairs_of_rows),
        cmocka_unit_test(int_products),
        cmocka_unit_test(grams),
        cmocka_unit_test(squares),
        cmocka_unit_test(rows_are_independent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
