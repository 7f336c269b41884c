#include "train/weights.h"

#include "base/runtime.h"
#include "kernels/tile.h"
#include "model/names.h"
#include "model/prefix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the model holds a tensor: a matrix, or a vector. */
typedef struct place {
    pare_linear *linear;
    const float **vector;
} place;

static place place_of(pare_model *m, const char *canonical) {
    pare_name n;
    place p = {0};
    if (!pare_name_parse(&n, m->arch, PARE_NAMES_GGUF, canonical)) return p;
    void *owner = n.layer == SIZE_MAX ? (void *)&m->weights : (void *)&m->weights.layers[n.layer];
    uint8_t *field = (uint8_t *)owner + n.spec->offset;
    if (n.spec->out == PARE_X_NONE)
        p.vector = n.is_bias ? &((pare_norm *)field)->bias : &((pare_norm *)field)->w;
    else if (n.is_bias)
        p.vector = &((pare_linear *)field)->bias;
    else
        p.linear = (pare_linear *)field;
    return p;
}

static size_t layer_of(const pare_model *m, const char *canonical) {
    pare_name n;
    return pare_name_parse(&n, m->arch, PARE_NAMES_GGUF, canonical) ? n.layer : SIZE_MAX;
}

/* Names, shapes and kinds; memory is laid out by place_memory. */
static void describe(pare_train_weights *w) {
    const pare_source *s = w->model->source;
    for (size_t i = 0; i < pare_source_n_tensors(s); i++) {
        const pare_source_tensor *t = pare_source_tensor_at(s, i);
        if (!t->canonical) continue;
        place p = place_of(w->model, t->canonical);
        if (!p.linear && !p.vector) continue;
        pare_train_tensor *to = &w->tensors[w->n++];
        to->name = t->canonical;
        pare_source_shape(t, &to->rows, &to->cols);
        to->matrix = p.linear != NULL;
        to->linear = to->matrix && strcmp(t->canonical, "token_embd.weight") != 0 &&
                     strcmp(t->canonical, "position_embd.weight") != 0;
        to->frozen = strcmp(t->canonical, "rope_freqs.weight") == 0;
        to->fresh = true;
    }
}

/* Bytes of all arrays; with memory there they are placed. Each is followed by 64 readable bytes. */
static size_t place_memory(pare_train_weights *w, bool half) {
    pare_arena arena = {.base = w->memory, .capacity = w->memory ? w->bytes : SIZE_MAX};
    for (size_t i = 0; i < w->n; i++) {
        pare_train_tensor *t = &w->tensors[i];
        size_t count = t->rows * t->cols;
        t->w = pare_arena_alloc(&arena, count + 16, sizeof *t->w);
        if (!t->frozen) t->grad = pare_arena_alloc(&arena, count + 16, sizeof *t->grad);
        if (half && t->matrix) t->half = pare_arena_alloc(&arena, count + 32, sizeof *t->half);
    }
    return arena.peak;
}

/* Decodes what was loaded of a layer (SIZE_MAX: of what is in none) and lets go of the loaded
 * memory; the model then reads the masters. */
static void take_over(pare_train_weights *w, size_t layer) {
    pare_model *m = w->model;
    for (size_t i = 0; i < w->n; i++) {
        pare_train_tensor *t = &w->tensors[i];
        if (layer_of(m, t->name) != layer) continue;
        place p = place_of(m, t->name);
        if (p.linear)
            pare_tensor_decode(m->rt, t->w, &p.linear->w);
        else
            memcpy(t->w, *p.vector, t->cols * sizeof *t->w);
    }
    if (layer == SIZE_MAX)
        pare_model_drop_globals(m);
    else
        pare_model_drop_layer(m, layer);
    for (size_t i = 0; i < w->n; i++) {
        pare_train_tensor *t = &w->tensors[i];
        if (layer_of(m, t->name) != layer) continue;
        place p = place_of(m, t->name);
        if (p.vector) *p.vector = t->w;
        if (!p.linear) continue;
        p.linear->name = t->name;
        p.linear->w = t->half
                          ? pare_tensor_wrap(pare_encoding_find("bf16"), t->half, t->rows, t->cols)
                          : pare_tensor_wrap(pare_encoding_find("f32"), t->w, t->rows, t->cols);
    }
}

