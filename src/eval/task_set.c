/* From a task's file to its documents: a JSON object a line, and for some tasks a file of labels
 * beside it; files in other forms go to the task's own function. */
#include "eval/task.h"

#include "base/hash.h"
#include "base/os.h"
#include "text/unicode.h"

#include <string.h>

void pare_task_set_free(pare_task_set *set) {
    pare_free(set->file);
    pare_text_buffer_free(&set->text);
    pare_free(set->requests);
    pare_free(set->docs);
    *set = (pare_task_set){0};
}

/* --- what descriptors build with --- */

static bool add_text(pare_task_set *set, pare_task_text *t, pare_span piece) {
    if (!pare_text_buffer_add(&set->text, piece.s, piece.n)) return false;
    t->n += piece.n;
    return true;
}

pare_status pare_task_context(pare_task_row *row, const pare_span *pieces, pare_error *err) {
    row->context = (pare_task_text){row->set->text.n, 0};
    for (; pieces->s; pieces++)
        if (!add_text(row->set, &row->context, *pieces)) return pare_text_buffer_fail(err);
    return PARE_OK;
}

static size_t count_chars(pare_span t) {
    size_t n = 0;
    int32_t cp;
    for (size_t i = 0; i < t.n; n++) i += pare_utf8_next(t.s + i, t.n - i, &cp);
    return n;
}

pare_status pare_task_choice(pare_task_row *row, const char *before, pare_span choice,
                             pare_error *err) {
    pare_task_set *set = row->set;
    pare_task_request r = {row->context, {set->text.n, 0}, count_chars(choice)};
    if (!add_text(set, &r.continuation, (pare_span){before, strlen(before)}) ||
        !add_text(set, &r.continuation, choice) ||
        !pare_grow(&set->requests, &set->requests_capacity, set->n_requests + 1, sizeof r))
        return pare_text_buffer_fail(err);
    set->requests[set->n_requests++] = r;
    return PARE_OK;
}

/* --- lines --- */

/* A text that is read line by line. */
typedef struct lines {
    pare_span rest;
    size_t number; /* of the last one given, from 1 */
} lines;

static bool is_blank(pare_span line) {
    for (size_t i = 0; i < line.n; i++)
        if (!strchr(" \t\r", line.s[i]) || !line.s[i]) return false;
    return true;
}

/* The next line that is not blank, without its end. */
static bool next_line(lines *l, pare_span *line) {
    while (l->rest.n) {
        const char *end = memchr(l->rest.s, '\n', l->rest.n);
        *line = (pare_span){l->rest.s, end ? (size_t)(end - l->rest.s) : l->rest.n};
        size_t taken = line->n + (end != NULL);
        l->rest.s += taken;
        l->rest.n -= taken;
        l->number++;
        if (line->n && line->s[line->n - 1] == '\r') line->n--;
        if (!is_blank(*line)) return true;
    }
    return false;
}

static pare_status next_label(int64_t *label, lines *labels, const char *name, pare_error *err) {
    pare_span line;
    if (!next_line(labels, &line))
        return pare_fail(err, PARE_ERR_INPUT, "%s: found %zu labels, expected one for every row",
                         name, labels->number);
    if (line.n != 1 || line.s[0] < '0' || line.s[0] > '9')
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: label of line %zu: found \"%.*s\", expected a digit", name,
                         labels->number, pare_clip(line.s, line.n, 20), line.s);
    *label = line.s[0] - '0';
    return PARE_OK;
}

/* --- documents --- */

pare_status pare_task_add(pare_task_row *row, size_t first, size_t line, pare_error *err) {
    pare_task_set *set = row->set;
    pare_task_doc doc = {first, set->n_requests - first, row->gold, line};
    if (!pare_grow(&set->docs, &set->docs_capacity, set->n_docs + 1, sizeof doc))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", set->file);
    set->docs[set->n_docs++] = doc;
    return PARE_OK;
}

static pare_status parse_row(pare_task_set *set, pare_span line, size_t number, int64_t label,
                             pare_error *err) {
    char place[512];
    snprintf(place, sizeof place, "%s: line %zu", set->file, number);
    pare_task_row row = {.label = label, .set = set};
    PARE_TRY(pare_json_parse(&row.json, line.s, line.n, place, 0, err));
    size_t first = set->n_requests;
    pare_status st = set->task->read(&row, err);
    if (st == PARE_OK) st = pare_task_add(&row, first, number, err);
    pare_json_free(&row.json);
    return st;
}

