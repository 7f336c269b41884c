#include "model/act.h"
#include "model/act_table.h"
#include "model/source_internal.h"

#include <math.h>
#include <string.h>

enum { VERSION = 1 };

static bool makes_qkv(const char *canonical) {
    size_t layer;
    return pare_act_site_of(canonical, &layer) == PARE_ACT_QKV;
}

/* --- written --- */

json_t *pare_act_table_new(void) { return json_pack("{s:i, s:{}}", "version", VERSION, "inputs"); }

static double zero_of(const pare_act_scheme *a, const pare_act_grid *g) {
    if (a->formula == PARE_ACT_PAPER_EQ4) return (double)g->shift;
    return a->symmetric ? 0 : (double)-g->low;
}

bool pare_act_table_add(json_t *table, const char *canonical, const pare_act_scheme *a,
                        const pare_act_grid *grid) {
    json_t *entry = json_pack("{s:i, s:s, s:b, s:s}", "bits", a->bits, "granularity",
                              pare_act_granularities[a->granularity], "symmetric", a->symmetric,
                              "formula", pare_act_formulas[a->formula]);
    bool ok = entry != NULL;
    if (ok && a->bmm && makes_qkv(canonical))
        ok = json_object_set_new(entry, "bmm", json_true()) == 0;
    if (ok && a->granularity == PARE_ACT_PER_TENSOR_STATIC) {
        ok = json_object_set_new(entry, "scale", json_real((double)grid->s)) == 0;
        ok = ok && json_object_set_new(entry, "zero", json_real(zero_of(a, grid))) == 0;
    }
    if (!ok) json_decref(entry);
    return ok && json_object_set_new(json_object_get(table, "inputs"), canonical, entry) == 0;
}

/* --- read --- */

/* The number of a word among those that are known. */
static pare_status read_word(int *out, const pare_json *j, const char *key,
                             const char *const *words, const char *expected, pare_error *err) {
    const char *found;
    PARE_TRY(pare_json_str(j, key, PARE_REQUIRED, &found, err));
    for (*out = 0; words[*out]; ++*out)
        if (strcmp(found, words[*out]) == 0) return PARE_OK;
    return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: %s: found \"%.40s\", expected %s", j->place,
                     key, found, expected);
}

static pare_status read_grid(pare_act_grid *out, const pare_act_scheme *a, const pare_json *j,
                             pare_error *err) {
    const bool paper = a->formula == PARE_ACT_PAPER_EQ4;
    const float codes = (float)((1 << a->bits) - 1), half = (float)(1 << (a->bits - 1));
    double scale, zero;
    PARE_TRY(pare_json_double(j, "scale", PARE_REQUIRED, 0, 3e38, &scale, err));
    PARE_TRY(pare_json_double(j, "zero", PARE_REQUIRED, -3e38, 3e38, &zero, err));
    out->s = (float)scale;
    if (!(out->s > 0))
        return pare_fail(err, PARE_ERR_INPUT, "%s: scale: found %g, expected it above 0", j->place,
                         scale);
    const bool whole = zero >= 0 && zero <= (double)codes && zero == floor(zero);
    if (a->symmetric ? zero != 0 : !paper && !whole)
        return pare_fail(err, PARE_ERR_INPUT, "%s: zero: found %g, expected %s", j->place, zero,
                         a->symmetric ? "0 of a symmetric grid" : "a code");
    out->shift = paper ? (float)zero : 0;
    out->low = paper ? -INFINITY : a->symmetric ? -half : -(float)zero;
    out->high = paper ? INFINITY : a->symmetric ? half - 1 : codes - (float)zero;
    return PARE_OK;
}

static pare_status read_scheme(pare_act_scheme *a, const pare_json *j, const char *canonical,
                               pare_error *err) {
    int64_t bits;
    int granularity, formula;
    *a = (pare_act_scheme){0};
    PARE_TRY(pare_json_int(j, "bits", PARE_REQUIRED, 1, 64, &bits, err));
    if (bits != 4 && bits != 6 && bits != 8)
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: bits: found %d, expected 4, 6 or 8",
                         j->place, (int)bits);
    PARE_TRY(read_word(&granularity, j, "granularity", pare_act_granularities,
                       "per_tensor_static, per_tensor_dynamic or per_token", err));
    PARE_TRY(
        read_word(&formula, j, "formula", pare_act_formulas, "default, paper_eq4 or full", err));
    PARE_TRY(pare_json_bool(j, "symmetric", PARE_REQUIRED, &a->symmetric, err));
    PARE_TRY(pare_json_bool(j, "bmm", PARE_OPTIONAL, &a->bmm, err));
    a->bits = (int)bits;
    a->granularity = (pare_act_granularity)granularity;
    a->formula = (pare_act_formula)formula;
    if (a->bmm && (!makes_qkv(canonical) || granularity == PARE_ACT_PER_TENSOR_STATIC))
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: bmm: found it of %s, expected q, k or v on grids of their own",
                         j->place, granularity ? "another matrix" : "a static grid");
    return PARE_OK;
}

