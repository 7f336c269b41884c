/* Tile kernels for AMX: tdpbf16ps multiplies 16 rows x 32 inputs with 32 inputs x 16 outputs in 16
 * cycles, 8 times what AVX-512 does in f32.
 *
 * Codes in int8 gain nothing here: a product of 64 inputs takes those 16 cycles too, but scales
 * that change every 32 inputs leave half of it idle, and the integer sums must go through memory to
 * be scaled. So `fast` multiplies bf16, whose error (2^-9 of each number, rms) is also below that
 * of int8; the int8 kernel of this level is AVX-512's.
 *
 * Tiles 0-3 hold sums of 16 rows each, 4 the panel, 5-7 inputs. A last block of fewer than 16 rows
 * has tiles of its own shape. */
#include "kernels/amx.h"
#include "kernels/intrinsics.h"
#include "kernels/tile_impl.h"

#include <string.h>

enum { NR = PARE_TILE_NR, K_STEP = 32, ROW = 16 };

/* 64 rows: a panel's tile is loaded once for four products. */
static void bf16_64(float *c, size_t ldc, const uint16_t *a, size_t lda, const uint16_t *panel,
                    size_t k, bool add) {
    if (add) {
        _tile_loadd(0, c, ldc * sizeof *c);
        _tile_loadd(1, c + ROW * ldc, ldc * sizeof *c);
        _tile_loadd(2, c + 2 * ROW * ldc, ldc * sizeof *c);
        _tile_loadd(3, c + 3 * ROW * ldc, ldc * sizeof *c);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    size_t stride = lda * sizeof *a;
    for (size_t j = 0; j < k; j += K_STEP) {
        _tile_loadd(4, panel + j * NR, 64);
        _tile_loadd(5, a + j, stride);
        _tile_dpbf16ps(0, 5, 4);
        _tile_loadd(6, a + ROW * lda + j, stride);
        _tile_dpbf16ps(1, 6, 4);
        _tile_loadd(7, a + 2 * ROW * lda + j, stride);
        _tile_dpbf16ps(2, 7, 4);
        _tile_loadd(5, a + 3 * ROW * lda + j, stride);
        _tile_dpbf16ps(3, 5, 4);
    }
    _tile_stored(0, c, ldc * sizeof *c);
    _tile_stored(1, c + ROW * ldc, ldc * sizeof *c);
    _tile_stored(2, c + 2 * ROW * ldc, ldc * sizeof *c);
    _tile_stored(3, c + 3 * ROW * ldc, ldc * sizeof *c);
}

/* As many rows as a tile is configured for. */
static void bf16_tile(float *c, size_t ldc, const uint16_t *a, size_t lda, const uint16_t *panel,
                      size_t k, bool add) {
    if (add)
        _tile_loadd(0, c, ldc * sizeof *c);
    else
        _tile_zero(0);
    for (size_t j = 0; j < k; j += K_STEP) {
        _tile_loadd(4, panel + j * NR, 64);
        _tile_loadd(5, a + j, lda * sizeof *a);
        _tile_dpbf16ps(0, 5, 4);
    }
    _tile_stored(0, c, ldc * sizeof *c);
}

/* All tiles but the panel's have so many rows. */
static void configure(size_t rows) {
    uint8_t r = (uint8_t)rows;
    pare_amx_configure((const uint8_t[8]){r, r, r, r, ROW, r, r, r});
}

static void bf16_amx(float *c, size_t ldc, const uint16_t *a, size_t lda, const uint16_t *panel,
                     size_t m, size_t k, bool add) {
    if (m >= ROW) configure(ROW);
    for (; m >= 4 * ROW; m -= 4 * ROW, c += 4 * ROW * ldc, a += 4 * ROW * lda)
        bf16_64(c, ldc, a, lda, panel, k, add);
    for (; m >= ROW; m -= ROW, c += ROW * ldc, a += ROW * lda)
        bf16_tile(c, ldc, a, lda, panel, k, add);
    if (m > 0) {
        configure(m);
        bf16_tile(c, ldc, a, lda, panel, k, add);
    }
    _tile_release();
}

/* --- many rows times many panels --- */

enum {
    BLOCK = 2 * ROW, /* rows; two panels at a time: a tile that is loaded serves two products */
    TILE = 1024,     /* bytes */
    STEP = 64        /* of a row */
};

/* Sums of up to 32 rows, HALVES of them with tiles of their own, and PANELS panels: tiles 0, 1 of
 * the first panel and 2, 3 of the second; 4, 5 hold the panels, 6, 7 inputs. */
TILE_INLINE void block_sums(char *c0, char *c1, const pare_tile_block *b, size_t row, size_t panel,
                            const bool S8, const bool LACED, const int HALVES, const int PANELS) {
    if (b->more) {
        _tile_loadd(0, c0, STEP);
        if (HALVES > 1) _tile_loadd(1, c0 + TILE, STEP);
        if (PANELS > 1) _tile_loadd(2, c1, STEP);
        if (PANELS > 1 && HALVES > 1) _tile_loadd(3, c1 + TILE, STEP);
    } else {
        _tile_zero(0);
        if (HALVES > 1) _tile_zero(1);
        if (PANELS > 1) _tile_zero(2);
        if (PANELS > 1 && HALVES > 1) _tile_zero(3);
    }
#define PRODUCT(c, x, w)                                                                           \
    do {                                                                                           \
        if (S8)                                                                                    \
            _tile_dpbssd(c, x, w);                                                                 \
        else                                                                                       \
            _tile_dpbf16ps(c, x, w);                                                               \
    } while (0)
    const size_t laced = LACED ? b->laced : 1, x_at = row * b->lda, w_at = panel * b->panel_stride;
    for (const pare_tile_run *r = b->runs; r < b->runs + b->n_runs; r += laced)
        for (size_t j = 0; j < r->bytes; j += STEP)
            for (size_t i = 0; i < laced; i++) {
                const char *x = (const char *)r[i].a + x_at + j;
                const char *w = (const char *)r[i].panels + w_at + j * NR;
                if (i == 0 || r[i].a != r[i - 1].a) {
                    _tile_loadd(6, x, b->lda);
                    if (HALVES > 1) _tile_loadd(7, x + ROW * b->lda, b->lda);
                }
                if (i == 0 || r[i].panels != r[i - 1].panels) {
                    _tile_loadd(4, w, STEP);
                    if (PANELS > 1) _tile_loadd(5, w + b->panel_stride, STEP);
                }
                PRODUCT(0, 6, 4);
                if (PANELS > 1) PRODUCT(2, 6, 5);
                if (HALVES > 1) PRODUCT(1, 7, 4);
                if (PANELS > 1 && HALVES > 1) PRODUCT(3, 7, 5);
            }
#undef PRODUCT
    _tile_stored(0, c0, STEP);
    if (HALVES > 1) _tile_stored(1, c0 + TILE, STEP);
    if (PANELS > 1) _tile_stored(2, c1, STEP);
    if (PANELS > 1 && HALVES > 1) _tile_stored(3, c1 + TILE, STEP);
}

/* n rows of a panel's sums to y. */
TILE_INLINE void place_sums(const pare_tile_block *b, size_t row, size_t panel, const void *c,
                            size_t n, const bool S8, const bool ADD, const bool MOVED) {
    const __m512 bias = _mm512_loadu_ps(b->bias + panel * NR);
    const __m512 scale = S8 ? _mm512_loadu_ps(b->scale + panel * NR) : bias;
    const __m512 row_sums = MOVED ? _mm512_loadu_ps(b->row_sums + panel * NR) : bias;
    float *y = b->y + row * b->ldy + panel * NR;
    for (size_t i = 0; i < n; i++, y += b->ldy) {
        const char *from = (const char *)c + i * STEP;
        __m512 s;
        if (S8) {
            s = _mm512_cvtepi32_ps(_mm512_load_si512(from));
            s = _mm512_mul_ps(s,
                              _mm512_mul_ps(scale, _mm512_set1_ps(b->d[(row + i) * b->d_stride])));
        } else {
            s = _mm512_load_ps(from);
        }
        s = _mm512_add_ps(s, bias);
        if (MOVED) s = _mm512_add_ps(s, _mm512_mul_ps(_mm512_set1_ps(b->moved[row + i]), row_sums));
        _mm512_storeu_ps(y, ADD ? _mm512_add_ps(_mm512_loadu_ps(y), s) : s);
    }
}

TILE_INLINE void block_panels(const pare_tile_block *b, size_t row, size_t panel, size_t n,
                              const bool S8, const bool LACED, const int HALVES, const int PANELS) {
    float sums[2][BLOCK * NR] __attribute__((aligned(64)));
    float *c = b->c ? (float *)b->c + panel * b->c_stride + row * NR : NULL;
    if (!b->y) {
        block_sums((char *)c, (char *)(c + b->c_stride), b, row, panel, S8, LACED, HALVES, PANELS);
        return;
    }
    for (size_t i = 0; i < n; i++) /* a row each in a page of its own, perhaps */
        for (int p = 0; p < PANELS; p++)
            __builtin_prefetch(b->y + (row + i) * b->ldy + (panel + (size_t)p) * NR, 1);
    if (b->more)
        for (int p = 0; p < PANELS; p++)
            memcpy(sums[p], c + (size_t)p * b->c_stride, n * NR * sizeof *c);
    block_sums((char *)sums[0], (char *)sums[1], b, row, panel, S8, LACED, HALVES, PANELS);
    for (int p = 0; p < PANELS; p++) {
        size_t at = panel + (size_t)p;
        if (S8 && b->moved)
            place_sums(b, row, at, sums[p], n, S8, b->add, true);
        else if (b->add)
            place_sums(b, row, at, sums[p], n, S8, true, false);
        else
            place_sums(b, row, at, sums[p], n, S8, false, false);
    }
}

TILE_INLINE void block_rows(const pare_tile_block *b, size_t row, size_t n, const bool S8,
                            const bool LACED) {
    size_t panel = 0;
    for (; panel + 2 <= b->n_panels; panel += 2)
        if (n > ROW)
            block_panels(b, row, panel, n, S8, LACED, 2, 2);
        else
            block_panels(b, row, panel, n, S8, LACED, 1, 2);
    if (panel == b->n_panels) return;
    if (n > ROW)
        block_panels(b, row, panel, n, S8, LACED, 2, 1);
    else
        block_panels(b, row, panel, n, S8, LACED, 1, 1);
}

static void configure_block(size_t rows) {
    uint8_t a = (uint8_t)(rows < ROW ? rows : ROW), b = (uint8_t)(rows - a);
    pare_amx_configure((const uint8_t[8]){a, b, a, b, ROW, ROW, a, b});
}

TILE_INLINE void multiply_block(const pare_tile_block *b, const bool S8, const bool LACED) {
    size_t row = 0;
    if (b->m >= BLOCK) configure_block(BLOCK);
    for (; row + BLOCK <= b->m; row += BLOCK) block_rows(b, row, BLOCK, S8, LACED);
    if (row < b->m) {
        configure_block(b->m - row);
        block_rows(b, row, b->m - row, S8, LACED);
    }
    _tile_release();
}

static void bf16_block_amx(const pare_tile_block *b) {
    if (b->laced > 1)
        multiply_block(b, false, true);
    else
        multiply_block(b, false, false);
}
static void s8_block_amx(const pare_tile_block *b) { multiply_block(b, true, false); }

const pare_tile_kernels pare_tile_amx = {.transpose = pare_tile_transpose_avx2,
                                         .place = pare_tile_place_avx512,
                                         .f32 = pare_tile_f32_avx512,
                                         .f32_inputs = pare_tile_f32_inputs_avx512,
                                         .f32_rows = pare_tile_f32_rows_avx512,
                                         .gram = pare_tile_gram_avx512,
                                         .gather = pare_tile_gather_avx2,
                                         .squares = pare_tile_squares_avx2,
                                         .u8 = pare_tile_u8_avx512,
                                         .u8_max = 255,
                                         .bf16 = bf16_amx,
                                         .bf16_block = bf16_block_amx,
                                         .s8_block = s8_block_amx,
                                         .gram_bf16 = pare_tile_gram_bf16_avx512,
                                         .bf16_first = true,
                                         .split = pare_tile_split_avx512,
                                         .pair_f32 = pare_tile_pair_f32_avx512,
                                         .pair_bf16 = pare_tile_pair_bf16_avx512,
                                         .pair_codes = pare_tile_pair_codes_avx512};
