/* The reader's inside, shared by gguf.c (parsing) and gguf_keys.c (getters). */
#ifndef PARE_SRC_IO_GGUF_INTERNAL_H
#define PARE_SRC_IO_GGUF_INTERNAL_H

#include "io/gguf.h"

enum {
    GGUF_MAX_PARTS = 512,
    GGUF_MAX_KEY = 65535, /* the specification's */
    GGUF_MAX_NAME = 63,   /* ggml's, without the NUL */
    GGUF_MAX_WARNINGS = 64
};
#define GGUF_MAX_HEADER ((size_t)1 << 30) /* so that positions fit 32 bits */

/* Positions count from the start of the part's header. */
typedef struct gguf_pair {
    uint32_t key_at, key_len, value_at, n_bytes, count;
    uint8_t type, item;
} gguf_pair;

typedef struct gguf_part {
    pare_file file;  /* fd -1: from memory */
    uint8_t *header; /* the bytes before the data; each key, name and string value is followed by a
                        NUL once parsing is done */
    uint32_t version;
    size_t alignment;
    gguf_pair *pairs;
    size_t n_pairs;
    pare_names keys;
} gguf_part;

typedef struct gguf_tensor {
    pare_gguf_tensor t;
    uint32_t name_at, name_len;
} gguf_tensor;

struct pare_gguf {
    gguf_part *parts;
    size_t n_parts;
    gguf_tensor *tensors;
    size_t n_tensors, tensor_capacity;
    pare_names names;
    char *warnings[GGUF_MAX_WARNINGS];
    size_t n_warnings;
};

pare_gguf_kv gguf_kv_of(const gguf_part *part, size_t i);
/* SIZE_MAX = absent. */
size_t gguf_key_find(const gguf_part *part, const char *key);
/* As pare_gguf_u64, of one part. */
pare_status gguf_part_u64(const gguf_part *part, const char *key, pare_need need, uint64_t min,
                          uint64_t max, uint64_t *out, pare_error *err);

#endif
