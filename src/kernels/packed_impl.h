/* Reading packed panels; include a vec_*.h first. A panel's 16 rows are HALVES vectors, number h
 * holds those from VF * h on. `p` is a constant after inlining. */
#ifndef PARE_SRC_KERNELS_PACKED_IMPL_H
#define PARE_SRC_KERNELS_PACKED_IMPL_H

#include "kernels/dot_avx2.h"
#include "kernels/packed.h"

enum { NR = PARE_PACKED_NR, HALVES = NR / VF };

/* ---- codes ---- */

/* Field j of a plane, moved up by `up` bits. */
INLINE vi field(const uint8_t *plane, const int bits, const int j, const int h, const int up) {
    const int fields = 8 / bits, shift = j % fields * bits - up;
    vi v = vi_load(plane + (j / fields * NR + VF * h) * 4);
    if (shift > 0) v = vi_srl16(v, shift);
    if (shift < 0) v = vi_sll16(v, -shift);
    return vi_and(v, vi_set8(((1 << bits) - 1) << up));
}

INLINE bool is_signed(pare_packed p) { return p.bits == 8 || p.table != PARE_TABLE_NONE; }

/* Quad j of a block. */
INLINE vi quad(pare_packed p, const uint8_t *codes, const int j, const int h) {
    if (p.bits == 8) return vi_load(codes + (j * NR + VF * h) * 4);
    const int low = p.bits < 4 ? 2 : 4, high = p.bits - low;
    vi v = field(codes, low, j, h, 0);
    if (high) v = vi_or(v, field(codes + 4 * NR * low, high, j, h, low));
    if (p.table == PARE_TABLE_NONE) return v;
    return vi_shuffle(vi_load_16(p.table == PARE_TABLE_IQ4 ? pare_iq4_values : pare_sparse_levels),
                      v);
}

/* 2:4: where the values of stored quad j stand among 8 inputs, for a shuffle of those. */
INLINE vi places(pare_packed p, const uint8_t *codes, const int j, const int h) {
    return vi_or(field(codes + pare_packed_code_bytes(p), 2, j, h, 0), vi_set32(0x04040000));
}

/* ---- scales ---- */

typedef struct scales {
    vf scale[HALVES], offset[HALVES];
} scales;

/* Of group `sub` of a block. */
INLINE scales group_scales(pare_packed p, const uint8_t *head, const uint8_t *block,
                           const int sub) {
    scales v;
    const int subs = 32 / p.group;
    UNROLL for (int h = 0; h < HALVES; h++) {
        const int bytes = VF * h, halves = 2 * VF * h;
        const uint8_t *s = block + sub * NR + bytes;
        switch (p.kind) {
        case PARE_PACKED_NONE:
            break;
        case PARE_PACKED_B:
            v.scale[h] = vf_from_bf16(block + halves);
            break;
        case PARE_PACKED_D:
        case PARE_PACKED_DM:
            v.scale[h] = vf_from_f16(block + halves);
            break;
        case PARE_PACKED_K:
            v.scale[h] = vf_mul(vf_from_f16(head + halves), vf_number(vi_from_s8(s)));
            break;
        case PARE_PACKED_KM:
            v.scale[h] = vf_mul(vf_from_f16(head + halves), vf_number(vi_from_u8(s)));
            break;
        case PARE_PACKED_KM4: {
            vi both = vi_from_u8(s), low = vi_and(both, vi_set32(15));
            v.scale[h] = vf_mul(vf_from_f16(head + halves), vf_number(low));
            v.offset[h] = vf_number(vi_srl32(both, 4));
            break;
        }
        }
        if (p.kind == PARE_PACKED_DM) v.offset[h] = vf_from_f16(block + 32 + halves);
        if (p.kind == PARE_PACKED_KM) v.offset[h] = vf_number(vi_from_u8(s + subs * NR));
        if (p.kind == PARE_PACKED_KM ||
            p.kind == PARE_PACKED_KM4) /* what is added is minus the minimum */
            v.offset[h] = vf_neg(vf_mul(vf_from_f16(head + 32 + halves), v.offset[h]));
    }
    return v;
}

/* ---- x ---- */

/* Rows of x from the group on that is at work. */
typedef struct act_rows {
    const int8_t *q;      /* of row i: q + i * ldq */
    const int32_t *minus; /* of row i: minus[i * lds] = - sum of q */
    size_t ldq, lds;
} act_rows;

/* zero * minus, what (code - zero) * q has beside code * q; zero is a power of two. */
INLINE vi without_zero(act_rows x, const int i, const int zero) {
    return vi_sll32(vi_set32(x.minus[(size_t)i * x.lds]), __builtin_ctz((unsigned)zero));
}

#endif
