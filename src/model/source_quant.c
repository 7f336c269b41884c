/* Matrices that other programs packed: compressed-tensors (pack-quantized, int-quantized), GPTQ of
 * versions 1 and 2 (AutoRound's too), AWQ. What a module is stored as is told by its tensors; their
 * shapes must fit what the configuration says of bits and groups. */
#include "model/source_internal.h"

#include "kernels/blocks.h"
#include "text/regex.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { MAX_GROUPS = 16 };

/* How the inputs of a group of modules are quantized. */
typedef struct act_group {
    pare_act_scheme act; /* bits 0: not, or in a form that pare does not have (unknown) */
    bool unknown;
    json_t *targets; /* owned: names of modules, re:EXPRESSIONS, the class Linear */
} act_group;

struct source_quant {
    pare_layout_kind kind;               /* PACK stands for both kinds of compressed-tensors */
    unsigned bits;                       /* the set of those that occur: bit b */
    size_t groups[MAX_GROUPS], n_groups; /* those that occur; 0 = a row */
    act_group acts[MAX_GROUPS];          /* [n_groups] compressed-tensors */
    bool symmetric;                      /* GPTQ: zero points are the middle code */
    bool no_zeros;  /* compressed-tensors: a scheme without zero points occurs */
    bool in_order;  /* compressed-tensors: a scheme without g_idx occurs */
    bool act_order; /* GPTQ: columns in an order that only g_idx tells */
    bool overrides; /* GPTQ: modules may differ, which their shapes tell; zero points are read */
};

static pare_status unsupported(const pare_json *j, const char *key, const char *found,
                               const char *expected, pare_error *err) {
    return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: %s: found \"%.60s\", expected %s", j->place,
                     key, found, expected);
}

__attribute__((format(printf, 3, 4))) static pare_status note(pare_source *s, pare_error *err,
                                                              const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (s->n_notes == sizeof s->notes / sizeof s->notes[0]) return PARE_OK;
    if (!(s->notes[s->n_notes] = pare_strdup(line)))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", s->path);
    s->n_notes++;
    return PARE_OK;
}

/* --- the configuration --- */

/* group_size: -1 or 0 stand for a row. */
static pare_status add_form(source_quant *q, const pare_json *j, int64_t bits, int64_t group,
                            pare_error *err) {
    if (bits != 2 && bits != 3 && bits != 4 && bits != 5 && bits != 6 && bits != 8)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: found %lld bits, expected 2, 3, 4, 5, 6 or 8", j->place,
                         (long long)bits);
    q->bits |= 1u << bits;
    if (q->n_groups == MAX_GROUPS)
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: found more than %d groups of modules",
                         j->place, MAX_GROUPS);
    q->groups[q->n_groups++] = group > 0 ? (size_t)group : 0;
    return PARE_OK;
}

static pare_status read_act(act_group *g, const pare_json *j, pare_act_formula formula,
                            pare_error *err) {
    const char *type = "int", *strategy = "tensor";
    int64_t bits = 8;
    bool symmetric = true, dynamic = false;
    g->targets = json_incref(json_object_get(j->root, "targets"));
    if (!pare_json_get(j, "input_activations")) return PARE_OK;
    PARE_TRY(pare_json_str(j, "input_activations.type", PARE_OPTIONAL, &type, err));
    PARE_TRY(pare_json_str(j, "input_activations.strategy", PARE_OPTIONAL, &strategy, err));
    PARE_TRY(pare_json_int(j, "input_activations.num_bits", PARE_OPTIONAL, 1, 64, &bits, err));
    PARE_TRY(pare_json_bool(j, "input_activations.symmetric", PARE_OPTIONAL, &symmetric, err));
    if (json_is_string(pare_json_get(j, "input_activations.dynamic")))
        g->unknown = true; /* "local" */
    else
        PARE_TRY(pare_json_bool(j, "input_activations.dynamic", PARE_OPTIONAL, &dynamic, err));
    bool token = strcmp(strategy, "token") == 0;
    g->unknown |= strcmp(type, "int") != 0 || (bits != 4 && bits != 6 && bits != 8) ||
                  (!token && strcmp(strategy, "tensor") != 0) || (token && !dynamic);
    if (g->unknown) return PARE_OK;
    g->act = (pare_act_scheme){.granularity = token     ? PARE_ACT_PER_TOKEN
                                              : dynamic ? PARE_ACT_PER_TENSOR_DYNAMIC
                                                        : PARE_ACT_PER_TENSOR_STATIC,
                               .formula = formula,
                               .bits = (int)bits,
                               .symmetric = symmetric};
    return PARE_OK;
}

