#include "text/split.h"

pare_status pare_splitter_init(pare_splitter *splitter, const pare_vocab *vocab, pare_error *err) {
    *splitter = (pare_splitter){.vocab = vocab};
    for (size_t i = 0; i < vocab->n_pre; i++) {
        const pare_pre_step *step = &vocab->pre_steps[i];
        if (step->kind != PARE_PRE_REGEX) continue;
        pare_status st = pare_regex_compile(&splitter->regexes[i], step->text, step->len, err);
        if (st != PARE_OK) {
            pare_splitter_free(splitter);
            return pare_fail_prefix(err, "%s: pre-tokenizer step %zu", vocab->source, i);
        }
    }
    return PARE_OK;
}

void pare_splitter_free(pare_splitter *splitter) {
    for (size_t i = 0; i < PARE_STEPS_MAX; i++) pare_regex_free(splitter->regexes[i]);
    *splitter = (pare_splitter){0};
}

void pare_split_scratch_free(pare_split_scratch *scratch) {
    pare_free(scratch->spans.data);
    pare_free(scratch->next.data);
    pare_text_buffer_free(&scratch->texts[0]);
    pare_text_buffer_free(&scratch->texts[1]);
    pare_regex_scratch_free(scratch->regex);
    *scratch = (pare_split_scratch){0};
}

static pare_status no_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "text: out of memory for words");
}

/* Appends a span unless it is empty. */
static bool add_span(pare_span_list *list, size_t begin, size_t end) {
    if (begin == end) return true;
    if (list->n == list->capacity &&
        !pare_grow(&list->data, &list->capacity, list->n + 1, sizeof *list->data))
        return false;
    list->data[list->n++] = (struct pare_text_span){(uint32_t)begin, (uint32_t)end};
    return true;
}

/* One split of one stretch in the making: matches and gaps arrive in order, words go to `out`. */
typedef struct cutter {
    pare_span_list *out;
    const pare_pre_step *step;
    size_t begin, end;   /* the word not yet written */
    bool open, is_match; /* whether there is one, and what its last part was */
} cutter;

static bool flush(cutter *c) {
    bool ok = !c->open || add_span(c->out, c->begin, c->end);
    c->open = false;
    return ok;
}

/* Whether the next part belongs to the word not yet written. */
static bool joins(const cutter *c, bool is_match) {
    if (!c->open) return false;
    switch (c->step->behaviour) {
    case PARE_SPLIT_CONTIGUOUS:
        return c->is_match == is_match;
    case PARE_SPLIT_WITH_PREVIOUS:
        return is_match && !c->is_match;
    case PARE_SPLIT_WITH_NEXT:
        return c->is_match && !is_match;
    default:
        return false;
    }
}

static bool part(cutter *c, size_t begin, size_t end, bool is_match) {
    if (begin == end) return true;
    is_match ^= c->step->invert;
    if (joins(c, is_match)) {
        c->end = end;
    } else {
        if (!flush(c)) return false;
        c->begin = begin;
        c->end = end;
        c->open = !(is_match && c->step->behaviour == PARE_SPLIT_REMOVED);
    }
    c->is_match = is_match;
    return true;
}

static pare_status cut_literal(cutter *c, const char *s, size_t begin, size_t end,
                               pare_error *err) {
    size_t gap = begin;
    while (c->step->len) {
        const char *hit = memmem(s + gap, end - gap, c->step->text, c->step->len);
        if (!hit) break;
        size_t at = (size_t)(hit - s);
        if (!part(c, gap, at, false) || !part(c, at, at + c->step->len, true))
            return no_memory(err);
        gap = at + c->step->len;
    }
    return part(c, gap, end, false) && flush(c) ? PARE_OK : no_memory(err);
}

/* s[begin..end) is valid UTF-8. Lookarounds do not see beyond it. */
static pare_status cut_regex(cutter *c, const pare_regex *regex, pare_regex_scratch *scratch,
                             const char *s, size_t begin, size_t end, pare_error *err) {
    const char *base = s + begin;
    size_t n = end - begin, gap = 0, from = 0;
    while (from < n) {
        bool found;
        size_t hit, hit_end;
        PARE_TRY(pare_regex_next(regex, scratch, base, n, from, &found, &hit, &hit_end, err));
        if (!found) break;
        if (!part(c, begin + gap, begin + hit, false) ||
            !part(c, begin + hit, begin + hit_end, true))
            return no_memory(err);
        gap = hit_end;
        from = hit_end;
        if (hit == hit_end && from < n) { /* an empty match only cuts: go on behind the next one */
            int32_t cp;
            from += pare_utf8_next(base + from, n - from, &cp);
        }
    }
    return part(c, begin + gap, end, false) && flush(c) ? PARE_OK : no_memory(err);
}

