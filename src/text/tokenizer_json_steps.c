/* tokenizer.json: normalizer, pre_tokenizer, decoder, post_processor. */
#include "text/pre_names.h"
#include "text/tokenizer_json.h"

#define DEPTH_MAX 16 /* of sequences in sequences */

static const char mark[] = "\xE2\x96\x81"; /* U+2581 */

/* --- reading one step --- */

static pare_status bad_step(const pare_vocab *v, const char *where, const char *type,
                            const char *expected, pare_error *err) {
    return pare_fail(err, PARE_ERR_INPUT, "%s: %s: %s: expected %s", v->source, where, type,
                     expected);
}

static pare_status unknown_step(const pare_vocab *v, const char *where, const char *type,
                                const char *known, pare_error *err) {
    return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: %s: found type \"%.60s\", expected one of %s",
                     v->source, where, type, known);
}

static pare_status step_type(const pare_vocab *v, const char *where, const json_t *step,
                             const char **type, pare_error *err) {
    *type = json_string_value(json_object_get(step, "type"));
    return *type ? PARE_OK : bad_step(v, where, "step", "an object with a \"type\"", err);
}

bool pare_json_flag(const json_t *object, const char *key, bool fallback, bool *out) {
    const json_t *value = json_object_get(object, key);
    *out = json_is_boolean(value) ? json_is_true(value) : fallback;
    return !value || json_is_null(value) || json_is_boolean(value);
}

typedef struct json_text {
    const char *s;
    size_t n;
} json_text;

static bool get_text(const json_t *object, const char *key, json_text *out) {
    const json_t *value = json_object_get(object, key);
    *out = (json_text){json_string_value(value), json_string_length(value)};
    return out->s != NULL;
}

/* {"String": s} or {"Regex": s}. */
static bool get_pattern(const json_t *step, json_text *out, bool *regex) {
    const json_t *pattern = json_object_get(step, "pattern");
    *regex = get_text(pattern, "Regex", out);
    return *regex || get_text(pattern, "String", out);
}

typedef pare_status (*step_fn)(pare_vocab *v, const json_t *step, int depth, pare_error *err);

/* Runs fn on the items of a sequence. */
static pare_status each_step(pare_vocab *v, const json_t *step, const char *where, const char *key,
                             step_fn fn, int depth, pare_error *err) {
    const json_t *items = json_object_get(step, key);
    if (!json_is_array(items) || depth >= DEPTH_MAX)
        return bad_step(v, where, "Sequence", "a list of steps, not nested deeply", err);
    for (size_t i = 0; i < json_array_size(items); i++)
        PARE_TRY(fn(v, json_array_get(items, i), depth + 1, err));
    return PARE_OK;
}

/* --- normalizer --- */

static pare_status normalizer_step(pare_vocab *v, const json_t *step, int depth, pare_error *err) {
    static const char where[] = "normalizer";
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    const char *type;
    json_text from, to;
    bool regex;
    PARE_TRY(step_type(v, where, step, &type, err));
    for (int form = PARE_NFC; form <= PARE_NFKD; form++)
        if (strcmp(type, forms[form]) == 0)
            return pare_vocab_add_norm(v, PARE_NORM_FORM, (pare_normal_form)form, NULL, 0, NULL, 0,
                                       err);
    if (strcmp(type, "Sequence") == 0)
        return each_step(v, step, where, "normalizers", normalizer_step, depth, err);
    if (strcmp(type, "Prepend") == 0) {
        if (!get_text(step, "prepend", &to))
            return bad_step(v, where, type, "a string \"prepend\"", err);
        return pare_vocab_add_norm(v, PARE_NORM_PREPEND, PARE_NFC, NULL, 0, to.s, to.n, err);
    }
    if (strcmp(type, "Replace") == 0) {
        if (!get_pattern(step, &from, &regex) || regex || !get_text(step, "content", &to))
            return bad_step(v, where, type, "a pattern {\"String\": ...} and a string \"content\"",
                            err);
        return pare_vocab_add_norm(v, PARE_NORM_REPLACE, PARE_NFC, from.s, from.n, to.s, to.n, err);
    }
    return unknown_step(v, where, type, "Sequence, NFC, NFD, NFKC, NFKD, Prepend, Replace", err);
}

