/* Sweep files.
 *
 *     model  = smollm2.gguf            # as many as wanted, also of recipe, eval and speed
 *     recipe = gptq:bits=4,group=64
 *     q4_k_m                           # a line without a key is a recipe
 *     eval   = wiki.test.raw protocol=hf ctx=2048 windows=10
 *     out    = folder
 *
 * A key is a word before the first '='; a recipe has a ':' or '@' there, or no '=' at all. Settings
 * stand behind a value as name=value, divided by blanks, so that paths may hold blanks. */
#include "study/record_columns.h"
#include "study/sweep.h"

#include "base/hash.h"
#include "base/memory.h"
#include "io/common.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct parser {
    pare_sweep *s;
    const char *name;
    size_t line; /* from 1 */
    pare_error *err;
} parser;

#define FAIL(p, ...)                                                                               \
    (pare_fail((p)->err, PARE_ERR_INPUT, __VA_ARGS__),                                             \
     pare_fail_prefix((p)->err, "%s: line %zu", (p)->name, (p)->line))

static pare_status fail_memory(parser *p) {
    return pare_fail(p->err, PARE_ERR_NOMEM, "%s: out of memory", p->name);
}

/* Without blanks at both ends. */
static pare_span trim(const char *s, size_t n) {
    while (n && isspace((unsigned char)*s)) {
        s++;
        n--;
    }
    while (n && isspace((unsigned char)s[n - 1])) n--;
    return (pare_span){s, n};
}

static pare_status add_text(parser *p, pare_sweep_texts *list, pare_span text, const char *what) {
    if (list->n == PARE_SWEEP_MAX_LINES)
        return FAIL(p, "found more than %d %ss", PARE_SWEEP_MAX_LINES, what);
    char *copy = pare_record_strndup(p->s->pool, text.s, text.n);
    if (!copy) return fail_memory(p);
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->item[i], copy) == 0)
            return FAIL(p, "found %s '%.80s' a second time", what, copy);
    list->item[list->n++] = copy;
    return PARE_OK;
}

/* --- settings behind a value --- */

typedef struct setting {
    const char *name;
    const char *choices; /* "a|b": *number is the index; NULL: a whole number */
    int64_t min, max;
    int64_t *number;
} setting;

static bool choose(int64_t *index, const char *choices, pare_span word) {
    for (*index = 0;; ++*index) {
        size_t n = strcspn(choices, "|");
        if (n == word.n && memcmp(choices, word.s, n) == 0) return true;
        if (!choices[n]) return false;
        choices += n + 1;
    }
}

static pare_status read_setting(parser *p, const setting *known, pare_span word) {
    const char *eq = memchr(word.s, '=', word.n);
    size_t n = (size_t)(eq - word.s);
    pare_span value = {eq + 1, word.n - n - 1};
    for (const setting *k = known; k->name; k++) {
        if (strlen(k->name) != n || memcmp(k->name, word.s, n) != 0) continue;
        if (k->choices && choose(k->number, k->choices, value)) return PARE_OK;
        if (k->choices)
            return FAIL(p, "%s: found '%.*s', expected %s", k->name, (int)value.n, value.s,
                        k->choices);
        char text[32], *end;
        snprintf(text, sizeof text, "%.*s", (int)(value.n < 31 ? value.n : 31), value.s);
        errno = 0;
        long long number = strtoll(text, &end, 10);
        if (end == text || *end || errno || number < k->min || number > k->max)
            return FAIL(p, "%s: found '%.*s', expected a whole number from %lld to %lld", k->name,
                        (int)(value.n < 60 ? value.n : 60), value.s, (long long)k->min,
                        (long long)k->max);
        *k->number = number;
        return PARE_OK;
    }
    char names[200] = "";
    for (const setting *k = known; k->name; k++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", k->name);
    }
    return FAIL(p, "found setting '%.*s', expected one of %s", (int)(n < 60 ? n : 60), word.s,
                names);
}

