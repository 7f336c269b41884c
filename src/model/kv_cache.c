#include "model/kv_cache.h"

#include "base/memory.h"

#include <string.h>

enum {
    KEYS = PARE_ATTN_KEYS,
    GROUPS = PARE_KV_GROUPS,
    GLOBAL = 0,
    LOCAL = 1,
    SLACK = 128,     /* positions beyond the window that local layers keep, for truncation */
    CHUNK_SHARE = 8, /* more chunks for forks: so small a part of the first */
    HEADER = 64      /* bytes before a block's rows */
};

pare_status pare_kv_spec_make(pare_kv_spec *spec, const pare_model_config *c,
                              const char *codec_name, size_t n_ctx, size_t n_batch,
                              pare_error *err) {
    const pare_kv_codec *codec = pare_kv_codec_find(codec_name);
    if (!codec)
        return pare_fail(err, PARE_ERR_ARG,
                         "kv cache: found \"%s\", expected f32, f16, bf16, q8_0 or q4_0",
                         codec_name);
    if (pare_kv_row_bytes(codec, c->head_dim) == 0)
        return pare_fail(err, PARE_ERR_ARG,
                         "kv cache: found %s with head_dim %zu, expected a multiple of %zu",
                         codec->name, c->head_dim, codec->block_len);
    *spec = (pare_kv_spec){.n_layers = c->n_layers,
                           .n_kv_heads = c->n_kv_heads,
                           .head_dim = c->head_dim,
                           .n_ctx = n_ctx,
                           .n_batch = n_batch,
                           .window = c->window,
                           .local = c->local,
                           .codec = codec};
    return PARE_OK;
}

/* ---- sizes ---- */

typedef struct kv_sizes {
    size_t row_bytes, part_bytes; /* of a head at a position; of a layer's keys in a block */
    size_t n_blocks;              /* of n_ctx positions */
    size_t block_bytes[GROUPS], most[GROUPS]; /* most: blocks held at a time; 0 = no such layers */
    size_t total;
} kv_sizes;

static bool is_local(const pare_kv_spec *spec, size_t layer) {
    return spec->window && spec->local && spec->local[layer];
}

/* Blocks of local layers: window, slack and a batch, wherever they begin. */
static size_t most_local(const pare_kv_spec *spec, size_t n_blocks) {
    size_t positions;
    if (!pare_add_size(&positions, spec->window, SLACK + 2 * KEYS) ||
        !pare_add_size(&positions, positions, spec->n_batch) || positions / KEYS > n_blocks)
        return n_blocks;
    return positions / KEYS;
}

static bool plan_sizes(kv_sizes *s, const pare_kv_spec *spec) {
    *s = (kv_sizes){.row_bytes = pare_kv_row_bytes(spec->codec, spec->head_dim)};
    if (!pare_align_size(&s->n_blocks, spec->n_ctx, KEYS) ||
        !pare_mul_size(&s->part_bytes, s->row_bytes * KEYS, spec->n_kv_heads) ||
        !pare_align_size(&s->part_bytes, s->part_bytes, 64))
        return false;
    s->n_blocks /= KEYS;
    size_t n_layers[GROUPS] = {0};
    for (size_t i = 0; i < spec->n_layers; i++) n_layers[is_local(spec, i) ? LOCAL : GLOBAL]++;
    for (int g = 0; g < GROUPS; g++) {
        size_t bytes;
        if (n_layers[g] == 0) continue;
        s->most[g] = g == LOCAL ? most_local(spec, s->n_blocks) : s->n_blocks;
        if (!pare_mul_size(&bytes, s->part_bytes, 2 * n_layers[g]) ||
            !pare_add_size(&s->block_bytes[g], bytes, HEADER) ||
            !pare_mul_size(&bytes, s->block_bytes[g], s->most[g]) ||
            !pare_add_size(&s->total, s->total, bytes))
            return false;
    }
    return true;
}

static pare_status check_sizes(kv_sizes *sizes, const pare_kv_spec *spec, pare_error *err) {
    if (spec->n_layers == 0 || spec->n_kv_heads == 0 || spec->n_ctx == 0 || spec->n_batch == 0 ||
        spec->head_dim == 0 || pare_kv_row_bytes(spec->codec, spec->head_dim) == 0)
        return pare_fail(err, PARE_ERR_ARG,
                         "kv cache: found %zu layers, %zu kv heads of %zu, %zu positions, batch "
                         "%zu, codec %s: expected all positive, heads in whole blocks of %zu",
                         spec->n_layers, spec->n_kv_heads, spec->head_dim, spec->n_ctx,
                         spec->n_batch, spec->codec->name, spec->codec->block_len);
    if (!plan_sizes(sizes, spec))
        return pare_fail(err, PARE_ERR_ARG,
                         "kv cache: %zu positions of %zu layers do not fit in memory", spec->n_ctx,
                         spec->n_layers);
    return PARE_OK;
}

pare_status pare_kv_cache_bytes(size_t *bytes, const pare_kv_spec *spec, pare_error *err) {
    kv_sizes sizes;
    PARE_TRY(check_sizes(&sizes, spec, err));
    *bytes = sizes.total;
    return PARE_OK;
}

