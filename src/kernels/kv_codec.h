/* How keys and values are stored in a KV cache. The attention kernels read rows in place, a tile of
 * positions at a time, as f32.
 *
 *   f32, bf16   rounded to nearest even
 *   f16         the same; finite values beyond +-65504 become +-65504, so that one outlier does not
 *               turn every later token into NaN
 *   q8_0        blocks of 32 along the head: f16 d = max|x| / 127, then 32 int8 (34 bytes)
 *   q4_0        blocks of 32: f16 d = (the value of largest magnitude) / -8, then 32 codes of
 *               4 bits, value = d * (code - 8), the first 16 in the low halves (18 bytes) */
#ifndef PARE_SRC_KERNELS_KV_CODEC_H
#define PARE_SRC_KERNELS_KV_CODEC_H

#include "pare/base.h"

typedef struct pare_kv_functions {
    /* Stores one head's row x[head_dim] at `row` (row_bytes). */
    void (*store)(void *row, const float *x, size_t head_dim);
    /* y[n][ldy] = n rows that lie row_stride bytes apart */
    void (*load)(float *y, size_t ldy, const void *rows, size_t row_stride, size_t n,
                 size_t head_dim);
    /* The attention of few rows without the way through a tile; NULL where a level has none.
     * head_dim is a multiple of PARE_KV_CHUNK. s[m][lds] = q[m][ldq] . row j, j < n; o[m][ldo] +=
     * sum_j p[m][ldp] * row j. ahead: n rows that are needed next, only fetched into the cache; any
     * address. */
    void (*dots)(float *s, size_t lds, const float *q, size_t ldq, size_t m, const void *rows,
                 const void *ahead, size_t row_stride, size_t n, size_t head_dim);
    void (*weighted)(float *o, size_t ldo, const float *p, size_t ldp, size_t m, const void *rows,
                     const void *ahead, size_t row_stride, size_t n, size_t head_dim);
    /* Codes laid out as pare_attn_kernels.integer_dots takes them, and their scales, which are 0
     * from n up to a multiple of 16; codes are some there. NULL where values are no codes with
     * scales; every level gives the same bits.
     *   key_codes    n <= 16 rows, the columns: codes [head_dim / 2][16][2],
     *                scales [head_dim / PARE_KV_CHUNK][16]
     *   value_codes  the first PARE_KV_CHUNK values of n <= PARE_KV_ROWS rows, which are summed
     * over: codes [PARE_KV_CHUNK / 16][PARE_KV_ROWS / 2][16][2], scales [PARE_KV_ROWS] */
    void (*key_codes)(int16_t *codes, float *scales, const void *rows, size_t row_stride, size_t n,
                      size_t head_dim);
    void (*value_codes)(int16_t *codes, float *scales, const void *rows, size_t row_stride,
                        size_t n);
} pare_kv_functions;

enum { PARE_KV_CHUNK = 32, PARE_KV_ROWS = 64 };

typedef struct pare_kv_codec {
    const char *name, *summary;
    size_t block_len;     /* head_dim must be a multiple of it */
    size_t block_bytes;   /* bytes of so many values */
    size_t integer_heads; /* fewest heads to a kv head for which products of integers pay */
    pare_kv_functions level[PARE_ISA_COUNT]; /* a level without its own has NULLs: the next lower */
} pare_kv_codec;

/* The codec of that name ("f32", "f16", "bf16", "q8_0", "q4_0"), or NULL. */
const pare_kv_codec *pare_kv_codec_find(const char *name);
/* All codecs: i from 0; NULL past the last. */
const pare_kv_codec *pare_kv_codec_at(size_t i);

/* Bytes of one row; 0 when head_dim does not fit the codec's blocks. */
size_t pare_kv_row_bytes(const pare_kv_codec *codec, size_t head_dim);

/* The functions for a level. */
const pare_kv_functions *pare_kv_codec_functions(const pare_kv_codec *codec, pare_isa isa);

#endif
