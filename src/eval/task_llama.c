/* The files of llama.cpp's own tasks: six lines a task (HellaSwag), CSV (WinoGrande), a binary form
 * (multiple choice). How their requests are scored is PARE_SCORE_MEAN's and PARE_SCORE_REST's
 * matter (task_tokens.c). */
#include "eval/task.h"

#include <string.h>

/* The next line without its end. */
static bool next_line(pare_span *rest, pare_span *line) {
    if (!rest->n) return false;
    const char *end = memchr(rest->s, '\n', rest->n);
    *line = (pare_span){rest->s, end ? (size_t)(end - rest->s) : rest->n};
    size_t taken = line->n + (end != NULL);
    rest->s += taken;
    rest->n -= taken;
    if (line->n && line->s[line->n - 1] == '\r') line->n--;
    return true;
}

static bool is_full(const pare_task_set *set, size_t limit) {
    return limit && set->n_docs >= limit;
}

/* --- HellaSwag: context, number of the right ending, four endings, each on a line --- */

static pare_status read_six(pare_task_row *row, pare_span line[6], size_t number, pare_error *err) {
    const char *file = row->set->file;
    for (size_t i = 0; i < 6; i++)
        if (!line[i].n)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: line %zu: found an empty line, expected text", file, number + i);
    if (line[1].n != 1 || line[1].s[0] < '0' || line[1].s[0] > '3')
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: line %zu: found \"%.*s\", expected the right ending's number, 0 to 3",
                         file, number + 1, pare_clip(line[1].s, line[1].n, 20), line[1].s);
    row->gold = (size_t)(line[1].s[0] - '0');
    PARE_TRY(pare_task_context(row, (const pare_span[]){line[0], {NULL, 0}}, err));
    for (size_t i = 2; i < 6; i++) PARE_TRY(pare_task_choice(row, " ", line[i], err));
    return PARE_OK;
}

pare_status pare_task_parse_lines(pare_task_set *set, pare_span text, size_t limit,
                                  pare_error *err) {
    pare_span line[6];
    for (size_t number = 1; text.n && !is_full(set, limit); number += 6) {
        size_t n = 0, first = set->n_requests;
        while (n < 6 && next_line(&text, &line[n])) n++;
        if (n < 6)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: line %zu: found %zu lines of a task, expected 6: context, number "
                             "of the right ending, four endings",
                             set->file, number, n);
        pare_task_row row = {.set = set};
        PARE_TRY(read_six(&row, line, number, err));
        PARE_TRY(pare_task_add(&row, first, number, err));
    }
    return PARE_OK;
}

/* --- WinoGrande: number, sentence, option 1, option 2, answer, in CSV --- */

pare_status pare_task_options(pare_task_row *row, pare_span sentence, const pare_span option[2],
                              const char *place, pare_error *err) {
    const char *blank = sentence.n ? memchr(sentence.s, '_', sentence.n) : NULL;
    if (!blank)
        return pare_fail(err, PARE_ERR_INPUT, "%s: sentence: found no '_', expected one", place);
    size_t at = (size_t)(blank - sentence.s);
    pare_span before = {sentence.s, at}, after = {blank + 1, sentence.n - at - 1};
    for (size_t i = 0; i < 2; i++) {
        PARE_TRY(pare_task_context(row, (const pare_span[]){before, option[i], {NULL, 0}}, err));
        PARE_TRY(pare_task_choice(row, "", after, err));
    }
    return PARE_OK;
}

/* The next field of a line; one in quotes may hold commas, and two quotes for one, which are put
 * into `own`. */
static pare_status next_field(pare_span *rest, pare_span *field, pare_text_buffer *own,
                              pare_error *err) {
    const char *end = rest->s + rest->n, *p = rest->s;
    if (!rest->n || *p != '"') {
        while (p < end && *p != ',') p++;
        *field = (pare_span){rest->s, (size_t)(p - rest->s)};
    } else {
        size_t begin = own->n;
        for (p++; p < end && (*p != '"' || (p + 1 < end && p[1] == '"')); p++) {
            if (*p == '"') p++;
            if (!pare_text_buffer_add(own, p, 1)) return pare_text_buffer_fail(err);
        }
        if (p < end) p++; /* the closing quote */
        *field = (pare_span){own->data + begin, own->n - begin};
    }
    if (p < end && *p == ',') p++;
    rest->n = (size_t)(end - p);
    rest->s = p;
    return PARE_OK;
}

static pare_status read_csv(pare_task_row *row, pare_span line, size_t number,
                            pare_text_buffer *own, pare_error *err) {
    pare_span field[5];
    char place[512];
    snprintf(place, sizeof place, "%s: line %zu", row->set->file, number);
    own->n = 0;
    if (!pare_text_buffer_reserve(own, line.n)) return pare_text_buffer_fail(err);
    for (size_t i = 0; i < 5; i++) {
        if (!line.n)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: found %zu fields, expected 5: number, sentence, option 1, option "
                             "2, answer",
                             place, i);
        PARE_TRY(next_field(&line, &field[i], own, err));
    }
    if (line.n || field[4].n != 1 || (field[4].s[0] != '1' && field[4].s[0] != '2'))
        return pare_fail(err, PARE_ERR_INPUT, "%s: answer: found \"%.*s\", expected 1 or 2", place,
                         pare_clip(field[4].s, field[4].n, 20), field[4].s);
    row->gold = (size_t)(field[4].s[0] - '1');
    return pare_task_options(row, field[1], &field[2], place, err);
}

