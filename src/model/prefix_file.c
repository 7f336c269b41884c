/* The file of a prefix. Its __metadata__, all of it text:
 *
 *     format     "pare-cushion"
 *     version    "1"
 *     arch, n_layers, n_kv_heads, head_dim, dim, vocab_size   of the model
 *     length     positions
 *     token_ids  "[1, 2]", where the prefix was computed from tokens, or
 *     tuned_from the same, where it was tuned since
 *     record     a JSON object about how it came to be */
#include "model/prefix_internal.h"

#include "io/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { VERSION = 1, NAME = 64, FACTS = 7 };

/* What the file says of its model, and what is said of this one. */
typedef struct fact {
    const char *key;
    char text[NAME];
} fact;

static void facts_of(fact facts[FACTS], const pare_model_config *c) {
    const struct {
        const char *key;
        size_t n;
    } sizes[] = {{"n_layers", c->n_layers},
                 {"n_kv_heads", c->n_kv_heads},
                 {"head_dim", c->head_dim},
                 {"dim", c->dim},
                 {"vocab_size", c->vocab_size}};
    facts[0] = (fact){.key = "format", .text = "pare-cushion"};
    facts[1].key = "arch";
    snprintf(facts[1].text, NAME, "%s", c->arch);
    for (size_t i = 2; i < FACTS; i++) {
        facts[i].key = sizes[i - 2].key;
        snprintf(facts[i].text, NAME, "%zu", sizes[i - 2].n);
    }
}

static void print_name(char name[NAME], size_t layer, bool value) {
    snprintf(name, NAME, "layers.%zu.%c", layer, value ? 'v' : 'k');
}

/* ---- reading ---- */

static const char *st_text(const void *st, const char *key) { return pare_st_metadata(st, key); }

pare_status prefix_check_facts(const prefix_words *words, const pare_model_config *c,
                               pare_error *err) {
    fact facts[FACTS];
    facts_of(facts, c);
    const char *version = words->get(words->file, "version"), *path = words->path;
    for (size_t i = 0; i < FACTS; i++) {
        const char *found = words->get(words->file, facts[i].key);
        if (i == 1 && version && strcmp(version, "1") != 0)
            return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: version: found %.40s, expected %d",
                             path, version, VERSION);
        if (found && strcmp(found, facts[i].text) == 0) continue;
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found %.60s, expected %s%s", path,
                         facts[i].key, found ? found : "none", facts[i].text,
                         i ? " as the model" : "");
    }
    return PARE_OK;
}

/* Every tensor is one of the layers', all of one length. */
static pare_status check_tensors(size_t *n, const pare_st *st, const pare_model_config *c,
                                 const char *path, pare_error *err) {
    const pare_st_tensor *first = pare_st_find(st, "layers.0.k");
    *n = first && first->n_dims == 3 ? first->dims[0] : 0;
    for (size_t i = 0; i < 2 * c->n_layers; i++) {
        char name[NAME];
        print_name(name, i / 2, i % 2);
        const pare_st_tensor *t = pare_st_find(st, name);
        if (!t)
            return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found none, expected one", path, name);
        if (t->n_dims != 3 || t->dims[0] != *n || t->dims[1] != c->n_kv_heads ||
            t->dims[2] != c->head_dim)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: %s: found %zu dims [%zu, %zu, %zu], expected [%zu, %zu, %zu]",
                             path, name, t->n_dims, t->dims[0], t->dims[1], t->dims[2], *n,
                             c->n_kv_heads, c->head_dim);
    }
    if (pare_st_n_tensors(st) != 2 * c->n_layers)
        return pare_fail(err, PARE_ERR_INPUT, "%s: found %zu tensors, expected %zu", path,
                         pare_st_n_tensors(st), 2 * c->n_layers);
    return PARE_OK;
}

