#include "model/prefix_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define VALUES_KEY PARE_PREFIX_GGUF "values"

enum { KEY = 64 };

const char *prefix_gguf_text(const void *gguf, const char *key) {
    char name[KEY];
    const char *text = NULL;
    pare_error ignored; /* of another type: as if it were not there */
    snprintf(name, sizeof name, PARE_PREFIX_GGUF "%s", key);
    return pare_gguf_str(gguf, name, PARE_OPTIONAL, &text, &ignored) == PARE_OK ? text : NULL;
}

pare_status pare_prefix_in_gguf(bool *out, const char *path, pare_error *err) {
    pare_file file;
    uint8_t magic[4] = {0};
    *out = false;
    if (pare_path_is_folder(path)) return PARE_OK;
    PARE_TRY(pare_file_open(&file, path, err));
    pare_status st = PARE_OK;
    if (file.size >= sizeof magic) st = pare_file_read_at(&file, magic, sizeof magic, 0, err);
    *out = memcmp(magic, "GGUF", sizeof magic) == 0;
    pare_file_close(&file);
    return st;
}

static pare_status read_all(pare_prefix **p, const pare_gguf *g, const pare_model_config *c,
                            const float *values, size_t n_values, pare_error *err) {
    const char *path = pare_gguf_path(g);
    const prefix_words words = {prefix_gguf_text, g, path};
    const size_t of_one = 2 * c->n_layers * c->n_kv_heads * c->head_dim, n = n_values / of_one;
    pare_error own = {0};
    PARE_TRY(prefix_check_facts(&words, c, err));
    if (n * of_one != n_values)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: " VALUES_KEY ": found %zu values, expected a multiple of %zu", path,
                         n_values, of_one);
    pare_status st = pare_prefix_create(p, c, n, &own);
    if (st != PARE_OK) /* a length out of range is the file's fault */
        return pare_fail(err, st == PARE_ERR_ARG ? PARE_ERR_INPUT : st, "%s: %s", path,
                         own.message);
    for (size_t i = 0; i < n_values; i++)
        if (!isfinite(values[i]))
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: " VALUES_KEY ": value %zu: found %s, expected a number", path, i,
                             isnan(values[i]) ? "NaN" : "Inf");
    memcpy((*p)->values, values, n_values * sizeof *values);
    return prefix_read_ids(*p, &words, c->vocab_size, err);
}

pare_status prefix_load_gguf(pare_prefix **out, const pare_model_config *c, const char *path,
                             pare_error *err) {
    pare_gguf *g;
    pare_prefix *p = NULL;
    float *values = NULL;
    size_t n;
    PARE_TRY(pare_gguf_open(&g, path, err));
    pare_status st = pare_gguf_f32s(g, VALUES_KEY, PARE_REQUIRED, &values, &n, err);
    if (st == PARE_OK) st = read_all(&p, g, c, values, n, err);
    pare_free(values);
    pare_gguf_close(g);
    if (st == PARE_OK)
        *out = p;
    else
        pare_prefix_free(p);
    return st;
}

static pare_status set_text(void *w, const char *key, const char *text, pare_error *err) {
    char name[KEY];
    snprintf(name, sizeof name, PARE_PREFIX_GGUF "%s", key);
    return pare_gguf_set_str(w, name, text, err);
}

pare_status pare_prefix_put_gguf(pare_gguf_writer *w, const char *path, const pare_model_config *c,
                                 const char *arch, pare_error *err) {
    pare_prefix *p;
    char *record = NULL;
    pare_model_config as_gguf = *c; /* Mistral's files are Llama's */
    snprintf(as_gguf.arch, sizeof as_gguf.arch, "%s", arch);
    PARE_TRY(pare_prefix_load(&p, c, path, err));
    pare_status st = pare_prefix_record(&record, path, err);
    if (st == PARE_OK) st = prefix_put_words(set_text, w, p, &as_gguf, record, err);
    if (st == PARE_OK)
        st = pare_gguf_set_f32s(w, VALUES_KEY, p->values, p->bytes / sizeof *p->values, err);
    pare_free(record);
    pare_prefix_free(p);
    return st;
}

pare_status pare_prefix_record(char **out, const char *path, pare_error *err) {
    const char *text;
    pare_gguf *g = NULL;
    pare_st *st = NULL;
    bool gguf;
    *out = NULL;
    PARE_TRY(pare_prefix_in_gguf(&gguf, path, err));
    if (gguf) {
        PARE_TRY(pare_gguf_open(&g, path, err));
        text = prefix_gguf_text(g, "record");
    } else {
        PARE_TRY(pare_st_open(&st, path, err));
        text = pare_st_metadata(st, "record");
    }
    bool failed = text && !(*out = pare_strdup(text));
    pare_gguf_close(g);
    pare_st_close(st);
    return failed ? pare_fail(err, PARE_ERR_NOMEM, "%s: record", path) : PARE_OK;
}
