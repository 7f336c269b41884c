#include "model/model.h"

#include "base/runtime.h"
#include "model/act.h"
#include "model/lora.h"
#include "model/names.h"
#include "model/prefix.h"
#include "tensor/linear.h"
#include "tensor/pack.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Memory of the weights that were loaded together; freed with the last layer in it. */
typedef struct pare_weight_block {
    uint8_t *data;
    size_t bytes, n_users;
} pare_weight_block;

/* One tensor to load and where it goes. */
typedef struct load_item {
    const pare_source_tensor *t;
    pare_tensor *matrix;  /* in its encoding, or */
    const float **vector; /* as f32 */
    bool packed;          /* the matrix is multiplied: packed if it can be */
    size_t offset;        /* in the block */
} load_item;

typedef struct load_job {
    const pare_model *m;
    const pare_source *source;
    uint8_t *data;
    load_item *items;
    size_t n_items, n_bytes;
    atomic_flag lock; /* of what follows */
    size_t failed;    /* the first item that failed, SIZE_MAX = none: the message does not depend on
                         which thread was faster */
    pare_error err;
    atomic_bool stop;
} load_job;

bool pare_model_is_multiplied(const pare_model *m, const pare_source_tensor *t) {
    if (!t->canonical || t->n_dims != 2) return false;
    if (strcmp(t->canonical, "token_embd.weight") == 0) return m->config.tied;
    return strcmp(t->canonical, "position_embd.weight") != 0;
}

/* Bytes of a tensor in packed form, 0 if it is not packed. */
static size_t packed_bytes(const pare_model *m, const pare_source_tensor *t) {
    size_t rows, cols;
    if (!t->enc || !pare_model_is_multiplied(m, t)) return 0;
    pare_source_shape(t, &rows, &cols);
    return pare_tensor_packed_bytes(t->enc, rows, cols);
}

/* Bytes of a tensor as it is held. */
static uint64_t held_bytes(const pare_model *m, const pare_source_tensor *t) {
    size_t packed = packed_bytes(m, t);
    return packed ? packed : t->n_bytes;
}

static pare_status add_item(load_job *job, const pare_source_tensor *t, pare_tensor *matrix,
                            const float **vector, pare_error *err) {
    size_t bytes = pare_source_read_bytes(t, matrix == NULL);
    size_t packed = matrix ? packed_bytes(job->m, t) : 0, padded;
    job->items[job->n_items++] = (load_item){t, matrix, vector, packed != 0, job->n_bytes};
    if (packed && bytes) { /* room for the larger form, and as read_bytes pads it */
        if (t->n_parts > 1) bytes = 64;
        if (!pare_align_size(&padded, packed, 64) || !pare_add_size(&padded, padded, 64)) bytes = 0;
        if (bytes && padded > bytes) bytes = padded;
    }
    if (!bytes || !pare_add_size(&job->n_bytes, job->n_bytes, bytes))
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found a size that does not fit in memory",
                         pare_source_path(job->source), t->name);
    return PARE_OK;
}

/* The weight and bias of one module, those that are there. owner: a pare_layer or pare_weights. */
static pare_status add_module(load_job *job, const pare_weight_spec *spec, size_t layer,
                              void *owner, pare_error *err) {
    uint8_t *field = (uint8_t *)owner + spec->offset;
    pare_linear *linear = (pare_linear *)field;
    pare_norm *norm = (pare_norm *)field;
    bool is_norm = spec->out == PARE_X_NONE;
    char text[PARE_NAME_MAX];
    pare_name name = {spec, layer, "weight", false};
    pare_name_print(text, &name, PARE_NAMES_GGUF);
    const pare_source_tensor *t = pare_source_find(job->source, text);
    if (!t) return PARE_OK;
    if (!is_norm) linear->name = t->canonical;
    PARE_TRY(add_item(job, t, is_norm ? NULL : &linear->w, is_norm ? &norm->w : NULL, err));
    name.leaf = "bias";
    pare_name_print(text, &name, PARE_NAMES_GGUF);
    t = pare_source_find(job->source, text);
    return t ? add_item(job, t, NULL, is_norm ? &norm->bias : &linear->bias, err) : PARE_OK;
}