static pare_status read_rows(float *to, const pare_st *st, const pare_st_tensor *t,
                             const char *path, pare_error *err) {
    const pare_encoding *enc = pare_encoding_from_dtype(t->dtype->name);
    size_t n = (size_t)t->n_elements;
    if (!enc)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: %s: found dtype %s, expected F32, F16 or BF16", path, t->name,
                         t->dtype->name);
    uint8_t *raw = pare_big_alloc((size_t)t->n_bytes + 64);
    if (!raw) return pare_fail(err, PARE_ERR_NOMEM, "%s: %s", path, t->name);
    pare_status status =
        pare_file_read_at(pare_st_file(st, t->file), raw, (size_t)t->n_bytes, t->offset, err);
    pare_tensor stored = pare_tensor_wrap(enc, raw, 1, n);
    if (status == PARE_OK) enc->decode(to, &stored.view, 0, 0, n);
    for (size_t i = 0; status == PARE_OK && i < n; i++)
        if (!isfinite(to[i]))
            status =
                pare_fail(err, PARE_ERR_INPUT, "%s: %s: value %zu: found %s, expected a number",
                          path, t->name, i, isnan(to[i]) ? "NaN" : "Inf");
    pare_big_free(raw, (size_t)t->n_bytes + 64);
    return status;
}

pare_status prefix_read_ids(pare_prefix *p, const prefix_words *words, size_t vocab,
                            pare_error *err) {
    const char *key = "token_ids", *text = words->get(words->file, key), *path = words->path;
    pare_json j = {0};
    p->tuned = !text;
    if (!text) text = words->get(words->file, key = "tuned_from");
    if (!text) return PARE_OK;
    p->ids = pare_calloc(p->attn.n, sizeof *p->ids);
    if (!p->ids) return pare_fail(err, PARE_ERR_NOMEM, "%s: %s", path, key);
    PARE_TRY(pare_json_parse(&j, text, strlen(text), path, 0, err));
    pare_status status = PARE_OK;
    size_t found = json_array_size(j.root);
    if (found != p->attn.n)
        status = pare_fail(err, PARE_ERR_INPUT, "%s: %s: found %zu, expected %zu", path, key, found,
                           p->attn.n);
    for (size_t i = 0; i < p->attn.n && status == PARE_OK; i++) {
        char at[NAME];
        int64_t id;
        snprintf(at, sizeof at, "%zu", i);
        status = pare_json_int(&j, at, PARE_REQUIRED, 0, (int64_t)vocab - 1, &id, err);
        if (status == PARE_OK) p->ids[i] = (int32_t)id;
    }
    pare_json_free(&j);
    return status;
}

static pare_status read_all(pare_prefix **p, const pare_st *st, const pare_model_config *c,
                            const char *path, pare_error *err) {
    size_t n;
    const prefix_words words = {st_text, st, path};
    PARE_TRY(prefix_check_facts(&words, c, err));
    PARE_TRY(check_tensors(&n, st, c, path, err));
    pare_error own = {0};
    pare_status status = pare_prefix_create(p, c, n, &own);
    if (status != PARE_OK) /* a length out of range is the file's fault */
        return pare_fail(err, status == PARE_ERR_ARG ? PARE_ERR_INPUT : status, "%s: %s", path,
                         own.message);
    for (size_t i = 0; i < 2 * c->n_layers; i++) {
        char name[NAME];
        print_name(name, i / 2, i % 2);
        PARE_TRY(
            read_rows(pare_prefix_rows(*p, i / 2, i % 2), st, pare_st_find(st, name), path, err));
    }
    return prefix_read_ids(*p, &words, c->vocab_size, err);
}

pare_status pare_prefix_load(pare_prefix **out, const pare_model_config *c, const char *path,
                             pare_error *err) {
    pare_st *st;
    pare_prefix *p = NULL;
    *out = NULL;
    bool gguf;
    if (pare_path_is_folder(path))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: found a folder, expected a file (its " PARE_PREFIX_FILE ")", path);
    PARE_TRY(pare_prefix_in_gguf(&gguf, path, err));
    if (gguf) return prefix_load_gguf(out, c, path, err);
    PARE_TRY(pare_st_open(&st, path, err));
    pare_status status = read_all(&p, st, c, path, err);
    pare_st_close(st);
    if (status == PARE_OK)
        *out = p;
    else
        pare_prefix_free(p);
    return status;
}

/* ---- writing ---- */

static char *print_ids(const pare_prefix *p) {
    size_t room = 16 * p->attn.n + 4, at = 0;
    char *text = pare_malloc(room, 1);
    for (size_t i = 0; text && i < p->attn.n; i++)
        at += (size_t)snprintf(text + at, room - at, "%s%d", i ? ", " : "[", (int)p->ids[i]);
    if (text) snprintf(text + at, room - at, "]");
    return text;
}

