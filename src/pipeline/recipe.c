#include "pipeline/recipe.h"

#include "base/memory.h"
#include "methods/spec.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const pare_param encode_params[] = {
    {.name = "pure",
     .type = PARE_PARAM_BOOL,
     .offset = offsetof(pare_encode_options, pure),
     .help = "the base encoding for every tensor, no mix"},
    {.name = "fallback",
     .type = PARE_PARAM_CHOICE,
     .offset = offsetof(pare_encode_options, fallback),
     .choices = "ggml|tail|refuse",
     .help = "for rows that the encoding's block does not divide"},
    {0},
};

/* --- which tensors --- */

bool pare_step_takes(const pare_step *step, const char *canonical, size_t n_dims, bool tied) {
    if (!pare_mix_takes(canonical, n_dims) || (step->method && step->method->prefix)) return false;
    if (step->target) return pare_target_takes(&step->tensors, canonical, tied);
    bool sparse = step->enc && step->enc->block_bytes == 0;
    return step->method || sparse ? strncmp(canonical, "blk.", 4) == 0 : true;
}

/* --- parsing --- */

/* Method number i that a step may name: those that transform tensors, then searches of prefixes. */
static const pare_method *step_method(size_t i) {
    size_t k = 0;
    for (; pare_step_method_at(k); k++)
        if (k == i) return pare_step_method_at(k);
    for (size_t m = 0; pare_method_at(m); m++)
        if (pare_method_at(m)->prefix && k++ == i) return pare_method_at(m);
    return NULL;
}

static const pare_method *find_method(const char *name) {
    for (size_t i = 0; step_method(i); i++)
        if (strcmp(step_method(i)->name, name) == 0) return step_method(i);
    return NULL;
}

static pare_status fail_unknown_step(const char *name, pare_error *err) {
    pare_nearest n = {name, NULL, 4};
    for (size_t i = 0; step_method(i); i++) pare_nearest_consider(&n, step_method(i)->name);
    for (size_t i = 0; pare_mix_name_at(i); i++) pare_nearest_consider(&n, pare_mix_name_at(i));
    for (size_t i = 0; pare_encoding_at(i); i++)
        pare_nearest_consider(&n, pare_encoding_name(pare_encoding_at(i)));
    if (n.name)
        return pare_fail(err, PARE_ERR_ARG,
                         "recipe: found step '%s', which is not known; did you mean '%s'?", name,
                         n.name);
    return pare_fail(
        err, PARE_ERR_ARG,
        "recipe: found step '%s', expected a method (pare methods), a mix such as q4_k_m or an "
        "encoding such as q8_0",
        name);
}

static pare_status set_target(pare_step *step, pare_piece target, pare_error *err) {
    size_t n = (size_t)(target.end - target.p);
    step->target = pare_strndup(target.p, n);
    if (!step->target) return pare_fail(err, PARE_ERR_NOMEM, "recipe: out of memory");
    if (pare_target_parse(&step->tensors, target.p, n, err) == PARE_OK) return PARE_OK;
    return pare_fail_prefix(err, "recipe: target");
}

static const pare_param *step_params(const pare_step *step) {
    return step->method ? step->method->params : encode_params;
}

/* NAME[@TARGET][:param=value,...] */
static pare_status parse_step(pare_step *step, pare_piece s, pare_error *err) {
    pare_piece name = {s.p, s.p};
    while (name.end < s.end && *name.end != '@' && *name.end != ':') name.end++;
    pare_piece rest = {name.end, s.end}, target = {NULL, NULL};
    if (rest.p < rest.end && *rest.p == '@') {
        target.p = target.end = rest.p + 1;
        bool regex = target.p < s.end && *target.p == '/';
        if (regex) target.end++;
        while (target.end < s.end && *target.end != (regex ? '/' : ':')) target.end++;
        if (regex && target.end < s.end) target.end++;
        rest.p = target.end;
        target = pare_piece_trim(target);
    }
    name = pare_piece_trim(name);
    char text[64];
    snprintf(text, sizeof text, "%.*s", (int)(name.end - name.p), name.p);
    for (char *p = text; *p; p++) *p = (char)tolower((unsigned char)*p); /* Q4_K_M is q4_k_m */
    step->method = find_method(text);
    if (!step->method) step->mix = pare_mix_find(text);
    if (!step->method && !step->mix) step->enc = pare_encoding_find(text);
    if (!step->method && !step->mix && !step->enc) return fail_unknown_step(text, err);
    if (step->enc && !step->enc->encode_row && !step->enc->encode_matrix)
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "recipe: found step '%s', which pare can only read, expected an encoding "
                         "that it writes",
                         text);

    size_t size = step->method ? step->method->options_size : sizeof(pare_encode_options);
    step->options = pare_calloc(1, size);
    if (!step->options) return pare_fail(err, PARE_ERR_NOMEM, "recipe: out of memory");
    if (step->method) pare_method_defaults(step->method, step->options);
    if (target.p) PARE_TRY(set_target(step, target, err));
    rest = pare_piece_trim(rest);
    if (rest.p < rest.end && *rest.p != ':')
        return pare_fail(err, PARE_ERR_ARG, "recipe: %s: found '%.*s', expected ':' and parameters",
                         text, (int)(rest.end - rest.p), rest.p);
    if (rest.p < rest.end) rest.p++;
    PARE_TRY(pare_params_parse(step_params(step), step->options, rest, "recipe", text, err));
    if (step->method && step->method->check && step->method->check(step->options, err) != PARE_OK)
        return pare_fail_prefix(err, "recipe: %s", text);
    return PARE_OK;
}