/* Takes settings off the end of a value; what is left is the path, at least its first word. */
static pare_status take_settings(parser *p, pare_span *value, bool path, const setting *known) {
    while (value->n) {
        size_t n = value->n;
        while (n && !isspace((unsigned char)value->s[n - 1])) n--;
        if (path && n == 0) return PARE_OK;
        pare_span word = {value->s + n, value->n - n};
        const char *eq = memchr(word.s, '=', word.n);
        if (!eq || eq == word.s) return PARE_OK;
        for (const char *c = word.s; c < eq; c++)
            if (!islower((unsigned char)*c) && *c != '_') return PARE_OK;
        PARE_TRY(read_setting(p, known, word));
        *value = trim(value->s, n);
    }
    return PARE_OK;
}

/* --- keys --- */

static pare_sweep_eval *add_eval(parser *p) {
    pare_sweep *s = p->s;
    if (s->n_evals % 16 == 0) { /* the pool keeps the old list */
        pare_sweep_eval *more = pare_record_calloc(s->pool, s->n_evals + 16, sizeof *more);
        if (!more) return NULL;
        if (s->n_evals) memcpy(more, s->evals, s->n_evals * sizeof *more);
        s->evals = more;
    }
    return &s->evals[s->n_evals++];
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static pare_status read_eval(parser *p, pare_span value) {
    int64_t protocol = 0, ctx = 0, windows = 0, compute = 0, against = 0;
    const setting known[] = {
        {"protocol", "hf|llama.cpp", 0, 0, &protocol}, {"ctx", NULL, 0, 1 << 30, &ctx},
        {"windows", NULL, 0, 1 << 30, &windows},       {"compute", "exact|fast", 0, 0, &compute},
        {"against", "no|yes", 0, 0, &against},         {NULL, NULL, 0, 0, NULL}};
    PARE_TRY(take_settings(p, &value, true, known));
    pare_sweep_eval *e = add_eval(p);
    char *path = e ? pare_record_strndup(p->s->pool, value.s, value.n) : NULL;
    if (!path) return fail_memory(p);
    *e = (pare_sweep_eval){.path = path,
                           .protocol = (pare_protocol)protocol,
                           .compute = (pare_compute)compute,
                           .ctx = ctx,
                           .windows = windows,
                           .against = against};
    int n = snprintf(e->label, sizeof e->label, "%.80s %s", base_name(path),
                     pare_protocol_name(e->protocol));
    if (ctx) n += snprintf(e->label + n, sizeof e->label - (size_t)n, "-%lld", (long long)ctx);
    if (windows)
        n += snprintf(e->label + n, sizeof e->label - (size_t)n, " %lld windows",
                      (long long)windows);
    snprintf(e->label + n, sizeof e->label - (size_t)n, "%s%s", compute ? " fast" : "",
             against ? " against dense" : "");
    return PARE_OK;
}

static pare_status read_speed(parser *p, pare_span value) {
    int64_t decode = 0, prefill = 0;
    const setting known[] = {{"decode", NULL, 1, 1 << 20, &decode},
                             {"prefill", NULL, 1, 1 << 20, &prefill},
                             {NULL, NULL, 0, 0, NULL}};
    PARE_TRY(take_settings(p, &value, false, known));
    if (value.n || (!decode && !prefill))
        return FAIL(p, "speed: found '%.*s', expected decode=N prefill=N",
                    (int)(value.n < 60 ? value.n : 60), value.s);
    pare_sweep_eval *e = add_eval(p);
    if (!e) return fail_memory(p);
    *e = (pare_sweep_eval){.kind = PARE_EVAL_SPEED, .decode = decode, .prefill = prefill};
    snprintf(e->label, sizeof e->label, "speed decode=%lld prefill=%lld", (long long)decode,
             (long long)prefill);
    return PARE_OK;
}

/* Whether pare knows a task of that name; *name is its own. */
static bool find_task(const char **name, pare_span word) {
    pare_task_info info;
    for (size_t i = 0; pare_task_at(&info, i); i++)
        if (strlen(info.name) == word.n && memcmp(info.name, word.s, word.n) == 0) {
            *name = info.name;
            return true;
        }
    return false;
}

static pare_status read_tasks(parser *p, pare_span value) {
    int64_t limit = 0, against = 0;
    const setting known[] = {{"limit", NULL, 0, 1 << 30, &limit},
                             {"against", "no|yes", 0, 0, &against},
                             {NULL, NULL, 0, 0, NULL}};
    PARE_TRY(take_settings(p, &value, true, known));
    pare_sweep_eval *e = add_eval(p);
    const char **names = pare_record_calloc(p->s->pool, value.n / 2 + 1, sizeof *names);
    if (!e || !names) return fail_memory(p);
    *e = (pare_sweep_eval){
        .kind = PARE_EVAL_TASKS, .tasks = names, .limit = limit, .against = against};
    for (const char *at = value.s, *end = at + value.n; at <= end;) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        pare_span word = trim(at, (size_t)((comma ? comma : end) - at));
        if (!find_task(&names[e->n_tasks], word))
            return FAIL(p, "tasks: found '%.*s', which is not known",
                        (int)(word.n < 60 ? word.n : 60), word.s);
        for (size_t i = 0; i < e->n_tasks; i++)
            if (names[i] == names[e->n_tasks])
                return FAIL(p, "tasks: found '%s' a second time", names[i]);
        e->n_tasks++;
        at = (comma ? comma : end) + 1;
    }
    int n =
        snprintf(e->label, sizeof e->label, "%.*s", (int)(value.n < 150 ? value.n : 150), value.s);
    if (limit)
        n += snprintf(e->label + n, sizeof e->label - (size_t)n, " limit=%lld", (long long)limit);
    if (against) snprintf(e->label + n, sizeof e->label - (size_t)n, " against dense");
    return PARE_OK;
}

