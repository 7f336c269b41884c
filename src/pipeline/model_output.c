/* Both containers are written into a temporary folder beside the output's name: here what is
 * declared and written, in output_metadata.c what is said of it, in output_verify.c how it is read
 * back and moves to its name. */
#include "pipeline/model_output_internal.h"

#include "base/hash.h"
#include "base/memory.h"
#include "io/json.h"
#include "model/names.h"
#include "pipeline/export_config.h"
#include "pipeline/output_form.h"

#include <stdio.h>
#include <string.h>

pare_status output_fail_memory(const pare_output *o, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", o->path ? o->path : "output");
}

bool pare_output_absorbs(const pare_output_format *format, const char *canonical) {
    return strcmp(format->container, "hf") == 0 && strcmp(canonical, "rope_freqs.weight") == 0;
}

/* --- opening --- */

/* Divisors of RoPE that only one of the two containers stores as a tensor. */
static pare_status find_freqs(pare_output *o, pare_error *err) {
    const pare_model_config *c = pare_source_config(o->source);
    size_t n = c->head_dim / 2;
    const pare_source_tensor *t = pare_source_find(o->source, "rope_freqs.weight");
    bool make = o->gguf && !t && c->rope.scaling == PARE_ROPE_LLAMA3;
    if (o->same_format || (!make && !t)) return PARE_OK;
    if (!(o->freqs = pare_malloc(n, sizeof(float)))) return output_fail_memory(o, err);
    if (make) {
        pare_rope_llama3_divisors(o->freqs, &c->rope, c->head_dim);
        return PARE_OK;
    }
    pare_tensor values;
    PARE_TRY(pare_source_read(o->source, t, true, &values, err));
    pare_status st = PARE_OK;
    if (values.view.cols * values.view.rows == n)
        values.enc->decode(o->freqs, &values.view, 0, 0, n);
    else
        st = pare_fail(err, PARE_ERR_INPUT, "%s: rope_freqs.weight: found %zu values, expected %zu",
                       pare_source_path(o->source), values.view.cols, n);
    pare_tensor_free(&values);
    return st;
}

pare_status pare_output_check(const pare_source *source, const pare_output_format *format,
                              const char *path, pare_error *err) {
    if (pare_same_file(path, pare_source_path(source)))
        return pare_fail(err, PARE_ERR_ARG, "%s: found the input itself, expected another output",
                         path);
    bool gguf = strcmp(format->container, "gguf") == 0;
    if (gguf && !pare_source_gguf(source) && /* before hours of work, not at their end */
        pare_export_check_gguf(pare_source_config(source), err) != PARE_OK)
        return pare_fail_prefix(err, "%s", pare_source_path(source));
    if (!gguf) return pare_folder_check(path, err);
    if (pare_path_is_folder(path))
        return pare_fail(err, PARE_ERR_INPUT, "%s: found a folder, expected a file name", path);
    return PARE_OK;
}

pare_status pare_output_open(pare_output **out, pare_runtime *rt, const pare_source *source,
                             const pare_output_format *format, const char *path,
                             uint64_t split_bytes, pare_error *err) {
    *out = NULL;
    PARE_TRY(pare_output_check(source, format, path, err));
    pare_output *o = pare_calloc(1, sizeof *o);
    if (!o) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", path);
    *out = o;
    o->rt = rt;
    o->source = source;
    o->kind = format->kind;
    o->gguf = strcmp(format->container, "gguf") == 0;
    o->same_format = strcmp(format->container, pare_source_format(source)) == 0;
    o->split = split_bytes;
    o->json_failures = pare_json_failures();
    o->path = pare_strdup(path);
    if (!o->path) return output_fail_memory(o, err);
    size_t n = strlen(o->path);
    while (n > 1 && o->path[n - 1] == '/') o->path[--n] = '\0';
    o->arch =
        o->gguf ? pare_export_gguf_arch(pare_source_config(source)) : pare_source_arch(source);
    char *work = o->gguf ? pare_asprintf("%s.parts", o->path) : pare_strdup(o->path);
    if (!work) return output_fail_memory(o, err);
    pare_status st = pare_folder_begin(&o->folder, work, err);
    pare_free(work);
    if (st != PARE_OK) return st;
    o->file = pare_path_join(o->folder, o->gguf ? output_base_name(o->path) : "model.safetensors");
    if (!o->file) return output_fail_memory(o, err);
    PARE_TRY(find_freqs(o, err));
    return o->gguf ? pare_gguf_writer_create(&o->gguf_writer, o->file, split_bytes, err)
                   : pare_st_writer_create(&o->st_writer, o->file, split_bytes, err);
}