static pare_status parse_rows(pare_task_set *set, pare_span text, const pare_span *labels,
                              size_t limit, pare_error *err) {
    lines rows = {text, 0}, answers = {labels ? *labels : (pare_span){"", 0}, 0};
    pare_span line;
    int64_t label = -1;
    while ((!limit || set->n_docs < limit) && next_line(&rows, &line)) {
        if (labels) PARE_TRY(next_label(&label, &answers, set->file, err));
        PARE_TRY(parse_row(set, line, rows.number, label, err));
    }
    bool all = !limit || set->n_docs < limit;
    if (labels && all && next_line(&answers, &line))
        return pare_fail(err, PARE_ERR_INPUT, "%s: found more labels than rows, expected as many",
                         set->file);
    return PARE_OK;
}

static pare_status parse_text(pare_task_set *set, pare_span text, const pare_span *labels,
                              size_t limit, pare_error *err) {
    const pare_task *task = set->task;
    bool json = task->read && (!task->parse || (text.n && text.s[0] == '{'));
    PARE_TRY(json ? parse_rows(set, text, labels, limit, err) : task->parse(set, text, limit, err));
    if (!set->n_docs)
        return pare_fail(err, PARE_ERR_INPUT, "%s: found no rows, expected at least one",
                         set->file);
    return PARE_OK;
}

pare_status pare_task_parse(pare_task_set *set, const pare_task *task, const char *name,
                            pare_span text, const pare_span *labels, size_t limit,
                            pare_error *err) {
    *set = (pare_task_set){.task = task, .file = pare_strdup(name)};
    pare_status st = set->file ? parse_text(set, text, labels, limit, err)
                               : pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", name);
    if (st != PARE_OK) pare_task_set_free(set);
    return st;
}

/* --- files --- */

/* The path of the first of the files that exists; the last one otherwise. NULL: out of memory. */
static char *first_file(const char *folder, const char *const *files) {
    char *path = NULL;
    for (; *files; files++) {
        pare_free(path);
        path = pare_path_join(folder, *files);
        if (!path || pare_path_exists(path)) break;
    }
    return path;
}

static pare_status read_file(char **text, size_t *n, const char *path, const pare_task *task,
                             pare_error *err) {
    if (!path) return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", task->name);
    if (!pare_path_exists(path))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: found no such file, expected the data of task %s (docs/tasks.md says "
                         "how the folder is laid out)",
                         path, task->name);
    return pare_file_read_all(text, n, path, PARE_TEXT_MAX, err);
}

pare_status pare_task_load(pare_task_set *set, const pare_task *task, const char *folder,
                           size_t limit, pare_error *err) {
    *set = (pare_task_set){0};
    char *path = first_file(folder, task->files), *text = NULL, *labels = NULL;
    char *labels_path = task->labels ? pare_path_join(folder, task->labels) : NULL;
    pare_span rows = {NULL, 0}, answers = {NULL, 0};
    pare_status st = read_file(&text, &rows.n, path, task, err);
    if (st == PARE_OK && task->labels) st = read_file(&labels, &answers.n, labels_path, task, err);
    rows.s = text;
    answers.s = labels;
    if (st == PARE_OK)
        st = pare_task_parse(set, task, path, rows, labels ? &answers : NULL, limit, err);
    pare_free(text);
    pare_free(labels);
    pare_free(path);
    pare_free(labels_path);
    return st;
}

void pare_task_sha256(uint8_t digest[32], const pare_task_set *set) {
    pare_sha256 h;
    pare_sha256_init(&h);
    for (size_t i = 0; i < set->n_requests; i++) {
        pare_span context = pare_task_span(set, set->requests[i].context);
        pare_span continuation = pare_task_span(set, set->requests[i].continuation);
        pare_sha256_update(&h, context.s, context.n);
        pare_sha256_update(&h, "", 1);
        pare_sha256_update(&h, continuation.s, continuation.n);
        pare_sha256_update(&h, "", 1);
    }
    pare_sha256_final(&h, digest);
}
