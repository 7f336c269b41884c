#include "text/vocab.h"

#include <stdarg.h>
#include <stdio.h>

pare_vocab *pare_vocab_new(const char *source) {
    pare_vocab *v = pare_calloc(1, sizeof *v);
    if (!v) return NULL;
    v->unk = v->bos = v->eos = v->eot = v->eom = v->pad = -1;
    v->source = pare_strdup(source);
    if (v->source) return v;
    pare_free(v);
    return NULL;
}

static void free_steps(pare_norm_step *steps, size_t n) {
    for (size_t i = 0; i < n; i++) {
        pare_free(steps[i].from);
        pare_free(steps[i].to);
    }
}

void pare_vocab_free(pare_vocab *v) {
    if (!v) return;
    free_steps(v->norm, v->n_norm);
    free_steps(v->decode, v->n_decode);
    for (size_t i = 0; i < v->n_pre; i++) pare_free(v->pre_steps[i].text);
    pare_text_buffer_free(&v->text);
    pare_text_buffer_free(&v->warnings);
    pare_free(v->tokens);
    pare_free(v->merges);
    pare_free(v->added);
    pare_free(v->prefix);
    pare_free(v->suffix);
    pare_free(v->ends);
    pare_free(v->chat_template);
    pare_free(v->pre);
    pare_free(v->source);
    pare_free(v);
}

static pare_status no_memory(const pare_vocab *v, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: vocabulary: out of memory", v->source);
}

pare_status pare_vocab_add(pare_vocab *v, const char *text, size_t len, float score,
                           pare_token_type type, pare_error *err) {
    if (v->n >= PARE_VOCAB_MAX)
        return pare_fail(err, PARE_ERR_INPUT, "%s: vocabulary: found more than %zu tokens",
                         v->source, PARE_VOCAB_MAX);
    if (pare_utf8_prefix(text, len) != len)
        return pare_fail(err, PARE_ERR_INPUT, "%s: token %zu: found invalid UTF-8, expected text",
                         v->source, v->n);
    size_t offset = v->text.n;
    if (!pare_grow(&v->tokens, &v->tokens_capacity, v->n + 1, sizeof *v->tokens) ||
        !pare_text_buffer_add(&v->text, text, len) || !pare_text_buffer_add(&v->text, "", 1))
        return no_memory(v, err);
    v->tokens[v->n++] = (pare_token){(uint32_t)offset, (uint32_t)len, score, (uint8_t)type, false};
    return PARE_OK;
}

pare_status pare_vocab_add_merge(pare_vocab *v, pare_merge merge, pare_error *err) {
    if (v->n_merges >= (size_t)INT32_MAX ||
        !pare_grow(&v->merges, &v->merges_capacity, v->n_merges + 1, sizeof *v->merges))
        return no_memory(v, err);
    v->merges[v->n_merges++] = merge;
    return PARE_OK;
}

pare_status pare_vocab_add_added(pare_vocab *v, int32_t id, unsigned flags, pare_error *err) {
    const pare_token *t = &v->tokens[id];
    if (t->len == 0 || t->len > PARE_ADDED_TEXT_MAX)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: added token %d: found a text of %u bytes, expected 1 to %zu",
                         v->source, id, t->len, PARE_ADDED_TEXT_MAX);
    if (!pare_grow(&v->added, &v->added_capacity, v->n_added + 1, sizeof *v->added))
        return no_memory(v, err);
    v->added[v->n_added++] = (pare_added){id, (uint8_t)flags};
    return PARE_OK;
}

pare_status pare_vocab_add_end(pare_vocab *v, int32_t id, pare_error *err) {
    if (!pare_grow(&v->ends, &v->ends_capacity, v->n_ends + 1, sizeof *v->ends))
        return no_memory(v, err);
    v->ends[v->n_ends++] = id;
    return PARE_OK;
}

static pare_status add_step(const pare_vocab *v, pare_norm_step *steps, size_t *n,
                            pare_norm_step step, pare_error *err) {
    if (*n == PARE_STEPS_MAX)
        return pare_fail(err, PARE_ERR_INPUT, "%s: found more than %d steps in a sequence",
                         v->source, PARE_STEPS_MAX);
    if (step.kind == PARE_NORM_REPLACE &&
        (step.from_len == 0 || memmem(step.to, step.to_len, step.from, step.from_len)))
        return pare_fail(
            err, PARE_ERR_INPUT, "%s: Replace: found %s, expected a pattern that its content lacks",
            v->source, step.from_len ? "content with the pattern in it" : "no pattern");
    pare_norm_step copy = step;
    copy.from = pare_malloc(step.from_len + 1, 1);
    copy.to = pare_malloc(step.to_len + 1, 1);
    if (!copy.from || !copy.to) {
        pare_free(copy.from);
        pare_free(copy.to);
        return no_memory(v, err);
    }
    if (step.from_len) memcpy(copy.from, step.from, step.from_len);
    if (step.to_len) memcpy(copy.to, step.to, step.to_len);
    copy.from[step.from_len] = copy.to[step.to_len] = 0;
    steps[(*n)++] = copy;
    return PARE_OK;
}

pare_status pare_vocab_add_norm(pare_vocab *v, pare_norm_kind kind, pare_normal_form form,
                                const char *from, size_t from_len, const char *to, size_t to_len,
                                pare_error *err) {
    pare_norm_step step = {kind, form, (char *)from, (char *)to, from_len, to_len};
    return add_step(v, v->norm, &v->n_norm, step, err);
}

pare_status pare_vocab_add_decode(pare_vocab *v, const char *from, size_t from_len, const char *to,
                                  size_t to_len, pare_error *err) {
    pare_norm_step step = {PARE_NORM_REPLACE, PARE_NFC, (char *)from, (char *)to, from_len, to_len};
    return add_step(v, v->decode, &v->n_decode, step, err);
}

pare_status pare_vocab_add_pre(pare_vocab *v, pare_pre_step step, pare_error *err) {
    if (v->n_pre == PARE_STEPS_MAX)
        return pare_fail(err, PARE_ERR_INPUT, "%s: found more than %d pre-tokenizer steps",
                         v->source, PARE_STEPS_MAX);
    if (step.len > PARE_PATTERN_MAX)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: pre-tokenizer: found a pattern of %zu bytes, expected at most %zu",
                         v->source, step.len, PARE_PATTERN_MAX);
    char *text = pare_malloc(step.len + 1, 1);
    if (!text) return no_memory(v, err);
    if (step.len) memcpy(text, step.text, step.len);
    text[step.len] = 0;
    step.text = text;
    v->pre_steps[v->n_pre++] = step;
    return PARE_OK;
}

pare_status pare_vocab_add_affix(pare_vocab *v, bool before, int32_t id, pare_error *err) {
    int32_t **ids = before ? &v->prefix : &v->suffix;
    size_t *n = before ? &v->n_prefix : &v->n_suffix;
    int32_t *more = pare_realloc(*ids, *n + 1, sizeof *more);
    if (!more) return no_memory(v, err);
    more[(*n)++] = id;
    *ids = more;
    return PARE_OK;
}

void pare_vocab_warn(pare_vocab *v, const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0) return;
    size_t len = (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    /* a warning that finds no memory is lost: nothing depends on it */
    if (v->warnings.n && !pare_text_buffer_add(&v->warnings, "\n", 1)) return;
    (void)pare_text_buffer_add(&v->warnings, line, len);
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int pare_byte_token(const char *text, size_t len) {
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}
