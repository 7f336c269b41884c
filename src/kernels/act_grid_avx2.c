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

const pare_act_grid_kernels pare_act_grid_avx2 = {range, apply, error, pare_act_codes_avx2};