/* ---- the pool ---- */

/* Stands in front of a block's rows. */
typedef struct block_header {
    size_t refs;               /* caches whose tables hold it */
    struct block_header *next; /* of the free ones */
} block_header;

typedef struct chunk {
    struct chunk *next;
    uint8_t *base;
    size_t bytes;
} chunk;

typedef struct pool_group {
    size_t block_bytes, chunk_blocks;
    block_header *free;   /* used before */
    uint8_t *fresh, *end; /* of the newest chunk: never used, so that their pages are not touched */
} pool_group;

typedef struct pare_kv_pool {
    size_t refs; /* caches */
    pool_group group[GROUPS];
    chunk *chunks;
} pare_kv_pool;

static block_header *header_of(uint8_t *block) { return (block_header *)(void *)(block - HEADER); }

static bool add_chunk(pare_kv_pool *p, pool_group *g) {
    chunk *c = pare_calloc(1, sizeof *c);
    if (!c) return false;
    c->bytes = g->chunk_blocks * g->block_bytes;
    c->base = pare_big_alloc(c->bytes);
    if (!c->base) {
        pare_free(c);
        return false;
    }
    c->next = p->chunks;
    p->chunks = c;
    g->fresh = c->base;
    g->end = c->base + c->bytes;
    g->chunk_blocks = (g->chunk_blocks + CHUNK_SHARE - 1) / CHUNK_SHARE;
    return true;
}

static void free_pool(pare_kv_pool *p) {
    while (p && p->chunks) {
        chunk *c = p->chunks;
        p->chunks = c->next;
        pare_big_free(c->base, c->bytes);
        pare_free(c);
    }
    pare_free(p);
}

static pare_kv_pool *new_pool(const kv_sizes *sizes) {
    pare_kv_pool *p = pare_calloc(1, sizeof *p);
    if (!p) return NULL;
    p->refs = 1;
    for (int i = 0; i < GROUPS; i++) {
        p->group[i].block_bytes = sizes->block_bytes[i];
        p->group[i].chunk_blocks = sizes->most[i];
        if (sizes->most[i] && !add_chunk(p, &p->group[i])) {
            free_pool(p);
            return NULL;
        }
    }
    return p;
}

/* A block of its own for one table, or NULL. */
static uint8_t *take_block(pare_kv_pool *p, int group) {
    pool_group *g = &p->group[group];
    block_header *h = g->free;
    if (h) {
        g->free = h->next;
    } else {
        if (g->fresh == g->end && !add_chunk(p, g)) return NULL;
        h = (block_header *)(void *)g->fresh;
        g->fresh += g->block_bytes;
    }
    h->refs = 1;
    return (uint8_t *)h + HEADER;
}

/* Takes *slot out of a table. */
static void drop_block(pare_kv_pool *p, int group, uint8_t **slot) {
    if (!*slot) return;
    block_header *h = header_of(*slot);
    *slot = NULL;
    if (--h->refs) return;
    h->next = p->group[group].free;
    p->group[group].free = h;
}

/* ---- the cache ---- */

static pare_status allocate_tables(pare_kv_cache *c, pare_error *err) {
    c->layers = pare_calloc(c->n_layers, sizeof *c->layers);
    bool ok = c->layers != NULL;
    for (int g = 0; g < GROUPS; g++) {
        c->blocks[g] = pare_calloc(c->n_blocks, sizeof *c->blocks[g]);
        ok = ok && c->blocks[g];
    }
    if (ok) return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM, "kv cache: tables of %zu blocks could not be had",
                     c->n_blocks);
}

pare_status pare_kv_cache_init(pare_kv_cache *c, const pare_kv_spec *spec, pare_error *err) {
    *c = (pare_kv_cache){0};
    kv_sizes sizes;
    PARE_TRY(check_sizes(&sizes, spec, err));
    pare_kv_pool *pool = new_pool(&sizes);
    if (!pool)
        return pare_fail(err, PARE_ERR_NOMEM, "kv cache: %zu bytes could not be had", sizes.total);
    *c = (pare_kv_cache){.n_layers = spec->n_layers,
                         .n_ctx = spec->n_ctx,
                         .n_batch = spec->n_batch,
                         .window = sizes.most[LOCAL] ? spec->window : 0,
                         .n_blocks = sizes.n_blocks,
                         .full_bytes = sizes.total,
                         .pool = pool};
    pare_status st = allocate_tables(c, err);
    if (st != PARE_OK) {
        pare_kv_cache_free(c);
        return st;
    }
    size_t at[GROUPS] = {0};
    for (size_t i = 0; i < spec->n_layers; i++) {
        int g = is_local(spec, i) ? LOCAL : GLOBAL;
        c->layers[i] = (pare_kv_layer){.codec = spec->codec,
                                       .blocks = c->blocks[g],
                                       .k_at = at[g],
                                       .v_at = at[g] + sizes.part_bytes,
                                       .n_kv_heads = spec->n_kv_heads,
                                       .head_dim = spec->head_dim,
                                       .head_stride = sizes.row_bytes * KEYS,
                                       .row_stride = sizes.row_bytes};
        at[g] += 2 * sizes.part_bytes;
    }
    return PARE_OK;
}

