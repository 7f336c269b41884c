#include "base/hash.h"

#include "base/memory.h"

#include <string.h>

/* CRC-32, reflected polynomial 0xEDB88320, eight bytes a step ("slicing by 8"). */
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

uint32_t pare_crc32(uint32_t crc, const void *data, size_t n) {
    const uint8_t *p = data;
    uint32_t c = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t a = c ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                          (uint32_t)p[3] << 24);
        c = crc_table[7][a & 255] ^ crc_table[6][(a >> 8) & 255] ^ crc_table[5][(a >> 16) & 255] ^
            crc_table[4][a >> 24] ^ crc_table[3][p[4]] ^ crc_table[2][p[5]] ^ crc_table[1][p[6]] ^
            crc_table[0][p[7]];
    }
    for (; n; n--, p++) c = crc_table[0][(c ^ *p) & 255] ^ (c >> 8);
    return ~c;
}

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotr(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* Eight rounds a step: then every one of s[8] is back in its place, and none is ever moved. */
static void sha_block(uint32_t state[8], const uint8_t *p) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
               (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    memcpy(s, state, sizeof s);
#define ROUND(a, b, c, d, e, f, g, h, i)                                                           \
    do {                                                                                           \
        h += (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + sha_k[i] + w[i];    \
        d += h;                                                                                    \
        h += (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));             \
    } while (0)
    for (int i = 0; i < 64; i += 8) {
        ROUND(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], i);
        ROUND(s[7], s[0], s[1], s[2], s[3], s[4], s[5], s[6], i + 1);
        ROUND(s[6], s[7], s[0], s[1], s[2], s[3], s[4], s[5], i + 2);
        ROUND(s[5], s[6], s[7], s[0], s[1], s[2], s[3], s[4], i + 3);
        ROUND(s[4], s[5], s[6], s[7], s[0], s[1], s[2], s[3], i + 4);
        ROUND(s[3], s[4], s[5], s[6], s[7], s[0], s[1], s[2], i + 5);
        ROUND(s[2], s[3], s[4], s[5], s[6], s[7], s[0], s[1], i + 6);
        ROUND(s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[0], i + 7);
    }
#undef ROUND
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

void pare_sha256_init(pare_sha256 *h) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(h->state, start, sizeof start);
    h->n_bytes = 0;
}

void pare_sha256_update(pare_sha256 *h, const void *data, size_t n) {
    const uint8_t *p = data;
    size_t have = (size_t)(h->n_bytes % 64);
    h->n_bytes += n;
    if (have) {
        size_t take = n < 64 - have ? n : 64 - have;
        memcpy(h->block + have, p, take);
        p += take;
        n -= take;
        if (have + take < 64) return;
        sha_block(h->state, h->block);
    }
    for (; n >= 64; n -= 64, p += 64) sha_block(h->state, p);
    if (n) memcpy(h->block, p, n);
}

void pare_sha256_final(pare_sha256 *h, uint8_t digest[32]) {
    uint64_t bits = h->n_bytes * 8;
    uint8_t pad[72] = {0x80};
    size_t n_pad = 64 - (size_t)((h->n_bytes + 8) % 64);
    for (int i = 0; i < 8; i++) pad[n_pad + (size_t)i] = (uint8_t)(bits >> (56 - 8 * i));
    pare_sha256_update(h, pad, n_pad + 8);
    for (int i = 0; i < 32; i++) digest[i] = (uint8_t)(h->state[i / 4] >> (24 - 8 * (i % 4)));
}

void pare_sha256_hex(pare_sha256 *h, char out[65]) {
    static const char digits[] = "0123456789abcdef";
    uint8_t digest[32];
    pare_sha256_final(h, digest);
    for (int i = 0; i < 32; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[64] = '\0';
}

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
