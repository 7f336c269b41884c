/* pare_packed_unpack with AVX2. */
#include "kernels/vec_avx2.h"

#include "kernels/packed_impl.h"
#include "kernels/unpack.h"

INLINE void unpack(int8_t *codes, float *scale, float *offset, const uint8_t *panel, size_t col,
                   size_t cols, pare_packed p) {
    for (size_t b = col / 32; b < (col + cols) / 32; b++) {
        const uint8_t *head = panel + pare_packed_head_at(p, b);
        const uint8_t *block = panel + pare_packed_block_at(p, b);
        UNROLL for (int j = 0; j < 8; j++) UNROLL for (int h = 0; h < 2; h++, codes += 32) {
            __m256i q = quad(p, block + pare_packed_scale_bytes(p), j, h);
            if (!is_signed(p)) q = _mm256_sub_epi8(q, _mm256_set1_epi8((char)p.zero));
            _mm256_storeu_si256((__m256i *)codes, q);
        }
        UNROLL for (int sub = 0; sub < 32 / p.group; sub++) {
            scales v = group_scales(p, head, block, sub);
            UNROLL for (int h = 0; h < 2; h++, scale += 8) {
                _mm256_storeu_ps(scale, v.scale[h]);
                if (!pare_packed_has_offset(p)) continue;
                _mm256_storeu_ps(offset, v.offset[h]);
                offset += 8;
            }
        }
    }
}

/* 2:4: what a row's four inputs take from its stored codes is found by comparing places. */
INLINE void unpack_24(int8_t *codes, float *scale, const uint8_t *panel, size_t col, size_t cols,
                      pare_packed p) {
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 0,
                                            0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    const __m256i input = _mm256_set1_epi32(0x03020100);
    for (size_t b = col / 32; b < (col + cols) / 32; b++) {
        const uint8_t *block = panel + pare_packed_block_at(p, b);
        const uint8_t *from = block + pare_packed_scale_bytes(p);
        UNROLL for (int j = 0; j < 8; j++) UNROLL for (int h = 0; h < 2; h++, codes += 32) {
            __m256i w = quad(p, from, j / 2, h), all = _mm256_setzero_si256();
            __m256i at = field(from + pare_packed_code_bytes(p), 2, j / 2, h, 0);
            UNROLL for (int k = 0; k < 2; k++) { /* the quad's codes of this group */
                __m256i which = _mm256_add_epi8(spread, _mm256_set1_epi8((char)(j % 2 * 2 + k)));
                __m256i here = _mm256_cmpeq_epi8(_mm256_shuffle_epi8(at, which), input);
                all = _mm256_or_si256(all, _mm256_and_si256(here, _mm256_shuffle_epi8(w, which)));
            }
            _mm256_storeu_si256((__m256i *)codes, all);
        }
        scales v = group_scales(p, NULL, block, 0);
        _mm256_storeu_ps(scale, v.scale[0]);
        _mm256_storeu_ps(scale + 8, v.scale[1]);
        scale += NR;
    }
}

#define X(name, ...)                                                                               \
    void pare_unpack_##name##_avx2(int8_t *codes, float *scale, float *offset, const void *panel,  \
                                   size_t col, size_t cols) {                                      \
        const pare_packed p = {__VA_ARGS__};                                                       \
        if (p.two_four)                                                                            \
            unpack_24(codes, scale, panel, col, cols, p);                                          \
        else                                                                                       \
            unpack(codes, scale, offset, panel, col, cols, p);                                     \
    }
PARE_PACKED_LIST(X)
#undef X
