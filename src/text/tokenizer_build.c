/* From a vocabulary to the tables: everything that later indexes is checked here. */
#include "text/tokenizer_tables.h"

#include <math.h>
#include <stdio.h>

static pare_status no_memory(const pare_tokenizer *tok, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: tokenizer: out of memory", tok->vocab->source);
}

/* --- tokens by text --- */

static pare_span token_text(const void *owner, size_t i) {
    const pare_vocab *v = owner;
    return (pare_span){v->text.data + v->tokens[i].offset, v->tokens[i].len};
}

int32_t pare_tokenizer_lookup(const pare_tokenizer *tok, const char *text, size_t len) {
    if (len > tok->longest) return -1;
    size_t i = pare_names_find(&tok->by_text, tok->vocab, token_text, text, len);
    return i == SIZE_MAX ? -1 : (int32_t)i;
}

static pare_status build_names(pare_tokenizer *tok, pare_error *err) {
    const pare_vocab *v = tok->vocab;
    size_t twin;
    for (size_t i = 0; i < v->n; i++)
        if (v->tokens[i].len > tok->longest) tok->longest = v->tokens[i].len;
    if (!pare_names_build(&tok->by_text, v, token_text, v->n, &twin)) return no_memory(tok, err);
    if (twin == SIZE_MAX) return PARE_OK;
    pare_span s = token_text(v, twin);
    return pare_fail(err, PARE_ERR_INPUT,
                     "%s: token %zu: found \"%.*s\" a second time, expected distinct texts",
                     v->source, twin, pare_clip(s.s, s.n, 60), s.s);
}

/* --- checks --- */

static pare_status check_id(const pare_vocab *v, const char *what, int32_t id, pare_error *err) {
    if (id >= -1 && (id < 0 || (size_t)id < v->n)) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT, "%s: %s: found id %d, expected 0 to %zu", v->source, what,
                     id, v->n - 1);
}

static pare_status check_vocab(const pare_vocab *v, pare_error *err) {
    if (v->n == 0)
        return pare_fail(err, PARE_ERR_INPUT, "%s: vocabulary: found no tokens, expected some",
                         v->source);
    const struct {
        const char *name;
        int32_t id;
    } ids[] = {{"unknown token", v->unk}, {"bos token", v->bos}, {"eos token", v->eos},
               {"eot token", v->eot},     {"eom token", v->eom}, {"padding token", v->pad}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        PARE_TRY(check_id(v, ids[i].name, ids[i].id, err));
    for (size_t i = 0; i < v->n_ends; i++) PARE_TRY(check_id(v, "end token", v->ends[i], err));
    for (size_t i = 0; i < v->n_prefix; i++)
        PARE_TRY(check_id(v, "post-processor", v->prefix[i], err));
    for (size_t i = 0; i < v->n_suffix; i++)
        PARE_TRY(check_id(v, "post-processor", v->suffix[i], err));
    for (size_t i = 0; v->by_score && i < v->n; i++)
        if (!isfinite(v->tokens[i].score))
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: score of token %zu: found %g, expected a number", v->source, i,
                             (double)v->tokens[i].score);
    return PARE_OK;
}

/* --- symbols --- */

static int32_t *char_slot(pare_char_map *map, int32_t cp) {
    int32_t **page = &map->pages[cp >> 8];
    if (!*page) {
        *page = pare_malloc(256, sizeof **page);
        if (!*page) return NULL;
        memset(*page, 0xFF, 256 * sizeof **page);
    }
    return &(*page)[cp & 255];
}

static bool has_symbol(const pare_vocab *v, size_t i) {
    return v->by_score ? pare_token_mergeable(&v->tokens[i]) : !v->tokens[i].outside;
}

/* Characters that are tokens, then (by scores) those that are only part of one. */
static bool build_chars(pare_tokenizer *tok) {
    const pare_vocab *v = tok->vocab;
    pare_char_map *map = &tok->chars;
    int32_t cp;
    for (size_t i = 0; i < v->n; i++) {
        pare_span s = token_text(v, i);
        if (!s.n || !has_symbol(v, i) || pare_utf8_next(s.s, s.n, &cp) != s.n) continue;
        int32_t *slot = char_slot(map, cp);
        if (!slot) return false;
        *slot = (int32_t)i;
    }
    for (size_t i = 0; v->by_score && i < v->n; i++) {
        pare_span s = token_text(v, i);
        for (size_t k = 0; has_symbol(v, i) && k < s.n;) {
            k += pare_utf8_next(s.s + k, s.n - k, &cp);
            int32_t *slot = char_slot(map, cp);
            if (!slot) return false;
            if (*slot >= 0) continue;
            if (!pare_grow(&map->virtual_chars, &map->virtual_capacity, map->n_virtual + 1,
                           sizeof *map->virtual_chars))
                return false;
            *slot = (int32_t)(v->n + map->n_virtual);
            map->virtual_chars[map->n_virtual++] = cp;
        }
    }
    return true;
}

