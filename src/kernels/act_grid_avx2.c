#include "kernels/vec_avx2.h"

#include "kernels/act_grid_impl.h"
#include "kernels/activation.h"

#include <string.h>

/* Eight codes; *odd collects where they are NaN. A conversion rounds half to even, as vf_round. */
static inline __m256i eight(const float *x, const lanes *g, vmask *odd) {
    vf c = unrounded(vf_load(x), g);
    *odd = vm_or(*odd, vf_unordered(c, c));
    return _mm256_cvtps_epi32(c);
}

/* 32 codes, moved, as bytes in their order. Codes fit into 16 bits before they are moved. */
static inline __m256i codes_of(const float *x, const lanes *g, __m256i move, vmask *odd) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i low = _mm256_packs_epi32(eight(x, g, odd), eight(x + 8, g, odd)),
            high = _mm256_packs_epi32(eight(x + 16, g, odd), eight(x + 24, g, odd));
    low = _mm256_adds_epi16(low, move);
    high = _mm256_adds_epi16(high, move);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
}

bool pare_act_codes_avx2(int8_t *q, const float *x, const pare_act_grid *grid, int move, size_t n) {
    const lanes g = lanes_of(grid);
    const __m256i by = _mm256_set1_epi16((short)move);
    vmask odd = vf_zero();
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        _mm256_storeu_si256((__m256i *)(q + i), codes_of(x + i, &g, by, &odd));
    if (i < n) {
        float rest[32] = {0};
        int8_t bytes[32];
        memcpy(rest, x + i, (n - i) * sizeof *x);
        _mm256_storeu_si256((__m256i *)bytes, codes_of(rest, &g, by, &odd));
        memcpy(q + i, bytes, n - i);
    }
    return vm_bits(odd) == 0;
}

void pare_act_sums_avx2(pare_act *a, float d, size_t n) {
    const __m256i middle = _mm256_set1_epi8((char)0x80), none = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 32) {
        /* q + 128 in u8: sums of 8 by sad, each half of the register holds one of 16 */
        __m256i v = _mm256_loadu_si256((const __m256i *)(a->q + i)),
                s = _mm256_sad_epu8(_mm256_xor_si256(v, middle), none);
        s = _mm256_add_epi64(s, _mm256_shuffle_epi32(s, 0x4e));
        const int first = _mm256_extract_epi32(s, 0) - 16 * 128,
                  second = _mm256_extract_epi32(s, 4) - 16 * 128;
        pare_act_keep_sums(a, i / 32, d, first, second);
    }
}

const pare_act_grid_kernels pare_act_grid_avx2 = {range, apply, error, pare_act_codes_avx2,
                                                  pare_act_sums_avx2};
