#include "kernels/packed.h"

#include <string.h>

#include "kernels/blocks.h"

enum { NR = PARE_PACKED_NR };

#define X(name, ...) [PARE_DOT_##name] = {__VA_ARGS__},
const pare_packed pare_packed_formats[PARE_DOT_COUNT] = {PARE_PACKED_LIST(X)};
#undef X

static float half_at(const uint8_t *halves, size_t r) {
    uint16_t h;
    memcpy(&h, halves + 2 * r, 2);
    return pare_f16_to_f32(h);
}

/* Scale of group `sub` of a block for row r, and the offset of kinds that have one. */
static void scale_of(float *scale, float *offset, pare_packed p, const uint8_t *head,
                     const uint8_t *block, size_t sub, size_t r) {
    if (p.kind == PARE_PACKED_B) {
        uint16_t b;
        memcpy(&b, block + 2 * r, 2);
        *scale = pare_bf16_to_f32(b);
        return;
    }
    if (p.kind <= PARE_PACKED_DM) {
        *scale = half_at(block, r);
        if (p.kind == PARE_PACKED_DM) *offset = half_at(block + 32, r);
        return;
    }
    float d = half_at(head, r);
    uint8_t s = block[sub * NR + r], m = 0;
    if (p.kind == PARE_PACKED_K) {
        *scale = d * (float)(int8_t)s;
        return;
    }
    if (p.kind == PARE_PACKED_KM) {
        m = block[(32 / p.group + sub) * NR + r];
    } else {
        m = s >> 4;
        s &= 15;
    }
    *scale = d * (float)s;
    *offset = -(half_at(head + 32, r) * (float)m);
}

/* Four stored codes as signed ones, a byte each. */
static uint32_t signed_codes(pare_packed p, uint32_t v) {
    if (p.bits == 8) return v;
    if (!p.table) /* v + 128 - zero fits a byte, then 128 less */
        return (v + (128u - p.zero) * 0x01010101u) ^ 0x80808080u;
    uint8_t q[4];
    memcpy(q, &v, 4);
    const int8_t *table = p.table == PARE_TABLE_IQ4 ? pare_iq4_values : pare_sparse_levels;
    for (int i = 0; i < 4; i++) q[i] = (uint8_t)table[q[i]];
    memcpy(&v, q, 4);
    return v;
}

/* Inputs 4 j .. 4 j + 3 of row r of a block, a byte each. */
static uint32_t signed_quad(pare_packed p, const uint8_t *block, size_t j, size_t r) {
    if (!p.two_four) return signed_codes(p, pare_packed_quad(p, block, j, r));
    const uint8_t *places = block + pare_packed_scale_bytes(p) + pare_packed_code_bytes(p);
    size_t shift = j % 2 * 16; /* the half of the stored quad */
    uint32_t v = signed_codes(p, pare_packed_quad(p, block, j / 2, r)) >> shift, all = 0;
    uint32_t at = pare_packed_field(places, 2, j / 2, r) >> shift;
    for (int i = 0; i < 2; i++) all |= (v >> 8 * i & 255) << 8 * (at >> 8 * i & 3);
    return all;
}

void pare_packed_unpack(int8_t *codes, float *scale, float *offset, pare_packed p,
                        const void *panel, size_t col, size_t cols) {
    const size_t step = pare_packed_has_offset(p);
    for (size_t b = col / 32; b < (col + cols) / 32; b++) {
        const uint8_t *block = (const uint8_t *)panel + pare_packed_block_at(p, b);
        const uint8_t *head = (const uint8_t *)panel + pare_packed_head_at(p, b);
        for (size_t j = 0; j < 8; j++)
            for (size_t r = 0; r < NR; r++, codes += 4) {
                uint32_t v = signed_quad(p, block, j, r);
                memcpy(codes, &v, 4);
            }
        for (size_t sub = 0; sub < 32u / p.group; sub++)
            for (size_t r = 0; r < NR; r++, offset += step)
                scale_of(scale++, offset, p, head, block, sub, r);
    }
}

void pare_packed_unpack_row(int8_t *q, float *scale, float *offset, pare_packed p,
                            const void *panel, size_t row, size_t col, size_t cols) {
    const size_t step = pare_packed_has_offset(p);
    for (size_t b = col / 32; b < (col + cols) / 32; b++) {
        const uint8_t *block = (const uint8_t *)panel + pare_packed_block_at(p, b);
        const uint8_t *head = (const uint8_t *)panel + pare_packed_head_at(p, b);
        for (size_t j = 0; j < 8; j++, q += 4) {
            uint32_t v = signed_quad(p, block, j, row);
            memcpy(q, &v, 4);
        }
        for (size_t sub = 0; sub < 32u / p.group; sub++, offset += step)
            scale_of(scale++, offset, p, head, block, sub, row);
    }
}