static const void *key_of(const pare_train_tensor *t) {
    return t->half ? (const void *)t->half : t->forward ? t->forward : t->w;
}

static int by_key(const void *a, const void *b) {
    const pare_leaf *x = a, *y = b;
    return (uintptr_t)x->key < (uintptr_t)y->key ? -1 : (uintptr_t)x->key > (uintptr_t)y->key;
}

static void list_leaves(pare_train_weights *w) {
    w->n_leaves = 0;
    for (size_t i = 0; i < w->n; i++) {
        pare_train_tensor *t = &w->tensors[i];
        if (!t->grad) continue;
        w->leaves[w->n_leaves++] = (pare_leaf){.key = key_of(t),
                                               .grad = t->grad,
                                               .fresh = &t->fresh,
                                               .rows = t->rows,
                                               .cols = t->cols};
    }
    qsort(w->leaves, w->n_leaves, sizeof *w->leaves, by_key);
}

static pare_status fill(pare_train_weights *w, bool fast, pare_error *err) {
    pare_model *m = w->model;
    size_t n = pare_source_n_tensors(m->source);
    w->tensors = pare_calloc(n, sizeof *w->tensors);
    w->leaves = pare_calloc(n, sizeof *w->leaves);
    if (!w->tensors || !w->leaves)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: list of weights", pare_source_path(m->source));
    describe(w);
    bool half = fast && pare_tile_kernels_get(pare_runtime_isa(m->rt))->bf16 != NULL;
    w->bytes = place_memory(w, half);
    w->memory = pare_big_alloc(w->bytes);
    if (!w->memory)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: %zu bytes for weights and gradients",
                         pare_source_path(m->source), w->bytes);
    place_memory(w, half);
    take_over(w, SIZE_MAX);
    for (size_t l = 0; l < m->config.n_layers; l++) {
        PARE_TRY(pare_model_load_layers(m, l, l + 1, err));
        take_over(w, l);
    }
    pare_train_weights_round(w);
    list_leaves(w);
    return PARE_OK;
}

pare_status pare_train_weights_open(pare_train_weights **out, pare_runtime *rt, const char *path,
                                    bool fast, pare_error *err) {
    *out = NULL;
    pare_source *source;
    PARE_TRY(pare_source_open(&source, path, err));
    pare_train_weights *w = pare_calloc(1, sizeof *w);
    if (!w) {
        pare_source_close(source);
        return pare_fail(err, PARE_ERR_NOMEM, "%s: the model", path);
    }
    char *cushion = NULL;
    pare_status st = pare_model_open(&w->model, rt, source, err);
    if (st == PARE_OK) st = fill(w, fast, err);
    if (st == PARE_OK) st = pare_prefix_path_of(&cushion, source, err);
    if (cushion)
        pare_warn(rt,
                  "%s: its cushion belongs to the weights as they are; the training leaves it out",
                  path);
    if (st == PARE_OK && pare_source_act(source))
        pare_warn(rt, "%s: its inputs are quantized; the training leaves that out", path);
    pare_free(cushion);
    if (st != PARE_OK) {
        pare_train_weights_free(w);
        return st;
    }
    *out = w;
    return PARE_OK;
}

/* ---- adapters ---- */

enum { LORA_NAME = PARE_NAME_MAX + 8 };

/* "blk.0.attn_q.weight" -> "blk.0.attn_q.lora_a" */
static void print_lora_name(char out[LORA_NAME], const pare_lora_pair *p, bool is_b) {
    snprintf(out, LORA_NAME, "%.*s.lora_%c", (int)(strrchr(p->base, '.') - p->base), p->base,
             is_b ? 'b' : 'a');
}

