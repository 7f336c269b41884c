#include "model/kv_cache.h"

#include "base/memory.h"

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

/* Sizes of one spec. Keys and values of a layer have the same size. */
typedef struct kv_sizes {
    size_t row_bytes, capacity, ring_capacity;
    size_t layer_bytes, ring_layer_bytes; /* of keys or of values, multiples of 64 */
    size_t total;
} kv_sizes;

static bool is_ring(const pare_kv_spec *spec, size_t layer, const kv_sizes *sizes) {
    return spec->window && spec->local && spec->local[layer] &&
           sizes->ring_capacity < sizes->capacity;
}

static bool layer_size(size_t *bytes, const pare_kv_spec *spec, size_t row_bytes, size_t capacity) {
    return pare_mul_size(bytes, row_bytes, capacity) &&
           pare_mul_size(bytes, *bytes, spec->n_kv_heads) && pare_align_size(bytes, *bytes, 64);
}

static bool plan_sizes(kv_sizes *s, const pare_kv_spec *spec) {
    s->row_bytes = pare_kv_row_bytes(spec->codec, spec->head_dim);
    if (!pare_align_size(&s->capacity, spec->n_ctx, PARE_ATTN_KEYS)) return false;
    if (!pare_add_size(&s->ring_capacity, spec->window, spec->n_batch) ||
        !pare_align_size(&s->ring_capacity, s->ring_capacity, PARE_ATTN_KEYS))
        s->ring_capacity = SIZE_MAX; /* a window that large: not a ring */
    if (!layer_size(&s->layer_bytes, spec, s->row_bytes, s->capacity)) return false;
    s->ring_layer_bytes = s->layer_bytes;
    if (s->ring_capacity < s->capacity &&
        !layer_size(&s->ring_layer_bytes, spec, s->row_bytes, s->ring_capacity))
        return false;
    s->total = 0;
    for (size_t i = 0; i < spec->n_layers; i++) {
        size_t bytes = is_ring(spec, i, s) ? s->ring_layer_bytes : s->layer_bytes, both;
        if (!pare_mul_size(&both, bytes, 2) || !pare_add_size(&s->total, s->total, both))
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

pare_status pare_kv_cache_init(pare_kv_cache *c, const pare_kv_spec *spec, pare_error *err) {
    *c = (pare_kv_cache){0};
    kv_sizes sizes;
    PARE_TRY(check_sizes(&sizes, spec, err));
    pare_kv_layer *layers = pare_calloc(spec->n_layers, sizeof *layers);
    uint8_t *storage = layers ? pare_big_alloc(sizes.total) : NULL;
    if (!storage) {
        pare_free(layers);
        return pare_fail(err, PARE_ERR_NOMEM, "kv cache: %zu bytes could not be had", sizes.total);
    }
    *c = (pare_kv_cache){.n_layers = spec->n_layers,
                         .n_ctx = spec->n_ctx,
                         .n_batch = spec->n_batch,
                         .layers = layers,
                         .storage = storage,
                         .storage_bytes = sizes.total};
    for (size_t i = 0; i < spec->n_layers; i++) {
        bool ring = is_ring(spec, i, &sizes);
        size_t bytes = ring ? sizes.ring_layer_bytes : sizes.layer_bytes;
        size_t capacity = ring ? sizes.ring_capacity : sizes.capacity;
        layers[i] = (pare_kv_layer){.codec = spec->codec,
                                    .k = storage,
                                    .v = storage + bytes,
                                    .n_kv_heads = spec->n_kv_heads,
                                    .head_dim = spec->head_dim,
                                    .capacity = capacity,
                                    .head_stride = capacity * sizes.row_bytes,
                                    .row_stride = sizes.row_bytes};
        storage += 2 * bytes;
        if (ring) {
            c->window = spec->window;
            c->ring_capacity = capacity;
        }
    }
    return PARE_OK;
}

void pare_kv_cache_free(pare_kv_cache *c) {
    if (!c) return;
    pare_big_free(c->storage, c->storage_bytes);
    pare_free(c->layers);
    *c = (pare_kv_cache){0};
}

pare_status pare_kv_cache_reserve(pare_kv_cache *c, size_t n, pare_error *err) {
    if (n > c->n_batch)
        return pare_fail(err, PARE_ERR_ARG, "kv cache: found %zu tokens, expected at most %zu", n,
                         c->n_batch);
    if (n > c->n_ctx - c->n_pos)
        return pare_fail(err, PARE_ERR_ARG,
                         "kv cache: found %zu tokens after %zu, expected at most %zu positions", n,
                         c->n_pos, c->n_ctx);
    size_t end = c->n_pos + n;
    if (c->window && end > c->ring_capacity && end - c->ring_capacity > c->ring_first)
        c->ring_first = end - c->ring_capacity;
    return PARE_OK;
}

void pare_kv_cache_advance(pare_kv_cache *c, size_t n) { c->n_pos += n; }

size_t pare_kv_cache_truncate(pare_kv_cache *c, size_t n_keep) {
    if (n_keep >= c->n_pos) return c->n_pos;
    /* The next query, at n_keep, sees keys > n_keep - window. */
    size_t needed = n_keep + 1 > c->window ? n_keep + 1 - c->window : 0;
    if (c->window && needed < c->ring_first) n_keep = 0;
    if (n_keep == 0) c->ring_first = 0;
    c->n_pos = n_keep;
    return n_keep;
}
