/* CRC-32 (zlib's polynomial), SHA-256 and a hash for tables. */
#ifndef PARE_SRC_BASE_HASH_H
#define PARE_SRC_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Continues from crc (0 at first). */
uint32_t pare_crc32(uint32_t crc, const void *data, size_t n);

typedef struct pare_sha256 {
    uint32_t state[8];
    uint64_t n_bytes;
    uint8_t block[64];
} pare_sha256;
void pare_sha256_init(pare_sha256 *h);
void pare_sha256_update(pare_sha256 *h, const void *data, size_t n);
void pare_sha256_final(pare_sha256 *h, uint8_t digest[32]);
/* The same as 64 lower-case hexadecimal digits and a NUL. */
void pare_sha256_hex(pare_sha256 *h, char out[65]);

/* FNV-1a with a final mix; for hash tables. */
uint64_t pare_hash_bytes(const void *data, size_t n);

/* String -> index table (open addressing). Keys are borrowed. Zero-initialise; free with
 * pare_table_free. */
typedef struct pare_table {
    struct pare_table_slot *slots;
    size_t n_slots, n_used;
} pare_table;
struct pare_table_slot {
    const char *key;
    size_t key_len;
    uint64_t hash;
    int64_t value; /* >= 0; an empty slot has key NULL */
};
/* Adds key -> value unless the key is there. Returns 1 added, 0 present, -1 out of memory. */
int pare_table_add(pare_table *t, const char *key, size_t key_len, int64_t value);
/* The value, or -1. */
int64_t pare_table_get(const pare_table *t, const char *key, size_t key_len);
void pare_table_free(pare_table *t);

#endif