static pare_status fill_lora(pare_train_weights *w, pare_error *err) {
    const pare_lora *l = w->model->lora;
    pare_arena arena = {.capacity = SIZE_MAX};
    w->n = 2 * l->n;
    w->tensors = pare_calloc(w->n, sizeof *w->tensors);
    w->leaves = pare_calloc(w->n, sizeof *w->leaves);
    w->names = pare_calloc(w->n, LORA_NAME);
    if (!w->tensors || !w->leaves || !w->names)
        return pare_fail(err, PARE_ERR_NOMEM, "training: list of adapters");
    for (int pass = 0; pass < 2; pass++) { /* sizes, then places */
        for (size_t i = 0; i < w->n; i++) {
            const pare_lora_pair *p = &l->pairs[i / 2];
            const pare_tensor *t = i % 2 ? &p->adapter.b : &p->adapter.a;
            size_t count = t->view.rows * t->view.cols;
            w->tensors[i] =
                (pare_train_tensor){.name = w->names + i * LORA_NAME,
                                    .rows = t->view.rows,
                                    .cols = t->view.cols,
                                    .matrix = true,
                                    .fresh = true,
                                    .w = (float *)(uintptr_t)t->view.part[0],
                                    .grad = pare_arena_alloc(&arena, count + 16, sizeof(float))};
            print_lora_name(w->names + i * LORA_NAME, p, i % 2);
        }
        if (pass == 1) break;
        w->bytes = arena.peak;
        w->memory = pare_big_alloc(w->bytes);
        if (!w->memory)
            return pare_fail(err, PARE_ERR_NOMEM, "training: %zu bytes for gradients", w->bytes);
        arena = (pare_arena){.base = w->memory, .capacity = w->bytes};
    }
    list_leaves(w);
    return PARE_OK;
}

pare_status pare_train_weights_open_lora(pare_train_weights **out, pare_runtime *rt,
                                         const char *path, const pare_lora_options *o,
                                         pare_error *err) {
    *out = NULL;
    pare_train_weights *w = pare_calloc(1, sizeof *w);
    if (!w) return pare_fail(err, PARE_ERR_NOMEM, "%s: the model", path);
    pare_lora *l;
    pare_status st = pare_model_load(&w->model, rt, path, err);
    if (st == PARE_OK) st = pare_lora_create(&l, w->model->source, o, pare_runtime_seed(rt), err);
    if (st == PARE_OK) {
        pare_model_attach_lora(w->model, l);
        st = fill_lora(w, err);
    }
    if (st != PARE_OK) {
        pare_train_weights_free(w);
        return st;
    }
    *out = w;
    return PARE_OK;
}

/* ---- a prefix ---- */

enum { PREFIX_NAME = 32 };

static pare_status fill_prefix(pare_train_weights *w, pare_model *m, pare_error *err) {
    const pare_prefix *p = m->prefix;
    size_t count = p->attn.n * p->kv_dim, bytes;
    w->n = 2 * p->n_layers;
    w->tensors = pare_calloc(w->n, sizeof *w->tensors);
    w->leaves = pare_calloc(w->n, sizeof *w->leaves);
    w->names = pare_calloc(w->n, PREFIX_NAME);
    if (!pare_align_size(&bytes, count * sizeof(float), 64) ||
        !pare_mul_size(&w->bytes, bytes, w->n))
        w->bytes = 0;
    w->memory = w->bytes ? pare_big_alloc(w->bytes) : NULL;
    if (!w->tensors || !w->leaves || !w->names || !w->memory)
        return pare_fail(err, PARE_ERR_NOMEM, "training: a prefix of %zu positions", p->attn.n);
    for (size_t i = 0; i < w->n; i++) {
        char *name = w->names + i * PREFIX_NAME;
        snprintf(name, PREFIX_NAME, "layers.%zu.%c", i / 2, i % 2 ? 'v' : 'k');
        w->tensors[i] = (pare_train_tensor){.name = name,
                                            .rows = p->attn.n,
                                            .cols = p->kv_dim,
                                            .matrix = true,
                                            .fresh = true,
                                            .w = pare_prefix_rows(p, i / 2, i % 2),
                                            .grad = (float *)(void *)(w->memory + i * bytes)};
    }
    list_leaves(w);
    return PARE_OK;
}

