/* tokenizer.json of a Hugging Face folder, with what its neighbours say about special tokens:
 *
 *     added_tokens -> normalizer -> pre_tokenizer -> model (BPE) -> post_processor;  decoder
 *
 * tokenizer_config.json names bos, eos, pad and holds the chat template (or chat_template.jinja
 * does); special_tokens_map.json, generation_config.json and config.json are asked where it does
 * not. Whether a BOS is added is the post_processor's word alone. */
#include "text/tokenizer_json.h"

#include "base/os.h"

#define TOKENIZER_MAX ((size_t)256 << 20)
#define TEMPLATE_MAX ((size_t)10 << 20)

static pare_status no_memory(const pare_vocab *v, pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "%s: tokenizer: out of memory", v->source);
}

/* --- tokens: an object text -> id, and the added ones --- */

typedef struct id_table {
    struct entry {
        pare_span text;
        const json_t *added; /* or NULL */
        bool outside;        /* not in vocab */
    } * at;
    size_t n; /* ids below it; no file with n distinct ids and no gap has more */
} id_table;

static pare_status set_id(const pare_vocab *v, id_table *table, const json_t *id, pare_span text,
                          const json_t *added, pare_error *err) {
    json_int_t value = json_integer_value(id);
    if (!json_is_integer(id) || value < 0 || (uint64_t)value >= table->n)
        return pare_fail(
            err, PARE_ERR_INPUT, "%s: token \"%.*s\": found id %lld, expected 0 to %zu, each once",
            v->source, pare_clip(text.s, text.n, 60), text.s, (long long)value, table->n - 1);
    if (text.n == 0)
        return pare_fail(err, PARE_ERR_INPUT, "%s: token %lld: found an empty text", v->source,
                         (long long)value);
    struct entry *e = &table->at[value];
    bool same = e->text.s && e->text.n == text.n && memcmp(e->text.s, text.s, text.n) == 0;
    if (e->text.s && !(same && added && !e->added))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: id %lld: found \"%.*s\" and \"%.*s\", expected one", v->source,
                         (long long)value, pare_clip(e->text.s, e->text.n, 40), e->text.s,
                         pare_clip(text.s, text.n, 40), text.s);
    *e = (struct entry){text, added, added && !same};
    return PARE_OK;
}

static pare_status collect(const pare_vocab *v, id_table *table, const json_t *vocab,
                           const json_t *added, pare_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value)
        PARE_TRY(set_id(v, table, value, (pare_span){key, strlen(key)}, NULL, err));
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *item = json_array_get(added, i), *content = json_object_get(item, "content");
        if (!json_is_string(content))
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: added_tokens.%zu: expected a string \"content\"", v->source, i);
        pare_span text = {json_string_value(content), json_string_length(content)};
        /* a text of the vocabulary keeps its id: another one would be two ids for one token */
        const json_t *old = json_object_get(vocab, text.s);
        const json_t *id = json_object_get(item, "id");
        if (old && strlen(text.s) == text.n && json_integer_value(old) != json_integer_value(id))
            return pare_fail(
                err, PARE_ERR_INPUT,
                "%s: added_tokens.%zu: found id %lld for \"%.*s\", expected %lld as in vocab",
                v->source, i, (long long)json_integer_value(id), pare_clip(text.s, text.n, 60),
                text.s, (long long)json_integer_value(old));
        PARE_TRY(set_id(v, table, id, text, item, err));
    }
    return PARE_OK;
}

static pare_status add_entry(pare_vocab *v, const struct entry *e, const char *unk,
                             pare_error *err) {
    bool special = false;
    pare_token_type type = PARE_TOKEN_NORMAL;
    if (e->added && !pare_json_flag(e->added, "special", false, &special))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: added token \"%.*s\": expected flags true or false", v->source,
                         pare_clip(e->text.s, e->text.n, 60), e->text.s);
    if (e->added) type = special ? PARE_TOKEN_CONTROL : PARE_TOKEN_USER_DEFINED;
    if (unk && strlen(unk) == e->text.n && memcmp(unk, e->text.s, e->text.n) == 0) {
        v->unk = (int32_t)v->n;
        type = PARE_TOKEN_UNKNOWN;
    } else if (!e->added && v->byte_fallback && pare_byte_token(e->text.s, e->text.n) >= 0) {
        type = PARE_TOKEN_BYTE;
    }
    PARE_TRY(pare_vocab_add(v, e->text.s, e->text.n, 0, type, err));
    v->tokens[v->n - 1].outside = e->outside;
    return PARE_OK;
}

