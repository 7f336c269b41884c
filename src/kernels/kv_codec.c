#include "kernels/kv_codec.h"

#include "kernels/kv_codec_levels.h"

#include <string.h>

#define REF(name) [PARE_ISA_REF] = {pare_kv_store_##name##_ref, pare_kv_load_##name##_ref, 0, 0}
#if defined(__x86_64__)
#define AVX2(name, level)                                                                          \
    [PARE_ISA_AVX2] = {pare_kv_store_##name##_##level, pare_kv_load_##name##_##level,              \
                       pare_kv_dots_##name##_avx2, pare_kv_weighted_##name##_avx2}
#define LEVELS(name, level)                                                                        \
    { REF(name), AVX2(name, level) }
#else
#define LEVELS(name, level)                                                                        \
    { REF(name) }
#endif

static const pare_kv_codec codecs[] = {
    {"f32", "32-bit floats", 1, 4, LEVELS(f32, ref)}, /* copies: nothing to gain */
    {"f16", "16-bit floats, saturating", 1, 2, LEVELS(f16, avx2)},
    {"bf16", "bfloat16", 1, 2, LEVELS(bf16, avx2)},
    {"q8_0", "8-bit integers with one f16 scale per 32", 32, 34, LEVELS(q8_0, avx2)},
    {"q4_0", "4-bit integers with one f16 scale per 32", 32, 18, LEVELS(q4_0, avx2)},
};

const pare_kv_codec *pare_kv_codec_at(size_t i) {
    return i < sizeof codecs / sizeof codecs[0] ? &codecs[i] : NULL;
}

const pare_kv_codec *pare_kv_codec_find(const char *name) {
    for (size_t i = 0; i < sizeof codecs / sizeof codecs[0]; i++)
        if (strcmp(codecs[i].name, name) == 0) return &codecs[i];
    return NULL;
}

size_t pare_kv_row_bytes(const pare_kv_codec *codec, size_t head_dim) {
    if (head_dim % codec->block_len) return 0;
    return head_dim / codec->block_len * codec->block_bytes;
}

const pare_kv_functions *pare_kv_codec_functions(const pare_kv_codec *codec, pare_isa isa) {
    size_t level = (size_t)isa;
    while (level > 0 && !codec->level[level].load) level--;
    return &codec->level[level];
}