pare_status pare_train_weights_of_prefix(pare_train_weights **out, pare_model *m, pare_error *err) {
    *out = NULL;
    if (!m->prefix) return pare_fail(err, PARE_ERR_ARG, "training: found no prefix, expected one");
    pare_train_weights *w = pare_calloc(1, sizeof *w);
    if (!w) return pare_fail(err, PARE_ERR_NOMEM, "training: a prefix");
    pare_status st = fill_prefix(w, m, err);
    if (st != PARE_OK) {
        pare_train_weights_free(w);
        return st;
    }
    w->model = m;
    *out = w;
    return PARE_OK;
}

void pare_train_weights_free(pare_train_weights *w) {
    if (!w) return;
    pare_model_free(w->model);
    if (w->memory) pare_big_free(w->memory, w->bytes);
    if (w->forward) pare_big_free(w->forward, w->forward_bytes);
    for (size_t i = 0; i < w->n && w->tensors; i++) pare_live_free(w->tensors[i].live);
    pare_free(w->leaves);
    pare_free(w->tensors);
    pare_free(w->names);
    pare_free(w);
}

pare_status pare_train_weights_split(pare_train_weights *w, const bool *wanted, pare_error *err) {
    pare_arena arena = {.capacity = SIZE_MAX};
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < w->n; i++) {
            pare_train_tensor *t = &w->tensors[i];
            size_t count = t->rows * t->cols;
            bool chosen = wanted ? wanted[i] && t->matrix : t->linear;
            if (!chosen || t->half) continue;
            t->forward = pare_arena_alloc(&arena, count + 16, sizeof *t->forward);
            if (!t->forward) continue;
            memcpy(t->forward, t->w, count * sizeof *t->forward);
            pare_linear *linear = place_of(w->model, t->name).linear;
            if (!linear) continue;
            linear->w = pare_tensor_wrap(pare_encoding_find("f32"), t->forward, t->rows, t->cols);
        }
        if (pass == 1 || arena.peak == 0) break;
        w->forward_bytes = arena.peak;
        w->forward = pare_big_alloc(w->forward_bytes);
        if (!w->forward)
            return pare_fail(err, PARE_ERR_NOMEM,
                             "training: %zu bytes for weights of the forward pass",
                             w->forward_bytes);
        arena = (pare_arena){.base = w->forward, .capacity = w->forward_bytes};
    }
    list_leaves(w);
    return PARE_OK;
}

static pare_leaf *leaf_of(pare_train_weights *w, const pare_train_tensor *t) {
    const pare_leaf wanted = {.key = key_of(t)};
    return bsearch(&wanted, w->leaves, w->n_leaves, sizeof wanted, by_key);
}

pare_status pare_train_weights_mask(pare_train_weights *w, size_t i, const uint64_t *mask,
                                    const uint64_t *kept, pare_error *err) {
    pare_train_tensor *t = &w->tensors[i];
    pare_linear *linear = t->linear ? place_of(w->model, t->name).linear : NULL;
    pare_leaf *leaf = leaf_of(w, t);
    t->kept = kept;
    if (!linear || !leaf) return PARE_OK;
    linear->w.live = leaf->live = NULL;
    if (!mask && !kept) return PARE_OK;
    if (!t->live) PARE_TRY(pare_live_create(&t->live, t->rows, t->cols, err));
    pare_live_set(w->model->rt, t->live, mask ? mask : kept, t->half != NULL);
    if (mask) linear->w.live = t->live;
    if (kept) leaf->live = t->live;
    return PARE_OK;
}

double pare_train_weights_left_out(const pare_train_weights *w) {
    double sum = 0;
    for (size_t i = 0; i < w->n; i++) {
        const pare_train_tensor *t = &w->tensors[i];
        if (!t->live) continue;
        const pare_linear *linear = place_of(w->model, t->name).linear;
        double n = 2.0 * (double)t->rows * (double)t->cols;
        if (linear && linear->w.live) sum += n * (2 - t->live->y - t->live->dx);
        if (t->kept) sum += n * (1 - t->live->dw);
    }
    return sum;
}

void pare_train_weights_clear(pare_train_weights *w) {
    for (size_t i = 0; i < w->n; i++) w->tensors[i].fresh = true;
}

typedef struct round_job {
    const pare_train_tensor *t;
    const pare_encode_kernels *k;
    const pare_encoding *bf16;
} round_job;

