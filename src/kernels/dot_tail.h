/* The short last super-block of the `_tail` forms (blocks.h), completed with zeros to a plain
 * super-block: then the same code serves both. Absent sub-blocks have scale 0. */
#ifndef PARE_SRC_KERNELS_DOT_TAIL_H
#define PARE_SRC_KERNELS_DOT_TAIL_H

#include "kernels/blocks.h"

static inline void pare_complete_q4_k(pare_q4_k *b, const void *tail, size_t pieces) {
    *b = (pare_q4_k){0};
    memcpy(b, tail, sizeof(pare_k_head) + pieces * sizeof(pare_q4_k_piece));
}

static inline void pare_complete_q5_k(pare_q5_k *b, const void *tail, size_t pieces) {
    const pare_q5_k_piece *piece =
        (const pare_q5_k_piece *)((const uint8_t *)tail + sizeof(pare_k_head));
    *b = (pare_q5_k){0};
    memcpy(b, tail, sizeof(pare_k_head));
    for (size_t k = 0; k < pieces; k++) {
        memcpy(b->qs + 32 * k, piece[k].qs, 32);
        uint32_t even = piece[k].qh[0], odd = piece[k].qh[1];
        for (int i = 0; i < 32; i++)
            b->qh[i] =
                (uint8_t)(b->qh[i] | (even >> i & 1) << 2 * k | (odd >> i & 1) << (2 * k + 1));
    }
}

static inline void pare_complete_q6_k(pare_q6_k *b, const void *tail, size_t pieces) {
    const pare_q6_k_piece *piece = (const pare_q6_k_piece *)((const uint8_t *)tail + 2);
    *b = (pare_q6_k){0};
    memcpy(&b->d, tail, 2);
    for (size_t k = 0; k < pieces; k++) {
        uint8_t *ql = b->ql + 64 * (k / 2), *qh = b->qh + 32 * (k / 2);
        unsigned odd = k & 1; /* the upper nibbles and bits */
        memcpy(b->scales + 4 * k, piece[k].scales, 4);
        for (int i = 0; i < 32; i++) {
            unsigned two = (unsigned)piece[k].qh[i % 16] >> 2 * (i / 16);
            ql[i] = (uint8_t)(ql[i] | (piece[k].ql[i] & 15) << 4 * odd);
            ql[i + 32] = (uint8_t)(ql[i + 32] | piece[k].ql[i] >> 4 << 4 * odd);
            qh[i] = (uint8_t)(qh[i] | ((two & 3) | (two >> 4 & 3) << 2) << 4 * odd);
        }
    }
}

#endif