/* Reads a matrix and packs it into its place: dense forms there, others by way of a copy. */
static pare_status load_packed(const load_job *job, const load_item *item, pare_tensor *tensor,
                               pare_error *err) {
    const pare_source_tensor *t = item->t;
    size_t rows, cols, raw = pare_source_read_bytes(t, false);
    pare_source_shape(t, &rows, &cols);
    size_t bytes = pare_tensor_pack_scratch(t->enc, cols);
    uint8_t *to = job->data + item->offset, *copy = t->n_parts > 1 ? pare_big_alloc(raw) : to;
    void *scratch = pare_malloc(bytes, 1);
    pare_status st = PARE_OK;
    if (!copy || !scratch)
        st = pare_fail(err, PARE_ERR_NOMEM, "%s: %zu bytes to pack it", t->name, raw + bytes);
    if (st == PARE_OK) st = pare_source_read_into(job->source, t, false, copy, tensor, err);
    if (st == PARE_OK) pare_tensor_pack(tensor, pare_runtime_isa(job->m->rt), scratch, to);
    if (copy && copy != to) pare_big_free(copy, raw);
    pare_free(scratch);
    return st;
}

static void load_one(load_job *job, size_t i) {
    load_item *item = &job->items[i];
    pare_error err = {0};
    pare_tensor tensor;
    pare_status st = item->packed
                         ? load_packed(job, item, &tensor, &err)
                         : pare_source_read_into(job->source, item->t, item->vector != NULL,
                                                 job->data + item->offset, &tensor, &err);
    if (st == PARE_OK) {
        if (item->vector)
            *item->vector = tensor.view.part[0];
        else
            *item->matrix = tensor;
        return;
    }
    atomic_store(&job->stop, true);
    while (atomic_flag_test_and_set(&job->lock)) {
    }
    if (i < job->failed) {
        job->failed = i;
        job->err = err;
    }
    atomic_flag_clear(&job->lock);
}

static void load_range(void *arg, size_t begin, size_t end) {
    load_job *job = arg;
    for (size_t i = begin; i < end && !atomic_load(&job->stop); i++) load_one(job, i);
}

/* Largest first, so that threads finish together; else in the order of the file. */
static int by_size(const void *a, const void *b) {
    const load_item *x = a, *y = b;
    if (x->t->n_bytes != y->t->n_bytes) return x->t->n_bytes < y->t->n_bytes ? 1 : -1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Allocates the block and reads all items into it. */
static pare_status run_job(pare_weight_block **out, pare_runtime *rt, load_job *job,
                           pare_error *err) {
    pare_weight_block *block = pare_calloc(1, sizeof *block);
    if (block) block->data = pare_big_alloc(job->n_bytes);
    if (!block || !block->data) {
        pare_free(block);
        return pare_fail(err, PARE_ERR_NOMEM,
                         "%s: found %zu bytes of memory, expected %zu for weights",
                         pare_source_path(job->source), pare_available_bytes(), job->n_bytes);
    }
    block->bytes = job->n_bytes;
    job->data = block->data;
    job->failed = SIZE_MAX;
    qsort(job->items, job->n_items, sizeof *job->items, by_size);
    pare_parallel_for(rt, job->n_items, 1, load_range, job);
    if (job->failed == SIZE_MAX) {
        *out = block;
        return PARE_OK;
    }
    pare_big_free(block->data, block->bytes);
    pare_free(block);
    return pare_fail(err, job->err.status, "%s", job->err.message);
}

static void release(pare_weight_block **block) {
    if (!*block) return;
    if (--(*block)->n_users == 0) {
        pare_big_free((*block)->data, (*block)->bytes);
        pare_free(*block);
    }
    *block = NULL;
}

/* Collects the modules of layers [begin, end), or (begin == SIZE_MAX) those outside, and loads
 * them.
 */
static pare_status load(pare_model *m, size_t begin, size_t end, pare_weight_block **block,
                        pare_error *err) {
    load_job job = {.m = m, .source = m->source, .lock = ATOMIC_FLAG_INIT};
    size_t n_specs = 0, n_layers = begin == SIZE_MAX ? 1 : end - begin;
    while (m->arch->weights[n_specs].name) n_specs++;
    job.items = pare_calloc(n_specs * 2 * n_layers, sizeof *job.items);
    if (!job.items)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: list of weights",
                         m->source ? pare_source_path(m->source) : "");
    pare_status st = PARE_OK;
    for (size_t k = 0; k < n_layers; k++)
        for (size_t i = 0; i < n_specs && st == PARE_OK; i++) {
            const pare_weight_spec *spec = &m->arch->weights[i];
            bool layered = strchr(spec->name, '#') != NULL;
            if (layered != (begin != SIZE_MAX)) continue;
            void *owner = layered ? (void *)&m->weights.layers[begin + k] : (void *)&m->weights;
            st = add_module(&job, spec, layered ? begin + k : SIZE_MAX, owner, err);
        }
    if (st == PARE_OK) st = run_job(block, m->rt, &job, err);
    pare_free(job.items);
    return st;
}