static pare_status split_step(const pare_splitter *splitter, size_t i, pare_split_scratch *scratch,
                              const char *s, pare_error *err) {
    const pare_pre_step *step = &splitter->vocab->pre_steps[i];
    scratch->next.n = 0;
    for (size_t k = 0; k < scratch->spans.n; k++) {
        size_t at = scratch->spans.data[k].begin, end = scratch->spans.data[k].end;
        cutter c = {.out = &scratch->next, .step = step};
        if (step->kind == PARE_PRE_LITERAL) {
            PARE_TRY(cut_literal(&c, s, at, end, err));
            continue;
        }
        while (at < end) {
            size_t valid = pare_utf8_prefix(s + at, end - at);
            if (valid)
                PARE_TRY(
                    cut_regex(&c, splitter->regexes[i], scratch->regex, s, at, at + valid, err));
            at += valid;
            if (at < end && !add_span(&scratch->next, at, at + 1)) return no_memory(err);
            at += at < end;
        }
    }
    pare_span_list old = scratch->spans;
    scratch->spans = scratch->next;
    scratch->next = old;
    return PARE_OK;
}

/* --- steps that change the text --- */

static bool begins_with(const char *s, size_t n, const char *prefix, size_t len) {
    return n >= len && memcmp(s, prefix, len) == 0;
}

static bool rewrite_span(pare_text_buffer *out, const pare_pre_step *step, const char *s, size_t n,
                         bool first) {
    if (step->kind == PARE_PRE_SPACE_PREFIX)
        return ((n && s[0] == ' ') || pare_text_buffer_add(out, " ", 1)) &&
               pare_text_buffer_add(out, s, n);
    bool prepend =
        step->prepend == PARE_PREPEND_ALWAYS || (step->prepend == PARE_PREPEND_FIRST && first);
    if (prepend && !(n && s[0] == ' ') && !begins_with(s, n, step->text, step->len) &&
        !pare_text_buffer_add(out, step->text, step->len))
        return false;
    while (n) {
        const char *space = memchr(s, ' ', n);
        size_t plain = space ? (size_t)(space - s) : n;
        if (!pare_text_buffer_add(out, s, plain)) return false;
        if (space && !pare_text_buffer_add(out, step->text, step->len)) return false;
        s += plain + (space != NULL);
        n -= plain + (space != NULL);
    }
    return true;
}

static pare_status rewrite_step(const pare_pre_step *step, pare_split_scratch *scratch,
                                const char **text, bool first, pare_error *err) {
    pare_text_buffer *out = &scratch->texts[*text == scratch->texts[0].data];
    out->n = 0;
    for (size_t k = 0; k < scratch->spans.n; k++) {
        struct pare_text_span *span = &scratch->spans.data[k];
        size_t begin = out->n;
        if (!rewrite_span(out, step, *text + span->begin, span->end - span->begin, first && k == 0))
            return pare_text_buffer_fail(err);
        *span = (struct pare_text_span){(uint32_t)begin, (uint32_t)out->n};
    }
    *text = out->data;
    return PARE_OK;
}

pare_status pare_split(const pare_splitter *splitter, pare_split_scratch *scratch, const char *s,
                       size_t n, bool first, const char **text, pare_error *err) {
    *text = s;
    scratch->spans.n = 0;
    if (!add_span(&scratch->spans, 0, n)) return no_memory(err);
    if (!scratch->regex) {
        if (!(scratch->regex = pare_regex_scratch_new())) return no_memory(err);
        if (scratch->budget_s > 0) pare_regex_scratch_budget(scratch->regex, scratch->budget_s);
    }
    for (size_t i = 0; i < splitter->vocab->n_pre && scratch->spans.n; i++) {
        const pare_pre_step *step = &splitter->vocab->pre_steps[i];
        if (step->kind == PARE_PRE_REGEX || step->kind == PARE_PRE_LITERAL)
            PARE_TRY(split_step(splitter, i, scratch, s = *text, err));
        else
            PARE_TRY(rewrite_step(step, scratch, text, first, err));
    }
    return PARE_OK;
}
