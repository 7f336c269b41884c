/* Attention kernels that several levels share: those of AVX2 only move data, are bound by reading
 * it, or are rare. */
#ifndef PARE_SRC_KERNELS_ATTENTION_LEVELS_H
#define PARE_SRC_KERNELS_ATTENTION_LEVELS_H

#include "kernels/attention.h"

/* Values whose largest is below this are zero: quotients by it stay far from denormal numbers. */
#define PARE_ATTN_TINY 0x1p-100f
#define PARE_ATTN_INT_MAX 32767.0f

float pare_attn_quantize_ref(int16_t *q, const float *x, const float *factor, size_t n);

void pare_attn_pack_k_avx2(float *dst, const float *rows, size_t ld, size_t head_dim);
void pare_attn_pack_v_avx2(float *dst, const float *rows, size_t ld, size_t n_panels);
void pare_attn_dots_avx2(float *s, size_t lds, const float *q, size_t ldq, size_t m, const float *k,
                         size_t ldk, size_t n_keys, size_t head_dim);
float pare_attn_quantize_avx2(int16_t *q, const float *x, const float *factor, size_t n);

#endif
