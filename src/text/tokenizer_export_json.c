/* A GGUF vocabulary as tokenizer.json and tokenizer_config.json. */
#include "text/pre_names.h"
#include "text/tokenizer_export.h"
#include "text/tokenizer_tables.h"

#include "base/os.h"
#include "io/json.h"

static const char mark[] = "\xE2\x96\x81"; /* U+2581 */

/* Everything is handed over as it is made: json_*_new functions accept NULL and then fail, so that
 * one check at the end of each part finds any lack of memory. */
static bool put(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0;
}

static bool push(json_t *array, json_t *value) { return json_array_append_new(array, value) == 0; }

static json_t *token_json(const pare_vocab *v, int32_t id) {
    return id < 0 ? json_null() : json_stringn(pare_vocab_text(v, id), v->tokens[id].len);
}

/* --- model --- */

/* Tokens without the filling at the end. */
static size_t used_tokens(const pare_vocab *v) {
    size_t n = v->n;
    while (n > 1 && v->tokens[n - 1].type == PARE_TOKEN_UNUSED &&
           strncmp(pare_vocab_text(v, (int32_t)n - 1), "[PAD", 4) == 0)
        n--;
    return n;
}

static json_t *vocab_json(const pare_vocab *v, size_t n) {
    json_t *vocab = json_object();
    bool ok = vocab != NULL;
    for (size_t i = 0; i < n && ok; i++)
        ok = put(vocab, pare_vocab_text(v, (int32_t)i), json_integer((json_int_t)i));
    if (ok) return vocab;
    json_decref(vocab);
    return NULL;
}

/* "a b", which every reader knows; where a token has a space in it, ["a", "b"]. */
static json_t *merge_json(const pare_vocab *v, pare_merge m, bool pairs) {
    const pare_token *a = &v->tokens[m.left], *b = &v->tokens[m.right];
    if (pairs) return json_pack("[oo]", token_json(v, m.left), token_json(v, m.right));
    return json_sprintf("%.*s %.*s", (int)a->len, pare_vocab_text(v, m.left), (int)b->len,
                        pare_vocab_text(v, m.right));
}

static bool has_space(const pare_vocab *v, int32_t id) {
    return memchr(pare_vocab_text(v, id), ' ', v->tokens[id].len) != NULL;
}

static json_t *merges_json(const pare_vocab *v, const pare_merge *merges, size_t n) {
    bool pairs = false;
    json_t *list = json_array();
    for (size_t i = 0; i < n && !pairs; i++)
        pairs = has_space(v, merges[i].left) || has_space(v, merges[i].right);
    bool ok = list != NULL;
    for (size_t i = 0; i < n && ok; i++) ok = push(list, merge_json(v, merges[i], pairs));
    if (ok) return list;
    json_decref(list);
    return NULL;
}

/* Merges of characters that are no token cannot be written: they are few and rare (a character that
 * a vocabulary has only inside of longer tokens). */
static void drop_virtual(const pare_vocab *v, pare_merge *merges, size_t *n) {
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++)
        if ((size_t)merges[i].left < v->n && (size_t)merges[i].right < v->n)
            merges[kept++] = merges[i];
    *n = kept;
}

static json_t *model_json(const pare_tokenizer *tok, pare_error *err) {
    const pare_vocab *v = tok->vocab;
    pare_merge *derived = NULL, *merges = v->merges;
    size_t n = v->n_merges;
    if (v->by_score) {
        if (pare_score_merges(&derived, &n, tok, err) != PARE_OK) return NULL;
        drop_virtual(v, derived, &n);
        merges = derived;
    }
    json_t *model = json_object();
    put(model, "type", json_string("BPE"));
    put(model, "dropout", json_null());
    put(model, "unk_token", token_json(v, v->unk));
    put(model, "continuing_subword_prefix", json_null());
    put(model, "end_of_word_suffix", json_null());
    put(model, "fuse_unk", json_boolean(v->by_score));
    put(model, "byte_fallback", json_boolean(v->byte_fallback));
    put(model, "ignore_merges", json_boolean(v->ignore_merges));
    if (!put(model, "vocab", vocab_json(v, used_tokens(v))) ||
        !put(model, "merges", merges_json(v, merges, n))) {
        json_decref(model);
        model = NULL;
    }
    pare_free(derived);
    return model;
}

