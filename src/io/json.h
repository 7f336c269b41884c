/* JSON from untrusted files: the one loader for configurations and tokenizers, on jansson.
 *
 *     pare_json j;
 *     PARE_TRY(pare_json_load(&j, "config.json", PARE_JSON_CONFIG_MAX, 0, err));
 *     size_t n_layers;
 *     st = pare_json_size(&j, "num_hidden_layers", PARE_REQUIRED, 1, 512, &n_layers, err);
 *     pare_json_free(&j);
 *
 * Refused, each with file, line and column: more than max_bytes, a byte order mark, nesting deeper
 * than 64, duplicate keys, NaN and Infinity (Python writes these), invalid UTF-8, anything after
 * the value. Integers beyond 64 bits become reals (tokenizer_config.json has some, for "no limit").
 */
#ifndef PARE_SRC_IO_JSON_H
#define PARE_SRC_IO_JSON_H

#include "io/common.h"

#include <jansson.h>

enum {
    PARE_JSON_DEPTH = 64,
    PARE_JSON_CONTAINERS = 4 << 20,  /* objects and arrays: what costs most memory */
    PARE_JSON_CONFIG_MAX = 16 << 20, /* bytes; for config.json and its like */
};

/* For pare_json_load: "\u0000" in strings is accepted (tokenizers); keys never may hold it. */
enum { PARE_JSON_ALLOW_NUL = 1 };

/* How often memory was out inside of jansson on this thread. Jansson does not tell all of it: who
 * builds a document compares the number before with that after. */
size_t pare_json_failures(void);
/* j where nothing failed since `before`; else j is freed, and NULL. */
json_t *pare_json_whole(json_t *j, size_t before);

/* A real; null for what JSON has no form for. And back: NaN for what is no number. */
json_t *pare_json_number(double v);
double pare_json_number_of(const json_t *j);

/* A document, or a part of one that keeps it alive. Free with pare_json_free. */
typedef struct pare_json {
    json_t *root; /* one reference is held; an object or an array */
    char *place;  /* owned; the file, then the part, for messages */
} pare_json;

/* Loads a file. Errors: PARE_ERR_INPUT, PARE_ERR_IO, PARE_ERR_NOMEM; *out is then empty. */
pare_status pare_json_load(pare_json *out, const char *path, size_t max_bytes, unsigned flags,
                           pare_error *err);
/* The same from n bytes in memory; `name` is for messages. */
pare_status pare_json_parse(pare_json *out, const char *text, size_t n, const char *name,
                            unsigned flags, pare_error *err);
void pare_json_free(pare_json *j);

/* Getters. `path`: keys joined by dots, numbers for array items ("rope_scaling.factor",
 * "architectures.0"); each message names it. null counts as absent: `need` says whether that is an
 * error or leaves *out alone. A wrong type or a value out of range is an error with found and
 * expected.
 */

/* What is at the path, borrowed; NULL when absent or null, or when a step is no container. */
json_t *pare_json_get(const pare_json *j, const char *path);
/* The object or array at the path as a document of its own. Absent and optional: *out is empty
 * (root NULL). */
pare_status pare_json_part(pare_json *out, const pare_json *j, const char *path, pare_need need,
                           pare_error *err);

pare_status pare_json_size(const pare_json *j, const char *path, pare_need need, size_t min,
                           size_t max, size_t *out, pare_error *err);
pare_status pare_json_int(const pare_json *j, const char *path, pare_need need, int64_t min,
                          int64_t max, int64_t *out, pare_error *err);
/* An integer or a real. */
pare_status pare_json_double(const pare_json *j, const char *path, pare_need need, double min,
                             double max, double *out, pare_error *err);
pare_status pare_json_bool(const pare_json *j, const char *path, pare_need need, bool *out,
                           pare_error *err);
/* NUL-terminated (a NUL inside is refused), borrowed from the document. */
pare_status pare_json_str(const pare_json *j, const char *path, pare_need need, const char **out,
                          pare_error *err);
/* An array, borrowed; absent and optional: NULL. */
pare_status pare_json_array(const pare_json *j, const char *path, pare_need need, json_t **out,
                            pare_error *err);

/* Writes a value to a file that appears when complete; indented by 2, keys in their order. */
pare_status pare_json_write(const char *path, const json_t *value, pare_error *err);

#endif