static void round_rows(void *arg, size_t begin, size_t end) {
    const round_job *j = arg;
    size_t cols = j->t->cols;
    for (size_t r = begin; r < end; r++)
        j->bf16->encode_row(j->k, j->t->half + r * cols, j->t->w + r * cols, cols, NULL);
}

void pare_train_weights_round(pare_train_weights *w) {
    pare_runtime *rt = w->model->rt;
    for (size_t i = 0; i < w->n; i++) {
        round_job job = {&w->tensors[i], pare_encode_kernels_get(pare_runtime_isa(rt)),
                         pare_encoding_find("bf16")};
        if (job.t->half) pare_parallel_for(rt, job.t->rows, 16, round_rows, &job);
    }
}

enum { NORM_BLOCK = 1 << 14 };

typedef struct norm_job {
    const float *x;
    const uint64_t *kept; /* bits of x, or NULL */
    size_t n;
    double *sums; /* one a block */
} norm_job;

/* 8 values from number i on, as far as they count. */
static void add_squares(double part[8], const norm_job *j, size_t i) {
    unsigned kept = j->kept ? j->kept[i / 64] >> i % 64 & 0xFF : 0xFF;
    if (kept == 0xFF)
        for (size_t k = 0; k < 8; k++) part[k] += (double)j->x[i + k] * (double)j->x[i + k];
    else if (kept)
        for (size_t k = 0; k < 8; k++) { /* without a branch: bits of a mask are hard to foresee */
            const float pair[2] = {0, j->x[i + k]};
            double v = (double)pair[kept >> k & 1];
            part[k] += v * v;
        }
}

static void sum_blocks(void *arg, size_t begin, size_t end) {
    const norm_job *j = arg;
    for (size_t b = begin; b < end; b++) {
        size_t first = b * NORM_BLOCK, last = first + NORM_BLOCK < j->n ? first + NORM_BLOCK : j->n;
        double part[8] = {0};
        size_t i = first;
        for (; i + 8 <= last; i += 8) add_squares(part, j, i);
        for (; i < last; i++)
            if (!j->kept || j->kept[i / 64] >> i % 64 & 1)
                part[0] += (double)j->x[i] * (double)j->x[i];
        double sum = 0;
        for (size_t k = 0; k < 8; k++) sum += part[k];
        j->sums[b] = sum;
    }
}

typedef struct finite_job {
    const float *x;
    size_t n_bad;
} finite_job;

static void count_bad(void *arg, size_t begin, size_t end) {
    finite_job *j = arg;
    size_t n = 0;
    for (size_t i = begin; i < end; i++) n += !isfinite(j->x[i]);
    if (n) __atomic_fetch_add(&j->n_bad, n, __ATOMIC_RELAXED);
}

const char *pare_train_weights_not_finite(const pare_train_weights *w) {
    for (size_t i = 0; i < w->n; i++) {
        const pare_train_tensor *t = &w->tensors[i];
        finite_job job = {t->w, 0};
        pare_parallel_for(w->model->rt, t->rows * t->cols, 1 << 14, count_bad, &job);
        if (job.n_bad) return t->name;
    }
    return NULL;
}

double pare_train_grad_norm(const pare_train_weights *w) {
    double total = 0;
    for (size_t i = 0; i < w->n; i++) {
        const pare_train_tensor *t = &w->tensors[i];
        if (!t->grad || t->fresh) continue;
        size_t n = t->rows * t->cols, done = 0;
        while (done < n) { /* so many blocks at a time that their sums fit the stack */
            double sums[256];
            size_t part = n - done < sizeof sums / sizeof *sums * NORM_BLOCK
                              ? n - done
                              : sizeof sums / sizeof *sums * NORM_BLOCK;
            size_t blocks = (part + NORM_BLOCK - 1) / NORM_BLOCK;
            norm_job job = {.x = t->grad + done,
                            .kept = t->kept ? t->kept + done / 64 : NULL,
                            .n = part,
                            .sums = sums};
            pare_parallel_for(w->model->rt, blocks, 1, sum_blocks, &job);
            for (size_t b = 0; b < blocks; b++) total += sums[b];
            done += part;
        }
    }
    return sqrt(total);
}
