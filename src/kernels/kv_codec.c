#include "kernels/kv_codec.h"

#include "kernels/kv_codec_levels.h"

#include <string.h>

#define FLOATS(name, level) 0, 0
#define CODES(name, level) pare_kv_key_codes_##name##_##level, pare_kv_value_codes_##name##_##level
#define REF(name, codes)                                                                           \
    [PARE_ISA_REF] = {pare_kv_store_##name##_ref, pare_kv_load_##name##_ref, 0, 0, codes(name, ref)}
#if defined(__x86_64__)
#define AVX2(name, level, codes)                                                                   \
    [PARE_ISA_AVX2] = {pare_kv_store_##name##_##level, pare_kv_load_##name##_##level,              \
                       pare_kv_dots_##name##_avx2, pare_kv_weighted_##name##_avx2,                 \
                       codes(name, avx2)}
#define LEVELS(name, level, codes)                                                                 \
    { REF(name, codes), AVX2(name, level, codes) }
#else
#define LEVELS(name, level, codes)                                                                 \
    { REF(name, codes) }
#endif

/* Heads: measured with AVX2, heads of 64 to 256. One to a kv head: q8_0 0.9 to 1.0 times the speed
 * of f32, q4_0 1.4 times; three: 1.2 and 1.4; eight: 1.7 and 1.9. */
static const pare_kv_codec codecs[] = {
    {"f32", "32-bit floats", 1, 4, 0, LEVELS(f32, ref, FLOATS)}, /* copies: nothing to gain */
    {"f16", "16-bit floats, saturating", 1, 2, 0, LEVELS(f16, avx2, FLOATS)},
    {"bf16", "bfloat16", 1, 2, 0, LEVELS(bf16, avx2, FLOATS)},
    {"q8_0", "8-bit integers with one f16 scale per 32", 32, 34, 3, LEVELS(q8_0, avx2, CODES)},
    {"q4_0", "4-bit integers with one f16 scale per 32", 32, 18, 1, LEVELS(q4_0, avx2, CODES)},
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