/* One of compressed-tensors' config_groups. */
static pare_status read_scheme(source_quant *q, const pare_json *j, pare_act_formula formula,
                               pare_error *err) {
    const char *type = "int", *strategy = NULL;
    int64_t bits = 8, group = -1;
    bool symmetric = true;
    if (!pare_json_get(j, "weights")) return PARE_OK;
    PARE_TRY(pare_json_str(j, "weights.type", PARE_OPTIONAL, &type, err));
    PARE_TRY(pare_json_str(j, "weights.strategy", PARE_OPTIONAL, &strategy, err));
    PARE_TRY(pare_json_int(j, "weights.num_bits", PARE_OPTIONAL, 1, 64, &bits, err));
    PARE_TRY(pare_json_int(j, "weights.group_size", PARE_OPTIONAL, -1, INT32_MAX, &group, err));
    if (strcmp(type, "int") != 0) return unsupported(j, "weights.type", type, "int", err);
    if (strategy && strcmp(strategy, "group") != 0 && strcmp(strategy, "channel") != 0 &&
        strcmp(strategy, "tensor") != 0)
        return unsupported(j, "weights.strategy", strategy, "group, channel or tensor", err);
    PARE_TRY(pare_json_bool(j, "weights.symmetric", PARE_OPTIONAL, &symmetric, err));
    const json_t *order = pare_json_get(j, "weights.actorder");
    const char *by = json_is_string(order) ? json_string_value(order) : "";
    q->no_zeros |= symmetric;
    q->in_order |= !json_is_true(order) && strcmp(by, "group") != 0;
    PARE_TRY(add_form(q, j, bits, group, err));
    return read_act(&q->acts[q->n_groups - 1], j, formula, err);
}

static pare_status read_compressed_tensors(source_quant *q, pare_source *s, const pare_json *j,
                                           pare_error *err) {
    static const char *const known[] = {"pack-quantized", "int-quantized", "naive-quantized",
                                        "mixed-precision", "dense"};
    const char *format = "dense", *sparsity = "dense";
    PARE_TRY(pare_json_str(j, "format", PARE_OPTIONAL, &format, err));
    PARE_TRY(pare_json_str(j, "sparsity_config.format", PARE_OPTIONAL, &sparsity, err));
    size_t i = 0, n = sizeof known / sizeof known[0];
    while (i < n && strcmp(format, known[i]) != 0) i++;
    if (i == n) return unsupported(j, "format", format, "pack-quantized or int-quantized", err);
    if (strcmp(sparsity, "dense") != 0)
        return unsupported(j, "sparsity_config.format", sparsity, "none", err);
    if (json_object_size(pare_json_get(j, "transform_config.config_groups")))
        return pare_fail(
            err, PARE_ERR_UNSUPPORTED,
            "%s: transform_config: found rotations of inputs or weights, expected none", j->place);
    pare_json groups;
    PARE_TRY(pare_json_part(&groups, j, "config_groups", PARE_OPTIONAL, err));
    const char *name;
    json_t *value;
    /* outputs of pare say which formula their grids have */
    const char *formula = "full";
    pare_status st = pare_json_str(j, "pare_act_formula", PARE_OPTIONAL, &formula, err);
    bool own = strcmp(formula, "default") == 0;
    json_object_foreach(groups.root, name, value) {
        pare_json scheme = {value, groups.place};
        if (st == PARE_OK)
            st = read_scheme(q, &scheme, own ? PARE_ACT_DEFAULT : PARE_ACT_FULL, err);
    }
    pare_json_free(&groups);
    q->kind = PARE_LAYOUT_PACK;
    s->packing = "compressed-tensors";
    return st;
}