void pare_output_set_prefix(pare_output *o, const char *path) { o->prefix = path; }

void pare_output_set_top_k(pare_output *o, const pare_top_k *k) { o->top_k = k; }

/* --- declaring --- */

pare_status pare_output_declare(pare_output *o, const pare_output_item *item, pare_error *err) {
    if (o->n_items == o->capacity) {
        size_t n = o->capacity ? 2 * o->capacity : 256;
        written *more = pare_realloc(o->items, n, sizeof *more);
        if (!more) return output_fail_memory(o, err);
        o->items = more;
        o->capacity = n;
    }
    written *w = &o->items[o->n_items];
    *w = (written){.from = item->enc, .enc = item->stored, .n_dims = item->n_dims};
    memcpy(w->dims, item->dims, sizeof w->dims);
    w->has_act = item->act != NULL;
    if (item->act) w->act = *item->act;
    w->canonical = item->canonical;
    w->act_grid = item->act_grid;
    w->has_way = item->way != NULL;
    if (item->way) w->way = *item->way;
    pare_name name;
    pare_name_form form = o->gguf ? PARE_NAMES_GGUF : PARE_NAMES_HF;
    if (!item->raw && pare_name_parse(&name, o->arch, PARE_NAMES_GGUF, item->name)) {
        char text[PARE_NAME_MAX];
        pare_name_print(text, &name, form);
        snprintf(w->name, sizeof w->name, "%s", text);
        w->fix = pare_name_fix(&name, form);
    } else {
        if (strlen(item->name) >= sizeof w->name)
            return pare_fail(err, PARE_ERR_UNSUPPORTED,
                             "%s: found a name of %zu bytes, expected at most %zu",
                             pare_source_path(o->source), strlen(item->name), sizeof w->name - 1);
        snprintf(w->name, sizeof w->name, "%s", item->name);
    }
    if ((w->fix & PARE_FIX_TRANSPOSE) && w->n_dims == 2) {
        w->dims[0] = item->dims[1];
        w->dims[1] = item->dims[0];
    }
    w->linear = item->n_dims == 2 && pare_name_parse(&name, o->arch, form, w->name) &&
                !strstr(name.spec->name, "_embd");
    if (o->kind && w->enc->grid)
        w->layout =
            (pare_layout){.kind = o->kind,
                          .bits = w->enc->grid->bits,
                          .asymmetric = w->enc->grid->asymmetric,
                          .rows = w->dims[0],
                          .cols = w->dims[1],
                          .g_idx = o->kind == PARE_LAYOUT_GPTQ || o->kind == PARE_LAYOUT_GPTQ_V2};
    if (w->enc->n_parts > 1 || w->enc->block_bytes == 0) o->sparse = true;
    o->n_items++;
    return PARE_OK;
}

/* Matrices of one form get groups of one length, so that one line of the configuration says them
 * all; programs that load them want it to divide the rows. */
static bool shares_group(const pare_output *o, const written *w, const pare_encoding *enc) {
    return w->layout.kind && (w->enc == enc || o->kind == PARE_LAYOUT_AWQ);
}

