/* Shared by the files of the dot family: the functions behind the tables of dot.c. */
#ifndef PARE_SRC_KERNELS_DOT_IMPL_H
#define PARE_SRC_KERNELS_DOT_IMPL_H

#include <stdbool.h>

#include "kernels/blocks.h"
#include "kernels/dot.h"

static inline const void *pare_row(const pare_view *w, size_t row) {
    return (const uint8_t *)w->part[0] + row * w->row_bytes;
}

/* Groups of activations below this are zero: 127 / max and q * d stay far from denormal numbers. */
#define PARE_ACT_TINY 0x1p-100f

/* pare_dot_q4_0_ref(y, ldy, w, row_begin, row_end, x) and so on, for every id and level. */
#define X(name)                                                                                    \
    void pare_dot_##name##_ref(float *, size_t, const pare_view *, size_t, size_t,                 \
                               const pare_act *);                                                  \
    void pare_dot_##name##_avx2(float *, size_t, const pare_view *, size_t, size_t,                \
                                const pare_act *);                                                 \
    void pare_dot_##name##_avx512(float *, size_t, const pare_view *, size_t, size_t,              \
                                  const pare_act *);
PARE_DOT_LIST(X)
#undef X
#define X(name)                                                                                    \
    void pare_dotf_##name##_ref(float *, size_t, const pare_view *, size_t, size_t, const float *, \
                                size_t, size_t);                                                   \
    void pare_dotf_##name##_avx2(float *, size_t, const pare_view *, size_t, size_t,               \
                                 const float *, size_t, size_t);                                   \
    void pare_dotf_##name##_avx512(float *, size_t, const pare_view *, size_t, size_t,             \
                                   const float *, size_t, size_t);
PARE_DOT_F32_LIST(X)
#undef X

void pare_act_quantize_ref(pare_act *a, const float *x, size_t ldx, size_t n, size_t cols);
void pare_act_quantize_avx2(pare_act *a, const float *x, size_t ldx, size_t n, size_t cols);

/* Group g of a's first row, of which n <= 32 inputs exist. */
void pare_act_quantize_group_ref(pare_act *a, const float *x, size_t g, size_t n);
/* Zeros behind a's first row, up to a multiple of 256 values. */
void pare_act_zero_rest(pare_act *a);

#endif