static pare_status read_data(parser *p, pare_span value) {
    if (p->s->data) return FAIL(p, "found data a second time");
    p->s->data = pare_record_strndup(p->s->pool, value.s, value.n);
    return p->s->data ? PARE_OK : fail_memory(p);
}

static pare_status read_calib(parser *p, pare_span value) {
    pare_sweep *s = p->s;
    const setting known[] = {{"samples", NULL, 1, 1 << 20, &s->calib_samples},
                             {"ctx", NULL, 2, 1 << 30, &s->calib_ctx},
                             {NULL, NULL, 0, 0, NULL}};
    if (s->calib) return FAIL(p, "found calib a second time");
    PARE_TRY(take_settings(p, &value, true, known));
    s->calib = pare_record_strndup(s->pool, value.s, value.n);
    return s->calib ? PARE_OK : fail_memory(p);
}

static pare_status read_imatrix(parser *p, pare_span value) {
    if (p->s->imatrix) return FAIL(p, "found imatrix a second time");
    p->s->imatrix = pare_record_strndup(p->s->pool, value.s, value.n);
    return p->s->imatrix ? PARE_OK : fail_memory(p);
}

static pare_status read_model(parser *p, pare_span value) {
    return add_text(p, &p->s->models, value, "model");
}

static pare_status read_recipe(parser *p, pare_span value) {
    pare_recipe *recipe;
    char *text = pare_strndup(value.s, value.n);
    if (!text) return fail_memory(p);
    pare_error own = {0};
    pare_status st = pare_recipe_parse(&recipe, text, &own);
    pare_free(text);
    if (st == PARE_ERR_NOMEM) return fail_memory(p);
    if (st != PARE_OK) return FAIL(p, "%s", own.message);
    const char *canonical = pare_recipe_text(recipe);
    st = *canonical
             ? add_text(p, &p->s->recipes, (pare_span){canonical, strlen(canonical)}, "recipe")
             : FAIL(p, "found an empty recipe");
    pare_recipe_free(recipe);
    return st;
}

static pare_status read_out(parser *p, pare_span value) {
    if (p->s->out) return FAIL(p, "found out a second time");
    p->s->out = pare_record_strndup(p->s->pool, value.s, value.n);
    return p->s->out ? PARE_OK : fail_memory(p);
}