static bool is_empty(const json_t *value) {
    return !value || json_is_null(value) || (json_is_object(value) && !json_object_size(value));
}

static pare_status read_gptq(source_quant *q, pare_source *s, const pare_json *j, pare_error *err) {
    const char *format = "gptq", *words = "int32";
    int64_t bits = 0, group = -1;
    q->symmetric = true;
    PARE_TRY(pare_json_int(j, "bits", PARE_REQUIRED, 1, 64, &bits, err));
    PARE_TRY(pare_json_int(j, "group_size", PARE_OPTIONAL, -1, INT32_MAX, &group, err));
    PARE_TRY(pare_json_bool(j, "sym", PARE_OPTIONAL, &q->symmetric, err));
    PARE_TRY(pare_json_bool(j, "desc_act", PARE_OPTIONAL, &q->act_order, err));
    PARE_TRY(pare_json_str(j, "checkpoint_format", PARE_OPTIONAL, &format, err));
    PARE_TRY(pare_json_str(j, "pack_dtype", PARE_OPTIONAL, &words, err));
    bool v2 = strcmp(format, "gptq_v2") == 0;
    if (!v2 && strcmp(format, "gptq") != 0)
        return unsupported(j, "checkpoint_format", format, "gptq or gptq_v2", err);
    if (strcmp(words, "int32") != 0) return unsupported(j, "pack_dtype", words, "int32", err);
    if (bits == 5 || bits == 6)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: bits: found %lld, whose layout pare does not know; expected 2, 3, 4 "
                         "or 8",
                         j->place, (long long)bits);
    q->overrides = !is_empty(json_object_get(j->root, "dynamic")) ||
                   !is_empty(json_object_get(j->root, "extra_config"));
    q->kind = v2 ? PARE_LAYOUT_GPTQ_V2 : PARE_LAYOUT_GPTQ;
    s->packing = v2 ? "GPTQ v2" : "GPTQ";
    return add_form(q, j, bits, group, err);
}

static pare_status read_awq(source_quant *q, pare_source *s, const pare_json *j, pare_error *err) {
    const char *version = "gemm";
    int64_t bits = 4, group = 128;
    PARE_TRY(pare_json_int(j, "w_bit", PARE_OPTIONAL, 1, 64, &bits, err)); /* older files */
    PARE_TRY(pare_json_int(j, "bits", PARE_OPTIONAL, 1, 64, &bits, err));
    PARE_TRY(pare_json_int(j, "q_group_size", PARE_OPTIONAL, -1, INT32_MAX, &group, err));
    PARE_TRY(pare_json_int(j, "group_size", PARE_OPTIONAL, -1, INT32_MAX, &group, err));
    PARE_TRY(pare_json_str(j, "version", PARE_OPTIONAL, &version, err));
    if (strcasecmp(version, "gemm") != 0) return unsupported(j, "version", version, "gemm", err);
    if (bits != 4)
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: bits: found %lld, expected 4", j->place,
                         (long long)bits);
    q->kind = PARE_LAYOUT_AWQ;
    s->packing = "AWQ";
    return add_form(q, j, bits, group, err);
}

static pare_status read_auto_round(source_quant *q, pare_source *s, const pare_json *j,
                                   pare_error *err) {
    const char *packing = "auto_round:auto_gptq";
    PARE_TRY(pare_json_str(j, "packing_format", PARE_OPTIONAL, &packing, err));
    if (strstr(packing, "awq")) return read_awq(q, s, j, err);
    if (!strstr(packing, "gptq"))
        return unsupported(j, "packing_format", packing, "auto_gptq or auto_awq", err);
    return read_gptq(q, s, j, err);
}

