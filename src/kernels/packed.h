/* Packed panels: how weights with integer codes lie in memory while they are multiplied. A file's
 * rows are repacked once, when a model is loaded; the numbers stay the same, and so does the size
 * but for a few hundredths.
 *
 * A panel is PARE_TILE_NR rows side by side, so that a product of bytes fills vectors with 16
 * different outputs: nothing is added across a vector, a scale meets 16 outputs at once, and a
 * panel is one stream. Rows past the matrix's end are zero. A panel holds, for every 32 inputs, a
 * block:
 *
 *   scales  as the kind says, each [..][16 rows]
 *   codes   planes of bits. A unit of 32 bits holds codes of 4 inputs of a row, in the same place
 * of each byte; a plane of b bits has 8 / b such fields a unit, the inputs 4 f .. 4 f + 3 in field
 * f; units are [b][16 rows]. Codes of 3, 5, 6 bits have two planes: 2 + 1, 4 + 1, 4 + 2 bits, the
 * lower bits first. Codes of 8 bits are signed.
 *
 * and, for the scales of super-blocks, a head before every 8 blocks: f16 [16] d, and dmin.
 *
 *   kind  in a block                                  w =
 *   D     f16 d [16]                                  d * (code - zero)
 *   DM    f16 d [16], m [16]                          d * code + m
 *   K     s8 s [32 / group][16]                       d * s * (code - zero)
 *   KM    u8 s [32 / group][16], m [32 / group][16]   d * s * code - dmin * m
 *   KM4   u8 [32 / group][16]: s | m << 4             the same
 *   B     bf16 d [16]                                 d * (code - zero)
 *   NONE  nothing                                     code: bf16
 *
 * With a table a code is an index of it.
 *
 * 2:4: of every 4 inputs two are stored, so a block has 4 quads, and quad s holds those of inputs
 * 8 s .. 8 s + 7, in order. Behind the codes follow their places among the 4, 64 bytes: a plane of
 * 2 bits like those of codes. Values of 16 bits are [8 groups of 4][16 rows][2], and the places of
 * row r are the word r: bits 4 g and 4 g + 2 begin those of group g. */
#ifndef PARE_SRC_KERNELS_PACKED_H
#define PARE_SRC_KERNELS_PACKED_H

#include <stdbool.h>

#include "kernels/dot.h"
#include "kernels/tile.h"

typedef enum pare_packed_kind {
    PARE_PACKED_D,
    PARE_PACKED_DM,
    PARE_PACKED_K,
    PARE_PACKED_KM,
    PARE_PACKED_KM4,
    PARE_PACKED_B,
    PARE_PACKED_NONE
} pare_packed_kind;

typedef enum pare_packed_table {
    PARE_TABLE_NONE,
    PARE_TABLE_IQ4,   /* pare_iq4_values */
    PARE_TABLE_SPARSE /* pare_sparse_levels */
} pare_packed_table;

typedef struct pare_packed {
    pare_packed_kind kind;
    pare_packed_table table;
    uint8_t bits;  /* of a code: 2, 3, 4, 5, 6, 8, 16; 0 = not a packed format */
    uint8_t group; /* inputs that share a scale: 16 or 32 */
    uint8_t zero;
    bool two_four; /* 2:4 */
} pare_packed;

/* X(name, kind, table, bits, group, zero, two_four); the names are those of pare_dot_id. */
#define PARE_PACKED_LIST(X)                                                                        \
    X(q4_0, PARE_PACKED_D, PARE_TABLE_NONE, 4, 32, 8, false)                                       \
    X(q4_1, PARE_PACKED_DM, PARE_TABLE_NONE, 4, 32, 0, false)                                      \
    X(q5_0, PARE_PACKED_D, PARE_TABLE_NONE, 5, 32, 16, false)                                      \
    X(q5_1, PARE_PACKED_DM, PARE_TABLE_NONE, 5, 32, 0, false)                                      \
    X(q8_0, PARE_PACKED_D, PARE_TABLE_NONE, 8, 32, 0, false)                                       \
    X(iq4_nl, PARE_PACKED_D, PARE_TABLE_IQ4, 4, 32, 0, false)                                      \
    X(q2_k, PARE_PACKED_KM4, PARE_TABLE_NONE, 2, 16, 0, false)                                     \
    X(q3_k, PARE_PACKED_K, PARE_TABLE_NONE, 3, 16, 4, false)                                       \
    X(q4_k, PARE_PACKED_KM, PARE_TABLE_NONE, 4, 32, 0, false)                                      \
    X(q5_k, PARE_PACKED_KM, PARE_TABLE_NONE, 5, 32, 0, false)                                      \
    X(q6_k, PARE_PACKED_K, PARE_TABLE_NONE, 6, 16, 32, false)                                      \
    X(iq4_xs, PARE_PACKED_K, PARE_TABLE_IQ4, 4, 32, 0, false)                                      \
    X(nm24_q8, PARE_PACKED_B, PARE_TABLE_NONE, 8, 32, 0, true)                                     \
    X(nm24_q4, PARE_PACKED_B, PARE_TABLE_SPARSE, 4, 32, 0, true)

/* The format of a kernel; bits 0 for those that take another. */
extern const pare_packed pare_packed_formats[PARE_DOT_COUNT];
/* 2:4 in bf16, which takes x in f32. */
static const pare_packed pare_packed_nm24_bf16 = {
    .kind = PARE_PACKED_NONE, .bits = 16, .group = 32, .two_four = true};

