/* The KV cache of one sequence: keys and values of all layers in a codec's rows, in blocks of
 * PARE_ATTN_KEYS positions. A block holds these positions of all global layers, or of all local
 * (sliding-window) ones: [layer][key, value][kv_head][position][head_dim].
 *
 * Blocks come from a pool when they are needed. A fork shares all blocks with its origin; the one
 * that a sequence writes to becomes its own before (copy-on-write). Local layers give blocks back
 * that are out of the window. Caches of one pool are for one thread at a time. */
#ifndef PARE_SRC_MODEL_KV_CACHE_H
#define PARE_SRC_MODEL_KV_CACHE_H

#include "kernels/attention.h"
#include "model/config.h"

typedef struct pare_kv_spec {
    size_t n_layers, n_kv_heads, head_dim;
    size_t n_ctx;         /* positions */
    size_t n_batch;       /* most tokens of one call */
    size_t window;        /* of local layers; 0 = there are none */
    const uint8_t *local; /* [n_layers], or NULL = none; borrowed for the call */
    const pare_kv_codec *codec;
} pare_kv_spec;

/* The spec of a model. codec_name: "f32", "f16", "bf16", "q8_0", "q4_0". Errors: PARE_ERR_ARG
 * (unknown codec, or head_dim does not fit its blocks). */
pare_status pare_kv_spec_make(pare_kv_spec *spec, const pare_model_config *c,
                              const char *codec_name, size_t n_ctx, size_t n_batch,
                              pare_error *err);

/* Bytes of a full cache. Errors: PARE_ERR_ARG (does not fit in memory's address range, or a zero
 * size). */
pare_status pare_kv_cache_bytes(size_t *bytes, const pare_kv_spec *spec, pare_error *err);

/* Global layers and local ones. */
enum { PARE_KV_GROUPS = 2 };

typedef struct pare_kv_cache {
    size_t n_layers, n_ctx, n_batch;
    size_t n_pos;                     /* positions held; the session moves it on after each call */
    size_t window;                    /* of local layers; 0 = there are none */
    size_t first;                     /* positions below it are gone in local layers */
    pare_kv_layer *layers;            /* [n_layers] */
    uint8_t **blocks[PARE_KV_GROUPS]; /* [n_blocks] of each group; NULL where nothing is held */
    size_t n_blocks, full_bytes;
    struct pare_kv_pool *pool;
} pare_kv_cache;

/* Errors: those of pare_kv_cache_bytes, PARE_ERR_NOMEM. The cache must be freed with
 * pare_kv_cache_free, which accepts a zeroed one. */
pare_status pare_kv_cache_init(pare_kv_cache *c, const pare_kv_spec *spec, pare_error *err);
/* *out = another sequence with the same positions. Errors: PARE_ERR_NOMEM. */
pare_status pare_kv_cache_fork(pare_kv_cache *out, const pare_kv_cache *c, pare_error *err);
void pare_kv_cache_free(pare_kv_cache *c);

/* Before a pass that stores n tokens at n_pos .. n_pos + n - 1 of the layers. Errors: PARE_ERR_ARG
 * (n > n_batch, or more than n_ctx positions), PARE_ERR_NOMEM. After a pass that failed half-way
 * the cache still stands at n_pos and the pass can be run again. */
pare_status pare_kv_cache_reserve(pare_kv_cache *c, size_t n, pare_error *err);

/* The n tokens reserved last are stored in every layer. */
void pare_kv_cache_advance(pare_kv_cache *c, size_t n);

/* Bytes of keys and values that the token at position `pos` attends to, its own among them. */
uint64_t pare_kv_cache_read_bytes(const pare_kv_cache *c, size_t pos);

/* Forgets all positions >= n_keep and returns how many are kept: min(n_keep, n_pos), or 0 where a
 * local layer no longer holds the window before n_keep (the caller computes from there again); the
 * last 128 tokens can always be taken back. */
size_t pare_kv_cache_truncate(pare_kv_cache *c, size_t n_keep);

#endif
