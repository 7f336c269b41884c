/* Encoding, and the public face of tokenizers. */
#include "text/tokenizer_tables.h"

#include "base/hash.h"
#include "base/os.h"
#include "io/gguf.h"

/* From here on remembering pairs pays. */
#define LONG_TEXT 4096 /* bytes */

/* --- one call of encode --- */

typedef struct encoder {
    const pare_tokenizer *tok;
    pare_ids *ids;
    pare_error *err;
    bool parse_special;
    const char *start; /* of the whole text */
    pare_text_buffer norm[2];
    pare_split_scratch split;
    pare_bpe_scratch bpe;
    int32_t *symbols;
    uint32_t *begins; /* of the symbols in their word; only for merges by score */
    size_t symbols_capacity, begins_capacity;
    pare_text_buffer letters;
} encoder;

static void encoder_free(encoder *e) {
    pare_text_buffer_free(&e->norm[0]);
    pare_text_buffer_free(&e->norm[1]);
    pare_split_scratch_free(&e->split);
    pare_bpe_scratch_free(&e->bpe);
    pare_free(e->symbols);
    pare_free(e->begins);
    pare_text_buffer_free(&e->letters);
}

static pare_status no_memory(encoder *e) {
    return pare_fail(e->err, PARE_ERR_NOMEM, "%s: encoding: out of memory", e->tok->vocab->source);
}

static pare_status emit(encoder *e, const int32_t *ids, size_t n) {
    pare_ids *out = e->ids;
    if (out->n > (size_t)INT32_MAX - n ||
        !pare_grow(&out->data, &out->capacity, out->n + n, sizeof *ids))
        return no_memory(e);
    if (n) memcpy(out->data + out->n, ids, n * sizeof *ids);
    out->n += n;
    return PARE_OK;
}

/* --- a word: symbols, merges, ids --- */

static pare_status unknown(encoder *e, const char *s, size_t n) {
    char hex[16] = "";
    for (size_t i = 0; i < n && i < 4; i++) snprintf(hex + 3 * i, 4, " %02X", (uint8_t)s[i]);
    return pare_fail(
        e->err, PARE_ERR_INPUT,
        "%s: encoding: found a character (bytes%s) that has no token, expected one, byte "
        "tokens or an unknown token",
        e->tok->vocab->source, hex);
}

/* Appends the unknown token to symbols[*n]; with fuse_unk not behind another one. */
static pare_status add_unknown(encoder *e, int32_t *symbols, size_t *n, bool after_unknown,
                               const char *s, size_t len) {
    const pare_vocab *v = e->tok->vocab;
    if (v->unk < 0) return unknown(e, s, len);
    if (!(v->fuse_unk && after_unknown)) symbols[(*n)++] = v->unk;
    return PARE_OK;
}

/* symbols has room for one per byte. */
static pare_status byte_symbols(encoder *e, int32_t *symbols, size_t *n, const char *s,
                                size_t len) {
    bool after_unknown = false;
    *n = 0;
    for (size_t i = 0; i < len; i++) {
        int32_t id = e->tok->byte_token[(uint8_t)s[i]];
        if (id >= 0)
            symbols[(*n)++] = id;
        else
            PARE_TRY(add_unknown(e, symbols, n, after_unknown, s + i, 1));
        after_unknown = id < 0;
    }
    return PARE_OK;
}

static pare_status char_symbols(encoder *e, int32_t *symbols, size_t *n, const char *s,
                                size_t len) {
    uint32_t *begins = e->tok->vocab->by_score ? e->begins : NULL;
    const pare_tokenizer *tok = e->tok;
    bool after_unknown = false;
    *n = 0;
    for (size_t i = 0, k; i < len; i += k) {
        int32_t cp;
        k = pare_utf8_next(s + i, len - i, &cp);
        int32_t symbol = pare_char_symbol(&tok->chars, cp);
        bool is_unknown = symbol < 0 && !tok->vocab->byte_fallback;
        for (size_t b = 0; begins && b < k; b++) begins[*n + b] = (uint32_t)(i + b);
        if (symbol >= 0)
            symbols[(*n)++] = symbol;
        else if (!is_unknown)
            for (size_t b = 0; b < k; b++) symbols[(*n)++] = tok->byte_token[(uint8_t)s[i + b]];
        else
            PARE_TRY(add_unknown(e, symbols, n, after_unknown, s + i, k));
        after_unknown = is_unknown;
    }
    return PARE_OK;
}