/* --- the steps round it --- */

static json_t *added_json(const pare_vocab *v) {
    json_t *list = json_array();
    bool ok = list != NULL;
    for (size_t i = 0; i < v->n_added && ok; i++) {
        const pare_added *a = &v->added[i];
        ok = push(list,
                  json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", a->id, "content",
                            token_json(v, a->id), "single_word", a->flags & PARE_ADDED_SINGLE_WORD,
                            "lstrip", a->flags & PARE_ADDED_LSTRIP, "rstrip",
                            a->flags & PARE_ADDED_RSTRIP, "normalized",
                            a->flags & PARE_ADDED_NORMALIZED, "special",
                            a->flags & PARE_ADDED_SPECIAL));
    }
    if (ok) return list;
    json_decref(list);
    return NULL;
}

static json_t *replace_json(const char *from, const char *to) {
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", from, "content",
                     to);
}

static json_t *normalizer_json(const pare_vocab *v) {
    if (v->byte_level) return v->n_norm ? json_pack("{s:s}", "type", "NFC") : json_null();
    json_t *replace = replace_json(" ", mark);
    if (!v->space_prefix) return replace;
    return json_pack("{s:s, s:[{s:s, s:s}, o]}", "type", "Sequence", "normalizers", "type",
                     "Prepend", "prepend", mark, replace);
}

static json_t *byte_level_json(bool regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", regex);
}

static json_t *pre_step_json(const pare_pre_step *step) {
    if (strcmp(step->text, "\\p{N}") == 0)
        return json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1);
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", step->text,
                     "behavior", "Isolated", "invert", 0);
}

static json_t *pre_tokenizer_json(const pare_vocab *v) {
    if (!v->byte_level) return json_null();
    json_t *steps = json_array();
    size_t n = v->n_pre;
    bool gpt2 = n && strcmp(v->pre_steps[n - 1].text, pare_regex_gpt2) == 0, ok = steps != NULL;
    for (size_t i = 0; i < n - gpt2 && ok; i++) ok = push(steps, pre_step_json(&v->pre_steps[i]));
    ok = ok && push(steps, byte_level_json(gpt2));
    if (ok && json_array_size(steps) > 1)
        return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps);
    json_t *only = ok ? json_incref(json_array_get(steps, 0)) : NULL;
    json_decref(steps);
    return only;
}

static bool add_special(json_t *single, json_t *tokens, const pare_vocab *v, int32_t id) {
    json_t *name = token_json(v, id);
    bool ok = name &&
              push(single, json_pack("{s:{s:O, s:i}}", "SpecialToken", "id", name, "type_id", 0)) &&
              put(tokens, pare_vocab_text(v, id),
                  json_pack("{s:O, s:[i], s:[O]}", "id", name, "ids", id, "tokens", name));
    json_decref(name);
    return ok;
}