pare_status pare_model_load_layers(pare_model *m, size_t begin, size_t end, pare_error *err) {
    for (size_t i = begin; i < end; i++)
        if (i >= m->config.n_layers || m->weights.layers[i].block)
            return pare_fail(err, PARE_ERR_INTERNAL, "%s: layer %zu cannot be loaded",
                             pare_source_path(m->source), i);
    if (begin == end) return PARE_OK;
    pare_weight_block *block;
    pare_status st = load(m, begin, end, &block, err);
    if (st != PARE_OK) {
        memset(&m->weights.layers[begin], 0, (end - begin) * sizeof(pare_layer));
        return st;
    }
    block->n_users = end - begin;
    for (size_t i = begin; i < end; i++) m->weights.layers[i].block = block;
    return PARE_OK;
}

void pare_model_drop_layer(pare_model *m, size_t layer) {
    pare_layer *l = &m->weights.layers[layer];
    release(&l->block);
    *l = (pare_layer){0};
}

void pare_model_drop_globals(pare_model *m) {
    pare_layer *layers = m->weights.layers;
    release(&m->weights.block);
    m->weights = (pare_weights){.layers = layers};
}

pare_linear *pare_model_linear(pare_model *m, size_t layer, const char *name) {
    for (const pare_weight_spec *spec = m->arch->weights; spec->name; spec++) {
        if (!strchr(spec->name, '#') || spec->out == PARE_X_NONE) continue;
        pare_linear *l = (pare_linear *)((uint8_t *)&m->weights.layers[layer] + spec->offset);
        if (l->w.enc && strcmp(l->name, name) == 0) return l;
    }
    return NULL;
}

const float **pare_model_vector(pare_model *m, size_t layer, const char *name) {
    pare_name n;
    if (!pare_name_parse(&n, m->arch, PARE_NAMES_GGUF, name) || n.layer != layer) return NULL;
    uint8_t *field = (uint8_t *)&m->weights.layers[layer] + n.spec->offset;
    if (n.spec->out != PARE_X_NONE) return n.is_bias ? &((pare_linear *)field)->bias : NULL;
    return n.is_bias ? &((pare_norm *)field)->bias : &((pare_norm *)field)->w;
}

static pare_status open_globals(pare_model *m, pare_error *err) {
    const pare_model_config *c = &m->config;
    PARE_TRY(pare_source_check_complete(m->source, err));
    m->weights.layers = pare_calloc(c->n_layers, sizeof *m->weights.layers);
    if (!m->weights.layers)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: layers", pare_source_path(m->source));
    PARE_TRY(load(m, SIZE_MAX, SIZE_MAX, &m->weights.block, err));
    m->weights.block->n_users = 1;
    m->head = m->weights.output.w.enc ? &m->weights.output : &m->weights.token_embd;

    const float *divisors = m->weights.rope_freqs.w;
    pare_status st = pare_rope_init(&m->rope, &c->rope, c->head_dim, divisors, err);
    if (st == PARE_OK)
        st = pare_rope_init(&m->rope_local, &c->rope_local, c->head_dim, divisors, err);
    return st == PARE_OK ? st : pare_fail_prefix(err, "%s", pare_source_path(m->source));
}

pare_status pare_model_open(pare_model **out, pare_runtime *rt, pare_source *source,
                            pare_error *err) {
    *out = NULL;
    pare_model *m = pare_calloc(1, sizeof *m);
    if (!m) {
        pare_status st = pare_fail(err, PARE_ERR_NOMEM, "%s: the model", pare_source_path(source));
        pare_source_close(source);
        return st;
    }
    m->rt = rt;
    m->source = source;
    m->arch = pare_source_arch(source);
    m->config = *pare_source_config(source);
    pare_status st = open_globals(m, err);
    if (st != PARE_OK) {
        pare_model_free(m);
        return st;
    }
    *out = m;
    return PARE_OK;
}