static pare_status read_config(source_quant *q, pare_source *s, const pare_json *j,
                               const char *method, pare_error *err) {
    if (strcmp(method, "compressed-tensors") == 0) return read_compressed_tensors(q, s, j, err);
    if (strcmp(method, "gptq") == 0) return read_gptq(q, s, j, err);
    if (strcmp(method, "awq") == 0) return read_awq(q, s, j, err);
    if (strcmp(method, "auto-round") == 0 || strcmp(method, "intel/auto-round") == 0)
        return read_auto_round(q, s, j, err);
    return unsupported(j, "quant_method", method,
                       "gptq, awq, auto-round, compressed-tensors or pare", err);
}

/* A file beside config.json, where older writers say it; *out empty when there is none. */
static pare_status load_beside(pare_json *out, const pare_source *s, const char *name,
                               pare_error *err) {
    *out = (pare_json){0};
    char *path = pare_path_join(s->path, name);
    if (!path) return pare_fail(err, PARE_ERR_NOMEM, "%s: a path", s->path);
    pare_status st =
        pare_path_exists(path) ? pare_json_load(out, path, PARE_JSON_CONFIG_MAX, 0, err) : PARE_OK;
    pare_free(path);
    return st;
}

/* The object and its quant_method; root NULL where nobody quantized. */
static pare_status find_config(pare_json *out, const char **method, const pare_source *s,
                               pare_error *err) {
    static const char *const beside[][2] = {{"quantize_config.json", "gptq"},
                                            {"quant_config.json", "awq"}};
    const pare_json *j = &s->config_json;
    const char *key =
        pare_json_get(j, "compression_config") ? "compression_config" : "quantization_config";
    PARE_TRY(pare_json_part(out, j, key, PARE_OPTIONAL, err));
    *method = NULL;
    if (out->root) return pare_json_str(out, "quant_method", PARE_REQUIRED, method, err);
    for (size_t i = 0; i < 2 && !out->root; i++) {
        PARE_TRY(load_beside(out, s, beside[i][0], err));
        *method = beside[i][1];
    }
    return out->root ? pare_json_str(out, "quant_method", PARE_OPTIONAL, method, err) : PARE_OK;
}

pare_status source_quant_open(source_quant **out, pare_source *s, pare_error *err) {
    pare_json j = {0};
    const char *method = NULL;
    *out = NULL;
    pare_status st = find_config(&j, &method, s, err);
    bool other = st == PARE_OK && j.root && strcmp(method, "pare") != 0;
    source_quant *q = other ? pare_calloc(1, sizeof *q) : NULL;
    if (other && !q) st = pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", s->path);
    if (q && st == PARE_OK) st = read_config(q, s, &j, method, err);
    pare_json_free(&j);
    if (st == PARE_OK)
        *out = q;
    else
        source_quant_close(q);
    return st;
}

void source_quant_close(source_quant *q) {
    for (size_t i = 0; q && i < q->n_groups; i++) json_decref(q->acts[i].targets);
    pare_free(q);
}

/* --- one matrix --- */

/* Does an expression match a name from its beginning on? */
static pare_status matches(bool *out, const char *expression, const char *module, pare_error *err) {
    pare_regex *regex;
    size_t begin = 0, end;
    PARE_TRY(pare_regex_compile(&regex, expression, strlen(expression), err));
    pare_regex_scratch *scratch = pare_regex_scratch_new();
    pare_status st =
        scratch ? pare_regex_next(regex, scratch, module, strlen(module), 0, out, &begin, &end, err)
                : pare_fail(err, PARE_ERR_NOMEM, "regex: out of memory");
    *out = *out && begin == 0;
    pare_regex_scratch_free(scratch);
    pare_regex_free(regex);
    return st;
}

/* The group that a module belongs to: one that names it goes before one whose expression fits, and
 * that before its class. *out NULL: none does. */
