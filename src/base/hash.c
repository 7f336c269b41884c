#include "base/hash.h"

#include "base/cpu.h"
#include "base/memory.h"

#include <string.h>

/* CRC-32, reflected polynomial 0xEDB88320, eight bytes a step ("slicing by 8"), or 64 by products
 * without carries. */
static uint32_t crc_table[8][256];

__attribute__((constructor)) static void crc_init(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
        crc_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            crc_table[t][i] = (crc_table[t - 1][i] >> 8) ^ crc_table[0][crc_table[t - 1][i] & 255];
}

/* The register of a CRC (its complement) behind n more bytes. */
static uint32_t crc_plain(uint32_t c, const uint8_t *p, size_t n) {
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t a = c ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                          (uint32_t)p[3] << 24);
        c = crc_table[7][a & 255] ^ crc_table[6][(a >> 8) & 255] ^ crc_table[5][(a >> 16) & 255] ^
            crc_table[4][a >> 24] ^ crc_table[3][p[4]] ^ crc_table[2][p[5]] ^ crc_table[1][p[6]] ^
            crc_table[0][p[7]];
    }
    for (; n; n--, p++) c = crc_table[0][(c ^ *p) & 255] ^ (c >> 8);
    return c;
}

#ifdef __x86_64__
#include <immintrin.h>

/* x moved over the bits that `over` is for, plus what stands there. */
__attribute__((target("pclmul,sse4.1"))) static inline __m128i fold(__m128i x, __m128i over,
                                                                    const uint8_t *p) {
    __m128i there = _mm_loadu_si128((const __m128i *)p);
    return _mm_xor_si128(there, _mm_xor_si128(_mm_clmulepi64_si128(x, over, 0x00),
                                              _mm_clmulepi64_si128(x, over, 0x11)));
}

/* n >= 64. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
 * Instruction", Intel, 2009: 128 bits are a polynomial of which only the remainder counts, so they
 * are replaced by 128 bits further on. Four such sums, then one, whose own CRC is the result. */
__attribute__((target("pclmul,sse4.1"))) static uint32_t crc_fold(uint32_t c, const uint8_t *p,
                                                                  size_t n) {
    /* x^(bits - 32) and x^(bits + 32) modulo the polynomial, reflected, of 512 and of 128 bits */
    const __m128i over512 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4),
                  over128 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    __m128i x[4];
    for (int i = 0; i < 4; i++) x[i] = _mm_loadu_si128((const __m128i *)p + i);
    x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128((int)c));
    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64)
        for (int i = 0; i < 4; i++) x[i] = fold(x[i], over512, p + 16 * i);
    uint8_t rest[16];
    for (int i = 1; i < 4; i++) {
        _mm_storeu_si128((__m128i *)rest, x[i]);
        x[0] = fold(x[0], over128, rest);
    }
    for (; n >= 16; p += 16, n -= 16) x[0] = fold(x[0], over128, p);
    _mm_storeu_si128((__m128i *)rest, x[0]);
    return crc_plain(crc_plain(0, rest, sizeof rest), p, n);
}

uint32_t pare_crc32(uint32_t crc, const void *data, size_t n) {
    bool folds = n >= 64 && pare_cpu_features() & PARE_CPU_PCLMUL;
    return ~(folds ? crc_fold(~crc, data, n) : crc_plain(~crc, data, n));
}
#else
uint32_t pare_crc32(uint32_t crc, const void *data, size_t n) { return ~crc_plain(~crc, data, n); }
#endif

uint64_t pare_hash_bytes(const void *data, size_t n) {
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

static struct pare_table_slot *find_slot(const pare_table *t, const char *key, size_t len,
                                         uint64_t hash) {
    size_t mask = t->n_slots - 1;
    for (size_t i = (size_t)hash & mask;; i = (i + 1) & mask) {
        struct pare_table_slot *s = &t->slots[i];
        if (!s->key) return s;
        if (s->hash == hash && s->key_len == len && memcmp(s->key, key, len) == 0) return s;
    }
}

static int grow(pare_table *t) {
    size_t n = t->n_slots ? t->n_slots * 2 : 64;
    pare_table bigger = {pare_calloc(n, sizeof *bigger.slots), n, t->n_used};
    if (!bigger.slots) return -1;
    for (size_t i = 0; i < t->n_slots; i++)
        if (t->slots[i].key)
            *find_slot(&bigger, t->slots[i].key, t->slots[i].key_len, t->slots[i].hash) =
                t->slots[i];
    pare_free(t->slots);
    *t = bigger;
    return 0;
}

int pare_table_add(pare_table *t, const char *key, size_t key_len, int64_t value) {
    if (2 * (t->n_used + 1) > t->n_slots && grow(t) != 0) return -1;
    uint64_t hash = pare_hash_bytes(key, key_len);
    struct pare_table_slot *s = find_slot(t, key, key_len, hash);
    if (s->key) return 0;
    *s = (struct pare_table_slot){key, key_len, hash, value};
    t->n_used++;
    return 1;
}

int64_t pare_table_get(const pare_table *t, const char *key, size_t key_len) {
    if (!t->n_slots) return -1;
    struct pare_table_slot *s = find_slot(t, key, key_len, pare_hash_bytes(key, key_len));
    return s->key ? s->value : -1;
}

void pare_table_free(pare_table *t) {
    if (!t) return;
    pare_free(t->slots);
    *t = (pare_table){0};
}
