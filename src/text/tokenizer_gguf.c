/* The vocabulary of a GGUF file: keys tokenizer.ggml.*. */
#include "io/gguf.h"
#include "text/pre_names.h"
#include "text/tokenizer_tables.h"

#define KEY(name) "tokenizer.ggml." name

typedef struct gguf_arrays {
    pare_span *tokens, *merges;
    float *scores;
    int32_t *types;
    size_t n_tokens, n_merges, n_scores, n_types;
} gguf_arrays;

static void free_arrays(gguf_arrays *a) {
    pare_free(a->tokens);
    pare_free(a->merges);
    pare_free(a->scores);
    pare_free(a->types);
}

static pare_status same_length(const pare_gguf *g, const char *key, size_t n, size_t tokens,
                               pare_error *err) {
    if (n == 0 || n == tokens) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: %s: found %zu items, expected one for each of %zu tokens",
                     pare_gguf_path(g), key, n, tokens);
}

static pare_status read_arrays(gguf_arrays *a, const pare_gguf *g, bool by_score, pare_error *err) {
    pare_need for_scores = by_score ? PARE_REQUIRED : PARE_OPTIONAL;
    pare_need for_merges = by_score ? PARE_OPTIONAL : PARE_REQUIRED;
    PARE_TRY(pare_gguf_strings(g, KEY("tokens"), PARE_REQUIRED, &a->tokens, &a->n_tokens, err));
    PARE_TRY(pare_gguf_f32s(g, KEY("scores"), for_scores, &a->scores, &a->n_scores, err));
    PARE_TRY(pare_gguf_i32s(g, KEY("token_type"), PARE_OPTIONAL, &a->types, &a->n_types, err));
    PARE_TRY(pare_gguf_strings(g, KEY("merges"), for_merges, &a->merges, &a->n_merges, err));
    if (a->n_tokens == 0)
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found no tokens, expected some",
                         pare_gguf_path(g), KEY("tokens"));
    PARE_TRY(same_length(g, KEY("scores"), a->n_scores, a->n_tokens, err));
    return same_length(g, KEY("token_type"), a->n_types, a->n_tokens, err);
}

/* --- tokens --- */

static pare_status add_token(pare_vocab *v, const gguf_arrays *a, size_t i, size_t *n_bytes,
                             pare_error *err) {
    pare_span s = a->tokens[i];
    int32_t type = a->types ? a->types[i] : PARE_TOKEN_NORMAL;
    char empty[32];
    if (type < PARE_TOKEN_NORMAL || type > PARE_TOKEN_BYTE)
        return pare_fail(err, PARE_ERR_INPUT, "%s: %s: token %zu: found type %d, expected 1 to 6",
                         v->source, KEY("token_type"), i, type);
    if (type == PARE_TOKEN_BYTE && !v->byte_level) {
        if (pare_byte_token(s.s, s.n) < 0)
            return pare_fail(
                err, PARE_ERR_INPUT,
                "%s: token %zu: found byte token \"%.*s\", expected <0xHH> with two hex digits",
                v->source, i, pare_clip(s.s, s.n, 40), s.s);
        ++*n_bytes;
    }
    if (s.n == 0) { /* as llama.cpp names it; it can never be produced */
        s = (pare_span){empty, (size_t)snprintf(empty, sizeof empty, "[EMPTY_%zu]", i)};
        type = PARE_TOKEN_UNUSED;
    }
    return pare_vocab_add(v, s.s, s.n, a->scores ? a->scores[i] : 0, (pare_token_type)type, err);
}

static bool contains(const char *s, const char *part) { return s && strcasestr(s, part) != NULL; }

/* Tokens that are matched on raw text. Phi-3's file says only by its name that they swallow the
 * white space behind them (as its tokenizer.json does by flags). */
static pare_status add_added(pare_vocab *v, const pare_gguf *g, pare_error *err) {
    const char *name = NULL;
    PARE_TRY(pare_gguf_str(g, "general.name", PARE_OPTIONAL, &name, err));
    bool phi3 = contains(name, "phi-3") || contains(name, "phi3");
    for (size_t i = 0; i < v->n; i++) {
        uint8_t type = v->tokens[i].type;
        bool special = type == PARE_TOKEN_CONTROL || type == PARE_TOKEN_UNKNOWN;
        if (!special && type != PARE_TOKEN_USER_DEFINED) continue;
        const char *text = pare_vocab_text(v, (int32_t)i);
        bool strip = phi3 && strcmp(text, "<unk>") != 0 && strcmp(text, "<s>") != 0 &&
                     strcmp(text, "<|endoftext|>") != 0;
        PARE_TRY(pare_vocab_add_added(
            v, (int32_t)i, (special ? PARE_ADDED_SPECIAL : 0u) | (strip ? PARE_ADDED_RSTRIP : 0u),
            err));
    }
    return PARE_OK;
}