static pare_status settle_group(pare_output *o, const pare_encoding *enc, size_t *cols,
                                pare_error *err) {
    size_t n = 0, narrow = 0;
    for (size_t i = 0; i < o->n_items; i++)
        if (shares_group(o, &o->items[i], enc)) cols[n++] = o->items[i].layout.cols;
    size_t wanted = enc->grid->group, group = wanted ? pare_export_group(wanted, cols, n) : 0;
    if (wanted && !group)
        return pare_fail(err, PARE_ERR_INTERNAL, "%s: no group for %s", o->path, enc->name);
    for (size_t i = 0; i < n && !narrow; i++)
        if (wanted && cols[i] % wanted) narrow = cols[i];
    if (narrow)
        pare_warn(o->rt,
                  "%s: groups of %zu do not divide rows of %zu: stored as groups of %zu with the "
                  "same scales",
                  o->path, wanted, narrow, group);
    for (size_t i = 0; i < o->n_items; i++) {
        pare_layout *l = &o->items[i].layout;
        if (shares_group(o, &o->items[i], enc)) l->group = wanted ? group : l->cols;
    }
    return PARE_OK;
}

static pare_status settle_groups(pare_output *o, pare_error *err) {
    size_t *cols = pare_malloc(o->n_items, sizeof *cols);
    if (!cols) return output_fail_memory(o, err);
    pare_status st = PARE_OK;
    for (size_t i = 0; i < o->n_items && st == PARE_OK; i++)
        if (o->items[i].layout.kind && !o->items[i].layout.group)
            st = settle_group(o, o->items[i].enc, cols, err);
    pare_free(cols);
    return st;
}

/* Groups of compressed-tensors say schemes of one formula, pare's key beside them which. */
static void settle_acts(pare_output *o) {
    const bool groups = o->kind == PARE_LAYOUT_PACK || o->kind == PARE_LAYOUT_INT;
    const pare_act_scheme *first = NULL;
    for (size_t i = 0; i < o->n_items && groups; i++) {
        written *w = &o->items[i];
        if (!w->has_act || !w->layout.kind || w->act.formula == PARE_ACT_PAPER_EQ4) continue;
        if (!first) first = &w->act;
        w->act_group = w->act.formula == first->formula;
    }
}

/* --- beginning --- */

/* The part's name in the file. */
static void part_name(char out[PARE_ST_MAX_NAME + 32], const written *w, const char *suffix) {
    const char *dot = strrchr(w->name, '.');
    snprintf(out, PARE_ST_MAX_NAME + 32, "%.*s.%s",
             (int)(dot ? (size_t)(dot - w->name) : strlen(w->name)), w->name, suffix);
}

static pare_status declare_layout(pare_output *o, written *w, pare_error *err) {
    for (int k = 0; k < PARE_LAYOUT_PARTS; k++) {
        pare_layout_part p = pare_layout_part_at(&w->layout, k);
        if (!p.suffix) continue;
        char name[PARE_ST_MAX_NAME + 32];
        part_name(name, w, p.suffix);
        PARE_TRY(
            pare_st_declare(o->st_writer, name, p.dtype, p.dims, p.n_dims, &w->number[k], err));
    }
    return PARE_OK;
}

/* --- static grids of inputs --- */

static bool has_grid(const written *w) {
    return w->act_group && w->act.granularity == PARE_ACT_PER_TENSOR_STATIC;
}

/* Behind all others, single bytes last: tensors begin where their dtype's may. */
static pare_status declare_grids(pare_output *o, pare_error *err) {
    static const char *const suffixes[] = {"input_scale", "input_zero_point"}, *const dtypes[] = {
                                                                                   "F32", "I8"};
    const size_t one = 1;
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < o->n_items; i++) {
            written *w = &o->items[i];
            char name[PARE_ST_MAX_NAME + 32];
            if (!has_grid(w) || (k && w->act.symmetric)) continue;
            part_name(name, w, suffixes[k]);
            PARE_TRY(
                pare_st_declare(o->st_writer, name, dtypes[k], &one, 1, &w->act_number[k], err));
        }
    return PARE_OK;
}