pare_status pare_kv_cache_fork(pare_kv_cache *out, const pare_kv_cache *c, pare_error *err) {
    *out = *c;
    out->pool->refs++;
    pare_status st = allocate_tables(out, err);
    if (st != PARE_OK) {
        pare_kv_cache_free(out);
        return st;
    }
    for (int g = 0; g < GROUPS; g++)
        for (size_t b = 0; b < c->n_blocks; b++) {
            out->blocks[g][b] = c->blocks[g][b];
            if (c->blocks[g][b]) header_of(c->blocks[g][b])->refs++;
        }
    for (size_t i = 0; i < c->n_layers; i++) {
        out->layers[i] = c->layers[i];
        out->layers[i].blocks =
            out->blocks[c->layers[i].blocks == c->blocks[LOCAL] ? LOCAL : GLOBAL];
    }
    return PARE_OK;
}

/* Takes blocks [from, to) out of a group's table. */
static void drop_blocks(pare_kv_cache *c, int group, size_t from, size_t to) {
    for (size_t b = from; b < to; b++) drop_block(c->pool, group, &c->blocks[group][b]);
}

void pare_kv_cache_free(pare_kv_cache *c) {
    if (!c) return;
    for (int g = 0; g < GROUPS; g++) {
        if (c->blocks[g]) drop_blocks(c, g, 0, c->n_blocks);
        pare_free(c->blocks[g]);
    }
    if (c->pool && --c->pool->refs == 0) free_pool(c->pool);
    pare_free(c->layers);
    *c = (pare_kv_cache){0};
}

/* Makes block b of a group writable: there, and in no other table. */
static bool own_block(pare_kv_cache *c, int group, size_t b) {
    uint8_t **slot = &c->blocks[group][b], *old = *slot;
    if (old && header_of(old)->refs == 1) return true;
    uint8_t *own = take_block(c->pool, group);
    if (!own) return false;
    if (old) memcpy(own, old, c->pool->group[group].block_bytes - HEADER);
    drop_block(c->pool, group, slot);
    *slot = own;
    return true;
}

/* Gives back what no query from n_pos - SLACK on can see in local layers. */
static void drop_local(pare_kv_cache *c) {
    size_t keep = c->n_pos + 1 > c->window ? c->n_pos + 1 - c->window : 0;
    keep = keep > SLACK ? (keep - SLACK) / KEYS : 0;
    if (!c->window || keep <= c->first / KEYS) return;
    drop_blocks(c, LOCAL, c->first / KEYS, keep);
    c->first = keep * KEYS;
}

pare_status pare_kv_cache_reserve(pare_kv_cache *c, size_t n, pare_error *err) {
    if (n > c->n_batch)
        return pare_fail(err, PARE_ERR_ARG, "kv cache: found %zu tokens, expected at most %zu", n,
                         c->n_batch);
    if (n > c->n_ctx - c->n_pos)
        return pare_fail(err, PARE_ERR_ARG,
                         "kv cache: found %zu tokens after %zu, expected at most %zu positions", n,
                         c->n_pos, c->n_ctx);
    drop_local(c);
    for (int g = 0; g < GROUPS; g++) {
        if (c->pool->group[g].block_bytes == 0) continue;
        for (size_t b = c->n_pos / KEYS; b * KEYS < c->n_pos + n; b++)
            if (!own_block(c, g, b))
                return pare_fail(err, PARE_ERR_NOMEM, "kv cache: no memory for position %zu",
                                 b * KEYS);
    }
    return PARE_OK;
}

uint64_t pare_kv_cache_read_bytes(const pare_kv_cache *c, size_t pos) {
    uint64_t total = 0;
    for (size_t i = 0; i < c->n_layers; i++) {
        const pare_kv_layer *l = &c->layers[i];
        bool windowed = c->window && l->blocks == c->blocks[LOCAL];
        size_t seen = windowed && c->window < pos + 1 ? c->window : pos + 1;
        total += (uint64_t)seen * 2 * l->n_kv_heads * l->row_stride;
    }
    return total;
}

void pare_kv_cache_advance(pare_kv_cache *c, size_t n) { c->n_pos += n; }

size_t pare_kv_cache_truncate(pare_kv_cache *c, size_t n_keep) {
    if (n_keep >= c->n_pos) return c->n_pos;
    /* The next query, at n_keep, sees keys > n_keep - window. */
    size_t needed = n_keep + 1 > c->window ? n_keep + 1 - c->window : 0;
    if (c->window && needed < c->first) n_keep = 0;
    if (n_keep == 0) c->first = 0;
    c->n_pos = n_keep;
    for (int g = 0; g < GROUPS; g++) drop_blocks(c, g, (n_keep + KEYS - 1) / KEYS, c->n_blocks);
    return n_keep;
}