pare_status prefix_put_words(pare_status (*set)(void *to, const char *key, const char *text,
                                                pare_error *err),
                             void *to, const pare_prefix *p, const pare_model_config *c,
                             const char *record, pare_error *err) {
    fact facts[FACTS];
    char number[NAME];
    facts_of(facts, c);
    for (size_t i = 0; i < FACTS; i++) PARE_TRY(set(to, facts[i].key, facts[i].text, err));
    snprintf(number, sizeof number, "%d", VERSION);
    PARE_TRY(set(to, "version", number, err));
    snprintf(number, sizeof number, "%zu", p->attn.n);
    PARE_TRY(set(to, "length", number, err));
    if (record) PARE_TRY(set(to, "record", record, err));
    if (!p->ids) return PARE_OK;
    char *ids = print_ids(p);
    pare_status st = ids ? set(to, p->tuned ? "tuned_from" : "token_ids", ids, err)
                         : pare_fail(err, PARE_ERR_NOMEM, "prefix: token_ids");
    pare_free(ids);
    return st;
}

static pare_status st_set(void *w, const char *key, const char *text, pare_error *err) {
    return pare_st_set_metadata(w, key, text, err);
}

static pare_status write_all(pare_st_writer *w, const pare_prefix *p, const pare_model_config *c,
                             const char *record, pare_error *err) {
    const size_t dims[] = {p->attn.n, c->n_kv_heads, c->head_dim};
    PARE_TRY(prefix_put_words(st_set, w, p, c, record, err));
    for (size_t i = 0; i < 2 * p->n_layers; i++) {
        char name[NAME];
        print_name(name, i / 2, i % 2);
        PARE_TRY(pare_st_declare(w, name, "F32", dims, 3, NULL, err));
    }
    PARE_TRY(pare_st_begin(w, err));
    for (size_t i = 0; i < 2 * p->n_layers; i++)
        PARE_TRY(pare_st_write(w, i, pare_prefix_rows(p, i / 2, i % 2),
                               p->attn.n * p->kv_dim * sizeof(float), err));
    return pare_st_finish(w, err);
}

pare_status pare_prefix_save(const pare_prefix *p, const pare_model_config *c, const char *record,
                             const char *path, pare_error *err) {
    pare_st_writer *w;
    PARE_TRY(pare_st_writer_create(&w, path, 0, err));
    pare_status st = write_all(w, p, c, record, err);
    pare_st_writer_free(w);
    return st;
}

/* ---- the file of a folder ---- */

pare_status pare_prefix_path_of(char **out, const pare_source *s, pare_error *err) {
    const pare_json *j = pare_source_config_json(s);
    const pare_gguf *g = pare_source_gguf(s);
    const char *name = NULL;
    *out = NULL;
    if (g && !pare_gguf_has(g, PARE_PREFIX_GGUF "format") &&
        !pare_gguf_has(g, PARE_PREFIX_GGUF "values"))
        return PARE_OK; /* with one of them it is read, and what is missing is told */
    if (g) {
        *out = pare_strdup(pare_source_path(s));
        return *out ? PARE_OK
                    : pare_fail(err, PARE_ERR_NOMEM, "%s: its cushion", pare_gguf_path(g));
    }
    PARE_TRY(pare_json_str(j, "quantization_config." PARE_PREFIX_KEY, PARE_OPTIONAL, &name, err));
    if (!name) PARE_TRY(pare_json_str(j, PARE_PREFIX_KEY, PARE_OPTIONAL, &name, err));
    if (!name) return PARE_OK;
    if (!*name || strchr(name, '/') || strlen(name) > 255)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: " PARE_PREFIX_KEY ": found \"%.60s\", expected a file beside it",
                         j->place, name);
    *out = pare_path_join(pare_source_path(s), name);
    return *out ? PARE_OK : pare_fail(err, PARE_ERR_NOMEM, "%s: its cushion", j->place);
}

pare_status pare_model_load_own_prefix(pare_model *m, pare_error *err) {
    char *path;
    PARE_TRY(pare_prefix_path_of(&path, m->source, err));
    if (!path) return PARE_OK;
    pare_status st = pare_model_set_prefix(m, path, err);
    pare_free(path);
    return st;
}
