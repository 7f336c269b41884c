/* A tokenizer as the keys of a GGUF file. */
#include "text/pre_names.h"
#include "text/tokenizer_export.h"
#include "text/tokenizer_tables.h"

#include <stdio.h>

#define KEY(name) "tokenizer.ggml." name
#define PAD_BYTES 24 /* "[PAD4294967295]" and a NUL */

static pare_status unsupported(const pare_vocab *v, const char *what, pare_error *err) {
    return pare_fail(err, PARE_ERR_UNSUPPORTED,
                     "%s: found %s, expected one that GGUF files can name", v->source, what);
}

static pare_status no_memory(const pare_vocab *v, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: vocabulary: out of memory", v->source);
}

static pare_span token_text(const pare_vocab *v, int32_t id) {
    return (pare_span){pare_vocab_text(v, id), v->tokens[id].len};
}

/* Room for all texts that are made, at once: nothing moves while it is filled. */
static bool reserve_pool(pare_text_buffer *pool, const pare_vocab *v, size_t n) {
    size_t room;
    if (!pare_mul_size(&room, n - v->n, PAD_BYTES) || !pare_add_size(&room, room, v->text.n))
        return false;
    for (size_t i = 0; i < v->n_merges; i++)
        room += (size_t)v->tokens[v->merges[i].left].len + v->tokens[v->merges[i].right].len + 2;
    return pare_text_buffer_reserve(pool, room);
}

/* --- tokens --- */

static bool is_mark(const char *s, size_t n) { return n >= 3 && memcmp(s, "\xE2\x96\x81", 3) == 0; }

/* User-defined tokens are matched on raw text, so their marks become the spaces that they stand
 * for. */
static pare_span with_spaces(pare_text_buffer *pool, pare_span s) {
    size_t start = pool->n;
    for (size_t i = 0; i < s.n;) {
        bool mark = is_mark(s.s + i, s.n - i);
        pool->data[pool->n++] = mark ? ' ' : s.s[i];
        i += mark ? 3 : 1;
    }
    pool->data[pool->n++] = 0;
    return (pare_span){pool->data + start, pool->n - 1 - start};
}

static pare_status fill_tokens(pare_gguf_vocab *out, pare_text_buffer *pool, const pare_vocab *v,
                               size_t n, pare_error *err) {
    out->tokens = pare_calloc(n, sizeof *out->tokens);
    out->types = pare_calloc(n, sizeof *out->types);
    if (!out->tokens || !out->types) return no_memory(v, err);
    for (size_t i = 0; i < n; i++) {
        if (i < v->n) {
            out->tokens[i] = token_text(v, (int32_t)i);
            out->types[i] = v->tokens[i].type;
            if (!v->byte_level && !v->from_gguf && out->types[i] == PARE_TOKEN_USER_DEFINED)
                out->tokens[i] = with_spaces(pool, out->tokens[i]);
            continue;
        }
        char *text = pool->data + pool->n;
        int len = snprintf(text, PAD_BYTES, "[PAD%zu]", i);
        pool->n += (size_t)len + 1;
        out->tokens[i] = (pare_span){text, (size_t)len};
        out->types[i] = PARE_TOKEN_UNUSED;
    }
    out->n = n;
    return PARE_OK;
}

/* --- merges --- */

static pare_status fill_merges(pare_gguf_vocab *out, pare_text_buffer *pool, const pare_vocab *v,
                               pare_error *err) {
    out->merges = pare_calloc(v->n_merges, sizeof *out->merges);
    if (!out->merges) return no_memory(v, err);
    for (size_t i = 0; i < v->n_merges; i++) {
        pare_span a = token_text(v, v->merges[i].left), b = token_text(v, v->merges[i].right);
        char *text = pool->data + pool->n;
        memcpy(text, a.s, a.n);
        text[a.n] = ' ';
        memcpy(text + a.n + 1, b.s, b.n);
        text[a.n + 1 + b.n] = 0;
        out->merges[i] = (pare_span){text, a.n + 1 + b.n};
        pool->n += a.n + b.n + 2;
    }
    out->n_merges = v->n_merges;
    return PARE_OK;
}

/* Scores that put tokens in the order of their first merges. What no merge makes comes after;
 * special and byte tokens have the converters' usual values. */
static pare_status fill_scores(pare_gguf_vocab *out, const pare_vocab *v, pare_error *err) {
    out->scores = pare_calloc(out->n, sizeof *out->scores);
    uint8_t *made = pare_calloc(v->n, 1);
    if (!out->scores || !made) {
        pare_free(made);
        return no_memory(v, err);
    }
    size_t next = 0, last = v->n;
    for (size_t i = 0; i < v->n_merges && !v->by_score; i++) {
        int32_t id = v->merges[i].result;
        /* a token whose merges do not follow each other has no one score */
        if (made[id] && v->merges[i - 1].result != id) out->exact = false;
        if (!made[id]) out->scores[id] = -(float)next++;
        made[id] = 1;
    }
    for (size_t i = 0; i < out->n; i++) {
        int32_t type = out->types[i];
        if (i < v->n && v->by_score)
            out->scores[i] = v->tokens[i].score;
        else if (type == PARE_TOKEN_USER_DEFINED || type == PARE_TOKEN_UNUSED)
            out->scores[i] = -1000.0f;
        else if (type == PARE_TOKEN_NORMAL && !made[i])
            out->scores[i] = -(float)last++;
    }
    pare_free(made);
    return PARE_OK;
}

