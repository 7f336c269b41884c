/* Attention over cached keys and values: blocked, with the online softmax, so nothing of size
 * tokens x tokens exists.
 *
 *   score_ij = scale * (q_i . k_j)
 *   score_ij = cap * tanh(score_ij / cap), then the mask, then the softmax over j
 *   out_i    = sum_j p_ij v_j
 *
 * Query i stands at position pos0 + i. It sees keys j <= pos0 + i; in a window of w, only those
 * with j > pos0 + i - w. Query head h reads key/value head h / (n_heads / n_kv_heads). A masked key
 * has no influence, whatever it holds; a masked value must be finite where another query of the
 * call sees it, because its weight is an exact 0.
 *
 * A call computes several sequences, each with keys and values of its own: spans of rows. A row's
 * result depends on its own sequence only. Keys are taken in blocks of PARE_ATTN_KEYS positions
 * aligned to multiples of it.
 *
 * A prefix stands in front of a sequence: m keys and values of its own, at positions 0 .. m - 1, to
 * which the sequence's position 0 is position m; windows count them so. Its blocks come before the
 * sequence's, in f32 products whatever the cache's codec. Many sequences may share one. Two paths
 * for a span:
 *
 * Many tokens (n > PARE_ATTN_FEW): tasks are (kv head, tile of queries x heads of its group). A
 * block of K and V is decoded and packed once and multiplied with all rows of the tile. A row's
 * result depends on nothing but its own keys, so any split into tiles or into such calls gives the
 * same bits.
 *
 * Many tokens in bf16 (`fast`, levels with such products, heads of a multiple of 32): queries,
 * keys, weights of the softmax and values are rounded to bf16 and multiplied by the tile kernels of
 * linear layers; sums, softmax and the sum of weights stay in f32.
 *
 * Few tokens: bound by reading the cache. Tasks are (kv head, range of positions), partial results
 * are merged in order; the ranges' length depends on pos0 + n and the window only. With several
 * such spans a task takes all ranges of its kv head. Where the codec can, the cache's rows are used
 * in place, else through a decoded tile: the same bits.
 *
 * Few tokens in integers (`fast`, codecs of codes with scales, many heads to a kv head): a block's
 * codes are laid out once as 16-bit integers for all rows. A query is rounded to 16 bits with one
 * scale, the weights of a block of keys, times the scales of its values, likewise for each 32 of
 * the head. Products are then exact, the sums of 32 codes of a key or 64 weights of a value too. So
 * a row's bits do not depend on the rows beside it either, but they are not those of f32. A
 * product of 16 bits costs AVX2 what one of 8 bits does, whose sums must be widened each time. */
#ifndef PARE_SRC_KERNELS_ATTENTION_H
#define PARE_SRC_KERNELS_ATTENTION_H

#include "base/team.h"
#include "kernels/kv_codec.h"

enum {
    PARE_ATTN_KEYS = 64, /* positions in a block */
    PARE_ATTN_FEW = 8,   /* most tokens of the few-rows path */
    PARE_ATTN_NR = 16    /* columns of a packed panel */
};

/* One layer's keys and values as the kernels see them. A cache's layer lies in blocks of
 * PARE_ATTN_KEYS positions, which may be anywhere; plain activations (codec f32) in one piece. */
typedef struct pare_kv_layer {
    const pare_kv_codec *codec;
    uint8_t *const *blocks; /* [position / PARE_ATTN_KEYS], NULL where nothing is held; or NULL: */
    uint8_t *k, *v;         /* the one piece */
    size_t k_at, v_at;      /* where a block's keys and values begin */
    size_t n_kv_heads, head_dim;
    size_t head_stride, row_stride; /* bytes */
} pare_kv_layer;

/* The key row of head g at position pos, or the value row. The rows of a block follow each other
 * row_stride apart. */
static inline uint8_t *pare_kv_row(const pare_kv_layer *kv, bool value, size_t g, size_t pos) {
    if (!kv->blocks) return (value ? kv->v : kv->k) + g * kv->head_stride + pos * kv->row_stride;
    return kv->blocks[pos / PARE_ATTN_KEYS] + (value ? kv->v_at : kv->k_at) + g * kv->head_stride +
           pos % PARE_ATTN_KEYS * kv->row_stride;
}

/* Keys and values in front of sequences. */
typedef struct pare_attn_prefix {
    const pare_kv_layer *layers; /* [n_layers], each in one piece */
    size_t n;                    /* positions */
} pare_attn_prefix;

/* The tokens of one sequence in a call: n rows, which follow those of the span before, at positions
 * pos0 and on of the sequence, which the prefix is not counted in. */
typedef struct pare_attn_span {
    const pare_kv_layer *layers; /* of its cache */
    size_t n, pos0;
    const pare_attn_prefix *prefix; /* NULL = none; of the layers' shape */
} pare_attn_span;