static pare_status add_added(pare_vocab *v, int32_t id, const json_t *added, pare_error *err) {
    static const struct {
        const char *key;
        unsigned flag;
    } flags[] = {{"lstrip", PARE_ADDED_LSTRIP},
                 {"rstrip", PARE_ADDED_RSTRIP},
                 {"single_word", PARE_ADDED_SINGLE_WORD},
                 {"normalized", PARE_ADDED_NORMALIZED},
                 {"special", PARE_ADDED_SPECIAL}};
    unsigned all = 0;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool on;
        if (!pare_json_flag(added, flags[i].key, false, &on))
            return pare_fail(err, PARE_ERR_INPUT, "%s: added token %d: %s: expected true or false",
                             v->source, id, flags[i].key);
        if (on) all |= flags[i].flag;
    }
    return pare_vocab_add_added(v, id, all, err);
}

static pare_status add_tokens(pare_vocab *v, const pare_json *j, const char *unk, pare_error *err) {
    const json_t *vocab = pare_json_get(j, "model.vocab");
    json_t *added;
    PARE_TRY(pare_json_array(j, "added_tokens", PARE_OPTIONAL, &added, err));
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: model.vocab: expected an object that is not empty", v->source);
    id_table table = {NULL, json_object_size(vocab) + json_array_size(added)};
    table.at = pare_calloc(table.n, sizeof *table.at);
    if (!table.at) return no_memory(v, err);
    pare_status st = collect(v, &table, vocab, added, err);
    size_t n = table.n;
    while (n && !table.at[n - 1].text.s) n--; /* added tokens that are in vocab too */
    for (size_t i = 0; i < n && st == PARE_OK; i++) {
        if (!table.at[i].text.s)
            st = pare_fail(err, PARE_ERR_INPUT,
                           "%s: model.vocab: found no token with id %zu, expected all up to %zu",
                           v->source, i, n - 1);
        else
            st = add_entry(v, &table.at[i], unk, err);
        if (st == PARE_OK && table.at[i].added)
            st = add_added(v, (int32_t)i, table.at[i].added, err);
    }
    pare_free(table.at);
    return st;
}

/* --- merges: "a b" or ["a", "b"] --- */

static pare_span token_at(const void *owner, size_t i) {
    const pare_vocab *v = owner;
    return (pare_span){v->text.data + v->tokens[i].offset, v->tokens[i].len};
}

static bool merge_parts(const json_t *item, pare_span part[2]) {
    if (json_is_string(item)) {
        pare_span s = {json_string_value(item), json_string_length(item)};
        const char *space = memchr(s.s, ' ', s.n);
        if (!space) return false;
        part[0] = (pare_span){s.s, (size_t)(space - s.s)};
        part[1] = (pare_span){space + 1, s.n - part[0].n - 1};
        if (memchr(part[1].s, ' ', part[1].n)) return false;
    } else {
        const json_t *a = json_array_get(item, 0), *b = json_array_get(item, 1);
        if (json_array_size(item) != 2 || !json_is_string(a) || !json_is_string(b)) return false;
        part[0] = (pare_span){json_string_value(a), json_string_length(a)};
        part[1] = (pare_span){json_string_value(b), json_string_length(b)};
    }
    return part[0].n && part[1].n;
}

static pare_status add_merge(pare_vocab *v, const pare_names *names, size_t rank,
                             const json_t *item, pare_text_buffer *joined, pare_error *err) {
    pare_span part[2];
    if (!merge_parts(item, part))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: model.merges.%zu: expected \"a b\" or [\"a\", \"b\"], both not empty",
                         v->source, rank);
    joined->n = 0;
    if (!pare_text_buffer_add(joined, part[0].s, part[0].n) ||
        !pare_text_buffer_add(joined, part[1].s, part[1].n))
        return pare_text_buffer_fail(err);
    size_t left = pare_names_find(names, v, token_at, part[0].s, part[0].n);
    size_t right = pare_names_find(names, v, token_at, part[1].s, part[1].n);
    size_t result = pare_names_find(names, v, token_at, joined->data, joined->n);
    if (left != SIZE_MAX && right != SIZE_MAX && result != SIZE_MAX)
        return pare_vocab_add_merge(v, (pare_merge){(int32_t)left, (int32_t)right, (int32_t)result},
                                    err);
    return pare_fail(
        err, PARE_ERR_INPUT,
        "%s: model.merges.%zu: found \"%.*s\" + \"%.*s\", expected tokens whose union is one",
        v->source, rank, pare_clip(part[0].s, part[0].n, 40), part[0].s,
        pare_clip(part[1].s, part[1].n, 40), part[1].s);
}

