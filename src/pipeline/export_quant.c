#include "pipeline/export_quant.h"

#include "model/names.h"
#include "pipeline/export_config.h"
#include "pipeline/output_form.h"
#include "tensor/grouped_row.h"

#include <stdio.h>
#include <string.h>

const pare_output_format *pare_output_format_find(const char *name) {
    static const pare_output_format formats[] = {
        {"hf", "hf", PARE_LAYOUT_NONE},
        {"gguf", "gguf", PARE_LAYOUT_NONE},
        {"compressed-tensors", "hf", PARE_LAYOUT_PACK},
        {"int-quantized", "hf", PARE_LAYOUT_INT},
        {"gptq", "hf", PARE_LAYOUT_GPTQ},
        {"gptq-v2", "hf", PARE_LAYOUT_GPTQ_V2},
        {"awq", "hf", PARE_LAYOUT_AWQ},
    };
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(name, formats[i].name) == 0) return &formats[i];
    return NULL;
}

size_t pare_export_group(size_t group, const size_t *cols, size_t n) {
    for (; group >= 32; group /= 2) {
        size_t i = 0;
        while (i < n && cols[i] % group == 0) i++;
        if (i == n) return group;
    }
    return 0;
}

/* --- what fits --- */

/* A linear layer whose weight lies [out][in] in folders, by its canonical name. */
static bool is_linear(const pare_source *s, const char *canonical) {
    pare_name name;
    return canonical && strcmp(canonical, "token_embd.weight") != 0 &&
           strcmp(canonical, "position_embd.weight") != 0 &&
           pare_name_parse(&name, pare_source_arch(s), PARE_NAMES_GGUF, canonical) &&
           !name.is_bias && name.spec->out != PARE_X_NONE &&
           !(pare_name_fix(&name, PARE_NAMES_HF) & PARE_FIX_TRANSPOSE);
}

static bool fits_layout(const pare_encoding **stored, const pare_output_format *f,
                        const pare_source *s, const char *canonical, const pare_encoding *enc,
                        size_t rows, size_t cols, bool anew, char reason[200]) {
    pare_grid_form form;
    char why[160];
    *stored = enc;
    if (enc->safetensors_dtype) return true;
    if (!pare_grouped_form(&form, enc)) {
        snprintf(reason, 200, "found %s, expected grouped integers or a plain type", enc->name);
        return false;
    }
    if (!is_linear(s, canonical)) {
        snprintf(reason, 200, "found %s, expected a plain type: only linear layers are packed",
                 enc->name);
        return false;
    }
    size_t group = form.group ? pare_export_group(form.group, &cols, 1) : cols;
    if (!group) {
        snprintf(reason, 200, "found rows of %zu, expected a multiple of 32", cols);
        return false;
    }
    pare_layout l = {
        .kind = f->kind, .bits = form.bits, .rows = rows, .cols = cols, .group = group};
    if (!pare_layout_holds(&l, why)) {
        snprintf(reason, 200, "%s", why);
        return false;
    }
    if (f->kind == PARE_LAYOUT_GPTQ && form.asymmetric && anew) {
        snprintf(reason, 200,
                 "found %s, expected a symmetric grid: GPTQ of version 1 cannot say a zero point "
                 "of 0 (gptq-v2 can)",
                 enc->name);
        return false;
    }
    *stored = pare_encoding_of_grid(form.bits, form.asymmetric, form.group);
    return true;
}

/* Can it be moved into the file's form, where that is another than the model's? */
static bool fits_form(const pare_output_format *f, const pare_source *source, const char *canonical,
                      const pare_encoding *enc, size_t rows, char reason[200]) {
    const bool gguf = strcmp(f->container, "gguf") == 0;
    const pare_arch *arch =
        gguf ? pare_export_gguf_arch(pare_source_config(source)) : pare_source_arch(source);
    pare_name name;
    if (!arch || !canonical || !pare_name_parse(&name, arch, PARE_NAMES_GGUF, canonical))
        return true;
    const unsigned fix = pare_name_fix(&name, gguf ? PARE_NAMES_GGUF : PARE_NAMES_HF);
    if (pare_output_form_fits(enc, fix, rows == 1)) return true;
    snprintf(reason, 200, "found %s, expected a plain type: %s has it in another layout", enc->name,
             gguf ? "such a file" : "such a folder");
    return false;
}