pare_status pare_task_parse_csv(pare_task_set *set, pare_span text, size_t limit, pare_error *err) {
    pare_span line;
    pare_text_buffer own = {0};
    pare_status st = PARE_OK;
    for (size_t number = 1; st == PARE_OK && !is_full(set, limit) && next_line(&text, &line);
         number++) {
        pare_task_row row = {.set = set};
        size_t first = set->n_requests;
        if (!line.n) continue;
        st = read_csv(&row, line, number, &own, err);
        if (st == PARE_OK) st = pare_task_add(&row, first, number, err);
    }
    pare_text_buffer_free(&own);
    return st;
}

/* --- multiple choice: u32 n, u32 position[n], then of each task the question, two lists of answers
 * (of the second, with several right ones, nothing is used); little-endian. A string is u32 length
 * and bytes, a list u32 k, k strings, k i32 labels --- */

enum { MAX_ANSWERS = 100, LEAST_TASK = 12 /* three counts */ };

typedef struct binary {
    const pare_task_set *set;
    const char *base;
    pare_span rest;
    size_t task; /* from 1; 0: the head */
} binary;

static pare_status fail_binary(const binary *b, const char *found, const char *expected,
                               pare_error *err) {
    return pare_fail(err, PARE_ERR_INPUT, "%s: task %zu, byte %zu: found %s, expected %s",
                     b->set->file, b->task, (size_t)(b->rest.s - b->base), found, expected);
}

static bool take_u32(binary *b, uint32_t *out) {
    if (b->rest.n < 4) return false;
    const uint8_t *p = (const uint8_t *)b->rest.s;
    *out = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    b->rest.s += 4;
    b->rest.n -= 4;
    return true;
}

static pare_status take_string(binary *b, pare_span *out, pare_error *err) {
    uint32_t n;
    if (!take_u32(b, &n) || n > b->rest.n)
        return fail_binary(b, "the end of the file", "a text", err);
    *out = (pare_span){b->rest.s, n};
    b->rest.s += n;
    b->rest.n -= n;
    return PARE_OK;
}

/* row: its choices and gold are the list's; NULL: they are passed over. */
static pare_status take_list(binary *b, pare_task_row *row, pare_error *err) {
    uint32_t n, label, n_right = 0;
    pare_span answer;
    if (!take_u32(b, &n) || n > MAX_ANSWERS || (row && n == 0))
        return fail_binary(b, "no number of answers", "1 to 100", err);
    for (uint32_t i = 0; i < n; i++) {
        PARE_TRY(take_string(b, &answer, err));
        if (row && !answer.n) return fail_binary(b, "an empty answer", "text", err);
        if (row) PARE_TRY(pare_task_choice(row, " ", answer, err));
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!take_u32(b, &label)) return fail_binary(b, "the end of the file", "labels", err);
        if (label != 1 || !row) continue;
        row->gold = i;
        n_right++;
    }
    if (row && n_right != 1)
        return fail_binary(b, "none or several right answers", "one label of 1", err);
    return PARE_OK;
}

static pare_status read_binary_task(binary *b, pare_task_row *row, pare_error *err) {
    pare_span question;
    PARE_TRY(take_string(b, &question, err));
    if (!question.n) return fail_binary(b, "an empty question", "text", err);
    PARE_TRY(pare_task_context(row, (const pare_span[]){question, {NULL, 0}}, err));
    PARE_TRY(take_list(b, row, err));
    return take_list(b, NULL, err);
}

pare_status pare_task_parse_binary(pare_task_set *set, pare_span text, size_t limit,
                                   pare_error *err) {
    binary b = {.set = set, .base = text.s, .rest = text};
    uint32_t n, position;
    if (!take_u32(&b, &n) || n == 0 || n > b.rest.n / (4 + LEAST_TASK))
        return fail_binary(&b, "no number of tasks that fit", "a multiple-choice file", err);
    binary positions = b;
    b.rest.s += 4 * (size_t)n;
    b.rest.n -= 4 * (size_t)n;
    for (b.task = 1; b.task <= n && !is_full(set, limit); b.task++) {
        pare_task_row row = {.set = set};
        size_t first = set->n_requests;
        if (!take_u32(&positions, &position) || position != (size_t)(b.rest.s - b.base))
            return fail_binary(&b, "another position in the table", "that of this task", err);
        PARE_TRY(read_binary_task(&b, &row, err));
        PARE_TRY(pare_task_add(&row, first, b.task, err));
    }
    if (b.task > n && b.rest.n) return fail_binary(&b, "more bytes", "the end of the file", err);
    return PARE_OK;
}