/* Codes of files are signed: the lowest is -2^(bits-1). */
static pare_status write_grid(pare_output *o, const written *w, pare_error *err) {
    int8_t zero = (int8_t)(-(1 << (w->act.bits - 1)) - (int)w->act_grid.low);
    PARE_TRY(
        pare_st_write(o->st_writer, w->act_number[0], &w->act_grid.s, sizeof w->act_grid.s, err));
    return w->act.symmetric ? PARE_OK
                            : pare_st_write(o->st_writer, w->act_number[1], &zero, 1, err);
}

static pare_status begin_hf(pare_output *o, const char *recipe, pare_error *err) {
    PARE_TRY(settle_groups(o, err));
    settle_acts(o);
    PARE_TRY(output_metadata_hf(o, recipe, err));
    PARE_TRY(pare_st_set_metadata(o->st_writer, "format", "pt", err));
    if (recipe) PARE_TRY(pare_st_set_metadata(o->st_writer, "pare.recipe", recipe, err));
    for (size_t i = 0; i < o->n_items; i++) {
        written *w = &o->items[i];
        if (w->layout.kind) {
            PARE_TRY(declare_layout(o, w, err));
        } else if (o->sparse) {
            for (size_t k = 0; k < w->enc->n_parts; k++) {
                char name[sizeof w->name + 32];
                snprintf(name, sizeof name, "%s%s", w->name, w->enc->parts[k].suffix);
                PARE_TRY(pare_st_expect(o->st_writer, name, err));
            }
        } else if (plain_dtype(w->enc)) {
            PARE_TRY(pare_st_declare(o->st_writer, w->name, plain_dtype(w->enc), w->dims, w->n_dims,
                                     &w->number[0], err));
        } else {
            size_t shape[2] = {w->dims[0], pare_encoding_row_bytes(w->enc, w->dims[w->n_dims - 1])};
            PARE_TRY(pare_st_declare(o->st_writer, w->name, w->enc->parts[0].dtype, shape, 2,
                                     &w->number[0], err));
        }
    }
    PARE_TRY(declare_grids(o, err));
    return pare_st_begin(o->st_writer, err);
}

static pare_status begin_gguf(pare_output *o, const pare_mix *mix, const char *recipe,
                              pare_error *err) {
    pare_gguf_writer *w = o->gguf_writer;
    PARE_TRY(output_metadata_gguf(o, mix, recipe, err));
    for (size_t i = 0; i < o->n_items; i++) {
        o->items[i].number[0] = i;
        PARE_TRY(pare_gguf_declare(w, o->items[i].name, (uint32_t)o->items[i].enc->ggml_type,
                                   o->items[i].dims, o->items[i].n_dims, err));
    }
    size_t n_freqs = pare_source_config(o->source)->head_dim / 2;
    if (o->freqs) PARE_TRY(pare_gguf_declare(w, "rope_freqs.weight", 0, &n_freqs, 1, err));
    PARE_TRY(pare_gguf_begin(w, err));
    return o->freqs ? pare_gguf_write(w, o->n_items, o->freqs, n_freqs * sizeof(float), err)
                    : PARE_OK;
}

pare_status pare_output_begin(pare_output *o, const pare_mix *mix, const char *recipe,
                              pare_error *err) {
    return o->gguf ? begin_gguf(o, mix, recipe, err) : begin_hf(o, recipe, err);
}

/* --- writing --- */