static pare_status build_bytes(pare_tokenizer *tok, pare_error *err) {
    pare_vocab *v = tok->vocab;
    int n = 0, missing = -1;
    for (int b = 0; b < 256; b++) {
        char text[8];
        size_t len = v->byte_level ? pare_utf8_put(text, pare_byte_to_alphabet((uint8_t)b))
                                   : (size_t)snprintf(text, sizeof text, "<0x%02X>", b);
        tok->byte_token[b] = pare_tokenizer_lookup(tok, text, len);
        if (tok->byte_token[b] >= 0)
            n++;
        else if (missing < 0)
            missing = b;
    }
    if (!v->byte_level && v->byte_fallback && n < 256)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: byte fallback: found no token <0x%02X>, expected all 256 byte tokens",
                         v->source, missing);
    return PARE_OK;
}

/* --- merges --- */

static pare_status build_rank_merges(pare_tokenizer *tok, pare_error *err) {
    pare_vocab *v = tok->vocab;
    if (!pare_bpe_init(&tok->bpe, v->n_merges)) return no_memory(tok, err);
    size_t twins = 0, kept = 0;
    for (size_t i = 0; i < v->n_merges; i++) {
        pare_merge m = v->merges[i];
        if (pare_bpe_add(&tok->bpe, m.left, m.right, (uint32_t)kept, m.result))
            v->merges[kept++] = m; /* what is exported has no twins */
        else
            twins++;
    }
    v->n_merges = kept;
    if (twins)
        pare_vocab_warn(v, "%s: merges: %zu occur twice; the first one counts", v->source, twins);
    return PARE_OK;
}

/* Pairs that merge by score: those whose text is a token that merging can make. Greater scores have
 * lower ranks, equal ones the same (the bits of a finite float, made to count downwards). */
static bool joined_token(const void *arg, const char *s, size_t n, uint32_t *rank,
                         int32_t *result) {
    const pare_tokenizer *tok = arg;
    int32_t id = pare_tokenizer_lookup(tok, s, n);
    if (id < 0 || !pare_token_mergeable(&tok->vocab->tokens[id])) return false;
    float score = tok->vocab->tokens[id].score + 0.0f; /* -0 is 0 */
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    *rank = bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
    *result = id;
    return true;
}

/* Byte tokens and the unknown token stand for text that is not theirs, which does not matter as
 * long as no merge makes them. */
static bool symbols_are_texts(const pare_tokenizer *tok) {
    const pare_vocab *v = tok->vocab;
    if (!v->byte_fallback) return v->unk < 0 || !pare_token_mergeable(&v->tokens[v->unk]);
    for (int b = 0; b < 256; b++)
        if (pare_token_mergeable(&v->tokens[tok->byte_token[b]])) return false;
    return true;
}

/* Finds out where words can be cut: a mark must be a symbol itself (else unknown characters on both
 * sides of it might be fused), and words must not be looked up as a whole. */
static void find_cuts(pare_tokenizer *tok) {
    const pare_vocab *v = tok->vocab;
    tok->cut_at_marks =
        !v->byte_level && !v->ignore_merges && pare_char_symbol(&tok->chars, 0x2581) >= 0;
    /* all texts at once: before a token that begins with a mark stands a NUL, which is glued for
     * nothing */
    const char *p = v->text.data, *end = p + v->text.n;
    for (; tok->cut_at_marks && (p = memmem(p, (size_t)(end - p), tok->mark, 3)); p += 3)
        if (p > v->text.data) tok->glued[(uint8_t)p[-1]] = true;
    tok->glued[(uint8_t)tok->mark[2]] = true; /* runs of marks stay together */
}

/* --- added tokens --- */