bool pare_export_fits(const pare_encoding **stored, const pare_output_format *f,
                      const pare_source *source, const char *canonical, const pare_encoding *enc,
                      size_t rows, size_t cols, bool anew, char reason[200]) {
    if (f->kind) return fits_layout(stored, f, source, canonical, enc, rows, cols, anew, reason);
    const bool moves = anew || strcmp(f->container, pare_source_format(source)) != 0;
    *stored = enc;
    if (strcmp(f->container, "gguf") != 0 || enc->ggml_type >= 0)
        return !moves || fits_form(f, source, canonical, enc, rows, reason);
    pare_grid_form form;
    const pare_encoding *blocks =
        pare_grouped_form(&form, enc) && cols % 32 == 0 ? pare_grouped_blocks(&form) : NULL;
    snprintf(reason, 200, "found encoding %s, expected one that a %s file holds", enc->name,
             f->name);
    if (!blocks) return false;
    *stored = blocks;
    return !moves || fits_form(f, source, canonical, blocks, rows, reason);
}

/* Gemma's hidden states are too large for f16, and what reads a folder takes its type from the
 * weights. */
const pare_encoding *pare_export_plain(const pare_source *source) {
    bool gemma = strncmp(pare_source_config(source)->arch, "gemma", 5) == 0;
    return pare_encoding_find(gemma ? "bf16" : "f16");
}

/* --- quantization_config --- */

static bool same_form(const pare_layout *a, const pare_layout *b) {
    bool rows = a->group == a->cols && b->group == b->cols;
    return a->bits == b->bits && a->asymmetric == b->asymmetric && (a->group == b->group || rows);
}

static bool same_act(const pare_act_scheme *a, const pare_act_scheme *b) {
    return a && b ? pare_act_same_scheme(a, b) : a == b;
}

static bool same_group(const pare_export_item *a, const pare_export_item *b) {
    return a->layout && b->layout && same_form(a->layout, b->layout) && same_act(a->act, b->act);
}

/* "a.b" of "a.b.weight". */
static json_t *module_json(const char *prefix, const char *name, const char *suffix) {
    const char *dot = strrchr(name, '.');
    return json_sprintf("%s%.*s%s", prefix, (int)(dot ? dot - name : (long)strlen(name)), name,
                        suffix);
}

/* The same as a regular expression for exactly that module. */
static char *module_pattern(const char *prefix, const char *name) {
    char text[600];
    size_t n = (size_t)snprintf(text, sizeof text, "%s^", prefix);
    const char *end = strrchr(name, '.');
    for (const char *p = name; p != end && *p && n + 4 < sizeof text; p++) {
        if (*p == '.') text[n++] = '\\';
        text[n++] = *p;
    }
    text[n++] = '$';
    text[n] = '\0';
    return pare_strdup(text);
}

static json_t *linears_that_stay(const pare_export_item *items, size_t n, const char *also) {
    json_t *list = json_array();
    if (also) json_array_append_new(list, json_string(also));
    for (size_t i = 0; i < n; i++)
        if (items[i].linear && !items[i].layout) {
            json_t *module = module_json("", items[i].name, "");
            const char *text = module ? json_string_value(module) : NULL;
            if (text && (!also || strcmp(text, also) != 0)) json_array_append(list, module);
            json_decref(module);
        }
    return list;
}

static bool is_packed(const pare_export_item *items, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (items[i].layout && strcmp(items[i].name, name) == 0) return true;
    return false;
}

static bool by_row(const pare_layout *l) { return l->group == l->cols; }

/* Group size as these files say it: -1 = a row. */
static json_int_t group_size(const pare_layout *l) { return by_row(l) ? -1 : (json_int_t)l->group; }

static const char *format_name(pare_layout_kind kind) {
    return kind == PARE_LAYOUT_INT ? "int-quantized" : "pack-quantized";
}