/* Positions in front of a span's sequence. */
static inline size_t pare_attn_span_front(const pare_attn_span *span) {
    return span->prefix ? span->prefix->n : 0;
}

/* The span of row *row of all; *row becomes its number in the span. */
static inline const pare_attn_span *pare_attn_span_of(const pare_attn_span *spans, size_t *row) {
    while (*row >= spans->n) *row -= (spans++)->n;
    return spans;
}

typedef struct pare_attn {
    size_t n_heads; /* a multiple of n_kv_heads */
    size_t window;  /* 0 = all earlier positions */
    float scale;
    float softcap; /* 0 = none */
    bool many;     /* the path of many tokens for spans of any length */
    bool integers; /* few tokens: products of integers where the codec has codes and it pays */
    bool bf16;     /* many tokens: products of bf16 where the level has them */
} pare_attn;

/* A right-hand side in panels of 16 columns: row t, column j of panel p is b[p * panel + t * row +
 * j]. Packed (row 16) or a row-major matrix in place (panel 16). */
typedef struct pare_attn_panels {
    const float *b;
    size_t n, row, panel;
} pare_attn_panels;

typedef struct pare_attn_kernels {
    /* c[m][ldc] (+)= a[m][lda] * b for b->n * 16 columns and k rows of b. Each element is one chain
     * of k fused additions in order of t (reference: in f64), whatever the others are. */
    void (*gemm)(float *c, size_t ldc, const float *a, size_t lda, size_t m,
                 const pare_attn_panels *b, size_t k, bool accumulate);
    /* Packs rows[PARE_ATTN_KEYS][ld]: keys to [KEYS / 16][head_dim][16]; values, padded to whole
     * panels, to [n_panels][KEYS][16]. */
    void (*pack_k)(float *dst, const float *rows, size_t ld, size_t head_dim);
    void (*pack_v)(float *dst, const float *rows, size_t ld, size_t n_panels);
    /* s[m][lds] = q[m][ldq] . k[n_keys][ldk]; n_keys a multiple of 8 */
    void (*dots)(float *s, size_t lds, const float *q, size_t ldq, size_t m, const float *k,
                 size_t ldk, size_t n_keys, size_t head_dim);
    /* A block of one row in the online softmax: s[KEYS] scores become exp(s - max) for keys in
     * [lo, hi) and 0 for others; *max and *sum go on. Returns the factor for what was accumulated
     * before. softcap 0 = none. */
    float (*softmax_step)(float *s, size_t lo, size_t hi, float softcap, float *max, float *sum);
    /* x[n] *= s */
    void (*scale)(float *x, float s, size_t n);

    /* The two below give the same bits at every level. Integers of a row lie in fours whose order
     * is 0 2 1 3, two of them a pair. */

    /* q[i] = x[i] * factor[i] / d to nearest even, d = max / 32767; returns d. factor NULL: ones. n
     * is a multiple of 16. As for activations, a largest value below 2^-100 is zero, and one that
     * is no finite number gives d = NaN, q = 0. */
    float (*quantize)(int16_t *q, const float *x, const float *factor, size_t n);
    /* y[m][ldy] += (the sum over t < 2 * n_pairs of q[i][t] * codes[t][j]) * (row[i] * column[j])
     * for 16 columns j: an exact sum, which fits 32 bits, then one fused addition. codes [n_pairs]
     * [16][2]. */
    void (*integer_dots)(float *y, size_t ldy, const int16_t *q, size_t ldq, size_t m,
                         const int16_t *codes, size_t n_pairs, const float *row,
                         const float *column);
} pare_attn_kernels;

extern const pare_attn_kernels pare_attn_ref, pare_attn_avx2, pare_attn_avx512;

/* Bytes of scratch for calls of up to n tokens, shared by n_threads threads; 0 on overflow. */
size_t pare_attention_scratch_bytes(size_t head_dim, size_t n_kv_heads, const pare_attn *a,
                                    size_t n, int n_threads);

/* Up to so many tokens (1 to PARE_ATTN_FEW) from position pos on get in one span the bits that each
 * gets in one of its own. Fewer than PARE_ATTN_FEW only just before the ranges get longer. */
size_t pare_attention_alike(size_t pos, size_t window);

/* out[..][ldo] = attention of q[..][ldq] (heads side by side), whose keys and values are already in
 * layer `layer` of each span. Every thread calls with the same arguments; ends with a barrier.
 * scratch: 64-byte aligned, shared. */
void pare_attention(pare_worker *w, pare_isa isa, void *scratch, float *out, size_t ldo,
                    const float *q, size_t ldq, const pare_attn_span *spans, size_t n_spans,
                    size_t layer, const pare_attn *a);

#endif