static pare_status add_merges(pare_vocab *v, const pare_json *j, pare_error *err) {
    json_t *merges;
    PARE_TRY(pare_json_array(j, "model.merges", PARE_REQUIRED, &merges, err));
    pare_names names = {0};
    pare_text_buffer joined = {0};
    size_t twin;
    if (!pare_names_build(&names, v, token_at, v->n, &twin)) return no_memory(v, err);
    pare_status st = PARE_OK;
    /* twins are reported, by name, when the tokenizer is built */
    for (size_t i = 0; twin == SIZE_MAX && i < json_array_size(merges) && st == PARE_OK; i++)
        st = add_merge(v, &names, i, json_array_get(merges, i), &joined, err);
    pare_names_free(&names);
    pare_text_buffer_free(&joined);
    return st;
}

/* --- the model --- */

static pare_status read_model(pare_vocab *v, const pare_json *j, pare_error *err) {
    const char *type = "BPE", *unk = NULL, *affix = "";
    PARE_TRY(pare_json_str(j, "model.type", PARE_OPTIONAL, &type, err));
    if (strcmp(type, "BPE") != 0)
        return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: model.type: found \"%.60s\", expected BPE",
                         v->source, type);
    static const char *const affixes[] = {"model.continuing_subword_prefix",
                                          "model.end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        PARE_TRY(pare_json_str(j, affixes[i], PARE_OPTIONAL, &affix, err));
        if (*affix)
            return pare_fail(err, PARE_ERR_UNSUPPORTED, "%s: %s: found \"%.60s\", expected none",
                             v->source, affixes[i], affix);
    }
    PARE_TRY(pare_json_bool(j, "model.byte_fallback", PARE_OPTIONAL, &v->byte_fallback, err));
    PARE_TRY(pare_json_bool(j, "model.fuse_unk", PARE_OPTIONAL, &v->fuse_unk, err));
    PARE_TRY(pare_json_bool(j, "model.ignore_merges", PARE_OPTIONAL, &v->ignore_merges, err));
    PARE_TRY(pare_json_str(j, "model.unk_token", PARE_OPTIONAL, &unk, err));
    PARE_TRY(add_tokens(v, j, unk, err));
    if (unk && v->unk < 0)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: model.unk_token: found \"%.60s\", expected a token of vocab",
                         v->source, unk);
    return add_merges(v, j, err);
}

static pare_status read_tokenizer(pare_vocab *v, const pare_json *j, pare_error *err) {
    PARE_TRY(read_model(v, j, err));
    PARE_TRY(pare_json_normalizer(v, pare_json_get(j, "normalizer"), err));
    PARE_TRY(pare_json_pre_tokenizer(v, pare_json_get(j, "pre_tokenizer"), err));
    PARE_TRY(pare_json_decoder(v, pare_json_get(j, "decoder"), err));
    return pare_json_post_processor(v, pare_json_get(j, "post_processor"), err);
}

/* --- the files beside it --- */

static int32_t find_token(const pare_vocab *v, const char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i < v->n; i++)
        if (v->tokens[i].len == n && memcmp(pare_vocab_text(v, (int32_t)i), text, n) == 0)
            return (int32_t)i;
    return -1;
}

/* "bos_token": a text, or an object with "content". The first file that names it counts. */
static void named_token(pare_vocab *v, const pare_json *j, const char *key, int32_t *id) {
    const json_t *value = pare_json_get(j, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (*id >= 0 || !json_is_string(value)) return;
    *id = find_token(v, json_string_value(value));
    if (*id < 0)
        pare_vocab_warn(v, "%s: %s names a token that the vocabulary lacks", j->place, key);
}

static pare_status end_ids(pare_vocab *v, const json_t *value, int32_t *eos, pare_error *err) {
    size_t n = json_is_array(value) ? json_array_size(value) : value != NULL;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        json_int_t k = json_integer_value(id);
        if (!json_is_integer(id) || k < 0 || (uint64_t)k >= v->n)
            continue; /* the model's own check */
        if (*eos < 0) *eos = (int32_t)k;
        PARE_TRY(pare_vocab_add_end(v, (int32_t)k, err));
    }
    return PARE_OK;
}

static pare_status set_template(pare_vocab *v, const char *text, pare_error *err) {
    if (v->chat_template || !text) return PARE_OK;
    v->chat_template = pare_strdup(text);
    return v->chat_template ? PARE_OK : no_memory(v, err);
}

/* A text, or a list of {"name", "template"} whose "default" counts. */
static pare_status read_template(pare_vocab *v, const json_t *value, pare_error *err) {
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && strcmp(name, "default") == 0)
            return set_template(v, json_string_value(json_object_get(item, "template")), err);
    }
    return set_template(v, json_string_value(value), err);
}

typedef pare_status (*neighbour_fn)(pare_vocab *v, const pare_json *j, pare_error *err);

