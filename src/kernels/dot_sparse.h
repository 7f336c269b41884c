/* Spreading stored values to the columns whose bit is set, eight columns (a byte of mask) at a
 * time: controls of a byte shuffle. */
#ifndef PARE_SRC_KERNELS_DOT_SPARSE_H
#define PARE_SRC_KERNELS_DOT_SPARSE_H

#include "kernels/dot_impl.h"

/* Column j of mask m: the number of values before it, or 0x80 (a zero) when it has none. */
#define PARE_AT(m, j)                                                                              \
    ((m) >> (j)&1 ? (uint8_t)__builtin_popcount((m) & ((1u << (j)) - 1)) : (uint8_t)0x80)
#define PARE_BYTES_8(m)                                                                            \
    {PARE_AT(m, 0), PARE_AT(m, 1), PARE_AT(m, 2), PARE_AT(m, 3),                                   \
     PARE_AT(m, 4), PARE_AT(m, 5), PARE_AT(m, 6), PARE_AT(m, 7)},
#define PARE_PAIR(m, j)                                                                            \
    (uint8_t)(PARE_AT(m, j) & 0x80 ? 0x80 : 2 * PARE_AT(m, j)),                                    \
        (uint8_t)(PARE_AT(m, j) & 0x80 ? 0x80 : 2 * PARE_AT(m, j) + 1)
#define PARE_WORDS_8(m)                                                                            \
    {PARE_PAIR(m, 0), PARE_PAIR(m, 1), PARE_PAIR(m, 2), PARE_PAIR(m, 3),                           \
     PARE_PAIR(m, 4), PARE_PAIR(m, 5), PARE_PAIR(m, 6), PARE_PAIR(m, 7)},
#define PARE_UPPER(m, j) 0x80, 0x80, PARE_PAIR(m, j)
#define PARE_DWORDS_8(m)                                                                           \
    {PARE_UPPER(m, 0), PARE_UPPER(m, 1), PARE_UPPER(m, 2), PARE_UPPER(m, 3),                       \
     PARE_UPPER(m, 4), PARE_UPPER(m, 5), PARE_UPPER(m, 6), PARE_UPPER(m, 7)},
#define PARE_X4(E, m) E(m) E(m + 1) E(m + 2) E(m + 3)
#define PARE_X16(E, m) PARE_X4(E, m) PARE_X4(E, m + 4) PARE_X4(E, m + 8) PARE_X4(E, m + 12)
#define PARE_X64(E, m) PARE_X16(E, m) PARE_X16(E, m + 16) PARE_X16(E, m + 32) PARE_X16(E, m + 48)
#define PARE_X256(E) PARE_X64(E, 0u) PARE_X64(E, 64u) PARE_X64(E, 128u) PARE_X64(E, 192u)

/* values of one byte */
static const uint8_t pare_spread_bytes[256][8] = {PARE_X256(PARE_BYTES_8)};
/* values of two bytes (bf16), to the upper halves of dwords: bf16 becomes f32 on the way */
static const uint8_t __attribute__((aligned(32)))
pare_spread_dwords[256][32] = {PARE_X256(PARE_DWORDS_8)};

#endif
