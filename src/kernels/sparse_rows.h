/* Where the parts of sparse rows lie, for the files of every vector level. */
#ifndef PARE_SRC_KERNELS_SPARSE_ROWS_H
#define PARE_SRC_KERNELS_SPARSE_ROWS_H

#include "kernels/dot_avx2.h"

/* A row: mask bytes, values, scales of integers. */
typedef struct row {
    const uint8_t *mask, *values, *scales;
} row;

INLINE const uint8_t *part(const pare_view *w, int k) { return w->part[k]; }

INLINE uint64_t load_u64(const void *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* bits: of a value */
INLINE size_t scale_bytes(size_t cols, int bits) {
    return bits == 16 ? 0 : bits == 8 ? (cols + 31) / 32 * 2 : (cols + 63) / 64 * 2;
}

INLINE row bitmap_row(const pare_view *w, size_t r, int bits) {
    size_t first = (size_t)load_u64(part(w, 1) + 8 * r);
    return (row){.mask = pare_row(w, r),
                 .values = part(w, 2) + first * (size_t)bits / 8,
                 .scales = bits == 16 ? NULL : part(w, 3) + r * scale_bytes(w->cols, bits)};
}

INLINE row nm_row(const pare_view *w, size_t r, int bits) {
    size_t stored = bits == 4 ? (w->cols + 31) / 32 * 16 : w->cols / 2;
    return (row){.mask = pare_row(w, r),
                 .values = part(w, 1) + r * (stored * (size_t)bits / 8),
                 .scales = bits == 16 ? NULL : part(w, 2) + r * scale_bytes(w->cols, bits)};
}

/* The number of values before byte j of a mask of up to 8 bytes. */
INLINE size_t before(uint64_t mask, int j, bool half) {
    if (half) return 4 * (size_t)j;
    return j ? (size_t)__builtin_popcountll(mask << (64 - 8 * j)) : 0;
}

/* One row under way. */
typedef struct place {
    row a;
    size_t at; /* number of the next value; bitmap */
} place;

/* The row from column `col` on, a multiple of 32. */
INLINE place bitmap_at(const pare_view *w, size_t r, size_t col, int bits) {
    place p = {.a = bitmap_row(w, r, bits)};
    for (size_t i = 0; i < col / 64; i++, p.a.mask += 8)
        p.at += (size_t)__builtin_popcountll(load_u64(p.a.mask));
    if (col % 64 == 0) return p;
    p.at += (size_t)__builtin_popcount(load_u32(p.a.mask));
    p.a.mask += 4;
    return p;
}
INLINE place nm_at(const pare_view *w, size_t r, size_t col, int bits) {
    place p = {.a = nm_row(w, r, bits)};
    p.a.mask += col / 8;
    p.a.values += col / 32 * 2 * (size_t)bits;
    return p;
}

enum { GROUPS = 8 }; /* of a block of 256 columns */

/* What the formats differ in; constant after inlining. */
typedef struct format {
    int bits;    /* 8 or 4 */
    bool bitmap; /* else half of the values are stored */
} format;

#endif
