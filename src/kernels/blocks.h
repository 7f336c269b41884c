/* Bytes of the stored weight formats, as the encodings write them and the kernels read them: ggml's
 * blocks, the short last super-block of the `_tail` forms, and the parts of the sparse forms.
 *
 * Everything is little-endian. The structs are packed: a block may stand at any address, so
 * vectors are loaded from its arrays with unaligned loads. d, m, dmin are IEEE half floats as bits.
 * Drawings give byte offsets; "n(j)" is the 4-bit code of value j of 32: qs[j] & 15 for j < 16,
 * qs[j - 16] >> 4 otherwise (so the low nibbles are the first half). All products of the decoding
 * formulas are exact in f32: at most one rounding happens, in the last addition. */
#ifndef PARE_SRC_KERNELS_BLOCKS_H
#define PARE_SRC_KERNELS_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define PARE_PACKED __attribute__((packed))
#define PARE_BLOCK_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)

/* ---- blocks of 32 values ---- */

/* 0 d | 2 qs[16]                                  (n - 8) * d */
typedef struct PARE_PACKED pare_q4_0 {
    uint16_t d;
    uint8_t qs[16];
} pare_q4_0;
PARE_BLOCK_SIZE(pare_q4_0, 18);

/* 0 d | 2 m | 4 qs[16]                            n * d + m */
typedef struct PARE_PACKED pare_q4_1 {
    uint16_t d, m;
    uint8_t qs[16];
} pare_q4_1;
PARE_BLOCK_SIZE(pare_q4_1, 20);

/* 0 d | 2 qh, bit j = fifth bit of value j | 6 qs[16]     (n + 16 * bit_j(qh) - 16) * d */
typedef struct PARE_PACKED pare_q5_0 {
    uint16_t d;
    uint32_t qh;
    uint8_t qs[16];
} pare_q5_0;
PARE_BLOCK_SIZE(pare_q5_0, 22);

/* 0 d | 2 m | 4 qh | 8 qs[16]                     (n + 16 * bit_j(qh)) * d + m */
typedef struct PARE_PACKED pare_q5_1 {
    uint16_t d, m;
    uint32_t qh;
    uint8_t qs[16];
} pare_q5_1;
PARE_BLOCK_SIZE(pare_q5_1, 24);

/* 0 d | 2 q[32]                                   q * d */
typedef struct PARE_PACKED pare_q8_0 {
    uint16_t d;
    int8_t q[32];
} pare_q8_0;
PARE_BLOCK_SIZE(pare_q8_0, 34);

/* 0 d | 2 qs[16]                                  d * pare_iq4_values[n] */
typedef struct PARE_PACKED pare_iq4_nl {
    uint16_t d;
    uint8_t qs[16];
} pare_iq4_nl;
PARE_BLOCK_SIZE(pare_iq4_nl, 18);

/* 0 e | 1 qs[16]                                  2^(e - 128) * pare_e2m1_values[n] */
typedef struct PARE_PACKED pare_mxfp4 {
    uint8_t e;
    uint8_t qs[16];
} pare_mxfp4;
PARE_BLOCK_SIZE(pare_mxfp4, 17);

/* The 16 levels of IQ4_NL and IQ4_XS. */
static const int8_t pare_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                           1,    13,   25,  38,  53,  69,  89,  113};

/* The 16 values of E2M1, doubled. */
static const int8_t pare_e2m1_values[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                            0, -1, -2, -3, -4, -6, -8, -12};

/* ---- other small blocks ---- */

/* 128 values. 0 d | 2 bits[16], LSB first         bit ? d : -d */
typedef struct PARE_PACKED pare_q1_0 {
    uint16_t d;
    uint8_t bits[16];
} pare_q1_0;
PARE_BLOCK_SIZE(pare_q1_0, 18);

/* 64 values. 0 d | 2 qs[16], value j at bits 2(j % 4) of qs[j / 4]        (q - 1) * d */
typedef struct PARE_PACKED pare_q2_0 {
    uint16_t d;
    uint8_t qs[16];
} pare_q2_0;
PARE_BLOCK_SIZE(pare_q2_0, 18);

/* 64 values. 0 d[4], unsigned E4M3 | 4 qs[32]: values t and t + 8 of sub-block s of 16 are the low
 * and the high nibble of qs[8s + t]                e4m3(d[s]) / 2 * pare_e2m1_values[n] */