/* Whether the scores merge exactly the pairs that the merges do: builds the tokenizer that a reader
 * of the file will have. */
static pare_status compare_merges(pare_gguf_vocab *out, const pare_tokenizer *tok,
                                  pare_error *err) {
    pare_vocab *v = pare_vocab_new(tok->vocab->source);
    pare_tokenizer *scored = NULL;
    if (!v) return no_memory(tok->vocab, err);
    v->by_score = true;
    v->byte_fallback = tok->vocab->byte_fallback;
    pare_status st = PARE_OK;
    for (size_t i = 0; i < tok->vocab->n && st == PARE_OK; i++)
        st = pare_vocab_add(v, out->tokens[i].s, out->tokens[i].n, out->scores[i],
                            (pare_token_type)out->types[i], err);
    if (st != PARE_OK) {
        pare_vocab_free(v);
        return st;
    }
    PARE_TRY(pare_tokenizer_build(&scored, v, err));
    pare_merge *merges;
    size_t n, known = 0;
    st = pare_score_merges(&merges, &n, scored, err);
    pare_tokenizer_free(scored);
    if (st != PARE_OK) return st;
    /* user-defined tokens are cut from raw text: merges that make them do not matter */
    const pare_token *tokens = tok->vocab->tokens;
    size_t wanted = 0;
    for (size_t i = 0; i < n; i++) {
        if (tokens[merges[i].result].type == PARE_TOKEN_USER_DEFINED) continue;
        const pare_pair *p = pare_bpe_find(&tok->bpe, merges[i].left, merges[i].right);
        if (!p || p->result != merges[i].result) out->exact = false;
        known++;
    }
    pare_free(merges);
    for (size_t i = 0; i < tok->vocab->n_merges; i++)
        wanted += tokens[tok->vocab->merges[i].result].type != PARE_TOKEN_USER_DEFINED;
    if (known != wanted) out->exact = false;
    return PARE_OK;
}

/* --- what the pipeline must be --- */

/* Spaces become marks, with one in front or not: by normalizer steps, or by Metaspace. */
static bool spaces_become_marks(const pare_tokenizer *tok, bool *prefix) {
    const pare_vocab *v = tok->vocab;
    bool replaced = false;
    *prefix = false;
    for (size_t i = 0; i < v->n_norm; i++) {
        const pare_norm_step *s = &v->norm[i];
        if (s->kind == PARE_NORM_FORM || s->to_len != 3 || !is_mark(s->to, 3)) return false;
        if (s->kind == PARE_NORM_PREPEND) *prefix = true;
        if (s->kind == PARE_NORM_REPLACE && (s->from_len != 1 || s->from[0] != ' ')) return false;
        replaced |= s->kind == PARE_NORM_REPLACE;
    }
    for (size_t i = 0; i < v->n_pre; i++) {
        const pare_pre_step *s = &v->pre_steps[i];
        bool at_mark = s->len == 3 && is_mark(s->text, 3);
        bool at_space = s->len == 1 && s->text[0] == ' '; /* none is left to split at */
        if (s->kind == PARE_PRE_METASPACE && !replaced && at_mark) {
            *prefix = s->prepend != PARE_PREPEND_NEVER;
            replaced = true;
        } else if (s->kind == PARE_PRE_LITERAL && replaced && at_mark) {
            /* words begin with their marks: the same unless a token has a mark further inside */
            for (size_t k = 0; k < v->n_merges; k++) {
                pare_span t = token_text(v, v->merges[k].result);
                if (memmem(t.s + 1, t.n - 1, tok->mark, 3)) return false;
            }
        } else if (s->kind != PARE_PRE_LITERAL || !replaced || !at_space) {
            return false;
        }
    }
    return replaced;
}

static pare_status fill_kind(pare_gguf_vocab *out, const pare_tokenizer *tok, pare_error *err) {
    const pare_vocab *v = tok->vocab;
    if (!v->byte_level) {
        out->model = "llama";
        out->pre = "default";
        return spaces_become_marks(tok, &out->add_space_prefix)
                   ? PARE_OK
                   : unsupported(v, "an unusual treatment of spaces", err);
    }
    out->model = "gpt2";
    out->pre = v->pre ? v->pre : pare_pre_recognize(v);
    if (!out->pre) return unsupported(v, "an unknown pre-tokenizer", err);
    /* the name stands for the normal form too */
    const pare_pre_entry *entry = pare_pre_find(out->pre);
    bool nfc = v->n_norm == 1 && v->norm[0].kind == PARE_NORM_FORM && v->norm[0].form == PARE_NFC;
    if (v->n_norm && !nfc) return unsupported(v, "a normalizer", err);
    if (nfc != entry->nfc) out->exact = false;
    return PARE_OK;
}