static pare_status read_choice(parser *p, pare_span value, const char *choices, int64_t *index) {
    if (choose(index, choices, value)) return PARE_OK;
    return FAIL(p, "found '%.*s', expected %s", (int)(value.n < 60 ? value.n : 60), value.s,
                choices);
}

static pare_status read_format(parser *p, pare_span value) {
    static const char *const names[] = {"hf", "gguf"};
    int64_t index = 0;
    PARE_TRY(read_choice(p, value, "hf|gguf", &index));
    p->s->format = names[index];
    return PARE_OK;
}

static pare_status read_keep(parser *p, pare_span value) {
    int64_t index = 0;
    PARE_TRY(read_choice(p, value, "none|best|all", &index));
    p->s->keep = (pare_keep)index;
    return PARE_OK;
}

static pare_status read_dense(parser *p, pare_span value) {
    int64_t index = 0;
    PARE_TRY(read_choice(p, value, "no|yes", &index));
    p->s->dense = index;
    return PARE_OK;
}

static const struct {
    const char *key;
    pare_status (*read)(parser *p, pare_span value);
} keys[] = {{"model", read_model},     {"recipe", read_recipe}, {"calib", read_calib},
            {"imatrix", read_imatrix}, {"eval", read_eval},     {"speed", read_speed},
            {"tasks", read_tasks},     {"data", read_data},     {"out", read_out},
            {"format", read_format},   {"keep", read_keep},     {"dense", read_dense}};
enum { N_KEYS = sizeof keys / sizeof *keys };

static pare_status read_line(parser *p, pare_span line) {
    const char *eq = memchr(line.s, '=', line.n);
    pare_span key = trim(line.s, eq ? (size_t)(eq - line.s) : line.n);
    bool word = eq != NULL && key.n > 0;
    for (size_t i = 0; i < key.n; i++) word &= islower((unsigned char)key.s[i]) || key.s[i] == '_';
    if (!word) return read_recipe(p, line);
    pare_span value = trim(eq + 1, line.n - (size_t)(eq + 1 - line.s));
    for (size_t i = 0; i < N_KEYS; i++)
        if (strlen(keys[i].key) == key.n && memcmp(keys[i].key, key.s, key.n) == 0)
            return value.n ? keys[i].read(p, value)
                           : FAIL(p, "%s: found nothing, expected a value", keys[i].key);
    char names[160] = "";
    for (size_t i = 0; i < N_KEYS; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", keys[i].key);
    }
    return FAIL(p, "found key '%.*s', expected one of %s", (int)(key.n < 60 ? key.n : 60), key.s,
                names);
}

static pare_status read_lines(parser *p, const char *text, size_t n) {
    if (memchr(text, 0, n) || !pare_utf8_valid(text, n))
        return pare_fail(p->err, PARE_ERR_INPUT, "%s: found bytes that are no UTF-8 text", p->name);
    for (const char *at = text, *end = text + n; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((stop ? stop : end) - at);
        p->line++;
        const char *comment = memchr(at, '#', len);
        pare_span line = trim(at, comment ? (size_t)(comment - at) : len);
        if (line.n) PARE_TRY(read_line(p, line));
        at += len + 1;
    }
    return PARE_OK;
}

/* --- the product --- */

/* DIR/MODEL-RECIPE-HASH: what people can read of it, and what makes it unique. */
static char *output_name(pare_sweep *s, const char *model, const char *recipe) {
    const char *base = base_name(model);
    size_t n = strlen(base);
    if (n > 5 && strcmp(base + n - 5, ".gguf") == 0) n -= 5;
    char slug[49];
    size_t used = 0;
    for (const char *c = recipe; *c && used + 1 < sizeof slug; c++) {
        bool plain = isalnum((unsigned char)*c) || *c == '_' || *c == '.';
        if (plain)
            slug[used++] = *c;
        else if (used && slug[used - 1] != '-')
            slug[used++] = '-';
    }
    slug[used] = '\0';
    char *name =
        pare_asprintf("%s/%.*s-%s-%08x%s", s->out, (int)(n < 60 ? n : 60), base, slug,
                      pare_crc32(pare_crc32(0, model, strlen(model)), recipe, strlen(recipe)),
                      s->format && strcmp(s->format, "gguf") == 0 ? ".gguf" : "");
    char *copy = name ? pare_record_strndup(s->pool, name, strlen(name)) : NULL;
    pare_free(name);
    return copy;
}

