/* The functions that kv_codec.c puts into its table. */
#ifndef PARE_SRC_KERNELS_KV_CODEC_LEVELS_H
#define PARE_SRC_KERNELS_KV_CODEC_LEVELS_H

#include "kernels/kv_codec.h"

#define PARE_KV_DECLARE(name, level)                                                               \
    void pare_kv_store_##name##_##level(void *row, const float *x, size_t head_dim);               \
    void pare_kv_load_##name##_##level(float *y, size_t ldy, const void *rows, size_t row_stride,  \
                                       size_t n, size_t head_dim);

PARE_KV_DECLARE(f32, ref)
PARE_KV_DECLARE(f16, ref)
PARE_KV_DECLARE(bf16, ref)
PARE_KV_DECLARE(q8_0, ref)
PARE_KV_DECLARE(f16, avx2)
PARE_KV_DECLARE(bf16, avx2)
PARE_KV_DECLARE(q8_0, avx2)

#endif
