/* The normalizer: steps that rewrite a piece of text before it is split. */
#include "text/tokenizer_tables.h"

#define GROWTH_MAX 20
#define GROWTH_FREE 256 /* bytes on top, for short texts */

bool pare_text_replace(pare_text_buffer *out, const pare_norm_step *step, const char *s, size_t n,
                       size_t limit) {
    while (n) {
        const char *hit = memmem(s, n, step->from, step->from_len);
        size_t plain = hit ? (size_t)(hit - s) : n;
        if (!pare_text_buffer_add(out, s, plain)) return false;
        if (!hit) break;
        if (!pare_text_buffer_add(out, step->to, step->to_len)) return false;
        if (out->n > limit) return false;
        s += plain + step->from_len;
        n -= plain + step->from_len;
    }
    return out->n <= limit;
}

static pare_status run_step(const pare_vocab *v, pare_text_buffer *out, const pare_norm_step *step,
                            const char *s, size_t n, size_t limit, pare_error *err) {
    bool ok = true;
    switch (step->kind) {
    case PARE_NORM_FORM:
        PARE_TRY(pare_normalize(out, s, n, step->form, err));
        break;
    case PARE_NORM_PREPEND:
        ok = n == 0 ||
             (pare_text_buffer_add(out, step->to, step->to_len) && pare_text_buffer_add(out, s, n));
        break;
    case PARE_NORM_REPLACE:
        ok = pare_text_replace(out, step, s, n, limit);
        break;
    }
    if (ok && out->n <= limit) return PARE_OK;
    if (limit < PARE_TEXT_MAX && out->n > limit)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: normalizer: found %zu bytes or more, expected at most %d times the "
                         "text's length",
                         v->source, out->n, GROWTH_MAX);
    return pare_text_buffer_fail(err);
}

pare_status pare_vocab_normalize(const pare_vocab *v, pare_text_buffer work[2], const char **s,
                                 size_t *n, pare_error *err) {
    size_t limit = *n < PARE_TEXT_MAX / GROWTH_MAX - GROWTH_FREE ? *n * GROWTH_MAX + GROWTH_FREE
                                                                 : PARE_TEXT_MAX;
    for (size_t i = 0; i < v->n_norm; i++) {
        pare_text_buffer *out = &work[i & 1];
        out->n = 0;
        PARE_TRY(pare_text_buffer_reserve(out, *n + 1) ? PARE_OK : pare_text_buffer_fail(err));
        PARE_TRY(run_step(v, out, &v->norm[i], *s, *n, limit, err));
        *s = out->data;
        *n = out->n;
    }
    return PARE_OK;
}