pare_status pare_json_normalizer(pare_vocab *v, const json_t *value, pare_error *err) {
    return !value || json_is_null(value) ? PARE_OK : normalizer_step(v, value, 0, err);
}

/* --- pre_tokenizer --- */

static pare_status add_split(pare_vocab *v, const char *s, size_t n, bool regex,
                             pare_split_behaviour behaviour, bool invert, pare_error *err) {
    pare_pre_step step = {.kind = regex ? PARE_PRE_REGEX : PARE_PRE_LITERAL,
                          .behaviour = behaviour,
                          .invert = invert,
                          .text = (char *)s,
                          .len = n};
    return pare_vocab_add_pre(v, step, err);
}

static bool get_behaviour(const json_t *step, pare_split_behaviour *out) {
    static const char *const names[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious",
                                        "MergedWithNext"};
    const char *name = json_string_value(json_object_get(step, "behavior"));
    for (int i = PARE_SPLIT_ISOLATED; name && i <= PARE_SPLIT_WITH_NEXT; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (pare_split_behaviour)i;
            return true;
        }
    return false;
}

static pare_status byte_level(pare_vocab *v, const json_t *step, pare_error *err) {
    bool prefix, regex;
    if (!pare_json_flag(step, "add_prefix_space", true, &prefix) ||
        !pare_json_flag(step, "use_regex", true, &regex))
        return bad_step(v, "pre_tokenizer", "ByteLevel", "true or false as flags", err);
    v->byte_level = true;
    if (prefix)
        PARE_TRY(pare_vocab_add_pre(v, (pare_pre_step){.kind = PARE_PRE_SPACE_PREFIX}, err));
    if (!regex) return PARE_OK;
    return add_split(v, pare_regex_gpt2, strlen(pare_regex_gpt2), true, PARE_SPLIT_ISOLATED, false,
                     err);
}

static pare_status split(pare_vocab *v, const json_t *step, pare_error *err) {
    json_text pattern;
    pare_split_behaviour behaviour;
    bool regex, invert;
    if (!get_pattern(step, &pattern, &regex) || !get_behaviour(step, &behaviour) ||
        !pare_json_flag(step, "invert", false, &invert))
        return bad_step(
            v, "pre_tokenizer", "Split",
            "a pattern {\"Regex\" or \"String\": ...}, a known \"behavior\", a flag \"invert\"",
            err);
    return add_split(v, pattern.s, pattern.n, regex, behaviour, invert, err);
}

static pare_status metaspace(pare_vocab *v, const json_t *step, pare_error *err) {
    json_text replacement;
    bool cut, legacy_prefix;
    const char *scheme = json_string_value(json_object_get(step, "prepend_scheme"));
    if (!get_text(step, "replacement", &replacement) || replacement.n == 0 ||
        !pare_json_flag(step, "split", true, &cut) ||
        !pare_json_flag(step, "add_prefix_space", true, &legacy_prefix))
        return bad_step(v, "pre_tokenizer", "Metaspace", "a \"replacement\" and flags", err);
    pare_prepend prepend = legacy_prefix ? PARE_PREPEND_ALWAYS : PARE_PREPEND_NEVER;
    if (scheme && strcmp(scheme, "first") == 0)
        prepend = PARE_PREPEND_FIRST;
    else if (scheme && strcmp(scheme, "never") == 0)
        prepend = PARE_PREPEND_NEVER;
    else if (scheme && strcmp(scheme, "always") != 0)
        return bad_step(v, "pre_tokenizer", "Metaspace", "prepend_scheme first, never or always",
                        err);
    pare_pre_step rewrite = {.kind = PARE_PRE_METASPACE,
                             .prepend = prepend,
                             .text = (char *)replacement.s,
                             .len = replacement.n};
    PARE_TRY(pare_vocab_add_pre(v, rewrite, err));
    if (!cut) return PARE_OK;
    return add_split(v, replacement.s, replacement.n, false, PARE_SPLIT_WITH_NEXT, false, err);
}