static pare_status find_act(const act_group **out, const source_quant *q, const char *module,
                            pare_error *err) {
    int best = 0;
    *out = NULL;
    for (size_t i = 0; i < q->n_groups; i++) {
        size_t k;
        json_t *value;
        json_array_foreach(q->acts[i].targets, k, value) {
            const char *target = json_is_string(value) ? json_string_value(value) : "";
            bool fits = false;
            int rank = 3;
            if (strncmp(target, "re:", 3) == 0) {
                rank = 2;
                if (best < rank) PARE_TRY(matches(&fits, target + 3, module, err));
            } else if (strcmp(target, "Linear") == 0) {
                rank = 1;
                fits = true;
            } else {
                fits = strcmp(target, module) == 0;
            }
            if (!fits || rank <= best) continue;
            best = rank;
            *out = &q->acts[i];
        }
    }
    return PARE_OK;
}

/* A module's tensor; *out NULL: absent. */
static const pare_st_tensor *find_part(const pare_source *s, const char *module,
                                       const char *suffix) {
    char name[PARE_ST_MAX_NAME + 32];
    snprintf(name, sizeof name, "%s.%s", module, suffix);
    return pare_st_find(s->st, name);
}

static pare_status misfit(const pare_source *s, const pare_st_tensor *t, const char *expected,
                          pare_error *err) {
    size_t rows = t->n_dims ? t->dims[0] : 1, cols = t->n_dims > 1 ? t->dims[1] : 1;
    return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found %s [%zu, %zu], expected %s",
                     pare_st_file(s->st, t->file)->path, t->name, t->dtype->name, rows, cols,
                     expected);
}

/* Sets bits (and padding) by the length of the codes' stream. */
static pare_status find_bits(pare_layout *l, const source_quant *q, const pare_source *s,
                             const pare_st_tensor *codes, pare_error *err) {
    unsigned set = q->overrides ? 1u << 2 | 1u << 3 | 1u << 4 | 1u << 8 : q->bits;
    for (int padded = 0; padded < 1 + (l->kind == PARE_LAYOUT_PACK); padded++)
        for (l->bits = 2; l->bits <= 8; l->bits++) {
            if (!(set >> l->bits & 1)) continue;
            l->padded = padded && 32 % l->bits;
            pare_layout_part p = pare_layout_part_at(l, PARE_LAYOUT_CODES);
            if (codes->n_dims == 2 && codes->dims[0] == p.dims[0] && codes->dims[1] == p.dims[1])
                return PARE_OK;
        }
    char expected[96];
    snprintf(expected, sizeof expected, "a matrix [%zu, %zu] in the bits of the configuration",
             l->rows, l->cols);
    return misfit(s, codes, expected, err);
}

/* The configured group that makes as many groups as there are scales; modules that may differ have
 * any that divides a row. */
static bool find_group(pare_layout *l, const source_quant *q, size_t n_groups) {
    for (size_t i = 0; i < q->n_groups; i++) {
        size_t g = q->groups[i] && q->groups[i] < l->cols ? q->groups[i] : l->cols;
        l->group = g;
        if (pare_layout_groups(l) == n_groups) return true;
    }
    if (q->n_groups && !q->overrides) return false;
    l->group = n_groups && l->cols % n_groups == 0 ? l->cols / n_groups : 1;
    return n_groups && pare_layout_groups(l) == n_groups;
}

static pare_status find_scales(pare_layout *l, const source_quant *q, const pare_source *s,
                               const char *module, pare_error *err) {
    static const char *const dtypes[] = {"F16", "BF16", "F32"};
    bool by_row = l->kind == PARE_LAYOUT_PACK || l->kind == PARE_LAYOUT_INT;
    const char *suffix = by_row ? "weight_scale" : "scales";
    const pare_st_tensor *t = find_part(s, module, suffix);
    if (!t)
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s.%s: found no such tensor, expected scales",
                         s->path, module, suffix);
    size_t k = 0;
    while (k < 3 && strcmp(t->dtype->name, dtypes[k]) != 0) k++;
    if (k == 3) return misfit(s, t, "F16, BF16 or F32", err);
    l->scale = (pare_layout_scale)k;
    l->one_scale = l->kind == PARE_LAYOUT_INT && t->n_dims == 1;
    size_t n_groups = l->one_scale ? 1 : t->n_dims == 2 ? t->dims[by_row ? 1 : 0] : 0;
    if (!find_group(l, q, n_groups)) return misfit(s, t, "scales per group or row", err);
    return PARE_OK;
}

