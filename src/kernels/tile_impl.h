/* Tile kernels that more than one level uses. */
#ifndef PARE_SRC_KERNELS_TILE_IMPL_H
#define PARE_SRC_KERNELS_TILE_IMPL_H

#include "kernels/tile.h"

/* Loops whose arrays must end up in registers. */
#ifdef __clang__
#define TILE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TILE_UNROLL _Pragma("GCC unroll 32")
#endif
#define TILE_INLINE static inline __attribute__((always_inline))

void pare_tile_transpose_avx2(uint32_t *out, const uint32_t *in, size_t ld, size_t k);
void pare_tile_place_avx2(float *y, size_t ldy, const float *c, size_t c_panel, size_t m, size_t n,
                          const float *bias, bool add);
size_t pare_tile_pick_avx2(float *value, uint8_t *place, const float *w, size_t n, size_t first);
void pare_tile_weights_avx2(float *to, const float *from, const float *plus, const float *xt,
                            const float *value, const uint8_t *place, const uint8_t *count,
                            size_t n_lists);
void pare_tile_place_avx512(float *y, size_t ldy, const float *c, size_t c_panel, size_t m,
                            size_t n, const float *bias, bool add);
void pare_tile_weights_avx512(float *to, const float *from, const float *plus, const float *xt,
                              const float *value, const uint8_t *place, const uint8_t *count,
                              size_t n_lists);
void pare_tile_f32_avx512(float *c, const float *a, size_t lda, const float *panel, size_t m,
                          size_t k, bool add);
void pare_tile_f32_inputs_avx512(float *c, const float *a, size_t lda, const float *panel,
                                 const uint16_t *inputs, size_t m, size_t k, bool add);
void pare_tile_f32_rows_avx512(float *c, const float *a, size_t lda, const uint16_t *rows,
                               const float *panel, size_t m, size_t k, bool add);
void pare_tile_gram_avx512(float *c, const float *a, const float *b, size_t k, bool add);
void pare_tile_gram_bf16_avx512(float *c, const uint32_t *a, const uint32_t *b, size_t k, bool add);
void pare_tile_gather_avx2(double *to, size_t ld, const float *c);
void pare_tile_squares_avx2(double *sums, const float *x, size_t ldx, size_t n);
void pare_tile_split_avx512(uint16_t *const *parts, int n_parts, const float *x, size_t n);
void pare_tile_pair_f32_avx512(uint32_t *panel, const float *rows, size_t ld, size_t k);
void pare_tile_pair_bf16_avx512(uint32_t *panel, const uint16_t *rows, size_t ld, size_t k);
void pare_tile_pair_codes_avx512(uint32_t *panel, const uint32_t *codes, const float *scale,
                                 const float *offset, uint32_t group, size_t k);
void pare_tile_u8_avx512(float *c, const pare_tile_act *a, const pare_tile_panel *panel, size_t m,
                         bool add);

#endif