/* A plane of `bits` bits, which are bits [shift, shift + bits) of the bytes; quads of each row. */
static inline __attribute__((always_inline)) void plane_of(uint8_t *plane, const uint8_t *bytes,
                                                           size_t row_stride, size_t quads,
                                                           const unsigned bits, unsigned shift) {
    const size_t fields = 8 / bits;
    const uint32_t mask = (uint32_t)((1u << bits) - 1) * 0x01010101u;
    for (size_t r = 0; r < NR; r++, bytes += row_stride)
        for (size_t u = 0; u < quads / fields; u++) {
            uint32_t unit = 0;
            for (size_t f = 0; f < fields; f++) {
                uint32_t v;
                memcpy(&v, bytes + (u * fields + f) * 4, 4);
                unit |= (v >> shift & mask) << f * bits;
            }
            memcpy(plane + (u * NR + r) * 4, &unit, 4);
        }
}

/* The same with a constant for each width, which is what makes a model's loading fast. */
static void write_plane(uint8_t *plane, const uint8_t *bytes, size_t row_stride, size_t quads,
                        unsigned bits, unsigned shift) {
    if (bits == 8) plane_of(plane, bytes, row_stride, quads, 8, shift);
    if (bits == 4) plane_of(plane, bytes, row_stride, quads, 4, shift);
    if (bits == 2) plane_of(plane, bytes, row_stride, quads, 2, shift);
    if (bits == 1) plane_of(plane, bytes, row_stride, quads, 1, shift);
}

void pare_packed_write(void *panel, pare_packed p, size_t block, const pare_packed_row *rows) {
    uint8_t *to = (uint8_t *)panel + pare_packed_block_at(p, block);
    uint8_t *head = (uint8_t *)panel + pare_packed_head_at(p, block);
    bool plain = pare_packed_head_bytes(p) == 0;
    uint8_t *halves = plain ? to : head;
    for (size_t r = 0; r < NR && (plain || block % 8 == 0); r++) {
        memcpy(halves + 2 * r, &rows[r].d, 2);
        if (pare_packed_has_offset(p)) memcpy(halves + 32 + 2 * r, &rows[r].m, 2);
    }
    size_t subs = 32u / p.group, quads = p.two_four ? 4 : 8;
    for (size_t sub = 0; !plain && sub < subs; sub++)
        for (size_t r = 0; r < NR; r++) {
            uint8_t s = rows[r].scale[sub], m = rows[r].min[sub];
            to[sub * NR + r] = p.kind == PARE_PACKED_KM4 ? (uint8_t)(s | m << 4) : s;
            if (p.kind == PARE_PACKED_KM) to[(subs + sub) * NR + r] = m;
        }
    uint8_t *codes = to + pare_packed_scale_bytes(p);
    unsigned low = pare_packed_low_bits(p);
    write_plane(codes, rows->code, sizeof *rows, quads, low, 0);
    if (p.bits > low)
        write_plane(codes + 4 * NR * low, rows->code, sizeof *rows, quads, p.bits - low, low);
    if (p.two_four)
        write_plane(codes + pare_packed_code_bytes(p), rows->place, sizeof *rows, quads, 2, 0);
}

void pare_packed24_write(void *panel, size_t block, const uint16_t values[][16],
                         const uint8_t places[][16]) {
    uint8_t *to = (uint8_t *)panel + block * pare_packed_block_bytes(pare_packed_nm24_bf16);
    for (size_t r = 0; r < NR; r++) {
        uint32_t word = 0;
        for (size_t i = 0; i < 16; i++) {
            word |= (uint32_t)places[r][i] << 2 * i;
            memcpy(to + (i / 2 * NR + r) * 4 + i % 2 * 2, &values[r][i], 2);
        }
        memcpy(to + 512 + 4 * r, &word, 4);
    }
}

void pare_packed24_row(float *w, const void *panel, size_t row, size_t col, size_t cols) {
    size_t block_bytes = pare_packed_block_bytes(pare_packed_nm24_bf16);
    for (size_t b = col / 32; b < (col + cols) / 32; b++, w += 32) {
        const uint8_t *block = (const uint8_t *)panel + b * block_bytes;
        uint32_t word;
        memcpy(&word, block + 512 + 4 * row, 4);
        memset(w, 0, 32 * sizeof *w);
        for (size_t i = 0; i < 16; i++) {
            uint16_t v;
            memcpy(&v, block + (i / 2 * NR + row) * 4 + i % 2 * 2, 2);
            w[4 * (i / 2) + (word >> 2 * i & 3)] = pare_bf16_to_f32(v);
        }
    }
}

#define X(name, ...)                                                                               \
    void pare_unpack_##name##_ref(int8_t *codes, float *scale, float *offset, const void *panel,   \
                                  size_t col, size_t cols) {                                       \
        pare_packed_unpack(codes, scale, offset, pare_packed_formats[PARE_DOT_##name], panel, col, \
                           cols);                                                                  \
    }
PARE_PACKED_LIST(X)
#undef X