static json_t *template_json(const pare_vocab *v) {
    json_t *single = json_array(), *tokens = json_object();
    bool ok = single && tokens;
    for (size_t i = 0; i < v->n_prefix && ok; i++)
        ok = add_special(single, tokens, v, v->prefix[i]);
    ok = ok && push(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    for (size_t i = 0; i < v->n_suffix && ok; i++)
        ok = add_special(single, tokens, v, v->suffix[i]);
    if (ok) /* a pair of texts: one after the other, which no model here uses */
        return json_pack("{s:s, s:o, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:o}", "type",
                         "TemplateProcessing", "single", single, "pair", "Sequence", "id", "A",
                         "type_id", 0, "Sequence", "id", "B", "type_id", 1, "special_tokens",
                         tokens);
    json_decref(single);
    json_decref(tokens);
    return NULL;
}

static json_t *post_processor_json(const pare_vocab *v) {
    if (v->n_prefix || v->n_suffix) return template_json(v);
    return v->byte_level ? byte_level_json(true) : json_null();
}

static json_t *decoder_json(const pare_vocab *v) {
    if (v->byte_level) return byte_level_json(true);
    json_t *steps = json_pack("[o, {s:s}, {s:s}]", replace_json(mark, " "), "type", "ByteFallback",
                              "type", "Fuse");
    if (steps && v->decode_strip)
        push(steps, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start",
                              (int)v->decode_strip, "stop", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", steps);
}

/* --- the two files --- */

static json_t *tokenizer_json(const pare_tokenizer *tok, pare_error *err) {
    const pare_vocab *v = tok->vocab;
    json_t *j = json_object();
    bool ok = put(j, "version", json_string("1.0")) && put(j, "truncation", json_null()) &&
              put(j, "padding", json_null()) && put(j, "added_tokens", added_json(v)) &&
              put(j, "normalizer", normalizer_json(v)) &&
              put(j, "pre_tokenizer", pre_tokenizer_json(v)) &&
              put(j, "post_processor", post_processor_json(v)) &&
              put(j, "decoder", decoder_json(v)) && put(j, "model", model_json(tok, err));
    if (ok) return j;
    json_decref(j);
    return NULL;
}

static json_t *config_json(const pare_vocab *v) {
    json_t *j = json_object();
    bool ok =
        put(j, "add_bos_token", json_boolean(v->n_prefix > 0)) &&
        put(j, "add_eos_token", json_boolean(v->n_suffix > 0)) &&
        put(j, "bos_token", token_json(v, v->bos)) && put(j, "eos_token", token_json(v, v->eos)) &&
        put(j, "pad_token", token_json(v, v->pad)) && put(j, "unk_token", token_json(v, v->unk)) &&
        put(j, "clean_up_tokenization_spaces", json_false()) &&
        put(j, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    if (ok && v->chat_template) ok = put(j, "chat_template", json_string(v->chat_template));
    if (ok) return j;
    json_decref(j);
    return NULL;
}

/* folder NULL: only the text is made. Takes value over; NULL: out of memory. */
static pare_status write_file(const pare_vocab *v, const char *folder, const char *name,
                              json_t *value, pare_error *err) {
    char *path = folder ? pare_path_join(folder, name) : NULL,
         *text = folder ? NULL : json_dumps(value, JSON_INDENT(2));
    pare_status st = PARE_OK;
    if (!value || (!path && !text))
        st = pare_fail(err, PARE_ERR_NOMEM, "%s: %s: out of memory", v->source, name);
    else if (folder)
        st = pare_json_write(path, value, err);
    pare_free(path);
    free(text); /* jansson's own */
    json_decref(value);
    return st;
}

pare_status pare_tokenizer_write_json(const pare_tokenizer *tok, const char *folder,
                                      pare_error *err) {
    const pare_vocab *v = tok->vocab;
    if (!v->from_gguf)
        return pare_fail(err, PARE_ERR_ARG,
                         "%s: expected a tokenizer of a GGUF file; copy this one", v->source);
    for (size_t i = 0; i < v->n; i++)
        if (memchr(pare_vocab_text(v, (int32_t)i), 0, v->tokens[i].len))
            return pare_fail(err, PARE_ERR_UNSUPPORTED,
                             "%s: token %zu: found a NUL, which JSON keys cannot hold", v->source,
                             i);
    PARE_TRY(write_file(v, folder, "tokenizer.json", tokenizer_json(tok, err), err));
    return write_file(v, folder, "tokenizer_config.json", config_json(v), err);
}