/* The many-rows driver takes panels as they are. */
enum { PARE_PACKED_NR = PARE_TILE_NR };

static inline bool pare_packed_has_offset(pare_packed p) {
    return p.kind == PARE_PACKED_DM || p.kind == PARE_PACKED_KM || p.kind == PARE_PACKED_KM4;
}
static inline size_t pare_packed_head_bytes(pare_packed p) {
    if (p.kind == PARE_PACKED_K) return 32;
    return p.kind == PARE_PACKED_KM || p.kind == PARE_PACKED_KM4 ? 64 : 0;
}
static inline size_t pare_packed_scale_bytes(pare_packed p) {
    if (p.kind == PARE_PACKED_NONE) return 0;
    if (p.kind == PARE_PACKED_D || p.kind == PARE_PACKED_B) return 32;
    if (p.kind == PARE_PACKED_DM) return 64;
    return (p.kind == PARE_PACKED_KM ? 2 : 1) * PARE_PACKED_NR * (32u / p.group);
}
static inline size_t pare_packed_code_bytes(pare_packed p) {
    return PARE_PACKED_NR * 4u * p.bits / (p.two_four ? 2 : 1);
}
static inline size_t pare_packed_block_bytes(pare_packed p) {
    return pare_packed_scale_bytes(p) + pare_packed_code_bytes(p) + (p.two_four ? 64 : 0);
}
/* cols: a multiple of 32. */
static inline size_t pare_packed_panel_bytes(pare_packed p, size_t cols) {
    return cols / 32 * pare_packed_block_bytes(p) + (cols + 255) / 256 * pare_packed_head_bytes(p);
}

/* Blocks and heads of a panel. */
static inline size_t pare_packed_head_at(pare_packed p, size_t block) {
    return block / 8 * (pare_packed_head_bytes(p) + 8 * pare_packed_block_bytes(p));
}
static inline size_t pare_packed_block_at(pare_packed p, size_t block) {
    return pare_packed_head_at(p, block) + pare_packed_head_bytes(p) +
           block % 8 * pare_packed_block_bytes(p);
}

/* The bits of a code that its first plane holds. */
static inline unsigned pare_packed_low_bits(pare_packed p) {
    return p.bits == 8 ? 8 : p.bits < 4 ? 2 : 4;
}

static inline uint32_t pare_packed_field(const uint8_t *plane, unsigned bits, size_t j, size_t r) {
    size_t fields = 8 / bits;
    uint32_t unit;
    __builtin_memcpy(&unit, plane + (j / fields * PARE_PACKED_NR + r) * 4, 4);
    return unit >> j % fields * bits & ((1u << bits) - 1) * 0x01010101u;
}

/* Of a block: quad j of row r, four stored codes, a byte each. Not for 16 bits. */
static inline uint32_t pare_packed_quad(pare_packed p, const uint8_t *block, size_t j, size_t r) {
    const uint8_t *codes = block + pare_packed_scale_bytes(p);
    unsigned low = pare_packed_low_bits(p), high = p.bits - low;
    uint32_t v = pare_packed_field(codes, low, j, r);
    if (high) v |= pare_packed_field(codes + 4 * PARE_PACKED_NR * low, high, j, r) << low;
    return v;
}

/* Codes with `zero` subtracted (or looked up), scales and offsets of `cols` inputs from `col` on,
 * both multiples of 32: codes [cols / 4][NR][4], scale and offset [cols / group][NR]; offset is not
 * written for kinds without one. */
void pare_packed_unpack(int8_t *codes, float *scale, float *offset, pare_packed p,
                        const void *panel, size_t col, size_t cols);
/* The same for one format, as kernels/unpack.h has it for each level. */
typedef void (*pare_packed_unpack_fn)(int8_t *codes, float *scale, float *offset, const void *panel,
                                      size_t col, size_t cols);
#define X(name, ...)                                                                               \
    void pare_unpack_##name##_ref(int8_t *, float *, float *, const void *, size_t, size_t);       \
    void pare_unpack_##name##_avx2(int8_t *, float *, float *, const void *, size_t, size_t);
PARE_PACKED_LIST(X)
#undef X

/* The same of one row: q [cols], scale and offset [cols / group]. */
void pare_packed_unpack_row(int8_t *q, float *scale, float *offset, pare_packed p,
                            const void *panel, size_t row, size_t col, size_t cols);

/* What one row puts into a block. */
typedef struct pare_packed_row {
    uint8_t code[32];         /* stored codes: nothing subtracted, indices of the table */
    uint8_t place[16];        /* 2:4: of code i, among inputs 4 (i / 2) .. + 3; two differ */
    uint16_t d, m;            /* f16, of kind B bf16; m: minimum or dmin. Of kinds with heads those
                                 of each super-block's first block count */
    uint8_t scale[2], min[2]; /* of the 32 / group groups; K: scale as the bits of an int8 */
} pare_packed_row;

/* Writes rows[NR] into block number `block` of a panel. */
void pare_packed_write(void *panel, pare_packed p, size_t block, const pare_packed_row *rows);

/* The same for bf16: row r's stored values and their places. And a row of it, decoded. */
void pare_packed24_write(void *panel, size_t block, const uint16_t values[][16],
                         const uint8_t places[][16]);
void pare_packed24_row(float *w, const void *panel, size_t row, size_t col, size_t cols);

#endif