typedef struct PARE_PACKED pare_nvfp4 {
    uint8_t d[4];
    uint8_t qs[32];
} pare_nvfp4;
PARE_BLOCK_SIZE(pare_nvfp4, 36);

/* ---- super-blocks of 256 values ----
 * i = 0..255, n = i / 128, r = i % 128, g = r / 32, l = r % 32, j16 = i / 16, j32 = i / 32 */

/* 0 scales[16] | 16 qs[64] | 80 d | 82 dmin
 * q = (qs[32n + l] >> 2g) & 3;  d * (scales[j16] & 15) * q - dmin * (scales[j16] >> 4) */
typedef struct PARE_PACKED pare_q2_k {
    uint8_t scales[16], qs[64];
    uint16_t d, dmin;
} pare_q2_k;
PARE_BLOCK_SIZE(pare_q2_k, 84);

/* 0 hmask[32] | 32 qs[64] | 96 scales[12] | 108 d
 * q = ((qs[32n + l] >> 2g) & 3) - (bit j32 of hmask[i % 32] ? 0 : 4);  d * S(j16) * q, S from
 * pare_unpack_scales_q3_k */
typedef struct PARE_PACKED pare_q3_k {
    uint8_t hmask[32], qs[64], scales[12];
    uint16_t d;
} pare_q3_k;
PARE_BLOCK_SIZE(pare_q3_k, 110);

/* 0 d | 2 dmin | 4 scales[12] | 16 qs[128]
 * q = nibble (j32 & 1) of qs[32 * (j32 / 2) + i % 32], 0 = low;  d * sc[j32] * q - dmin * mn[j32],
 * (sc, mn) from pare_unpack_scales_k4 */
typedef struct PARE_PACKED pare_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12], qs[128];
} pare_q4_k;
PARE_BLOCK_SIZE(pare_q4_k, 144);

/* 0 d | 2 dmin | 4 scales[12] | 16 qh[32] | 48 qs[128]
 * q as Q4_K + 16 * bit j32 of qh[i % 32] */
typedef struct PARE_PACKED pare_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12], qh[32], qs[128];
} pare_q5_k;
PARE_BLOCK_SIZE(pare_q5_k, 176);

/* 0 ql[128] | 128 qh[64] | 192 scales[16] | 208 d
 * q = nibble (g >> 1) of ql[64n + 32(g & 1) + l] + 16 * ((qh[32n + l] >> 2g) & 3) - 32
 * d * scales[j16] * q */
typedef struct PARE_PACKED pare_q6_k {
    uint8_t ql[128], qh[64];
    int8_t scales[16];
    uint16_t d;
} pare_q6_k;
PARE_BLOCK_SIZE(pare_q6_k, 210);

/* 0 d | 2 scales_h | 4 scales_l[4] | 8 qs[128]
 * ls = nibble (j32 & 1) of scales_l[j32 / 2] + 16 * ((scales_h >> 2 * j32) & 3), t = i % 32
 * d * (ls - 32) * pare_iq4_values[nibble (t / 16) of qs[16 * j32 + t % 16]] */
typedef struct PARE_PACKED pare_iq4_xs {
    uint16_t d, scales_h;
    uint8_t scales_l[4], qs[128];
} pare_iq4_xs;
PARE_BLOCK_SIZE(pare_iq4_xs, 136);

/* 0 qs[48] | 48 qh[4] | 52 d. Five trits a byte: trit k of a byte b is (((b * 3^k) & 255) * 3)
 * >> 8. Value order: k = 0..4 over bytes 0..31, k = 0..4 over bytes 32..47, k = 0..3 over qh (k
 * outermost each time)                                      (trit - 1) * d */
typedef struct PARE_PACKED pare_tq1_0 {
    uint8_t qs[48], qh[4];
    uint16_t d;
} pare_tq1_0;
PARE_BLOCK_SIZE(pare_tq1_0, 54);

/* 0 qs[64] | 64 d                                 (((qs[32n + l] >> 2g) & 3) - 1) * d */
typedef struct PARE_PACKED pare_tq2_0 {
    uint8_t qs[64];
    uint16_t d;
} pare_tq2_0;
PARE_BLOCK_SIZE(pare_tq2_0, 66);

/* ---- the short last super-block of q4_k_tail, q5_k_tail, q6_k_tail ----
 * A row of `cols` = 256 * a + 64 * p values, p in 0..3, is `a` plain K super-blocks and then, if
 * p > 0, one header and p pieces of 64 values with the same formulas; sub-blocks keep their
 * numbers (piece k holds j32 = 2k and 2k + 1, j16 = 4k .. 4k + 3). With p = 0 the row is plain
 * Q4_K, Q5_K or Q6_K. A q4_k tail is the first 16 + 32p bytes of a Q4_K block. */

