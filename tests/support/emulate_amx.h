/* AMX's tiles in plain C, for one source file of kernels. A wrong shape, which the processor
 * answers with a fault, ends the program. */
#ifndef PARE_TESTS_SUPPORT_EMULATE_AMX_H
#define PARE_TESTS_SUPPORT_EMULATE_AMX_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local struct emulated_tiles {
    int configured;
    int row_bytes[8], rows[8];
    uint8_t data[8][16][64];
} emulated_tiles;

static void emulated_fault(const char *what) {
    fprintf(stderr, "emulated AMX: %s\n", what);
    abort();
}

static void emulated_tile_check(int t) {
    if (!emulated_tiles.configured) emulated_fault("tiles are used without a configuration");
    if (emulated_tiles.rows[t] == 0) emulated_fault("a tile is used that has no rows");
}

static inline void emulated_loadconfig(const void *config) {
    const uint8_t *c = config;
    memset(&emulated_tiles, 0, sizeof emulated_tiles);
    if (c[0] != 1) emulated_fault("palette is not 1");
    for (int t = 0; t < 8; t++) {
        uint16_t row_bytes;
        memcpy(&row_bytes, c + 16 + 2 * t, 2);
        emulated_tiles.row_bytes[t] = row_bytes;
        emulated_tiles.rows[t] = c[48 + t];
        if (row_bytes > 64 || c[48 + t] > 16) emulated_fault("a tile is too large");
        if ((row_bytes == 0) != (c[48 + t] == 0)) emulated_fault("a tile has half a size");
    }
    emulated_tiles.configured = 1;
}

static inline void emulated_release(void) { emulated_tiles.configured = 0; }

static inline void emulated_loadd(int t, const void *base, size_t stride) {
    emulated_tile_check(t);
    memset(emulated_tiles.data[t], 0, sizeof emulated_tiles.data[t]);
    for (int r = 0; r < emulated_tiles.rows[t]; r++)
        memcpy(emulated_tiles.data[t][r], (const uint8_t *)base + (size_t)r * stride,
               (size_t)emulated_tiles.row_bytes[t]);
}

static inline void emulated_stored(int t, void *base, size_t stride) {
    emulated_tile_check(t);
    for (int r = 0; r < emulated_tiles.rows[t]; r++)
        memcpy((uint8_t *)base + (size_t)r * stride, emulated_tiles.data[t][r],
               (size_t)emulated_tiles.row_bytes[t]);
}

static inline void emulated_zero(int t) {
    emulated_tile_check(t);
    memset(emulated_tiles.data[t], 0, sizeof emulated_tiles.data[t]);
}

/* A bf16 number as the unit reads it: denormals count as zero. */
static inline float emulated_bf16(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    if ((h & 0x7F80) == 0) bits &= 0x80000000u;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline void emulated_product_check(int c, int a, int b) {
    emulated_tile_check(c);
    emulated_tile_check(a);
    emulated_tile_check(b);
    struct emulated_tiles *t = &emulated_tiles;
    if (t->rows[c] != t->rows[a] || t->row_bytes[a] != 4 * t->rows[b] ||
        t->row_bytes[b] != t->row_bytes[c])
        emulated_fault("shapes do not fit a product");
}

/* c[m][n] += a[m][k] * b[k][n], neighbours in k packed in 32 bits; both signed bytes. */
static inline void emulated_dpbssd(int c, int a, int b) {
    emulated_product_check(c, a, b);
    struct emulated_tiles *t = &emulated_tiles;
    for (int m = 0; m < t->rows[c]; m++)
        for (int n = 0; n < t->row_bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &t->data[c][m][4 * n], 4);
            for (int k = 0; k < 4 * t->rows[b]; k++)
                sum += (int8_t)t->data[a][m][k] * (int8_t)t->data[b][k / 4][4 * n + k % 4];
            memcpy(&t->data[c][m][4 * n], &sum, 4);
        }
}

/* The same of bf16. */
static inline void emulated_dpbf16ps(int c, int a, int b) {
    emulated_product_check(c, a, b);
    struct emulated_tiles *t = &emulated_tiles;
    for (int m = 0; m < t->rows[c]; m++)
        for (int n = 0; n < t->row_bytes[c] / 4; n++) {
            float even = 0.0f, odd = 0.0f, sum;
            for (int k = 0; k < t->rows[b]; k++) {
                uint16_t x[2], w[2];
                memcpy(x, &t->data[a][m][4 * k], 4);
                memcpy(w, &t->data[b][k][4 * n], 4);
                even += emulated_bf16(x[0]) * emulated_bf16(w[0]);
                odd += emulated_bf16(x[1]) * emulated_bf16(w[1]);
            }
            memcpy(&sum, &t->data[c][m][4 * n], 4);
            sum += even + odd;
            memcpy(&t->data[c][m][4 * n], &sum, 4);
        }
}

/* The compiler's own may be macros. */
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#define _tile_loadconfig emulated_loadconfig
#define _tile_release emulated_release
#define _tile_loadd emulated_loadd
#define _tile_stored emulated_stored
#define _tile_zero emulated_zero
#define _tile_dpbf16ps emulated_dpbf16ps
#define _tile_dpbssd emulated_dpbssd

#endif