/* Every part with its place in the files; dtypes and shapes are what the layout says. */
static pare_status find_parts(pare_source_tensor *t, const pare_source *s, const char *module,
                              pare_table *names, pare_error *err) {
    for (int k = 0; k < PARE_LAYOUT_PARTS; k++) {
        pare_layout_part p = pare_layout_part_at(&t->layout, k);
        if (!p.suffix) continue;
        const pare_st_tensor *st = find_part(s, module, p.suffix);
        if (!st)
            return pare_fail(err, PARE_ERR_INPUT, "%s: %s.%s: found no such tensor, expected %s",
                             s->path, module, p.suffix, p.dtype);
        char expected[64];
        if (p.n_dims == 2)
            snprintf(expected, sizeof expected, "%s [%zu, %zu]", p.dtype, p.dims[0], p.dims[1]);
        else
            snprintf(expected, sizeof expected, "%s [%zu]", p.dtype, p.dims[0]);
        if (strcmp(st->dtype->name, p.dtype) != 0 || st->n_dims != p.n_dims ||
            st->dims[0] != p.dims[0] || (p.n_dims == 2 && st->dims[1] != p.dims[1]))
            return misfit(s, st, expected, err);
        if (pare_table_add(names, st->name, strlen(st->name), 0) < 0)
            return pare_fail(err, PARE_ERR_NOMEM, "%s: names of tensors", s->path);
        t->file[k] = st->file;
        t->offset[k] = st->offset;
        t->bytes[k] = st->n_bytes;
        t->n_bytes += st->n_bytes;
    }
    return PARE_OK;
}

/* Tensors of static grids belong to their matrix. */
static pare_status note_grid(const pare_source *s, const char *module, pare_table *names,
                             pare_error *err) {
    static const char *const suffixes[] = {"input_scale", "input_zero_point"};
    for (int k = 0; k < 2; k++) {
        const pare_st_tensor *t = find_part(s, module, suffixes[k]);
        if (t && pare_table_add(names, t->name, strlen(t->name), 0) < 0)
            return pare_fail(err, PARE_ERR_NOMEM, "%s: names of tensors", s->path);
    }
    return PARE_OK;
}

/* One number of a tensor of one. */
static pare_status read_number(float *out, const pare_source *s, const pare_st_tensor *t,
                               pare_error *err) {
    uint8_t raw[4];
    uint16_t half;
    const char *dtype = t->dtype->name;
    bool floats =
        strcmp(dtype, "F32") == 0 || strcmp(dtype, "F16") == 0 || strcmp(dtype, "BF16") == 0;
    if (t->n_bytes > 4 || (!floats && strcmp(dtype, "I8") != 0) ||
        t->n_bytes != (floats ? strcmp(dtype, "F32") == 0 ? 4u : 2u : 1u))
        return misfit(s, t, "one number, F32, F16, BF16 or I8", err);
    PARE_TRY(
        pare_file_read_at(pare_st_file(s->st, t->file), raw, (size_t)t->n_bytes, t->offset, err));
    memcpy(&half, raw, sizeof half);
    if (strcmp(dtype, "F32") == 0)
        memcpy(out, raw, sizeof *out);
    else if (strcmp(dtype, "F16") == 0)
        *out = pare_f16_to_f32(half);
    else if (strcmp(dtype, "BF16") == 0)
        *out = pare_bf16_to_f32(half);
    else
        *out = (float)(int8_t)raw[0];
    return PARE_OK;
}

const pare_act_scheme *pare_source_act(const pare_source *s) {
    return s->act.bits ? &s->act : NULL;
}