/* header of q4_k_tail and q5_k_tail */
typedef struct PARE_PACKED pare_k_head {
    uint16_t d, dmin;
    uint8_t scales[12]; /* entries of absent sub-blocks are 0 */
} pare_k_head;
PARE_BLOCK_SIZE(pare_k_head, 16);

/* q = nibble (j32 & 1) of qs[i % 32] */
typedef struct PARE_PACKED pare_q4_k_piece {
    uint8_t qs[32];
} pare_q4_k_piece;
PARE_BLOCK_SIZE(pare_q4_k_piece, 32);

/* q = nibble (j32 & 1) of qs[i % 32] + 16 * bit (i % 32) of qh[j32 & 1] */
typedef struct PARE_PACKED pare_q5_k_piece {
    uint32_t qh[2];
    uint8_t qs[32];
} pare_q5_k_piece;
PARE_BLOCK_SIZE(pare_q5_k_piece, 40);

/* The q6_k tail begins with u16 d; then pieces:
 * q = nibble (j32 & 1) of ql[i % 32] + 16 * ((qh[i % 16] >> 2 * (j16 & 3)) & 3) - 32
 * d * scales[j16 & 3] * q */
typedef struct PARE_PACKED pare_q6_k_piece {
    int8_t scales[4];
    uint8_t ql[32], qh[16];
} pare_q6_k_piece;
PARE_BLOCK_SIZE(pare_q6_k_piece, 52);

/* ---- sparse forms: parts of a matrix w[rows][cols], in view.part[] ----
 *
 * bitmap_bf16, bitmap_q8, bitmap_q4: any pattern of zeros, any cols
 *
 *   part 0  u64 [rows][ceil(cols / 64)]   bit c % 64 of word c / 64 = value c is stored; bits past
 *                                         cols are 0; view.row_bytes = 8 * ceil(cols / 64)
 *   part 1  u64 [rows + 1]                number of each row's first value in part 2; [0] = 0,
 *                                         [r + 1] - [r] = number of bits set in row r, q4: rounded
 *                                         up to an even number
 *   part 2  bf16, int8 or nibbles         the stored values in row order; nibble k: bits 4 * (k %
 * 2) of byte k / 2 part 3  bf16                          q8, q4: scales
 *
 * nm24_*, nm48_*: at most 2 of 4 (4 of 8) neighbours are not zero; cols is a multiple of 8
 *
 *   part 0  u8 [rows][cols / 8]           bit c % 8 of byte c / 8 = value c is stored; exactly 2 of
 *                                         each 4 bits (4 of each 8); view.row_bytes = cols / 8
 *   part 1  bf16 or int8 [rows][cols / 2] byte b's four values are 4b .. 4b + 3, in column order
 *           u8 [rows][8 * ceil(cols / 32)]  q4: 8 bytes for the 16 values of 32 columns: value
 *                                         k < 8 in the low nibble of byte k, k >= 8 in the high
 *                                         nibble of byte k - 8
 *   part 2  bf16                          q8, q4: scales
 *
 * So both patterns have a byte of mask and four values for eight columns. Values:
 *
 *   q8  scale of its 32 columns * code                          scales [rows][ceil(cols / 32)]
 *   q4  scale of its 64 columns * pare_sparse_levels[nibble]    scales [rows][ceil(cols / 64)]
 *
 * The levels have a gap round zero, where a pruned matrix has no values: of 16 even steps three
 * would go unused. */
static const int8_t pare_sparse_levels[16] = {0,  2,  3,  4,  5,  6,  7,  9,
                                              -2, -3, -4, -5, -6, -7, -9, -11};

/* ---- half and brain floats ---- */

static inline float pare_f32_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline uint32_t pare_f32_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

/* Exact; a NaN keeps its payload and becomes quiet (as the F16C instruction does). */
static inline float pare_f16_to_f32(uint16_t h) {
#if defined(__F16C__)
    return _cvtsh_ss(h);
#else
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7FFF);
    if (rest >= 0x7C00) {
        return pare_f32_from_bits(sign | 0x7F800000 | (rest & 0x3FF) << 13 |
                                  (rest > 0x7C00 ? 0x400000 : 0));
    }
    if (rest >= 0x400) return pare_f32_from_bits(sign | ((rest << 13) + 0x38000000));
    float f = (float)rest * 0x1p-24f; /* subnormal or zero */
    return pare_f32_from_bits(sign | pare_f32_bits(f));
