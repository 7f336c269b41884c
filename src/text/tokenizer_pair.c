/* vocab.json and merges.txt: how GPT-2 and OPT were published before tokenizer.json. What such a
 * tokenizer does is fixed (byte-level BPE, GPT-2's expression); tokenizer_config.json says whether
 * a BOS is added (OPT: yes). The pair becomes the document that tokenizer.json would be. */
#include "text/tokenizer_json.h"

#include "base/os.h"

#define VOCAB_MAX ((size_t)64 << 20)
#define MERGES_MAX ((size_t)64 << 20)

typedef struct pair_files {
    char *vocab, *merges, *config, *map; /* paths */
    pare_json vocab_json, config_json, map_json;
    char *text; /* of merges.txt */
    size_t n;
} pair_files;

static void free_files(pair_files *f) {
    pare_free(f->vocab);
    pare_free(f->merges);
    pare_free(f->config);
    pare_free(f->map);
    pare_free(f->text);
    pare_json_free(&f->vocab_json);
    pare_json_free(&f->config_json);
    pare_json_free(&f->map_json);
}

static bool name_files(pair_files *f, const char *folder) {
    f->vocab = pare_path_join(folder, "vocab.json");
    f->merges = pare_path_join(folder, "merges.txt");
    f->config = pare_path_join(folder, "tokenizer_config.json");
    f->map = pare_path_join(folder, "special_tokens_map.json");
    return f->vocab && f->merges && f->config && f->map;
}

static pare_status read_files(pair_files *f, pare_error *err) {
    PARE_TRY(pare_json_load(&f->vocab_json, f->vocab, VOCAB_MAX, 0, err));
    PARE_TRY(pare_file_read_all(&f->text, &f->n, f->merges, MERGES_MAX, err));
    if (pare_path_exists(f->config))
        PARE_TRY(pare_json_load(&f->config_json, f->config, PARE_JSON_CONFIG_MAX, 0, err));
    if (pare_path_exists(f->map))
        PARE_TRY(pare_json_load(&f->map_json, f->map, PARE_JSON_CONFIG_MAX, 0, err));
    return PARE_OK;
}

/* One merge a line; a first line "#version: ..." is skipped. NULL: out of memory, or invalid UTF-8.
 */
static json_t *merge_lines(const char *text, size_t n) {
    json_t *list = json_array();
    bool ok = list != NULL;
    for (size_t i = 0; i < n && ok;) {
        const char *newline = memchr(text + i, '\n', n - i);
        size_t end = newline ? (size_t)(newline - text) : n, len = end - i;
        if (len && text[i + len - 1] == '\r') len--;
        bool head = i == 0 && len >= 9 && memcmp(text, "#version:", 9) == 0;
        if (len && !head) ok = json_array_append_new(list, json_stringn(text + i, len)) == 0;
        i = end + 1;
    }
    if (ok) return list;
    json_decref(list);
    return NULL;
}

static const char *token_name(const pare_json *j, const char *key) {
    const json_t *value = j->root ? pare_json_get(j, key) : NULL;
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

/* The special tokens that the other files name, each once, where the vocabulary has them. */
static json_t *special_tokens(const pair_files *f) {
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    json_t *list = json_array(), *seen = json_object();
    bool ok = list && seen;
    for (size_t i = 0; i < 8 && ok; i++) {
        const char *name = token_name(i < 4 ? &f->config_json : &f->map_json, keys[i % 4]);
        json_t *id = name ? json_object_get(f->vocab_json.root, name) : NULL;
        if (!id || json_object_get(seen, name)) continue;
        ok = json_object_set(seen, name, id) == 0 &&
             json_array_append_new(
                 list, json_pack("{s:O, s:s, s:b}", "id", id, "content", name, "special", 1)) == 0;
    }
    json_decref(seen);
    if (ok) return list;
    json_decref(list);
    return NULL;
}

/* {"type": "TemplateProcessing", ...} when the configuration asks for a BOS, else null. */
static json_t *post_processor(const pair_files *f) {
    const char *bos = token_name(&f->config_json, "bos_token");
    bool wanted =
        f->config_json.root && json_is_true(pare_json_get(&f->config_json, "add_bos_token"));
    if (!bos) bos = token_name(&f->map_json, "bos_token");
    json_t *id = bos ? json_object_get(f->vocab_json.root, bos) : NULL;
    if (!wanted || !id) return json_null();
    return json_pack("{s:s, s:[{s:{s:s}}, {s:{s:s}}], s:{s:{s:[O]}}}", "type", "TemplateProcessing",
                     "single", "SpecialToken", "id", bos, "Sequence", "id", "A", "special_tokens",
                     bos, "ids", id);
}

static json_t *document(const pair_files *f) {
    bool prefix =
        f->config_json.root && json_is_true(pare_json_get(&f->config_json, "add_prefix_space"));
    json_t *added = special_tokens(f), *post = post_processor(f),
           *merges = merge_lines(f->text, f->n);
    if (added && post && merges)
        return json_pack("{s:o, s:{s:s, s:b}, s:o, s:{s:s}, s:{s:s, s:O, s:o}}", "added_tokens",
                         added, "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", prefix,
                         "post_processor", post, "decoder", "type", "ByteLevel", "model", "type",
                         "BPE", "vocab", f->vocab_json.root, "merges", merges);
    json_decref(added);
    json_decref(post);
    json_decref(merges);
    return NULL;
}

pare_status pare_json_from_pair(pare_json *out, const char *folder, pare_error *err) {
    pair_files f = {0};
    *out = (pare_json){0};
    pare_status st = PARE_OK;
    if (!name_files(&f, folder)) {
        st = pare_fail(err, PARE_ERR_NOMEM, "%s: tokenizer: out of memory", folder);
    } else if (pare_path_exists(f.vocab) && pare_path_exists(f.merges)) {
        st = read_files(&f, err);
        if (st == PARE_OK) {
            out->root = document(&f);
            out->place = pare_strdup(f.vocab);
            if (!out->root || !out->place) {
                pare_json_free(out);
                st = pare_fail(err, PARE_ERR_INPUT,
                               "%s: found invalid UTF-8, expected one merge a line", f.merges);
            }
        }
    }
    free_files(&f);
    return st;
}
