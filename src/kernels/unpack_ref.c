#include "kernels/unpack.h"

#include "base/cpu.h"
#include "kernels/blocks.h"

enum { NR = PARE_TILE_NR };

static void expand_ref(float *w, const int8_t *q, const float *scale, const float *offset,
                       uint32_t group, size_t n) {
    for (size_t i = 0; i < n; i++) {
        w[i] = scale[i / group] * (float)q[i];
        if (offset) w[i] += offset[i / group];
    }
}

static void shift_ref(uint8_t *out, const int8_t *q, int min, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = (uint8_t)(q[i] - min);
}

static void widen_ref(int16_t *out, const int8_t *q, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = q[i];
}

static void expand_panel_ref(float *w, const uint32_t *codes, const float *scale,
                             const float *offset, uint32_t group, size_t k) {
    const int8_t *q = (const int8_t *)codes;
    for (size_t j = 0; j < k; j++)
        for (size_t r = 0; r < NR; r++) {
            size_t g = j / group * NR + r;
            w[j * NR + r] = scale[g] * (float)q[(j / 4 * NR + r) * 4 + j % 4];
            if (offset) w[j * NR + r] += offset[g];
        }
}

static void f16_panel_ref(float *w, const uint32_t *pairs, size_t k) {
    for (size_t j = 0; j < k; j++)
        for (size_t r = 0; r < NR; r++)
            w[j * NR + r] = pare_f16_to_f32((uint16_t)(pairs[j / 2 * NR + r] >> 16 * (j % 2)));
}

static void bf16_panel_ref(float *w, const uint32_t *pairs, size_t k) {
    for (size_t j = 0; j < k; j++)
        for (size_t r = 0; r < NR; r++)
            w[j * NR + r] = pare_bf16_to_f32((uint16_t)(pairs[j / 2 * NR + r] >> 16 * (j % 2)));
}

static void pair_panel_ref(uint32_t *pairs, const uint16_t *w, size_t k) {
    for (size_t j = 0; j < k; j += 2, w += 2 * NR, pairs += NR)
        for (size_t r = 0; r < NR; r++) pairs[r] = w[r] | (uint32_t)w[NR + r] << 16;
}

const pare_unpack_kernels pare_unpack_ref = {
#define X(name, ...) [PARE_DOT_##name] = pare_unpack_##name##_ref,
    .packed = {PARE_PACKED_LIST(X)},
#undef X
    .expand = expand_ref,
    .shift = shift_ref,
    .widen = widen_ref,
    .expand_panel = expand_panel_ref,
    .f16_panel = f16_panel_ref,
    .bf16_panel = bf16_panel_ref,
    .pair_panel = pair_panel_ref};

const pare_unpack_kernels *pare_unpack_kernels_get(pare_isa isa) {
#if defined(__x86_64__)
    if (isa >= PARE_ISA_AVX512 && (pare_cpu_features() & PARE_CPU_AVX512_VBMI2))
        return &pare_unpack_avx512_vbmi2;
    if (isa >= PARE_ISA_AVX2) return &pare_unpack_avx2;
#endif
    (void)isa;
    return &pare_unpack_ref;
}