static pare_status add_tokens(pare_vocab *v, const pare_gguf *g, const gguf_arrays *a,
                              pare_error *err) {
    size_t n_bytes = 0;
    for (size_t i = 0; i < a->n_tokens; i++) PARE_TRY(add_token(v, a, i, &n_bytes, err));
    v->byte_fallback = !v->byte_level && n_bytes > 0;
    return add_added(v, g, err);
}

/* --- merges --- */

static pare_span token_at(const void *owner, size_t i) {
    const pare_vocab *v = owner;
    return (pare_span){v->text.data + v->tokens[i].offset, v->tokens[i].len};
}

static pare_status add_merge(pare_vocab *v, const pare_names *names, size_t rank, pare_span s,
                             pare_text_buffer *joined, pare_error *err) {
    const char *space = s.n > 1 ? memchr(s.s + 1, ' ', s.n - 1) : NULL;
    pare_span left = {s.s, space ? (size_t)(space - s.s) : 0};
    pare_span right = {space ? space + 1 : s.s, space ? s.n - left.n - 1 : 0};
    joined->n = 0;
    size_t ids[3] = {SIZE_MAX, SIZE_MAX, SIZE_MAX};
    if (left.n && right.n) {
        if (!pare_text_buffer_add(joined, left.s, left.n) ||
            !pare_text_buffer_add(joined, right.s, right.n))
            return pare_text_buffer_fail(err);
        ids[0] = pare_names_find(names, v, token_at, left.s, left.n);
        ids[1] = pare_names_find(names, v, token_at, right.s, right.n);
        ids[2] = pare_names_find(names, v, token_at, joined->data, joined->n);
    }
    if (ids[0] == SIZE_MAX || ids[1] == SIZE_MAX || ids[2] == SIZE_MAX)
        return pare_fail(
            err, PARE_ERR_INPUT,
            "%s: %s: item %zu: found \"%.*s\", expected two tokens that together are one",
            v->source, KEY("merges"), rank, pare_clip(s.s, s.n, 80), s.s);
    return pare_vocab_add_merge(v, (pare_merge){(int32_t)ids[0], (int32_t)ids[1], (int32_t)ids[2]},
                                err);
}

static pare_status add_merges(pare_vocab *v, const gguf_arrays *a, pare_error *err) {
    pare_names names = {0};
    pare_text_buffer joined = {0};
    size_t twin;
    if (!pare_names_build(&names, v, token_at, v->n, &twin))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: vocabulary: out of memory", v->source);
    pare_status st = PARE_OK;
    /* twins are reported, by name, when the tokenizer is built */
    for (size_t i = 0; twin == SIZE_MAX && i < a->n_merges && st == PARE_OK; i++)
        st = add_merge(v, &names, i, a->merges[i], &joined, err);
    pare_names_free(&names);
    pare_text_buffer_free(&joined);
    return st;
}

/* --- ids and flags --- */

/* An id from a key; `fallback` where it is absent and inside the vocabulary. */
static pare_status read_id(const pare_gguf *g, const char *key, const pare_vocab *v,
                           int32_t fallback, int32_t *out, pare_error *err) {
    *out = fallback >= 0 && (size_t)fallback < v->n ? fallback : -1;
    return pare_gguf_i32(g, key, PARE_OPTIONAL, 0, (int32_t)v->n - 1, out, err);
}

static pare_status read_ids(pare_vocab *v, const pare_gguf *g, pare_error *err) {
    bool spm = v->by_score;
    PARE_TRY(read_id(g, KEY("bos_token_id"), v, spm ? 1 : -1, &v->bos, err));
    PARE_TRY(read_id(g, KEY("eos_token_id"), v, spm ? 2 : -1, &v->eos, err));
    PARE_TRY(read_id(g, KEY("unknown_token_id"), v, spm ? 0 : -1, &v->unk, err));
    PARE_TRY(read_id(g, KEY("eot_token_id"), v, -1, &v->eot, err));
    PARE_TRY(read_id(g, KEY("eom_token_id"), v, -1, &v->eom, err));
    PARE_TRY(read_id(g, KEY("padding_token_id"), v, -1, &v->pad, err));
    const char *template = NULL;
    PARE_TRY(pare_gguf_str(g, "tokenizer.chat_template", PARE_OPTIONAL, &template, err));
    if (template && !(v->chat_template = pare_strdup(template)))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: chat template: out of memory", v->source);
    return PARE_OK;
}

static pare_status read_affixes(pare_vocab *v, const pare_gguf *g, bool add_bos, pare_error *err) {
    bool add_eos = false;
    PARE_TRY(pare_gguf_bool(g, KEY("add_bos_token"), PARE_OPTIONAL, &add_bos, err));
    PARE_TRY(pare_gguf_bool(g, KEY("add_eos_token"), PARE_OPTIONAL, &add_eos, err));
    if (add_bos && v->bos >= 0) PARE_TRY(pare_vocab_add_affix(v, true, v->bos, err));
    if (add_eos && v->eos >= 0) PARE_TRY(pare_vocab_add_affix(v, false, v->eos, err));
    return PARE_OK;
}