static bool add_unit(pare_sweep *s, const char *model, const char *recipe) {
    pare_sweep_unit *u = &s->units[s->n_units++];
    *u = (pare_sweep_unit){.model = model, .recipe = recipe, .first = s->n_runs};
    if (*recipe && !(u->out = output_name(s, model, recipe))) return false;
    for (size_t e = 0; e < s->n_evals; e++)
        s->runs[s->n_runs++] = (pare_sweep_run){.model = model,
                                                .recipe = recipe,
                                                .eval = s->evals[e].label,
                                                .out = u->out,
                                                .bits_per_weight = (double)NAN,
                                                .ppl = (double)NAN};
    return true;
}

static pare_status multiply(parser *p) {
    pare_sweep *s = p->s;
    const char *missing = !s->models.n    ? "model"
                          : !s->recipes.n ? "recipe"
                          : !s->n_evals   ? "eval"
                          : !s->out       ? "out"
                                          : NULL;
    if (missing)
        return pare_fail(p->err, PARE_ERR_INPUT, "%s: found no %s, expected '%s = ...'", p->name,
                         missing, missing);
    for (size_t i = 0; i < s->n_evals; i++)
        if (s->evals[i].kind == PARE_EVAL_TASKS && !s->data)
            return pare_fail(p->err, PARE_ERR_INPUT,
                             "%s: found tasks without their files, expected 'data = FOLDER'",
                             p->name);
    size_t n_units = s->models.n * (s->recipes.n + s->dense);
    if (n_units * s->n_evals > PARE_SWEEP_MAX_RUNS)
        return pare_fail(p->err, PARE_ERR_INPUT, "%s: found %zu runs, expected at most %d", p->name,
                         n_units * s->n_evals, PARE_SWEEP_MAX_RUNS);
    s->units = pare_record_calloc(s->pool, n_units, sizeof *s->units);
    s->runs = pare_record_calloc(s->pool, n_units * s->n_evals, sizeof *s->runs);
    if (!s->units || !s->runs) return fail_memory(p);
    for (size_t m = 0; m < s->models.n; m++) {
        if (s->dense && !add_unit(s, s->models.item[m], "")) return fail_memory(p);
        for (size_t r = 0; r < s->recipes.n; r++)
            if (!add_unit(s, s->models.item[m], s->recipes.item[r])) return fail_memory(p);
    }
    return PARE_OK;
}

pare_status pare_sweep_parse(pare_sweep **out, const char *text, size_t n, const char *name,
                             const char *const *more, size_t n_more, pare_error *err) {
    *out = NULL;
    pare_record *pool;
    PARE_TRY(pare_record_blank(&pool, err));
    pare_sweep *s = pare_record_calloc(pool, 1, sizeof *s);
    if (!s) {
        pare_record_free(pool);
        return pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", name);
    }
    s->pool = pool;
    s->dense = true;
    s->calib_samples = 128;
    s->calib_ctx = 512;
    parser p = {.s = s, .name = name, .err = err};
    pare_status st = read_lines(&p, text, n);
    p.name = "options";
    p.line = 0;
    for (size_t i = 0; st == PARE_OK && i < n_more; i++) {
        p.line = i;
        st = read_lines(&p, more[i], strlen(more[i]));
    }
    p.name = name;
    if (st == PARE_OK) st = multiply(&p);
    if (st == PARE_OK)
        *out = s;
    else
        pare_sweep_free(s);
    return st;
}

void pare_sweep_free(pare_sweep *s) {
    if (s) pare_record_free(s->pool); /* which holds s itself */
}

size_t pare_sweep_n_runs(const pare_sweep *s) { return s->n_runs; }

const pare_sweep_run *pare_sweep_run_at(const pare_sweep *s, size_t i) { return &s->runs[i]; }