static json_t *inputs_json(const pare_act_scheme *a) {
    bool is_static = a->granularity == PARE_ACT_PER_TENSOR_STATIC;
    return json_pack("{s:i, s:s, s:b, s:s, s:b}", "num_bits", a->bits, "type", "int", "symmetric",
                     a->symmetric, "strategy",
                     a->granularity == PARE_ACT_PER_TOKEN ? "token" : "tensor", "dynamic",
                     !is_static);
}

/* by_default: inputs as W8A8 has them, where no step of the recipe says it of any. */
static json_t *scheme_json(pare_layout_kind kind, const pare_export_item *item, bool by_default,
                           json_t *targets) {
    static const pare_act_scheme usual = {
        .granularity = PARE_ACT_PER_TOKEN, .bits = 8, .symmetric = true};
    const pare_layout *l = item->layout;
    const pare_quant_told *told = item->way ? &item->way->told : NULL;
    /* "weight": columns in the order of their inputs, groups as in the matrix; of groups only */
    json_t *weights =
        json_pack("{s:i, s:s, s:b, s:s, s:o, s:n, s:b, s:s?, s:s, s:{}}", "num_bits", (int)l->bits,
                  "type", "int", "symmetric", !l->asymmetric, "strategy",
                  by_row(l) ? "channel" : "group", "group_size",
                  by_row(l) ? json_null() : json_integer((json_int_t)l->group), "block_structure",
                  "dynamic", 0, "actorder", told && told->act_order && !by_row(l) ? "weight" : NULL,
                  "observer", told && told->searched ? "mse" : "minmax", "observer_kwargs");
    json_t *inputs = item->act    ? inputs_json(item->act)
                     : by_default ? inputs_json(&usual)
                                  : json_null();
    return json_pack("{s:o, s:o, s:o, s:n, s:s}", "targets", targets, "weights", weights,
                     "input_activations", inputs, "output_activations", "format",
                     format_name(kind));
}

/* One group of modules for each form; "Linear" where there is one form only. */
static json_t *config_groups(pare_layout_kind kind, const pare_export_item *items, size_t n) {
    json_t *groups = json_object();
    size_t n_forms = 0;
    bool by_default = kind == PARE_LAYOUT_INT;
    for (size_t i = 0; i < n; i++) by_default &= !items[i].act && !items[i].own_act;
    for (size_t pass = 0; pass < 2; pass++)
        for (size_t i = 0, form = 0; i < n; i++) {
            const pare_layout *l = items[i].layout;
            size_t k = 0;
            while (k < i && !same_group(&items[k], &items[i])) k++;
            if (!l || k < i) continue; /* not the first of its form */
            n_forms += pass == 0;
            if (pass == 0) continue;
            json_t *targets = json_array();
            if (n_forms == 1) json_array_append_new(targets, json_string("Linear"));
            for (k = i; n_forms > 1 && k < n; k++)
                if (same_group(&items[k], &items[i]))
                    json_array_append_new(targets, module_json("", items[k].name, ""));
            char name[32];
            snprintf(name, sizeof name, "group_%zu", form++);
            json_object_set_new(groups, name, scheme_json(kind, &items[i], by_default, targets));
        }
    return groups;
}

static const char *const formulas[] = {
    [PARE_ACT_DEFAULT] = "default", [PARE_ACT_PAPER_EQ4] = "paper_eq4", [PARE_ACT_FULL] = "full"};

static json_t *compressed_tensors_json(pare_layout_kind kind, const pare_export_item *items,
                                       size_t n) {
    bool head = is_packed(items, n, "lm_head.weight");
    const pare_act_scheme *act = NULL;
    for (size_t i = 0; i < n && !act; i++) act = items[i].act;
    json_t *config = json_pack(
        "{s:s, s:s, s:s, s:s, s:n, s:o, s:n, s:{}, s:{}, s:o}", "quant_method",
        "compressed-tensors", "version", "0.19.0", "format", format_name(kind),
        "quantization_status", "compressed", "global_compression_ratio", "ignore",
        linears_that_stay(items, n, head ? NULL : "lm_head"), "kv_cache_scheme", "sparsity_config",
        "transform_config", "config_groups", config_groups(kind, items, n));
    /* others take theirs, of which pare's own symmetric one differs by half a step at the ends */
    if (act) json_object_set_new(config, "pare_act_formula", json_string(formulas[act->formula]));
    return config;
}