static pare_status write_parts(pare_output *o, written *w, const pare_tensor *t, const void *part0,
                               pare_error *err) {
    for (size_t k = 0; k < t->enc->n_parts; k++) {
        const void *data = k == 0 && part0 ? part0 : t->view.part[k];
        size_t n = t->part_bytes[k];
        w->crc[k] = pare_crc32(0, data, n);
        w->bytes += n;
        if (o->gguf) {
            PARE_TRY(pare_gguf_write(o->gguf_writer, w->number[0], data, n, err));
            continue;
        }
        if (o->sparse) {
            size_t shape[4], n_dims = w->n_dims;
            char name[sizeof w->name + 32];
            snprintf(name, sizeof name, "%s%s", w->name, t->enc->parts[k].suffix);
            memcpy(shape, w->dims, sizeof shape);
            if (!plain_dtype(t->enc)) n_dims = (size_t)pare_tensor_part_shape(t, k, shape);
            const char *dtype = plain_dtype(t->enc) ? plain_dtype(t->enc) : t->enc->parts[k].dtype;
            PARE_TRY(pare_st_append(o->st_writer, name, dtype, shape, n_dims, &w->number[0], err));
        }
        PARE_TRY(pare_st_write(o->st_writer, w->number[0], data, n, err));
    }
    return PARE_OK;
}

static pare_status write_layout(pare_output *o, written *w, const pare_tensor *t, pare_error *err) {
    void *part[PARE_LAYOUT_PARTS] = {NULL};
    size_t bytes[PARE_LAYOUT_PARTS];
    pare_status st = output_crc_of_values(&w->crc[0], t, err);
    for (int k = 0; k < PARE_LAYOUT_PARTS && st == PARE_OK; k++) {
        bytes[k] = pare_layout_part_bytes(&w->layout, k);
        if (bytes[k] && !(part[k] = pare_big_alloc(bytes[k]))) st = output_fail_memory(o, err);
    }
    if (st == PARE_OK) {
        st = pare_layout_pack(part, &w->layout, t, err);
        if (st != PARE_OK) pare_fail_prefix(err, "%s", w->name);
    }
    for (int k = 0; k < PARE_LAYOUT_PARTS; k++) {
        if (!part[k]) continue;
        if (st == PARE_OK) st = pare_st_write(o->st_writer, w->number[k], part[k], bytes[k], err);
        w->bytes += bytes[k];
        pare_big_free(part[k], bytes[k]);
    }
    return st == PARE_OK && has_grid(w) ? write_grid(o, w, err) : st;
}

static pare_status write_stored(pare_output *o, written *w, const pare_tensor *t, pare_error *err) {
    if (!w->fix) return write_parts(o, w, t, NULL, err);
    uint8_t *moved = pare_big_alloc(t->part_bytes[0]);
    if (!moved) return output_fail_memory(o, err);
    pare_status st = pare_output_form(moved, t, w->fix, w->n_dims == 1,
                                      pare_source_config(o->source)->head_dim, w->name, err);
    if (st == PARE_OK) st = write_parts(o, w, t, moved, err);
    pare_big_free(moved, t->part_bytes[0]);
    return st;
}

pare_status pare_output_write(pare_output *o, const pare_tensor *t, pare_error *err) {
    if (o->next == o->n_items)
        return pare_fail(err, PARE_ERR_INTERNAL, "%s: one tensor too many", o->path);
    written *w = &o->items[o->next++];
    if (w->layout.kind) return write_layout(o, w, t, err);
    if (w->from == w->enc) return write_stored(o, w, t, err);
    pare_tensor blocks;
    PARE_TRY(pare_output_blocks(t, w->enc, &blocks, err));
    pare_status st = write_stored(o, w, &blocks, err);
    pare_tensor_free(&blocks);
    return st;
}

uint64_t pare_output_bytes(const pare_output *o, size_t i) { return o->items[i].bytes; }

const char *pare_output_folder(const pare_output *o) { return o->folder; }

void pare_output_close(pare_output *o) {
    if (!o) return;
    pare_gguf_writer_free(o->gguf_writer);
    pare_st_writer_free(o->st_writer);
    if (o->folder) pare_folder_discard(o->folder);
    pare_free(o->folder);
    pare_free(o->file);
    pare_free(o->path);
    pare_free(o->items);
    pare_free(o->freqs);
    pare_free(o);
}
