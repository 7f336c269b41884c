#include "kernels/vec_avx2.h"

#include "kernels/act_grid_impl.h"

#include <string.h>

/* Eight codes; *odd collects where they are NaN. */
static inline __m256i eight(const float *x, const pare_act_grid *g, __m256i move, vmask *odd) {
    vf c = code(vf_load(x), g);
    *odd = vm_or(*odd, vf_unordered(c, c));
    return _mm256_add_epi32(_mm256_cvtps_epi32(c), move);
}

bool pare_act_codes_avx2(int8_t *q, const float *x, const pare_act_grid *g, int move, size_t n) {
    const __m256i by = _mm256_set1_epi32(move), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    vmask odd = vf_zero();
    for (size_t i = 0; i < n; i += 32) {
        float rest[32] = {0};
        const float *from = x + i;
        size_t k = n - i < 32 ? n - i : 32;
        if (k < 32) from = memcpy(rest, x + i, k * sizeof *x);
        __m256i low = _mm256_packs_epi32(eight(from, g, by, &odd), eight(from + 8, g, by, &odd));
        __m256i high =
            _mm256_packs_epi32(eight(from + 16, g, by, &odd), eight(from + 24, g, by, &odd));
        __m256i all = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        if (k == 32) {
            _mm256_storeu_si256((__m256i *)(q + i), all);
        } else {
            int8_t bytes[32];
            _mm256_storeu_si256((__m256i *)bytes, all);
            memcpy(q + i, bytes, k);
        }
    }
    return vm_bits(odd) == 0;
}

void pare_act_sums_avx2(float *sum16, float *sum32, const int8_t *q, float d, size_t n) {
    const __m256i middle = _mm256_set1_epi8((char)0x80), none = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 32) {
        /* q + 128 in u8: sums of 8 by sad, each half of the register holds one of 16 */
        __m256i v = _mm256_loadu_si256((const __m256i *)(q + i)),
                s = _mm256_sad_epu8(_mm256_xor_si256(v, middle), none);
        s = _mm256_add_epi64(s, _mm256_shuffle_epi32(s, 0x4e));
        const int first = _mm256_extract_epi32(s, 0) - 16 * 128,
                  second = _mm256_extract_epi32(s, 4) - 16 * 128;
        sum16[i / 16] = d * (float)first;
        sum16[i / 16 + 1] = d * (float)second;
        sum32[i / 32] = d * (float)(first + second);
    }
}

const pare_act_grid_kernels pare_act_grid_avx2 = {range, apply, error, pare_act_codes_avx2,
                                                  pare_act_sums_avx2};
