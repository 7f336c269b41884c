#include "kernels/packed.h"

#include <string.h>

#include "kernels/blocks.h"

enum { NR = PARE_PACKED_NR };

#define X(name, kind_, bits_, group_, zero_, table_)                                               \
    [PARE_DOT_##                                                                                   \
        name] = {.kind = kind_, .bits = bits_, .group = group_, .zero = zero_, .table = table_},
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
static uint32_t signed_quad(pare_packed p, uint32_t v) {
    if (p.bits == 8) return v;
    if (!p.table) /* v + 128 - zero fits a byte, then 128 less */
        return (v + (128u - p.zero) * 0x01010101u) ^ 0x80808080u;
    uint8_t q[4];
    memcpy(q, &v, 4);
    for (int i = 0; i < 4; i++) q[i] = (uint8_t)pare_iq4_values[q[i]];
    memcpy(&v, q, 4);
    return v;
}

void pare_packed_unpack(int8_t *codes, float *scale, float *offset, pare_packed p,
                        const void *panel, size_t col, size_t cols) {
    const size_t step = pare_packed_has_offset(p);
    for (size_t b = col / 32; b < (col + cols) / 32; b++) {
        const uint8_t *block = (const uint8_t *)panel + pare_packed_block_at(p, b);
        const uint8_t *head = (const uint8_t *)panel + pare_packed_head_at(p, b);
        for (size_t j = 0; j < 8; j++)
            for (size_t r = 0; r < NR; r++, codes += 4) {
                uint32_t v = signed_quad(p, pare_packed_quad(p, block, j, r));
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
            uint32_t v = signed_quad(p, pare_packed_quad(p, block, j, row));
            memcpy(q, &v, 4);
        }
        for (size_t sub = 0; sub < 32u / p.group; sub++, offset += step)
            scale_of(scale++, offset, p, head, block, sub, row);
    }
}

/* A plane of `bits` bits, which are bits [shift, shift + bits) of the codes. */
static void write_plane(uint8_t *plane, const pare_packed_row *rows, unsigned bits,
                        unsigned shift) {
    size_t fields = 8 / bits;
    uint32_t mask = ((1u << bits) - 1) * 0x01010101u;
    for (size_t u = 0; u < bits; u++)
        for (size_t r = 0; r < NR; r++) {
            uint32_t unit = 0;
            for (size_t f = 0; f < fields; f++) {
                uint32_t v;
                memcpy(&v, rows[r].code + (u * fields + f) * 4, 4);
                unit |= (v >> shift & mask) << f * bits;
            }
            memcpy(plane + (u * NR + r) * 4, &unit, 4);
        }
}

void pare_packed_write(void *panel, pare_packed p, size_t block, const pare_packed_row *rows) {
    uint8_t *to = (uint8_t *)panel + pare_packed_block_at(p, block);
    uint8_t *head = (uint8_t *)panel + pare_packed_head_at(p, block);
    bool plain = p.kind <= PARE_PACKED_DM;
    bool two = p.kind != PARE_PACKED_D && p.kind != PARE_PACKED_K;
    uint8_t *halves = plain ? to : head;
    for (size_t r = 0; r < NR && (plain || block % 8 == 0); r++) {
        memcpy(halves + 2 * r, &rows[r].d, 2);
        if (two) memcpy(halves + 32 + 2 * r, &rows[r].m, 2);
    }
    size_t subs = 32u / p.group;
    for (size_t sub = 0; !plain && sub < subs; sub++)
        for (size_t r = 0; r < NR; r++) {
            uint8_t s = rows[r].scale[sub], m = rows[r].min[sub];
            to[sub * NR + r] = p.kind == PARE_PACKED_KM4 ? (uint8_t)(s | m << 4) : s;
            if (p.kind == PARE_PACKED_KM) to[(subs + sub) * NR + r] = m;
        }
    uint8_t *codes = to + pare_packed_scale_bytes(p);
    unsigned low = pare_packed_low_bits(p);
    write_plane(codes, rows, low, 0);
    if (p.bits > low) write_plane(codes + 4 * NR * low, rows, p.bits - low, low);
}

#define X(name, ...)                                                                               \
    void pare_unpack_##name##_ref(int8_t *codes, float *scale, float *offset, const void *panel,   \
                                  size_t col, size_t cols) {                                       \
        pare_packed_unpack(codes, scale, offset, pare_packed_formats[PARE_DOT_##name], panel, col, \
                           cols);                                                                  \
    }
PARE_PACKED_LIST(X)
#undef X
