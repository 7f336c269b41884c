/* AVX2 kernels that the levels above use too: they only move data, or are bound by reading it. */
#ifndef PARE_SRC_KERNELS_ATTENTION_AVX2_H
#define PARE_SRC_KERNELS_ATTENTION_AVX2_H

#include <stddef.h>

void pare_attn_pack_k_avx2(float *dst, const float *rows, size_t ld, size_t head_dim);
void pare_attn_pack_v_avx2(float *dst, const float *rows, size_t ld, size_t n_panels);
void pare_attn_dots_avx2(float *s, size_t lds, const float *q, size_t ldq, size_t m, const float *k,
                         size_t ldk, size_t n_keys, size_t head_dim);

#endif