/* Characters that merged with nothing and have no token of their own. */
static pare_status emit_virtual(encoder *e, int32_t symbol, bool after_unknown) {
    const pare_tokenizer *tok = e->tok;
    char s[4];
    int32_t ids[4];
    size_t n = pare_utf8_put(s, (uint32_t)tok->chars.virtual_chars[(size_t)symbol - tok->vocab->n]),
           k = 0;
    if (tok->vocab->byte_fallback)
        for (; k < n; k++) ids[k] = tok->byte_token[(uint8_t)s[k]];
    else
        PARE_TRY(add_unknown(e, ids, &k, after_unknown, s, n));
    return emit(e, ids, k);
}

/* ignore_merges: the token that a word of a byte-level model is, or -1. */
static int32_t whole_word(encoder *e, const char *s, size_t n, pare_status *st) {
    const pare_tokenizer *tok = e->tok;
    *st = PARE_OK;
    if (n > tok->longest) return -1;
    e->letters.n = 0;
    for (size_t i = 0; i < n && tok->vocab->byte_level; i++) {
        char letter[4];
        size_t len = pare_utf8_put(letter, pare_byte_to_alphabet((uint8_t)s[i]));
        if (!pare_text_buffer_add(&e->letters, letter, len)) {
            *st = no_memory(e);
            return -1;
        }
    }
    if (tok->vocab->byte_level) s = e->letters.data, n = e->letters.n;
    int32_t id = pare_tokenizer_lookup(tok, s, n);
    /* the text of a special token is plain text here */
    return id >= 0 && !tok->special[id] && !tok->vocab->tokens[id].outside ? id : -1;
}

static pare_status encode_word(encoder *e, const char *s, size_t n) {
    const pare_tokenizer *tok = e->tok;
    const pare_vocab *v = tok->vocab;
    pare_status st;
    if (v->ignore_merges) {
        int32_t id = whole_word(e, s, n, &st);
        if (st != PARE_OK || id >= 0) return st == PARE_OK ? emit(e, &id, 1) : st;
    }
    if (!pare_grow(&e->symbols, &e->symbols_capacity, n, sizeof *e->symbols) ||
        (v->by_score && !pare_grow(&e->begins, &e->begins_capacity, n, sizeof *e->begins)))
        return no_memory(e);
    size_t n_symbols;
    PARE_TRY(v->byte_level ? byte_symbols(e, e->symbols, &n_symbols, s, n)
                           : char_symbols(e, e->symbols, &n_symbols, s, n));
    pare_bpe_word word = {e->symbols, e->begins, s, n_symbols, n};
    if (!pare_bpe_merge(&tok->bpe, &e->bpe, &word)) return no_memory(e);
    n_symbols = word.n;
    if (tok->chars.n_virtual == 0) return emit(e, e->symbols, n_symbols);
    size_t plain = 0; /* start of a run of tokens */
    for (size_t i = 0; i < n_symbols; i++) {
        if ((size_t)e->symbols[i] < v->n) continue;
        PARE_TRY(emit(e, e->symbols + plain, i - plain));
        PARE_TRY(emit_virtual(e, e->symbols[i], i == plain && i > 0));
        plain = i + 1;
    }
    return emit(e, e->symbols + plain, n_symbols - plain);
}

/* A word of a character model, cut in front of marks where no merge can cross: the same ids as
 * without (no pair of a left and a right symbol is a token), in a fraction of the time. */
static pare_status encode_marked(encoder *e, const char *s, size_t n) {
    const char *mark = e->tok->mark;
    size_t begin = 0;
    for (size_t i = 1; i < n;) {
        const char *hit = memmem(s + i, n - i, mark, 3);
        if (!hit) break;
        if (!e->tok->glued[(uint8_t)hit[-1]]) {
            PARE_TRY(encode_word(e, s + begin, (size_t)(hit - s) - begin));
            begin = (size_t)(hit - s);
        }
        i = (size_t)(hit - s) + 3;
    }
    return encode_word(e, s + begin, n - begin);
}

/* --- pieces between added tokens --- */

static pare_status encode_plain(encoder *e, const char *s, size_t n, bool first) {
    if (n == 0) return PARE_OK;
    PARE_TRY(pare_split(&e->tok->splitter, &e->split, s, n, first, &s, e->err));
    for (size_t i = 0; i < e->split.spans.n; i++) {
        const char *word = s + e->split.spans.data[i].begin;
        size_t len = e->split.spans.data[i].end - e->split.spans.data[i].begin;
        PARE_TRY(e->tok->cut_at_marks ? encode_marked(e, word, len) : encode_word(e, word, len));
    }
    return PARE_OK;
}