static pare_status fill_affixes(pare_gguf_vocab *out, const pare_vocab *v, pare_error *err) {
    out->add_bos = v->n_prefix > 0;
    out->add_eos = v->n_suffix > 0;
    if (v->n_prefix > 1 || v->n_suffix > 1 || (v->n_prefix && v->prefix[0] != v->bos) ||
        (v->n_suffix && v->suffix[0] != v->eos))
        return unsupported(v, "a post-processor that adds more than BOS and EOS", err);
    return PARE_OK;
}

pare_status pare_tokenizer_to_gguf(pare_gguf_vocab *out, const pare_tokenizer *tok, size_t n_rows,
                                   pare_error *err) {
    const pare_vocab *v = tok->vocab;
    *out = (pare_gguf_vocab){.bos = v->bos,
                             .eos = v->eos,
                             .eot = v->eot,
                             .eom = v->eom,
                             .unk = v->unk,
                             .pad = v->pad,
                             .chat_template = v->chat_template,
                             .exact = true};
    if (n_rows && n_rows < v->n)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: found %zu tokens, expected at most %zu, the embedding's rows",
                         v->source, v->n, n_rows);
    pare_text_buffer pool = {0};
    size_t n = n_rows ? n_rows : v->n;
    pare_status st = fill_kind(out, tok, err);
    if (st == PARE_OK) st = fill_affixes(out, v, err);
    if (st == PARE_OK && !reserve_pool(&pool, v, n)) st = no_memory(v, err);
    out->pool = pool.data;
    if (st == PARE_OK) st = fill_tokens(out, &pool, v, n, err);
    if (st == PARE_OK)
        st = v->byte_level ? fill_merges(out, &pool, v, err) : fill_scores(out, v, err);
    if (st == PARE_OK && !v->byte_level && !v->by_score) st = compare_merges(out, tok, err);
    for (size_t i = 0; i < v->n_added; i++) /* Phi-3's white space is known by the model's name */
        if (v->added[i].flags & ~(PARE_ADDED_SPECIAL | PARE_ADDED_RSTRIP)) out->exact = false;
    if (st != PARE_OK) pare_gguf_vocab_free(out);
    return st;
}

void pare_gguf_vocab_free(pare_gguf_vocab *v) {
    pare_free(v->tokens);
    pare_free(v->scores);
    pare_free(v->types);
    pare_free(v->merges);
    pare_free(v->pool);
    *v = (pare_gguf_vocab){0};
}

static pare_status set_id(pare_gguf_writer *w, const char *key, int32_t id, pare_error *err) {
    return id < 0 ? PARE_OK : pare_gguf_set_u32(w, key, (uint32_t)id, err);
}

pare_status pare_gguf_vocab_write(const pare_gguf_vocab *v, pare_gguf_writer *w, pare_error *err) {
    bool spm = v->scores != NULL;
    PARE_TRY(pare_gguf_set_str(w, KEY("model"), v->model, err));
    PARE_TRY(pare_gguf_set_str(w, KEY("pre"), v->pre, err));
    PARE_TRY(pare_gguf_set_strings(w, KEY("tokens"), v->tokens, v->n, err));
    if (spm) PARE_TRY(pare_gguf_set_f32s(w, KEY("scores"), v->scores, v->n, err));
    PARE_TRY(pare_gguf_set_i32s(w, KEY("token_type"), v->types, v->n, err));
    if (!spm) PARE_TRY(pare_gguf_set_strings(w, KEY("merges"), v->merges, v->n_merges, err));
    PARE_TRY(set_id(w, KEY("bos_token_id"), v->bos, err));
    PARE_TRY(set_id(w, KEY("eos_token_id"), v->eos, err));
    PARE_TRY(set_id(w, KEY("eot_token_id"), v->eot, err));
    PARE_TRY(set_id(w, KEY("eom_token_id"), v->eom, err));
    PARE_TRY(set_id(w, KEY("unknown_token_id"), v->unk, err));
    PARE_TRY(set_id(w, KEY("padding_token_id"), v->pad, err));
    PARE_TRY(pare_gguf_set_bool(w, KEY("add_bos_token"), v->add_bos, err));
    PARE_TRY(pare_gguf_set_bool(w, KEY("add_eos_token"), v->add_eos, err));
    if (spm) PARE_TRY(pare_gguf_set_bool(w, KEY("add_space_prefix"), v->add_space_prefix, err));
    if (v->chat_template)
        PARE_TRY(pare_gguf_set_str(w, "tokenizer.chat_template", v->chat_template, err));
    return PARE_OK;
}
