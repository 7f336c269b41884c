/* Ids back to text, whole or one by one. */
#include "text/tokenizer_tables.h"

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

struct pare_detokenizer {
    const pare_tokenizer *tok; /* borrowed */
    unsigned flags;
    size_t strip; /* spaces still to be taken from the front */
    pare_text_buffer held, out;
};

/* --- U+FFFD for what is no UTF-8 --- */

/* Length of the longest beginning of a character that s[0..n) starts with, at least 1. */
static size_t broken_length(const char *s, size_t n) {
    size_t len = 1;
    for (size_t k = 1; k <= 3 && k <= n; k++)
        if (pare_utf8_pending(s, k) == k) len = k;
    return len;
}

/* Appends s with a U+FFFD for each broken character (as Rust and browsers do), or for each byte of
 * one. */
static bool add_valid(pare_text_buffer *out, const char *s, size_t n, bool per_byte) {
    while (n) {
        size_t valid = pare_utf8_prefix(s, n);
        if (!pare_text_buffer_add(out, s, valid)) return false;
        s += valid;
        n -= valid;
        if (!n) break;
        size_t broken = per_byte ? 1 : broken_length(s, n);
        if (!pare_text_buffer_add(out, replacement, 3)) return false;
        s += broken;
        n -= broken;
    }
    return true;
}

/* --- whole texts --- */

static pare_status bad_id(const pare_tokenizer *tok, int32_t id, pare_error *err) {
    return pare_fail(err, PARE_ERR_ARG, "%s: decoding: found id %d, expected 0 to %zu",
                     tok->vocab->source, id, tok->vocab->n - 1);
}

/* A run of byte tokens that is no UTF-8 as a whole becomes one U+FFFD per byte (Hugging Face's
 * rule). */
static bool close_byte_run(pare_text_buffer *out, size_t start) {
    size_t n = out->n - start;
    if (pare_utf8_prefix(out->data + start, n) == n) return true;
    out->n = start;
    for (size_t i = 0; i < n; i++)
        if (!pare_text_buffer_add(out, replacement, 3)) return false;
    return true;
}

static pare_status join_pieces(const pare_tokenizer *tok, pare_text_buffer *out, const int32_t *ids,
                               size_t n, unsigned flags, pare_error *err) {
    const pare_vocab *v = tok->vocab;
    bool repair_runs = (flags & PARE_TOK_VALID_UTF8) && !v->byte_level, ok = true;
    size_t run = SIZE_MAX; /* where a run of byte tokens began */
    for (size_t i = 0; i < n && ok; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= v->n) return bad_id(tok, ids[i], err);
        if ((flags & PARE_TOK_SKIP_SPECIAL) && tok->special[ids[i]]) continue;
        bool is_byte = v->tokens[ids[i]].type == PARE_TOKEN_BYTE;
        if (repair_runs && !is_byte && run != SIZE_MAX) {
            ok = close_byte_run(out, run);
            run = SIZE_MAX;
        } else if (is_byte && run == SIZE_MAX) {
            run = out->n;
        }
        pare_span piece = pare_tokenizer_piece(tok, ids[i]);
        ok = ok && pare_text_buffer_add(out, piece.s, piece.n);
    }
    if (ok && repair_runs && run != SIZE_MAX) ok = close_byte_run(out, run);
    return ok ? PARE_OK : pare_text_buffer_fail(err);
}

static size_t leading_spaces(const char *s, size_t n, size_t most) {
    size_t k = 0;
    while (k < n && k < most && s[k] == ' ') k++;
    return k;
}

pare_status pare_tokenizer_decode(const pare_tokenizer *tok, char **out, size_t *len,
                                  const int32_t *ids, size_t n, unsigned flags, pare_error *err) {
    pare_text_buffer text = {0}, valid = {0};
    *out = NULL;
    *len = 0;
    pare_status st = join_pieces(tok, &text, ids, n, flags, err);
    if (st == PARE_OK && (flags & PARE_TOK_VALID_UTF8) && tok->vocab->byte_level) {
        if (add_valid(&valid, text.data, text.n, false)) {
            pare_text_buffer swap = text;
            text = valid;
            valid = swap;
        } else {
            st = pare_text_buffer_fail(err);
        }
    }
    size_t strip = flags & PARE_TOK_CONTINUES ? 0 : tok->vocab->decode_strip;
    strip = leading_spaces(text.data, text.n, strip);
    if (st == PARE_OK && !pare_text_buffer_add(&text, "", 1)) st = pare_text_buffer_fail(err);
    if (st == PARE_OK) {
        memmove(text.data, text.data + strip, text.n - strip);
        *out = text.data;
        *len = text.n - 1 - strip;
        text = (pare_text_buffer){0};
    }
    pare_text_buffer_free(&text);
    pare_text_buffer_free(&valid);
    return st;
}

void pare_tokenizer_text_free(char *text) { pare_free(text); }

/* --- streaming --- */

pare_status pare_detokenizer_create(pare_detokenizer **out, const pare_tokenizer *tok,
                                    unsigned flags, pare_error *err) {
    *out = pare_calloc(1, sizeof **out);
    if (!*out || !pare_text_buffer_reserve(&(*out)->held, 16)) {
        pare_detokenizer_free(*out);
        *out = NULL;
        return pare_fail(err, PARE_ERR_NOMEM, "detokenizer: out of memory");
    }
    (*out)->tok = tok;
    (*out)->flags = flags;
    (*out)->strip = flags & PARE_TOK_CONTINUES ? 0 : tok->vocab->decode_strip;
    return PARE_OK;
}

void pare_detokenizer_free(pare_detokenizer *d) {
    if (!d) return;
    pare_text_buffer_free(&d->held);
    pare_text_buffer_free(&d->out);
    pare_free(d);
}

/* Moves what can be shown from held to out; all of it at the end. */
static pare_status release(pare_detokenizer *d, bool at_end, const char **text, size_t *len,
                           pare_error *err) {
    size_t keep = at_end ? 0 : pare_utf8_pending(d->held.data, d->held.n), n = d->held.n - keep;
    size_t skip = leading_spaces(d->held.data, n, d->strip);
    d->strip = skip < n ? 0 : d->strip - skip; /* only spaces so far: more may come */
    d->out.n = 0;
    if (!add_valid(&d->out, d->held.data + skip, n - skip, !d->tok->vocab->byte_level) ||
        !pare_text_buffer_add(&d->out, "", 1))
        return pare_text_buffer_fail(err);
    if (keep) memmove(d->held.data, d->held.data + n, keep);
    d->held.n = keep;
    *text = d->out.data;
    *len = d->out.n - 1;
    return PARE_OK;
}

pare_status pare_detokenizer_push(pare_detokenizer *d, int32_t id, const char **text, size_t *len,
                                  pare_error *err) {
    const pare_tokenizer *tok = d->tok;
    *text = "";
    *len = 0;
    if (id < 0 || (size_t)id >= tok->vocab->n) return bad_id(tok, id, err);
    if ((d->flags & PARE_TOK_SKIP_SPECIAL) && tok->special[id]) return PARE_OK;
    pare_span piece = pare_tokenizer_piece(tok, id);
    if (!pare_text_buffer_add(&d->held, piece.s, piece.n)) return pare_text_buffer_fail(err);
    return release(d, false, text, len, err);
}

pare_status pare_detokenizer_flush(pare_detokenizer *d, const char **text, size_t *len,
                                   pare_error *err) {
    return release(d, true, text, len, err);
}
