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

static void bf16_amx(float *c, size_t ldc, const uint16_t *a, size_t lda, const uint16_t *panel,
                     size_t m, size_t k, bool add) {
    if (m >= ROW) pare_amx_configure(4, ROW);
    for (; m >= 4 * ROW; m -= 4 * ROW, c += 4 * ROW * ldc, a += 4 * ROW * lda)
        bf16_64(c, ldc, a, lda, panel, k, add);
    for (; m >= ROW; m -= ROW, c += ROW * ldc, a += ROW * lda)
        bf16_tile(c, ldc, a, lda, panel, k, add);
    if (m > 0) {
        pare_amx_configure(4, m);
        bf16_tile(c, ldc, a, lda, panel, k, add);
    }
    _tile_release();
}

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
                                         .gram_bf16 = pare_tile_gram_bf16_avx512,
                                         .bf16_first = true,
                                         .split = pare_tile_split_avx512,
                                         .pair_f32 = pare_tile_pair_f32_avx512,
                                         .pair_bf16 = pare_tile_pair_bf16_avx512};