pare_status pare_source_act_grid(pare_act_grid *out, const pare_source *s,
                                 const pare_source_tensor *t, pare_error *err) {
    char module[PARE_ST_MAX_NAME + 1];
    const char *dot = strrchr(t->name, '.');
    if (t->own_act) {
        *out = t->act_grid;
        return PARE_OK;
    }
    snprintf(module, sizeof module, "%.*s", (int)(dot ? dot - t->name : 0), t->name);
    const pare_st_tensor *scale = find_part(s, module, "input_scale"),
                         *zero = find_part(s, module, "input_zero_point");
    float z = 0, half = (float)(1 << (t->act.bits - 1));
    if (!scale)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: %s.input_scale: found no such tensor, expected the grid of inputs",
                         s->path, module);
    PARE_TRY(read_number(&out->s, s, scale, err));
    if (zero) PARE_TRY(read_number(&z, s, zero, err));
    if (!(out->s > 0) || !isfinite(out->s) || !(z >= -half && z < half))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: %s: found scale %g and zero point %g, expected a finite one above 0 "
                         "and a code",
                         s->path, t->name, (double)out->s, (double)z);
    out->low = -half - z;
    out->high = half - 1 - z;
    out->shift = 0;
    return PARE_OK;
}

/* Are the groups in the order of the inputs? */
static pare_status read_order(bool *in_order, const pare_source *s, const pare_source_tensor *t,
                              pare_error *err) {
    size_t n = (size_t)t->bytes[PARE_LAYOUT_G_IDX];
    *in_order = true;
    if (!n) return PARE_OK;
    const pare_file *file = pare_source_file(s, t->file[PARE_LAYOUT_G_IDX]);
    void *g_idx = pare_malloc(n, 1);
    if (!g_idx) return pare_fail(err, PARE_ERR_NOMEM, "%s: g_idx", t->name);
    pare_status st = pare_file_read_at(file, g_idx, n, t->offset[PARE_LAYOUT_G_IDX], err);
    if (st == PARE_OK) {
        st = pare_layout_check_g_idx(in_order, &t->layout, g_idx, err);
        if (st != PARE_OK) pare_fail_prefix(err, "%s: %s", file->path, t->name);
    }
    pare_free(g_idx);
    return st;
}

/* What the tensors of a module say together. */
static pare_status describe(pare_layout *l, const source_quant *q, const pare_source *s,
                            const char *module, const pare_st_tensor *codes, pare_error *err) {
    bool by_row = l->kind == PARE_LAYOUT_PACK || l->kind == PARE_LAYOUT_INT;
    l->group = l->cols;
    if (l->kind == PARE_LAYOUT_INT)
        l->bits = 8;
    else
        PARE_TRY(find_bits(l, q, s, codes, err));
    PARE_TRY(find_scales(l, q, s, module, err));
    l->asymmetric = by_row
                        ? (q->n_groups && !q->no_zeros) || find_part(s, module, "weight_zero_point")
                        : l->kind == PARE_LAYOUT_AWQ || q->overrides || !q->symmetric;
    bool ordered = by_row ? q->n_groups && !q->in_order : q->act_order && l->group < l->cols;
    l->g_idx = ordered || find_part(s, module, by_row ? "weight_g_idx" : "g_idx");
    char reason[160];
    if (pare_layout_holds(l, reason)) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT, "%s: %s: %s", pare_st_file(s->st, codes->file)->path,
                     codes->name, reason);
}

typedef struct tally {
    size_t n_floats, n_wide, n_unknown; /* matrices held as f16; with scales in f32; whose inputs'
                                           grid pare does not have */
    const char *first_floats;
} tally;