/* The next step's text: up to '+' or a line's end outside /.../, without comments. *separator is
 * what ended it: '+', a line's end, or 0 at the end of the text. False when nothing is left. */
static bool next_span(const char **cursor, pare_piece *out, char *separator) {
    const char *p = *cursor;
    if (!p) return false;
    out->p = p;
    bool regex = false;
    for (; *p && *p != '\n' && (regex || (*p != '+' && *p != '#')); p++)
        if (*p == '/') regex = !regex;
    out->end = p;
    if (*p == '#') p += strcspn(p, "\n");
    *separator = *p;
    *cursor = *p ? p + 1 : NULL;
    *out = pare_piece_trim(*out);
    return true;
}

static bool add_text(char **text, const char *format, const char *a, const char *b) {
    char *part = pare_asprintf(format, a, b);
    char *joined = part ? pare_asprintf("%s%s", *text, part) : NULL;
    pare_free(part);
    if (!joined) return false;
    pare_free(*text);
    *text = joined;
    return true;
}

static bool write_canonical(pare_recipe *r) {
    r->text = pare_strdup("");
    bool good = r->text != NULL;
    for (size_t i = 0; good && i < r->n_steps; i++) {
        const pare_step *s = &r->steps[i];
        const char *name = s->method ? s->method->name
                           : s->mix  ? pare_mix_name(s->mix)
                                     : s->enc->name;
        good = add_text(&r->text, "%s%s", i ? " + " : "", name);
        if (good && s->target) good = add_text(&r->text, "@%s%s", s->target, "");
        char *params = good ? pare_params_text(step_params(s), s->options) : NULL;
        good = params && add_text(&r->text, "%s%s", params, "");
        pare_free(params);
    }
    return good;
}

static pare_status fail_empty_step(pare_error *err) {
    return pare_fail(err, PARE_ERR_ARG,
                     "recipe: found an empty step, expected a step before and after '+'");
}

static pare_status add_step(pare_recipe *r, pare_piece s, pare_error *err) {
    if (r->n_steps == 256) return pare_fail(err, PARE_ERR_ARG, "recipe: more than 256 steps");
    pare_step *more = pare_realloc(r->steps, r->n_steps + 1, sizeof *more);
    if (!more) return pare_fail(err, PARE_ERR_NOMEM, "recipe: out of memory");
    r->steps = more;
    r->steps[r->n_steps] = (pare_step){0};
    return parse_step(&r->steps[r->n_steps++], s, err);
}

pare_status pare_recipe_parse(pare_recipe **out, const char *text, pare_error *err) {
    *out = NULL;
    pare_recipe *r = pare_calloc(1, sizeof *r);
    if (!r) return pare_fail(err, PARE_ERR_NOMEM, "recipe: out of memory");
    pare_status st = PARE_OK;
    pare_piece s;
    char separator;
    bool after_plus = false;
    for (const char *cursor = text; st == PARE_OK && next_span(&cursor, &s, &separator);) {
        bool empty = s.p == s.end;
        /* a line may begin or end with '+', but a step must stand on both sides */
        if (empty && separator == '+' && (after_plus || r->n_steps == 0))
            st = fail_empty_step(err);
        else if (!empty)
            st = add_step(r, s, err);
        after_plus = separator == '+' || (after_plus && empty);
    }
    if (st == PARE_OK && after_plus) st = fail_empty_step(err);
    if (st == PARE_OK && !write_canonical(r))
        st = pare_fail(err, PARE_ERR_NOMEM, "recipe: out of memory");
    if (st != PARE_OK) {
        pare_recipe_free(r);
        return st;
    }
    *out = r;
    return PARE_OK;
}

const char *pare_recipe_text(const pare_recipe *r) { return r->text; }

void pare_recipe_free(pare_recipe *r) {
    if (!r) return;
    for (size_t i = 0; i < r->n_steps; i++) {
        pare_free(r->steps[i].options);
        pare_free(r->steps[i].target);
        pare_target_free(&r->steps[i].tensors);
    }
    pare_free(r->steps);
    pare_free(r->text);
    pare_free(r);
}