static pare_status build_added(pare_tokenizer *tok, pare_error *err) {
    const pare_vocab *v = tok->vocab;
    pare_text_buffer work[2] = {{0}, {0}};
    pare_status st = PARE_OK;
    for (size_t i = 0; i < v->n_added && st == PARE_OK; i++) {
        const pare_added *added = &v->added[i];
        const char *s = pare_vocab_text(v, added->id);
        size_t n = v->tokens[added->id].len;
        bool twin = false, normalized = added->flags & PARE_ADDED_NORMALIZED;
        if (added->flags & PARE_ADDED_SPECIAL) tok->special[added->id] = 1;
        if (normalized) st = pare_vocab_normalize(v, work, &s, &n, err);
        if (st != PARE_OK || n == 0)
            continue; /* a text that normalizes to nothing matches nothing */
        if (!pare_trie_add(normalized ? &tok->normalized : &tok->raw, s, n, (int32_t)i, &twin))
            st = no_memory(tok, err);
        else if (twin && !normalized)
            st = pare_fail(err, PARE_ERR_INPUT, "%s: added token %d: found \"%.*s\" a second time",
                           v->source, added->id, pare_clip(s, n, 60), s);
    }
    pare_text_buffer_free(&work[0]);
    pare_text_buffer_free(&work[1]);
    return st;
}

/* --- decoding --- */

static bool add_byte_level_piece(pare_text_buffer *out, pare_span s) {
    size_t start = out->n;
    for (size_t k = 0; k < s.n;) {
        int32_t cp;
        k += pare_utf8_next(s.s + k, s.n - k, &cp);
        int byte = pare_alphabet_to_byte(cp);
        if (byte < 0) { /* not written in the alphabet: as it stands */
            out->n = start;
            return pare_text_buffer_add(out, s.s, s.n);
        }
        char c = (char)byte;
        if (!pare_text_buffer_add(out, &c, 1)) return false;
    }
    return true;
}

/* added: its flags + 1, or 0. A normalized one stands for what it was matched with. */
static bool add_piece(pare_tokenizer *tok, size_t i, unsigned added, pare_text_buffer *work) {
    const pare_vocab *v = tok->vocab;
    pare_span s = token_text(v, i);
    if (added && (added - 1) & PARE_ADDED_NORMALIZED &&
        pare_vocab_normalize(v, work, &s.s, &s.n, NULL) != PARE_OK)
        return false;
    if (v->byte_level)
        return added ? pare_text_buffer_add(&tok->pieces, s.s, s.n)
                     : add_byte_level_piece(&tok->pieces, s);
    int byte = v->tokens[i].type == PARE_TOKEN_BYTE ? pare_byte_token(s.s, s.n) : -1;
    if (byte >= 0) {
        char c = (char)byte;
        return pare_text_buffer_add(&tok->pieces, &c, 1);
    }
    /* a GGUF file has real spaces in its user-defined tokens, so that a mark there is a mark */
    bool as_is = v->from_gguf && v->tokens[i].type == PARE_TOKEN_USER_DEFINED;
    for (size_t k = 0; k < v->n_decode && !as_is; k++) {
        pare_text_buffer *to = &work[s.s == work[0].data];
        to->n = 0;
        if (!pare_text_replace(to, &v->decode[k], s.s, s.n, PARE_TEXT_MAX)) return false;
        s = (pare_span){to->data, to->n};
    }
    return pare_text_buffer_add(&tok->pieces, s.s, s.n);
}

static pare_status build_pieces(pare_tokenizer *tok, pare_error *err) {
    const pare_vocab *v = tok->vocab;
    pare_text_buffer work[2] = {{0}, {0}};
    uint8_t *flags = pare_calloc(v->n, 1);
    bool ok = flags && pare_text_buffer_reserve(&tok->pieces, 1);
    for (size_t i = 0; ok && i < v->n_added; i++) flags[v->added[i].id] = v->added[i].flags + 1;
    for (size_t i = 0; ok && i < v->n; i++) {
        ok = add_piece(tok, i, flags[i], work);
        tok->piece_end[i] = (uint32_t)tok->pieces.n;
    }
    pare_free(flags);
    pare_text_buffer_free(&work[0]);
    pare_text_buffer_free(&work[1]);
    return ok ? PARE_OK : no_memory(tok, err);
}

static void mark_end(pare_tokenizer *tok, int32_t id) {
    if (id >= 0) tok->end[id] = 1;
}