#endif
}

/* Round to nearest, ties to even; overflow gives infinity, subnormals are kept. */
static inline uint16_t pare_f32_to_f16(float f) {
#if defined(__F16C__)
    return _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
#else
    uint32_t bits = pare_f32_bits(f), sign = (bits >> 16) & 0x8000;
    bits &= 0x7FFFFFFF;
    if (bits > 0x7F800000) return (uint16_t)(sign | 0x7E00 | (bits >> 13 & 0x3FF));
    if (bits >= 0x477FF000) return (uint16_t)(sign | 0x7C00); /* 65520 and above */
    if (bits < 0x38800000) { /* below 2^-14: the addition rounds to a multiple of 2^-24 */
        float shifted = pare_f32_from_bits(bits) + 0.5f;
        return (uint16_t)(sign | (pare_f32_bits(shifted) - 0x3F000000));
    }
    bits += 0xFFF + (bits >> 13 & 1);
    return (uint16_t)(sign | ((bits - 0x38000000) >> 13));
#endif
}

static inline float pare_bf16_to_f32(uint16_t b) { return pare_f32_from_bits((uint32_t)b << 16); }

/* Round to nearest, ties to even; NaN stays NaN (quiet), subnormals are kept. */
static inline uint16_t pare_f32_to_bf16(float f) {
    uint32_t bits = pare_f32_bits(f);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* 2^(e - 128), exact down to e = 0. */
static inline float pare_e8m0_half(uint8_t e) {
    return pare_f32_from_bits(e < 2 ? (uint32_t)0x00200000 << e : (uint32_t)(e - 1) << 23);
}

/* Half of an unsigned E4M3 number; codes 0 and 0x7F mean 0, the top bit is not looked at. */
static inline float pare_e4m3_half(uint8_t x) {
    uint32_t e = x >> 3 & 15, m = x & 7;
    if (x == 0 || x == 0x7F) return 0.0f;
    if (e == 0) return (float)m * 0x1p-10f;
    return pare_f32_from_bits((e + 119) << 23 | m << 20);
}

/* ---- packed 6-bit scales ---- */

/* The 6-bit pairs (sc, mn) of the 8 sub-blocks of Q4_K and Q5_K: for j < 4 sc = s[j] & 63 and
 * mn = s[j + 4] & 63, else the nibbles of s[j + 4] with the top bits of s[j - 4] and s[j] above
 * them. Four words of bytes: out[0..7] = sc, out[8..15] = mn. */
static inline void pare_unpack_scales_k4(uint8_t out[16], const uint8_t s[12]) {
    uint32_t a, b, c, words[4];
    memcpy(&a, s, 4);
    memcpy(&b, s + 4, 4);
    memcpy(&c, s + 8, 4);
    words[0] = a & 0x3F3F3F3F;
    words[1] = (c & 0x0F0F0F0F) | (a >> 2 & 0x30303030);
    words[2] = b & 0x3F3F3F3F;
    words[3] = (c >> 4 & 0x0F0F0F0F) | (b >> 2 & 0x30303030);
    memcpy(out, words, 16);
}

/* The 16 signed scales of Q3_K: S(j) = low or high nibble + 16 * two bits - 32. */
static inline void pare_unpack_scales_q3_k(int8_t out[16], const uint8_t s[12]) {
    uint32_t low[2], high, words[4];
    memcpy(low, s, 8);
    memcpy(&high, s + 8, 4);
    for (int i = 0; i < 4; i++) {
        uint32_t code = (low[i % 2] >> 4 * (i / 2) & 0x0F0F0F0F) | (high >> 2 * i & 0x03030303)
                                                                       << 4;
        words[i] = (code + 0x60606060) ^ 0x80808080; /* - 32 in each byte */
    }
    memcpy(out, words, 16);
}

/* The 8 signed scales ls - 32 of IQ4_XS. */
static inline void pare_unpack_scales_iq4_xs(int8_t out[8], const pare_iq4_xs *b) {
    for (int j = 0; j < 8; j++) {
        int low = b->scales_l[j / 2] >> 4 * (j & 1) & 15;
        out[j] = (int8_t)(low + 16 * (b->scales_h >> 2 * j & 3) - 32);
    }
}

#endif
