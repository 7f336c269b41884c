/* pare_packed_unpack with AVX2. */
#include "kernels/packed_avx2.h"
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

#define X(name, kind_, bits_, group_, zero_, table_)                                               \
    void pare_unpack_##name##_avx2(int8_t *codes, float *scale, float *offset, const void *panel,  \
                                   size_t col, size_t cols) {                                      \
        const pare_packed p = {                                                                    \
            .kind = kind_, .bits = bits_, .group = group_, .zero = zero_, .table = table_};        \
        unpack(codes, scale, offset, panel, col, cols, p);                                         \
    }
PARE_PACKED_LIST(X)
#undef X
