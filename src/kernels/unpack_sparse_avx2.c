/* Codes and weights of sparse rows with AVX2: every column, zeros where nothing is stored. */
#include "kernels/sparse_avx2.h"
#include "kernels/unpack.h"

/* n columns from `col` on, where p stands. */
INLINE void codes(int8_t *q, float *scale, place p, size_t col, size_t n, format f) {
    const bool widens = f.bitmap && f.bits == 4;
    const uint8_t *values = widens ? NULL : p.a.values + p.at;
    for (size_t c = 0; c < n; c += 256, p.a.mask += 32) {
        size_t left = n - c < 256 ? n - c : 256;
        uint8_t part[4 * GROUPS] = {0}, bytes[256 + 64];
        const uint8_t *mask = p.a.mask;
        if (left < 256) mask = memcpy(part, mask, (left + 7) / 8);
        if (widens) values = next_values(bytes, &p, mask, left);
        for (size_t i = 0; i < left; i += 32, q += 32) {
            uint16_t s;
            memcpy(&s, p.a.scales + (col + c + i) / (f.bits == 8 ? 32 : 64) * 2, 2);
            *scale++ = pare_bf16_to_f32(s);
            int8_t last[32];
            _mm256_storeu_si256((__m256i *)(left - i < 32 ? last : q),
                                spread(values, mask + i / 8, f));
            if (left - i < 32) memcpy(q, last, left - i);
            values += f.bitmap ? __builtin_popcount(load_u32(mask + i / 8)) : 2 * f.bits;
        }
    }
}

#define CODES(name, kind, ...)                                                                     \
    void pare_codes_##name##_avx2(int8_t *q, float *scale, float *offset, const pare_view *w,      \
                                  size_t row, size_t col, size_t n) {                              \
        const format f = {__VA_ARGS__};                                                            \
        (void)offset;                                                                              \
        codes(q, scale, kind##_at(w, row, col, f.bits), col, n, f);                                \
    }
CODES(bitmap_q8, bitmap, .bits = 8, .bitmap = true)
CODES(bitmap_q4, bitmap, .bits = 4, .bitmap = true)
CODES(nm48_q8, nm, .bits = 8)
CODES(nm48_q4, nm, .bits = 4)

INLINE void decode_bf16(float *y, place p, size_t n, bool half) {
    const uint8_t *values = p.a.values + 2 * p.at, *mask = p.a.mask;
    size_t c = 0;
    for (; c + 64 <= n; c += 64, mask += 8) {
        uint64_t m = load_u64(mask);
        UNROLL for (int j = 0; j < 8; j++)
            _mm256_storeu_ps(y + c + 8 * (size_t)j, spread_bf16(values, m, j, half));
        values += 2 * (half ? 32 : (size_t)__builtin_popcountll(m));
    }
    for (; c < n; c += 8, mask++) {
        float last[8];
        _mm256_storeu_ps(n - c < 8 ? last : y + c, spread_bf16(values, *mask, 0, half));
        if (n - c < 8) memcpy(y + c, last, (n - c) * sizeof *y);
        values += 2 * before(*mask, 1, half);
    }
}

void pare_decode_bitmap_bf16_avx2(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    decode_bf16(y, bitmap_at(w, row, col, 16), n, false);
}
void pare_decode_nm_bf16_avx2(float *y, const pare_view *w, size_t row, size_t col, size_t n) {
    decode_bf16(y, nm_at(w, row, col, 16), n, true);
}