static bool word_before(const char *s, size_t at) {
    size_t back = 1;
    while (back < 4 && back < at && ((uint8_t)s[at - back] & 0xC0) == 0x80) back++;
    int32_t cp;
    return at && pare_utf8_next(s + at - back, back, &cp) == back && pare_is_word(cp);
}

static bool word_after(const char *s, size_t n, size_t at) {
    int32_t cp;
    if (at >= n) return false;
    pare_utf8_next(s + at, n - at, &cp);
    return pare_is_word(cp);
}

static size_t strip_left(const char *s, size_t from, size_t at) {
    while (at > from) {
        size_t back = 1;
        while (back < 4 && back < at - from && ((uint8_t)s[at - back] & 0xC0) == 0x80) back++;
        int32_t cp;
        if (pare_utf8_next(s + at - back, back, &cp) != back || !pare_is_white_space(cp)) break;
        at -= back;
    }
    return at;
}

static size_t strip_right(const char *s, size_t n, size_t at) {
    while (at < n) {
        int32_t cp;
        size_t k = pare_utf8_next(s + at, n - at, &cp);
        if (!pare_is_white_space(cp)) break;
        at += k;
    }
    return at;
}

static bool counts(const void *arg, int32_t i) {
    const encoder *e = arg;
    return e->parse_special || !(e->tok->vocab->added[i].flags & PARE_ADDED_SPECIAL);
}

/* What is done with the text between added tokens: `first` = it begins where the whole text does.
 */
typedef pare_status (*piece_fn)(encoder *e, const char *s, size_t n, bool first);

static pare_status cut_added(encoder *e, const pare_trie *trie, const char *s, size_t n, bool first,
                             piece_fn piece) {
    size_t done = 0;
    for (size_t i = 0; trie->n && i < n;) {
        if (!trie->root[(uint8_t)s[i]]) {
            i++;
            continue;
        }
        size_t len;
        int32_t k = pare_trie_match(trie, s + i, n - i, counts, e, &len);
        const pare_added *added = k < 0 ? NULL : &e->tok->vocab->added[k];
        if (!added || ((added->flags & PARE_ADDED_SINGLE_WORD) &&
                       (word_before(s, i) || word_after(s, n, i + len)))) {
            i += added ? len : 1;
            continue;
        }
        size_t begin = added->flags & PARE_ADDED_LSTRIP ? strip_left(s, done, i) : i;
        if (begin > done) PARE_TRY(piece(e, s + done, begin - done, first && done == 0));
        PARE_TRY(emit(e, &added->id, 1));
        i += len;
        if (added->flags & PARE_ADDED_RSTRIP) i = strip_right(s, n, i);
        done = i;
    }
    return done < n ? piece(e, s + done, n - done, first && done == 0) : PARE_OK;
}

static pare_status encode_raw(encoder *e, const char *s, size_t n, bool first) {
    PARE_TRY(pare_vocab_normalize(e->tok->vocab, e->norm, &s, &n, e->err));
    return cut_added(e, &e->tok->normalized, s, n, first, encode_plain);
}

pare_status pare_tokenizer_encode(const pare_tokenizer *tok, pare_ids *ids, const char *text,
                                  size_t len, unsigned flags, pare_error *err) {
    const pare_vocab *v = tok->vocab;
    if (len > PARE_TEXT_MAX)
        return pare_fail(err, PARE_ERR_ARG,
                         "text: found %zu bytes, expected at most %zu in one call", len,
                         PARE_TEXT_MAX);
    encoder e = {.tok = tok, .ids = ids, .err = err, .start = text};
    e.parse_special = flags & PARE_TOK_PARSE_SPECIAL;
    /* a hundred times what real expressions need on a slow machine */
    e.split.budget_s = 10 + 10e-6 * (double)len;
    if (tok->symbols_are_texts && len >= LONG_TEXT) pare_bpe_remember(&e.bpe);
    size_t before = ids->n;
    bool affixes = flags & PARE_TOK_ADD_SPECIAL;
    pare_status st = affixes ? emit(&e, v->prefix, v->n_prefix) : PARE_OK;
    if (st == PARE_OK) st = cut_added(&e, &tok->raw, text, len, true, encode_raw);
    if (st == PARE_OK && affixes) st = emit(&e, v->suffix, v->n_suffix);
    if (st != PARE_OK) ids->n = before;
    encoder_free(&e);
    return st;
}

/* --- loading and facts --- */