pare_status pare_model_load(pare_model **out, pare_runtime *rt, const char *path, pare_error *err) {
    pare_source *source;
    *out = NULL;
    PARE_TRY(pare_source_open(&source, path, err));
    pare_model *m;
    PARE_TRY(pare_model_open(&m, rt, source, err));
    if (pare_source_n_beyond(source))
        pare_warn(rt,
                  "%s: found %zu tensors of layers from %zu on, which the configuration does not "
                  "count: not used",
                  path, pare_source_n_beyond(source), m->config.n_layers);
    for (size_t i = 0; pare_source_note(source, i); i++)
        pare_warn(rt, "%s", pare_source_note(source, i));
    pare_status st = pare_model_load_layers(m, 0, m->config.n_layers, err);
    if (st == PARE_OK) st = pare_act_load(m, err);
    if (st == PARE_OK) st = pare_model_load_own_prefix(m, err);
    if (st != PARE_OK) {
        pare_model_free(m);
        return st;
    }
    *out = m;
    return PARE_OK;
}

void pare_model_free(pare_model *m) {
    if (!m) return;
    for (size_t i = 0; m->weights.layers && i < m->config.n_layers; i++)
        release(&m->weights.layers[i].block);
    pare_free(m->weights.layers);
    pare_lora_free(m->lora);
    pare_prefix_free(m->prefix);
    pare_act_sites_free(m->act);
    release(&m->weights.block);
    pare_source_close(m->source);
    pare_free(m);
}

size_t pare_model_vocab_size(const pare_model *m) { return m->config.vocab_size; }
size_t pare_model_ctx_max(const pare_model *m) {
    size_t front = pare_model_prefix_length(m);
    return m->config.ctx_max > front ? m->config.ctx_max - front : m->config.ctx_max;
}
const char *pare_model_arch(const pare_model *m) { return m->config.arch; }

size_t pare_model_alike_rows(const pare_model *m, size_t pos) {
    size_t rows = pare_attention_alike(pos, 0), local = pare_attention_alike(pos, m->config.window);
    if (local < rows) rows = local;
    if (pare_act_is_joint(m)) return 1;
    for (size_t i = 0; i < pare_source_n_tensors(m->source); i++) {
        const pare_source_tensor *t = pare_source_tensor_at(m->source, i);
        size_t n = pare_model_is_multiplied(m, t) ? pare_linear_alike_rows(t->enc) : SIZE_MAX;
        if (n < rows) rows = n;
    }
    size_t adapters = m->lora ? pare_linear_alike_rows(pare_encoding_find("f32")) : SIZE_MAX;
    return adapters < rows ? adapters : rows;
}

uint64_t pare_model_bytes_per_token(const pare_model *m) {
    uint64_t total = 0;
    for (size_t i = 0; i < pare_source_n_tensors(m->source); i++) {
        const pare_source_tensor *t = pare_source_tensor_at(m->source, i);
        if (pare_model_is_multiplied(m, t) || (t->canonical && t->n_dims == 1))
            total += held_bytes(m, t);
    }
    const pare_source_tensor *table = pare_source_find(m->source, "token_embd.weight");
    if (m->act) total += (uint64_t)m->act->bytes_changed; /* may be less */
    return total + held_bytes(m, table) / m->config.vocab_size;
}

uint64_t pare_model_flops_per_token(const pare_model *m) {
    uint64_t total = 0;
    for (size_t i = 0; i < pare_source_n_tensors(m->source); i++) {
        const pare_source_tensor *t = pare_source_tensor_at(m->source, i);
        if (pare_model_is_multiplied(m, t)) total += 2 * t->n_params;
    }
    return total;
}

uint64_t pare_model_weight_bytes(const pare_model *m) {
    uint64_t total = 0;
    for (size_t i = 0; i < pare_source_n_tensors(m->source); i++) {
        const pare_source_tensor *t = pare_source_tensor_at(m->source, i);
        if (t->canonical) total += held_bytes(m, t);
    }
    return total;
}
