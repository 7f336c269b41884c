/* The functions that kv_codec.c puts into its table. */
#ifndef PARE_SRC_KERNELS_KV_CODEC_LEVELS_H
#define PARE_SRC_KERNELS_KV_CODEC_LEVELS_H

#include "kernels/kv_codec.h"

#define PARE_KV_DECLARE(name, level)                                                               \
    void pare_kv_store_##name##_##level(void *row, const float *x, size_t head_dim);               \
    void pare_kv_load_##name##_##level(float *y, size_t ldy, const void *rows, size_t row_stride,  \
                                       size_t n, size_t head_dim);

#define PARE_KV_DECLARE_FEW(name, level)                                                           \
    void pare_kv_dots_##name##_##level(float *s, size_t lds, const float *q, size_t ldq, size_t m, \
                                       const void *rows, const void *ahead, size_t row_stride,     \
                                       size_t n, size_t head_dim);                                 \
    void pare_kv_weighted_##name##_##level(float *o, size_t ldo, const float *p, size_t ldp,       \
                                           size_t m, const void *rows, const void *ahead,          \
                                           size_t row_stride, size_t n, size_t head_dim);

#define PARE_KV_DECLARE_CODES(name, level)                                                         \
    void pare_kv_key_codes_##name##_##level(int16_t *codes, float *scales, const void *rows,       \
                                            size_t row_stride, size_t n, size_t head_dim);         \
    void pare_kv_value_codes_##name##_##level(int16_t *codes, float *scales, const void *rows,     \
                                              size_t row_stride, size_t n);

PARE_KV_DECLARE(f32, ref)
PARE_KV_DECLARE(f16, ref)
PARE_KV_DECLARE(bf16, ref)
PARE_KV_DECLARE(q8_0, ref)
PARE_KV_DECLARE(q4_0, ref)
PARE_KV_DECLARE(f16, avx2)
PARE_KV_DECLARE(bf16, avx2)
PARE_KV_DECLARE(q8_0, avx2)
PARE_KV_DECLARE(q4_0, avx2)

PARE_KV_DECLARE_FEW(f32, avx2)
PARE_KV_DECLARE_FEW(f16, avx2)
PARE_KV_DECLARE_FEW(bf16, avx2)
PARE_KV_DECLARE_FEW(q8_0, avx2)
PARE_KV_DECLARE_FEW(q4_0, avx2)

PARE_KV_DECLARE_CODES(q8_0, ref)
PARE_KV_DECLARE_CODES(q4_0, ref)
PARE_KV_DECLARE_CODES(q8_0, avx2)
PARE_KV_DECLARE_CODES(q4_0, avx2)

#endif