/* Kinds that are one expression. */
static pare_status named_split(pare_vocab *v, const json_t *step, const char *type,
                               pare_error *err) {
    static const char punctuation[] = "[\\p{P}!-/:-@\\[-`{-~]", words[] = "\\w+|[^\\w\\s]+";
    pare_split_behaviour behaviour = PARE_SPLIT_ISOLATED;
    bool flag;
    if (strcmp(type, "Digits") == 0) {
        if (!pare_json_flag(step, "individual_digits", false, &flag))
            return bad_step(v, "pre_tokenizer", type, "true or false as individual_digits", err);
        return add_split(v, "\\p{N}", 5, true, flag ? PARE_SPLIT_ISOLATED : PARE_SPLIT_CONTIGUOUS,
                         false, err);
    }
    if (strcmp(type, "Punctuation") == 0) {
        get_behaviour(step, &behaviour);
        return add_split(v, punctuation, strlen(punctuation), true, behaviour, false, err);
    }
    if (strcmp(type, "Whitespace") == 0)
        return add_split(v, words, strlen(words), true, PARE_SPLIT_REMOVED, true, err);
    return add_split(v, "\\s", 2, true, PARE_SPLIT_REMOVED, false, err); /* WhitespaceSplit */
}

static pare_status pre_tokenizer_step(pare_vocab *v, const json_t *step, int depth,
                                      pare_error *err) {
    static const char where[] = "pre_tokenizer";
    const char *type;
    PARE_TRY(step_type(v, where, step, &type, err));
    if (strcmp(type, "Sequence") == 0)
        return each_step(v, step, where, "pretokenizers", pre_tokenizer_step, depth, err);
    if (v->byte_level) /* it would see the byte alphabet, not the text */
        return pare_fail(err, PARE_ERR_UNSUPPORTED,
                         "%s: %s: found %.60s behind ByteLevel, expected that last", v->source,
                         where, type);
    if (strcmp(type, "ByteLevel") == 0) return byte_level(v, step, err);
    if (strcmp(type, "Split") == 0) return split(v, step, err);
    if (strcmp(type, "Metaspace") == 0) return metaspace(v, step, err);
    if (strcmp(type, "Digits") == 0 || strcmp(type, "Punctuation") == 0 ||
        strcmp(type, "Whitespace") == 0 || strcmp(type, "WhitespaceSplit") == 0)
        return named_split(v, step, type, err);
    return unknown_step(v, where, type,
                        "Sequence, ByteLevel, Split, Metaspace, Digits, Punctuation, Whitespace, "
                        "WhitespaceSplit",
                        err);
}

pare_status pare_json_pre_tokenizer(pare_vocab *v, const json_t *value, pare_error *err) {
    return !value || json_is_null(value) ? PARE_OK : pre_tokenizer_step(v, value, 0, err);
}

/* --- decoder --- */

static pare_status decode_strip(pare_vocab *v, const json_t *step, pare_error *err) {
    json_text content;
    const json_t *start = json_object_get(step, "start"), *stop = json_object_get(step, "stop");
    if (!get_text(step, "content", &content) || content.n != 1 || content.s[0] != ' ' ||
        !json_is_integer(start) || json_integer_value(start) < 0 ||
        json_integer_value(start) > 1000 || (stop && json_integer_value(stop) != 0))
        return bad_step(v, "decoder", "Strip", "content \" \", start 0 to 1000, stop 0", err);
    v->decode_strip += (size_t)json_integer_value(start);
    return PARE_OK;
}

static pare_status decode_metaspace(pare_vocab *v, const json_t *step, pare_error *err) {
    json_text replacement;
    const char *scheme = json_string_value(json_object_get(step, "prepend_scheme"));
    bool prefix;
    if (!get_text(step, "replacement", &replacement) ||
        !pare_json_flag(step, "add_prefix_space", true, &prefix))
        return bad_step(v, "decoder", "Metaspace", "a string \"replacement\"", err);
    if (scheme) prefix = strcmp(scheme, "never") != 0;
    v->decode_strip += prefix;
    return pare_vocab_add_decode(v, replacement.s, replacement.n, " ", 1, err);
}