pare_status pare_tokenizer_load_as(pare_tokenizer **out, const char *path, const char *pre,
                                   pare_error *err) {
    *out = NULL;
    if (pare_path_is_folder(path)) return pare_tokenizer_load_json(out, path, err);
    pare_file file;
    char magic[4] = {0};
    PARE_TRY(pare_file_open(&file, path, err));
    pare_status st = file.size < 4 ? PARE_OK : pare_file_read_at(&file, magic, 4, 0, err);
    pare_file_close(&file);
    if (st != PARE_OK) return st;
    return memcmp(magic, "GGUF", 4) == 0 ? pare_tokenizer_load_gguf(out, path, pre, err)
                                         : pare_tokenizer_load_json(out, path, err);
}

pare_status pare_tokenizer_load(pare_tokenizer **out, const char *path, pare_error *err) {
    return pare_tokenizer_load_as(out, path, NULL, err);
}

/* Whether the folder has tokenizer.json, or vocab.json and merges.txt. */
static pare_status folder_has_tokenizer(bool *there, const char *folder, pare_error *err) {
    static const char *const names[] = {"tokenizer.json", "vocab.json", "merges.txt"};
    bool found[3];
    for (size_t i = 0; i < 3; i++) {
        char *path = pare_path_join(folder, names[i]);
        if (!path) return pare_fail(err, PARE_ERR_NOMEM, "%s: tokenizer: out of memory", folder);
        found[i] = pare_path_exists(path);
        pare_free(path);
    }
    *there = found[0] || (found[1] && found[2]);
    return PARE_OK;
}

pare_status pare_tokenizer_of_model(pare_tokenizer **out, const pare_gguf *g, const char *path,
                                    pare_error *err) {
    *out = NULL;
    if (g) {
        const char *kind = NULL;
        PARE_TRY(pare_gguf_str(g, "tokenizer.ggml.model", PARE_OPTIONAL, &kind, err));
        return !kind || strcmp(kind, "no_vocab") == 0 ? PARE_OK
                                                      : pare_tokenizer_from_gguf(out, g, NULL, err);
    }
    bool there = false;
    PARE_TRY(folder_has_tokenizer(&there, path, err));
    return there ? pare_tokenizer_load_json(out, path, err) : PARE_OK;
}

void pare_ids_free(pare_ids *ids) {
    pare_free(ids->data);
    *ids = (pare_ids){0};
}

uint32_t pare_ids_crc32(const int32_t *ids, size_t n) {
    uint32_t crc = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t x = (uint32_t)ids[i];
        uint8_t bytes[4] = {(uint8_t)x, (uint8_t)(x >> 8), (uint8_t)(x >> 16), (uint8_t)(x >> 24)};
        crc = pare_crc32(crc, bytes, 4);
    }
    return crc;
}

size_t pare_tokenizer_vocab_size(const pare_tokenizer *tok) { return tok->vocab->n; }
const char *pare_tokenizer_describe(const pare_tokenizer *tok) { return tok->description; }
const char *pare_tokenizer_warnings(const pare_tokenizer *tok) {
    return tok->vocab->warnings.n ? tok->vocab->warnings.data : "";
}
int32_t pare_tokenizer_bos(const pare_tokenizer *tok) { return tok->vocab->bos; }
int32_t pare_tokenizer_eos(const pare_tokenizer *tok) { return tok->vocab->eos; }

bool pare_tokenizer_adds_bos(const pare_tokenizer *tok) {
    const pare_vocab *v = tok->vocab;
    return v->n_prefix && v->bos >= 0 && v->prefix[0] == v->bos;
}

int32_t pare_tokenizer_added_bos(const pare_tokenizer *tok) {
    return pare_tokenizer_adds_bos(tok) ? tok->vocab->bos : -1;
}

static bool in_range(const pare_tokenizer *tok, int32_t id) {
    return id >= 0 && (size_t)id < tok->vocab->n;
}

bool pare_tokenizer_is_end(const pare_tokenizer *tok, int32_t id) {
    return in_range(tok, id) && tok->end[id];
}

bool pare_tokenizer_is_special(const pare_tokenizer *tok, int32_t id) {
    return in_range(tok, id) && tok->special[id];
}

const char *pare_tokenizer_token(const pare_tokenizer *tok, int32_t id) {
    return in_range(tok, id) ? pare_vocab_text(tok->vocab, id) : NULL;
}

int32_t pare_tokenizer_find(const pare_tokenizer *tok, const char *token) {
    return pare_tokenizer_lookup(tok, token, strlen(token));
}

const char *pare_tokenizer_chat_template(const pare_tokenizer *tok) {
    return tok->vocab->chat_template;
}
