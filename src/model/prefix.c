#include "model/prefix.h"

#include "model/act.h"

#include <string.h>

float *pare_prefix_rows(const pare_prefix *p, size_t layer, bool value) {
    return p->values + (2 * layer + value) * p->attn.n * p->kv_dim;
}

static pare_status check_length(const pare_model_config *c, size_t n, pare_error *err) {
    size_t most = PARE_PREFIX_MAX;
    if (c->ctx_max && c->ctx_max - 1 < most) most = c->ctx_max - 1;
    if (n && n <= most) return PARE_OK;
    return pare_fail(err, PARE_ERR_ARG, "prefix: found %zu positions, expected 1 to %zu", n, most);
}

pare_status pare_prefix_create(pare_prefix **out, const pare_model_config *c, size_t n,
                               pare_error *err) {
    size_t kv_dim = c->n_kv_heads * c->head_dim, bytes; /* a cache's row: checked by the readers */
    *out = NULL;
    PARE_TRY(check_length(c, n, err));
    if (!pare_mul_size(&bytes, 2 * n * sizeof(float), kv_dim) ||
        !pare_mul_size(&bytes, bytes, c->n_layers))
        return pare_fail(err, PARE_ERR_NOMEM, "prefix: %zu positions", n);
    pare_prefix *p = pare_calloc(1, sizeof *p);
    if (p) {
        p->layers = pare_calloc(c->n_layers, sizeof *p->layers);
        p->values = pare_big_alloc(bytes);
    }
    if (!p || !p->layers || !p->values) {
        pare_prefix_free(p);
        return pare_fail(err, PARE_ERR_NOMEM, "prefix: %zu positions", n);
    }
    p->attn = (pare_attn_prefix){p->layers, n};
    p->n_layers = c->n_layers;
    p->kv_dim = kv_dim;
    p->bytes = bytes;
    for (size_t l = 0; l < c->n_layers; l++)
        p->layers[l] = pare_kv_layer_of(pare_prefix_rows(p, l, false), pare_prefix_rows(p, l, true),
                                        kv_dim, c->n_kv_heads, c->head_dim);
    *out = p;
    return PARE_OK;
}

void pare_prefix_free(pare_prefix *p) {
    if (!p) return;
    if (p->values) pare_big_free(p->values, p->bytes);
    pare_free(p->layers);
    pare_free(p->ids);
    pare_free(p);
}

/* The rows of a layer from `first` on = those of n positions of a cache in f32. */
static void take_rows(pare_prefix *p, size_t layer, size_t first, const pare_kv_layer *kv,
                      size_t n) {
    for (int value = 0; value < 2; value++)
        for (size_t i = 0; i < n; i++)
            for (size_t g = 0; g < kv->n_kv_heads; g++)
                memcpy(pare_prefix_rows(p, layer, value) + (first + i) * p->kv_dim +
                           g * kv->head_dim,
                       pare_kv_row(kv, value, g, i), kv->head_dim * sizeof(float));
}

/* The tokens of both, where both have some. */
static bool join_ids(pare_prefix *p, const pare_prefix *before, const int32_t *ids, size_t n) {
    size_t first = before ? before->attn.n : 0;
    if (before && !before->ids) return true;
    p->ids = pare_malloc(p->attn.n, sizeof *p->ids);
    if (!p->ids) return false;
    if (before) memcpy(p->ids, before->ids, first * sizeof *ids);
    memcpy(p->ids + first, ids, n * sizeof *ids);
    p->tuned = before && before->tuned;
    return true;
}

pare_status pare_prefix_from_ids(pare_prefix **out, pare_model *m, const int32_t *ids, size_t n,
                                 pare_error *err) {
    const pare_prefix *before = m->prefix;
    size_t first = before ? before->attn.n : 0;
    pare_prefix *p;
    pare_session *s = NULL;
    *out = NULL;
    PARE_TRY(check_length(&m->config, n, err));
    PARE_TRY(pare_prefix_create(&p, &m->config, first + n, err));
    pare_session_options o = pare_session_options_default();
    o.n_ctx = n;
    o.n_batch = n; /* in one pass, so that local layers hold it all */
    o.kv = "f32";
    o.compute = PARE_COMPUTE_EXACT;
    if (m->act) pare_act_pause(m->act);
    pare_status st = pare_session_create(&s, m, &o, err);
    if (st == PARE_OK) st = pare_session_eval(s, ids, n, NULL, err);
    if (m->act) pare_act_go_on(m->act);
    if (st == PARE_OK && !join_ids(p, before, ids, n))
        st = pare_fail(err, PARE_ERR_NOMEM, "prefix: %zu tokens", first + n);
    for (size_t l = 0; st == PARE_OK && l < p->n_layers; l++) {
        if (before) take_rows(p, l, 0, &before->layers[l], first);
        take_rows(p, l, first, &pare_session_cache(s)->layers[l], n);
    }
    pare_session_free(s);
    if (st == PARE_OK)
        *out = p;
    else
        pare_prefix_free(p);
    return st;
}

void pare_model_attach_prefix(pare_model *m, pare_prefix *p) {
    pare_prefix_free(m->prefix);
    m->prefix = p;
}

const pare_attn_prefix *pare_model_prefix(const pare_model *m) {
    return m->prefix ? &m->prefix->attn : NULL;
}

uint64_t pare_prefix_read_bytes(const pare_model *m, size_t pos) {
    const pare_prefix *p = m->prefix;
    const pare_model_config *c = &m->config;
    uint64_t positions = 0; /* of all layers */
    for (size_t l = 0; p && l < p->n_layers; l++) {
        size_t seen = p->attn.n;
        if (c->window && c->local[l]) {
            size_t room = c->window > pos + 1 ? c->window - pos - 1 : 0;
            if (room < seen) seen = room;
        }
        positions += seen;
    }
    return p ? positions * 2 * p->kv_dim * sizeof(float) : 0;
}

/* ---- the public calls ---- */

pare_status pare_model_set_prefix(pare_model *m, const char *path, pare_error *err) {
    pare_prefix *p = NULL;
    if (path) PARE_TRY(pare_prefix_load(&p, &m->config, path, err));
    pare_model_attach_prefix(m, p);
    return PARE_OK;
}

pare_status pare_model_set_prefix_ids(pare_model *m, const int32_t *ids, size_t n,
                                      pare_error *err) {
    pare_prefix *before = m->prefix, *p;
    m->prefix = NULL;
    pare_status st = pare_prefix_from_ids(&p, m, ids, n, err);
    m->prefix = before;
    if (st == PARE_OK) pare_model_attach_prefix(m, p);
    return st;
}

size_t pare_model_prefix_length(const pare_model *m) { return m->prefix ? m->prefix->attn.n : 0; }

bool pare_model_prefix_holds(const pare_model *m, int32_t id) {
    const pare_prefix *p = m->prefix;
    for (size_t i = 0; p && p->ids && i < p->attn.n; i++)
        if (p->ids[i] == id) return true;
    return false;
}

size_t pare_model_prefix_has_bos(const pare_model *m, int32_t bos, const int32_t *ids, size_t n) {
    return n > 1 && ids[0] == bos && pare_model_prefix_holds(m, bos);
}