static pare_status read_entry(pare_source *s, const pare_json *j, const char *canonical,
                              pare_error *err) {
    const int64_t at = pare_table_get(&s->by_canonical, canonical, strlen(canonical));
    size_t layer;
    if (at < 0 || pare_act_site_of(canonical, &layer) == PARE_ACT_SITES)
        return pare_fail(err, PARE_ERR_INPUT, "%s: found no such matrix in the model's blocks",
                         j->place);
    if (!json_is_object(j->root))
        return pare_fail(err, PARE_ERR_INPUT, "%s: found no object, expected one", j->place);
    pare_source_tensor *t = &s->tensors[at];
    PARE_TRY(read_scheme(&t->act, j, canonical, err));
    if (t->act.granularity == PARE_ACT_PER_TENSOR_STATIC)
        PARE_TRY(read_grid(&t->act_grid, &t->act, j, err));
    t->own_act = true;
    if (!s->act.bits) s->act = t->act;
    return PARE_OK;
}

static pare_status read_table(pare_source *s, const pare_json *table, pare_error *err) {
    int64_t version;
    const char *name;
    json_t *value;
    PARE_TRY(pare_json_int(table, "version", PARE_REQUIRED, 0, INT32_MAX, &version, err));
    if (version != VERSION)
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: version: found %d, expected %d",
                         table->place, (int)version, VERSION);
    json_t *inputs = pare_json_get(table, "inputs");
    if (!json_is_object(inputs))
        return pare_fail(err, PARE_ERR_INPUT, "%s: inputs: found no object, expected one",
                         table->place);
    pare_status st = PARE_OK;
    json_object_foreach(inputs, name, value) {
        char *place =
            pare_asprintf("%s: %.*s", table->place, pare_clip(name, strlen(name), 80), name);
        const pare_json entry = {value, place};
        st = place ? read_entry(s, &entry, name, err)
                   : pare_fail(err, PARE_ERR_NOMEM, "%s: a name", table->place);
        pare_free(place);
        if (st != PARE_OK) break;
    }
    return st;
}

/* The object, root NULL where there is none. */
static pare_status find_table(pare_json *out, const pare_source *s, pare_error *err) {
    *out = (pare_json){0};
    if (s->gguf) {
        const char *text = NULL;
        PARE_TRY(pare_gguf_str(s->gguf, PARE_ACT_GGUF_KEY, PARE_OPTIONAL, &text, err));
        if (!text) return PARE_OK;
        char *name = pare_asprintf("%s: " PARE_ACT_GGUF_KEY, s->path);
        pare_status st = name ? pare_json_parse(out, text, strlen(text), name, 0, err)
                              : pare_fail(err, PARE_ERR_NOMEM, "%s: a name", s->path);
        pare_free(name);
        return st;
    }
    const pare_json *j = &s->config_json;
    pare_json top;
    PARE_TRY(pare_json_part(out, j, "quantization_config." PARE_ACT_KEY, PARE_OPTIONAL, err));
    PARE_TRY(pare_json_part(&top, j, PARE_ACT_KEY, PARE_OPTIONAL, err));
    if (!out->root) {
        *out = top;
        return PARE_OK;
    }
    const bool same = !top.root || json_equal(out->root, top.root);
    pare_json_free(&top);
    if (same) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: found one " PARE_ACT_KEY " in quantization_config and another beside it, "
                     "expected one of them",
                     j->place);
}

pare_status source_act_open(pare_source *s, pare_error *err) {
    pare_json table;
    pare_status st = find_table(&table, s, err);
    if (st == PARE_OK && table.root) st = read_table(s, &table, err);
    pare_json_free(&table);
    return st;
}