static pare_status decoder_step(pare_vocab *v, const json_t *step, int depth, pare_error *err) {
    static const char where[] = "decoder";
    const char *type;
    json_text from, to;
    bool regex;
    PARE_TRY(step_type(v, where, step, &type, err));
    if (strcmp(type, "Sequence") == 0)
        return each_step(v, step, where, "decoders", decoder_step, depth, err);
    if (strcmp(type, "ByteLevel") == 0 || strcmp(type, "ByteFallback") == 0 ||
        strcmp(type, "Fuse") == 0)
        return PARE_OK; /* what a token is says how it is decoded */
    if (strcmp(type, "Replace") == 0) {
        if (!get_pattern(step, &from, &regex) || regex || !get_text(step, "content", &to))
            return bad_step(v, where, type, "a pattern {\"String\": ...} and a string \"content\"",
                            err);
        return pare_vocab_add_decode(v, from.s, from.n, to.s, to.n, err);
    }
    if (strcmp(type, "Strip") == 0) return decode_strip(v, step, err);
    if (strcmp(type, "Metaspace") == 0) return decode_metaspace(v, step, err);
    return unknown_step(v, where, type,
                        "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace", err);
}

pare_status pare_json_decoder(pare_vocab *v, const json_t *value, pare_error *err) {
    if (value && !json_is_null(value)) return decoder_step(v, value, 0, err);
    /* without one, marks still stand for spaces */
    return v->byte_level ? PARE_OK : pare_vocab_add_decode(v, mark, 3, " ", 1, err);
}

/* --- post_processor --- */

static pare_status add_affix(pare_vocab *v, bool before, const json_t *id, pare_error *err) {
    if (!json_is_integer(id) || json_integer_value(id) < 0 ||
        (size_t)json_integer_value(id) >= v->n)
        return pare_fail(
            err, PARE_ERR_INPUT,
            "%s: post_processor: found id %lld, expected one of the vocabulary's, 0 to %zu",
            v->source, (long long)json_integer_value(id), v->n - 1);
    return pare_vocab_add_affix(v, before, (int32_t)json_integer_value(id), err);
}

/* One item of "single": the text's place, or a special token that special_tokens explains. */
static pare_status template_item(pare_vocab *v, const json_t *step, const json_t *item,
                                 bool *before, pare_error *err) {
    static const char where[] = "post_processor", type[] = "TemplateProcessing";
    if (json_object_get(item, "Sequence")) {
        *before = false;
        return PARE_OK;
    }
    const char *name =
        json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
    if (!name)
        return bad_step(v, where, type, "items Sequence or SpecialToken with an \"id\"", err);
    const json_t *token = json_object_get(json_object_get(step, "special_tokens"), name);
    const json_t *ids = json_object_get(token, "ids");
    if (!json_is_array(ids))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: %s: found the token \"%.60s\", expected only names in special_tokens",
                         v->source, where, name);
    for (size_t i = 0; i < json_array_size(ids); i++)
        PARE_TRY(add_affix(v, *before, json_array_get(ids, i), err));
    return PARE_OK;
}

static pare_status template_step(pare_vocab *v, const json_t *step, pare_error *err) {
    const json_t *single = json_object_get(step, "single");
    bool before = true;
    if (!json_is_array(single))
        return bad_step(v, "post_processor", "TemplateProcessing", "a list \"single\"", err);
    for (size_t i = 0; i < json_array_size(single); i++)
        PARE_TRY(template_item(v, step, json_array_get(single, i), &before, err));
    if (before)
        return bad_step(v, "post_processor", "TemplateProcessing", "a Sequence in \"single\"", err);
    return PARE_OK;
}

static pare_status post_processor_step(pare_vocab *v, const json_t *step, int depth,
                                       pare_error *err) {
    static const char where[] = "post_processor";
    const char *type;
    PARE_TRY(step_type(v, where, step, &type, err));
    if (strcmp(type, "Sequence") == 0)
        return each_step(v, step, where, "processors", post_processor_step, depth, err);
    if (strcmp(type, "ByteLevel") == 0) return PARE_OK; /* offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) return template_step(v, step, err);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        PARE_TRY(add_affix(v, true, json_array_get(json_object_get(step, "cls"), 1), err));
        return add_affix(v, false, json_array_get(json_object_get(step, "sep"), 1), err);
    }
    return unknown_step(
        v, where, type,
        "Sequence, ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing", err);
}

pare_status pare_json_post_processor(pare_vocab *v, const json_t *value, pare_error *err) {
    return !value || json_is_null(value) ? PARE_OK : post_processor_step(v, value, 0, err);
}