static pare_status add_matrix(pare_source *s, const source_quant *q, const char *module,
                              const pare_name *name, const pare_st_tensor *codes,
                              pare_layout_kind kind, pare_table *names, tally *sum,
                              pare_error *err) {
    size_t n_dims, dims[2];
    source_expected_shape(s, name, 0, &n_dims, dims);
    pare_source_tensor t = {
        .layout = {.kind = kind, .rows = dims[0], .cols = dims[1]},
        .n_dims = 2,
        .dims = {dims[0], dims[1]},
        .n_params = (uint64_t)dims[0] * dims[1],
        .n_parts = 1,
    };
    PARE_TRY(describe(&t.layout, q, s, module, codes, err));
    PARE_TRY(find_parts(&t, s, module, names, err));
    PARE_TRY(note_grid(s, module, names, err));
    const act_group *group;
    PARE_TRY(find_act(&group, q, module, err));
    if (group) {
        t.act = group->act;
        sum->n_unknown += group->unknown;
        if (t.act.bits && !s->act.bits) s->act = t.act;
    }
    char *made = pare_asprintf("%s.weight", module);
    if (!made) return pare_fail(err, PARE_ERR_NOMEM, "%s: names of tensors", s->path);
    s->made[s->n_made++] = made;
    t.name = made;
    bool in_order;
    PARE_TRY(read_order(&in_order, s, &t, err));
    t.enc = pare_layout_encoding(&t.layout, in_order);
    t.type = t.enc->name;
    if (!t.enc->grid && pare_name_fix(name, PARE_NAMES_HF) & PARE_FIX_TRANSPOSE)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: %s: found groups of inputs that are not in order, which pare does "
                         "not read for %s",
                         source_file_path(s, &t), made, s->config.arch);
    if (!t.enc->grid && !sum->n_floats++) sum->first_floats = made;
    sum->n_wide += t.layout.scale == PARE_SCALE_F32;
    return source_add(s, &t, true, err);
}

/* The kind of matrix whose codes the tensor holds, and its module. */
static pare_layout_kind kind_of(const source_quant *q, const pare_st_tensor *t,
                                char module[PARE_ST_MAX_NAME + 1]) {
    bool compressed = q->kind == PARE_LAYOUT_PACK;
    const char *dot = strrchr(t->name, '.'), *leaf = dot ? dot + 1 : t->name;
    pare_layout_kind kind = PARE_LAYOUT_NONE;
    if (!dot) return kind;
    if (compressed && strcmp(leaf, "weight_packed") == 0)
        kind = PARE_LAYOUT_PACK;
    else if (compressed && strcmp(leaf, "weight") == 0 && strcmp(t->dtype->name, "I8") == 0)
        kind = PARE_LAYOUT_INT;
    else if (!compressed && strcmp(leaf, "qweight") == 0)
        kind = q->kind;
    if (kind) snprintf(module, PARE_ST_MAX_NAME + 1, "%.*s", (int)(dot - t->name), t->name);
    return kind;
}

pare_status source_quant_add(pare_source *s, const source_quant *q, pare_table *names,
                             pare_error *err) {
    size_t n = pare_st_n_tensors(s->st);
    char module[PARE_ST_MAX_NAME + 1], weight[PARE_ST_MAX_NAME + 16];
    tally sum = {0};
    if (!(s->made = pare_calloc(n, sizeof *s->made)))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: names of tensors", s->path);
    for (size_t i = 0; i < n; i++) {
        const pare_st_tensor *t = pare_st_tensor_at(s->st, i);
        pare_layout_kind kind = kind_of(q, t, module);
        if (kind == PARE_LAYOUT_NONE) continue;
        pare_name name;
        snprintf(weight, sizeof weight, "%s.weight", module);
        /* of a part of the model that pare does not run: its tensors are listed as they are */
        if (!pare_name_parse(&name, s->arch, PARE_NAMES_HF, weight) || name.is_bias ||
            name.spec->out == PARE_X_NONE ||
            (name.layer != SIZE_MAX && name.layer >= s->config.n_layers))
            continue;
        PARE_TRY(add_matrix(s, q, module, &name, t, kind, names, &sum, err));
    }
    if (sum.n_floats)
        PARE_TRY(note(s, err,
                      "%s: %zu matrices have groups that are not in order or of no length that "
                      "grouped integers have: held as f16 (first %.100s)",
                      s->path, sum.n_floats, sum.first_floats));
    if (sum.n_unknown)
        PARE_TRY(note(s, err,
                      "%s: asks for quantized inputs of %zu matrices in a form that pare does not "
                      "have; it computes those in the precision of its own mode",
                      s->path, sum.n_unknown));
    if (sum.n_wide)
        PARE_TRY(note(s, err, "%s: the scales of %zu matrices, f32, are held as f16", s->path,
                      sum.n_wide));
    return PARE_OK;
}