/* The form that most matrices have. */
static const pare_layout *common_form(const pare_export_item *items, size_t n) {
    const pare_layout *best = NULL;
    size_t most = 0;
    for (size_t i = 0; i < n; i++) {
        size_t count = 0;
        for (size_t k = 0; k < n && items[i].layout; k++)
            count += items[k].layout && same_form(items[k].layout, items[i].layout);
        if (count > most) {
            most = count;
            best = items[i].layout;
        }
    }
    return best;
}

/* What differs from the common form, module by module, as GPTQModel and vLLM read it. */
static json_t *dynamic_json(const pare_export_item *items, size_t n, const pare_layout *common) {
    json_t *dynamic = json_object();
    for (size_t i = 0; i < n; i++) {
        const pare_layout *l = items[i].layout;
        bool stays = items[i].linear && !l && strcmp(items[i].name, "lm_head.weight") != 0;
        if (!stays && (!l || same_form(l, common))) continue;
        char *pattern = module_pattern(stays ? "-:" : "+:", items[i].name);
        if (pattern)
            json_object_set_new(dynamic, pattern,
                                stays ? json_object()
                                      : json_pack("{s:i, s:I, s:b}", "bits", (int)l->bits,
                                                  "group_size", group_size(l), "sym",
                                                  !l->asymmetric));
        pare_free(pattern);
    }
    return dynamic;
}

/* How the matrices of the common form were found. */
static void put_way(json_t *o, const pare_export_item *items, size_t n, const pare_layout *common) {
    const pare_export_way *way = NULL;
    for (size_t i = 0; i < n && !way; i++)
        if (items[i].layout && same_form(items[i].layout, common)) way = items[i].way;
    if (!way) return;
    json_object_set_new(o, "true_sequential", json_boolean(way->true_sequential));
    if (way->told.damp < 0) return;
    json_object_set_new(o, "damp_percent",
                        json_real(way->told.damp)); /* a share, for all its name */
    json_object_set_new(o, "static_groups", json_boolean(way->told.static_groups));
}

/* desc_act tells readers that groups are not in the order of the inputs: here they always are, also
 * where columns were rounded in another order (act_order with static groups). */
static json_t *gptq_json(pare_layout_kind kind, const pare_export_item *items, size_t n) {
    const pare_layout *l = common_form(items, n);
    json_t *o =
        json_pack("{s:s, s:i, s:I, s:b, s:b, s:b, s:s, s:s}", "quant_method", "gptq", "bits",
                  (int)l->bits, "group_size", group_size(l), "desc_act", 0, "sym", !l->asymmetric,
                  "lm_head", is_packed(items, n, "lm_head.weight"), "checkpoint_format",
                  kind == PARE_LAYOUT_GPTQ ? "gptq" : "gptq_v2", "pack_dtype", "int32");
    put_way(o, items, n, l);
    json_t *dynamic = dynamic_json(items, n, l);
    if (json_object_size(dynamic))
        json_object_set_new(o, "dynamic", dynamic);
    else
        json_decref(dynamic);
    return o;
}

static json_t *awq_json(const pare_export_item *items, size_t n) {
    const pare_layout *l = common_form(items, n);
    json_t *stay = linears_that_stay(items, n, NULL);
    bool none = json_array_size(stay) == 0;
    if (none) json_decref(stay);
    return json_pack("{s:s, s:i, s:I, s:b, s:s, s:o}", "quant_method", "awq", "bits", 4,
                     "group_size", group_size(l), "zero_point", 1, "version", "gemm",
                     "modules_to_not_convert", none ? json_null() : stay);
}

json_t *pare_export_quantization(pare_layout_kind kind, const pare_export_item *items, size_t n) {
    if (kind == PARE_LAYOUT_PACK || kind == PARE_LAYOUT_INT)
        return compressed_tensors_json(kind, items, n);
    return kind == PARE_LAYOUT_AWQ ? awq_json(items, n) : gptq_json(kind, items, n);
}