/* Names by which chat models call their end of turn; they count where the token is special. */
static void mark_named_ends(pare_tokenizer *tok) {
    static const char *const names[] = {"<|eot_id|>",
                                        "<|im_end|>",
                                        "<|end|>",
                                        "<|return|>",
                                        "<|call|>",
                                        "<end_of_turn>",
                                        "<|endoftext|>",
                                        "</s>",
                                        "<|eom_id|>",
                                        "<EOT>",
                                        "<|end_of_text|>",
                                        "<eos>",
                                        "<end_of_utterance>",
                                        "<\uFF5Cend\u2581of\u2581sentence\uFF5C>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int32_t id = pare_tokenizer_lookup(tok, names[i], strlen(names[i]));
        if (id >= 0 && tok->special[id]) tok->end[id] = 1;
    }
    for (size_t i = 0; i < tok->vocab->n_ends; i++) mark_end(tok, tok->vocab->ends[i]);
    mark_end(tok, tok->vocab->eos);
    mark_end(tok, tok->vocab->eot);
    mark_end(tok, tok->vocab->eom);
}

static char *describe(const pare_tokenizer *tok) {
    const pare_vocab *v = tok->vocab;
    char pre[96] = "", added[48] = "";
    if (v->pre)
        snprintf(pre, sizeof pre, ", pre %.64s%s", v->pre, v->pre_missing ? " (assumed)" : "");
    if (v->n_added) snprintf(added, sizeof added, ", %zu added", v->n_added);
    return pare_asprintf("%s, %zu tokens%s%s%s%s",
                         v->byte_level ? "byte-level BPE"
                         : v->by_score ? "SentencePiece"
                                       : "character BPE",
                         v->n, added, pre, pare_tokenizer_adds_bos(tok) ? ", adds BOS" : ", no BOS",
                         v->warnings.n ? ", with warnings" : "");
}

pare_status pare_tokenizer_build(pare_tokenizer **out, pare_vocab *v, pare_error *err) {
    *out = NULL;
    pare_tokenizer *tok = pare_calloc(1, sizeof *tok);
    if (!tok) {
        pare_vocab_free(v);
        return pare_fail(err, PARE_ERR_NOMEM, "tokenizer: out of memory");
    }
    tok->vocab = v;
    memcpy(tok->mark, "\xE2\x96\x81", 3);
    pare_status st = check_vocab(v, err);
    if (st == PARE_OK) st = build_names(tok, err);
    if (st == PARE_OK && !v->byte_level && !build_chars(tok)) st = no_memory(tok, err);
    if (st == PARE_OK) st = build_bytes(tok, err);
    if (st == PARE_OK && v->by_score) {
        tok->bpe = (pare_bpe){.joined = joined_token, .arg = tok};
        tok->symbols_are_texts = symbols_are_texts(tok);
    } else if (st == PARE_OK) {
        st = build_rank_merges(tok, err);
    }
    if (st == PARE_OK) {
        find_cuts(tok);
        tok->special = pare_calloc(v->n, 1);
        tok->end = pare_calloc(v->n, 1);
        tok->piece_end = pare_calloc(v->n, sizeof *tok->piece_end);
        if (!tok->special || !tok->end || !tok->piece_end) st = no_memory(tok, err);
    }
    if (st == PARE_OK) st = build_added(tok, err);
    if (st == PARE_OK) st = build_pieces(tok, err);
    if (st == PARE_OK) st = pare_splitter_init(&tok->splitter, v, err);
    if (st == PARE_OK) {
        mark_named_ends(tok);
        if (v->warnings.n && pare_text_buffer_add(&v->warnings, "", 1)) v->warnings.n--;
        if (!(tok->description = describe(tok))) st = no_memory(tok, err);
    }
    if (st == PARE_OK)
        *out = tok;
    else
        pare_tokenizer_free(tok);
    return st;
}

const pare_vocab *pare_tokenizer_vocab(const pare_tokenizer *tok) { return tok->vocab; }

void pare_tokenizer_free(pare_tokenizer *tok) {
    if (!tok) return;
    pare_names_free(&tok->by_text);
    pare_bpe_free(&tok->bpe);
    pare_trie_free(&tok->raw);
    pare_trie_free(&tok->normalized);
    pare_splitter_free(&tok->splitter);
    for (size_t i = 0; i < PARE_CHAR_PAGES; i++) pare_free(tok->chars.pages[i]);
    pare_free(tok->chars.virtual_chars);
    pare_text_buffer_free(&tok->pieces);
    pare_free(tok->piece_end);
    pare_free(tok->special);
    pare_free(tok->end);
    pare_free(tok->description);
    pare_vocab_free(tok->vocab);
    pare_free(tok);
}