/* --- the two kinds --- */

static pare_status read_pre(pare_vocab *v, const pare_gguf *g, const char *override,
                            const pare_pre_entry **entry, pare_error *err) {
    const char *pre = override;
    if (!pre) PARE_TRY(pare_gguf_str(g, KEY("pre"), PARE_OPTIONAL, &pre, err));
    if (!pre || !*pre) {
        pre = "default";
        v->pre_missing = true;
        pare_vocab_warn(
            v,
            "%s: %s is missing (a file made before May 2024): \"default\" is assumed, which "
            "cuts text wrongly for most models; name the right one to override it",
            v->source, KEY("pre"));
    }
    *entry = pare_pre_find(pre);
    if (!*entry) {
        char known[512];
        pare_pre_list(known, sizeof known);
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: %s: found \"%.60s\", expected one of %s",
                         v->source, KEY("pre"), pre, known);
    }
    if (!(v->pre = pare_strdup(pre)))
        return pare_fail(err, PARE_ERR_NOMEM, "%s: vocabulary: out of memory", v->source);
    v->ignore_merges = (*entry)->ignore_merges;
    return pare_pre_apply(v, *entry, err);
}

static pare_status fill_bpe(pare_vocab *v, const pare_gguf *g, const char *pre, gguf_arrays *a,
                            pare_error *err) {
    const pare_pre_entry *entry;
    v->byte_level = true;
    PARE_TRY(read_pre(v, g, pre, &entry, err));
    PARE_TRY(read_arrays(a, g, false, err));
    PARE_TRY(add_tokens(v, g, a, err));
    PARE_TRY(add_merges(v, a, err));
    PARE_TRY(read_ids(v, g, err));
    return read_affixes(v, g, entry->add_bos, err);
}

static pare_status fill_spm(pare_vocab *v, const pare_gguf *g, gguf_arrays *a, pare_error *err) {
    static const char mark[] = "\xE2\x96\x81";
    v->by_score = true;
    v->space_prefix = true;
    PARE_TRY(pare_gguf_bool(g, KEY("add_space_prefix"), PARE_OPTIONAL, &v->space_prefix, err));
    PARE_TRY(read_arrays(a, g, true, err));
    PARE_TRY(add_tokens(v, g, a, err));
    PARE_TRY(read_ids(v, g, err));
    if (v->space_prefix)
        PARE_TRY(pare_vocab_add_norm(v, PARE_NORM_PREPEND, PARE_NFC, NULL, 0, mark, 3, err));
    PARE_TRY(pare_vocab_add_norm(v, PARE_NORM_REPLACE, PARE_NFC, " ", 1, mark, 3, err));
    PARE_TRY(pare_vocab_add_decode(v, mark, 3, " ", 1, err));
    v->decode_strip = v->space_prefix;
    return read_affixes(v, g, true, err);
}

static pare_status fill(pare_vocab *v, const pare_gguf *g, const char *pre, pare_error *err) {
    const char *model = NULL;
    gguf_arrays a = {0};
    PARE_TRY(pare_gguf_str(g, KEY("model"), PARE_REQUIRED, &model, err));
    pare_status st;
    if (strcmp(model, "gpt2") == 0)
        st = fill_bpe(v, g, pre, &a, err);
    else if (strcmp(model, "llama") == 0)
        st = fill_spm(v, g, &a, err);
    else
        st = pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: %s: found \"%.60s\", expected gpt2 or llama",
                       v->source, KEY("model"), model);
    free_arrays(&a);
    return st;
}

pare_status pare_tokenizer_load_gguf(pare_tokenizer **out, const char *path, const char *pre,
                                     pare_error *err) {
    pare_gguf *g = NULL;
    *out = NULL;
    PARE_TRY(pare_gguf_open(&g, path, err));
    pare_status st = pare_tokenizer_from_gguf(out, g, pre, err);
    pare_gguf_close(g);
    return st;
}

pare_status pare_tokenizer_from_gguf(pare_tokenizer **out, const pare_gguf *g, const char *pre,
                                     pare_error *err) {
    *out = NULL;
    pare_vocab *v = pare_vocab_new(pare_gguf_path(g));
    if (!v)
        return pare_fail(err, PARE_ERR_NOMEM, "%s: vocabulary: out of memory", pare_gguf_path(g));
    v->from_gguf = true;
    pare_status st = fill(v, g, pre, err);
    if (st == PARE_OK) return pare_tokenizer_build(out, v, err);
    pare_vocab_free(v);
    return st;
}