static pare_status read_names(pare_vocab *v, const pare_json *j, pare_error *err) {
    named_token(v, j, "bos_token", &v->bos);
    named_token(v, j, "eos_token", &v->eos);
    named_token(v, j, "pad_token", &v->pad);
    return read_template(v, pare_json_get(j, "chat_template"), err);
}

static pare_status read_numbers(pare_vocab *v, const pare_json *j, pare_error *err) {
    const json_t *bos = pare_json_get(j, "bos_token_id");
    json_int_t k = json_integer_value(bos);
    if (v->bos < 0 && json_is_integer(bos) && k >= 0 && (uint64_t)k < v->n) v->bos = (int32_t)k;
    return end_ids(v, pare_json_get(j, "eos_token_id"), &v->eos, err);
}

static pare_status read_neighbour(pare_vocab *v, const char *folder, const char *name,
                                  neighbour_fn fn, pare_error *err) {
    pare_json j = {0};
    char *path = pare_path_join(folder, name);
    if (!path) return no_memory(v, err);
    pare_status st = PARE_OK;
    if (pare_path_exists(path)) st = pare_json_load(&j, path, PARE_JSON_CONFIG_MAX, 0, err);
    if (st == PARE_OK && j.root) st = fn(v, &j, err);
    pare_json_free(&j);
    pare_free(path);
    return st;
}

static pare_status read_jinja(pare_vocab *v, const char *folder, pare_error *err) {
    char *path = pare_path_join(folder, "chat_template.jinja"), *text = NULL;
    size_t n;
    if (!path) return no_memory(v, err);
    pare_status st = PARE_OK;
    if (pare_path_exists(path)) st = pare_file_read_all(&text, &n, path, TEMPLATE_MAX, err);
    if (st == PARE_OK) st = set_template(v, text, err);
    pare_free(text);
    pare_free(path);
    return st;
}

/* What a tokenizer.json alone tells: BOS is what it adds in front, EOS has a usual name. */
static void guess_ids(pare_vocab *v) {
    static const char *const names[] = {"</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"};
    if (v->bos < 0 && v->n_prefix) v->bos = v->prefix[0];
    for (size_t i = 0; v->eos < 0 && i < sizeof names / sizeof *names; i++) {
        int32_t id = find_token(v, names[i]);
        if (id >= 0 && v->tokens[id].type == PARE_TOKEN_CONTROL) v->eos = id;
    }
}

static pare_status read_neighbours(pare_vocab *v, const char *folder, pare_error *err) {
    PARE_TRY(read_jinja(v, folder, err));
    PARE_TRY(read_neighbour(v, folder, "tokenizer_config.json", read_names, err));
    PARE_TRY(read_neighbour(v, folder, "special_tokens_map.json", read_names, err));
    PARE_TRY(read_neighbour(v, folder, "generation_config.json", read_numbers, err));
    PARE_TRY(read_neighbour(v, folder, "config.json", read_numbers, err));
    guess_ids(v);
    return PARE_OK;
}

/* --- the whole --- */

/* *file and *folder are new. */
static pare_status find_file(char **file, char **folder, const char *path, pare_error *err) {
    if (pare_path_is_folder(path)) {
        *folder = pare_strdup(path);
        *file = pare_path_join(path, "tokenizer.json");
    } else {
        const char *slash = strrchr(path, '/');
        *folder = slash ? pare_strndup(path, (size_t)(slash - path) + 1) : pare_strdup(".");
        *file = pare_strdup(path);
    }
    if (*file && *folder) return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM, "%s: tokenizer: out of memory", path);
}

pare_status pare_tokenizer_load_json(pare_tokenizer **out, const char *path, pare_error *err) {
    char *file = NULL, *folder = NULL;
    pare_vocab *v = NULL;
    pare_json j = {0};
    *out = NULL;
    pare_status st = find_file(&file, &folder, path, err);
    if (st == PARE_OK && !pare_path_exists(file)) st = pare_json_from_pair(&j, folder, err);
    if (st == PARE_OK && !j.root)
        st = pare_json_load(&j, file, TOKENIZER_MAX, PARE_JSON_ALLOW_NUL, err);
    if (st == PARE_OK && !(v = pare_vocab_new(j.place)))
        st = pare_fail(err, PARE_ERR_NOMEM, "%s: tokenizer: out of memory", path);
    if (st == PARE_OK) st = read_tokenizer(v, &j, err);
    pare_json_free(&j); /* much memory; the vocabulary has its own copy */
    pare_give_back();
    if (st == PARE_OK) st = read_neighbours(v, folder, err);
    pare_free(file);
    pare_free(folder);
    if (st == PARE_OK) return pare_tokenizer_build(out, v, err);
    pare_vocab_free(v);
    return st;
}
