/* Prefixes in front of a model's sequences: what a text gets behind the cached prefix is what it
 * gets behind the tokens that the prefix was computed from, for every architecture, cut and codec;
 * and their files. */
#include "support/model_files.h"
#include "support/test.h"

#include "io/json.h"
#include "io/safetensors_writer.h"
#include "model/prefix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 40 }; /* tokens; GPT-2 and OPT have 64 positions */

static const char *const fixtures[] = {"llama", "llama-bias", "mistral", "qwen2",
                                       "qwen3", "gemma2",     "gemma3",  "gemma3-old",
                                       "gpt2",  "opt",        "opt-post"};
enum { N_FIXTURES = sizeof fixtures / sizeof *fixtures };

static pare_runtime *rt;
static int32_t ids[N];

static pare_model *load(const char *name) {
    pare_model *m;
    assert_ok(pare_model_load(&m, rt, fixture_path(name), err));
    for (int i = 0; i < N; i++) ids[i] = (i * i * 7 + 3 * i + 5) % (int)pare_model_vocab_size(m);
    return m;
}

typedef struct rows {
    float *out;
    size_t vocab;
} rows;

static int keep(void *arg, size_t first, size_t n_rows, const float *logits) {
    const rows *r = arg;
    memcpy(r->out + first * r->vocab, logits, n_rows * r->vocab * sizeof *logits);
    return 0;
}

/* All logits of n tokens, `piece` a call; the caller frees. NULL: the heads do not fit the codec.
 */
static float *logits_of(pare_model *m, const int32_t *text, size_t n, size_t piece, size_t n_batch,
                        const char *kv) {
    size_t vocab = pare_model_vocab_size(m);
    pare_session_options o = {
        .n_ctx = n, .n_batch = n_batch, .compute = PARE_COMPUTE_EXACT, .kv = kv};
    pare_session *s;
    pare_error e = {0};
    if (pare_session_create(&s, m, &o, &e) != PARE_OK) {
        assert_non_null(strstr(e.message, "head_dim"));
        return NULL;
    }
    float *out = malloc(n * vocab * sizeof *out);
    for (size_t i = 0; i < n; i += piece) {
        rows r = {out + i * vocab, vocab};
        assert_ok(
            pare_session_eval_all(s, text + i, piece < n - i ? piece : n - i, 0, keep, &r, err));
    }
    assert_int_equal(pare_session_position(s), n);
    pare_session_free(s);
    return out;
}

static double range_of(const float *x, size_t n) {
    float low = x[0], high = x[0];
    for (size_t i = 0; i < n; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    return (double)high - (double)low;
}

static double difference(const float *a, const float *b, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return isfinite(most) ? most : INFINITY;
}

/* Windows of the fixtures are 7, 9 and 11: shorter than the prefix, as long as it, longer.
 * Measured: 9e-7 of the range. */
static void cache_identity(void **state) {
    (void)state;
    static const size_t lengths[] = {1, 3, 8, 17};
    static const size_t ways[][2] = {{N, N}, {1, 1}, {7, 7}, {20, 9}};
    for (size_t f = 0; f < N_FIXTURES; f++) {
        pare_model *m = load(fixtures[f]);
        size_t vocab = pare_model_vocab_size(m);
        float *whole = logits_of(m, ids, N, N, N, "f32");
        double range = range_of(whole, N * vocab), worst = 0;
        for (size_t i = 0; i < 4; i++) {
            size_t p = lengths[i], n = N - p;
            assert_ok(pare_model_set_prefix_ids(m, ids, p, err));
            assert_int_equal(pare_model_prefix_length(m), p);
            for (size_t w = 0; w < 4; w++) {
                float *text = logits_of(m, ids + p, n, ways[w][0], ways[w][1], "f32");
                worst = fmax(worst, difference(text, whole + p * vocab, n * vocab) / range);
                free(text);
            }
        }
        if (!(worst <= 1e-5)) fail_msg("%s: off by %g of the range", fixtures[f], worst);
        assert_ok(pare_model_set_prefix(m, NULL, err)); /* and nothing is left of it */
        float *again = logits_of(m, ids, N, N, N, "f32");
        assert_memory_equal(whole, again, N * vocab * sizeof *whole);
        free(again);
        free(whole);
        pare_model_free(m);
    }
}

/* The prefix is not in the cache: it stays in f32 whatever the codec. */
static void codecs(void **state) {
    (void)state;
    static const struct {
        const char *kv;
        double most; /* of the range; measured 7e-4, 3.4e-3, 4.7e-3, 6.6e-2 */
    } ways[] = {{"f16", 3e-3}, {"bf16", 3e-2}, {"q8_0", 2e-2}, {"q4_0", 3e-1}};
    size_t seen = 0;
    for (size_t f = 0; f < N_FIXTURES; f++) {
        pare_model *m = load(fixtures[f]);
        size_t vocab = pare_model_vocab_size(m), p = 8, n = N - p;
        float *whole = logits_of(m, ids, N, N, N, "f32");
        double range = range_of(whole, N * vocab);
        assert_ok(pare_model_set_prefix_ids(m, ids, p, err));
        for (size_t w = 0; w < 4; w++)
            for (size_t piece = 5; piece <= n; piece += n - 5) {
                float *text = logits_of(m, ids + p, n, piece, piece, ways[w].kv);
                if (!text) continue;
                double off = difference(text, whole + p * vocab, n * vocab) / range;
                if (!(off <= ways[w].most)) fail_msg("%s %s: %g", fixtures[f], ways[w].kv, off);
                if (w == 2) seen++;
                free(text);
            }
        free(whole);
        pare_model_free(m);
    }
    assert_true(seen > 0);
}

/* Forks share it, a sequence's own positions are counted, and what was taken back is computed again
 * to the same bits; scores do not depend on the cut. */
static void sessions(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FIXTURES; f++) {
        pare_model *m = load(fixtures[f]);
        size_t vocab = pare_model_vocab_size(m), p = 3, n = N - p;
        const int32_t *text = ids + p;
        assert_ok(pare_model_set_prefix_ids(m, ids, p, err));
        pare_session_options o = {.n_ctx = N, .n_batch = 16, .compute = PARE_COMPUTE_EXACT};
        pare_session *s, *fork;
        float *one = malloc(2 * vocab * sizeof *one), *both = malloc(2 * vocab * sizeof *both);
        assert_ok(pare_session_create(&s, m, &o, err));
        uint64_t bytes =
            2 * p * m->config.n_layers * m->config.n_kv_heads * m->config.head_dim * sizeof(float);
        assert_int_equal(pare_session_kv_bytes(s), pare_session_cache(s)->full_bytes + bytes);
        assert_int_equal(pare_session_kv_read_bytes(s, 0),
                         pare_kv_cache_read_bytes(pare_session_cache(s), 0) + bytes);
        if (m->config.window) /* far behind it, local layers do not see it */
            assert_true(pare_session_kv_read_bytes(s, 30) <
                        pare_kv_cache_read_bytes(pare_session_cache(s), 30) + bytes);

        assert_ok(pare_session_eval(s, text, 20, NULL, err));
        assert_ok(pare_session_fork(&fork, s, err));
        assert_ok(pare_session_eval(s, text + 20, n - 20, one, err));
        assert_int_equal(pare_session_position(s), n);
        assert_ok(pare_session_eval(fork, text + 20, n - 20, both, err));
        assert_memory_equal(one, both, vocab * sizeof *one);
        pare_session_truncate(fork, 20);
        assert_int_equal(pare_session_position(fork), 20);
        assert_ok(pare_session_eval(fork, text + 20, n - 20, both, err));
        assert_memory_equal(one, both, vocab * sizeof *one);

        pare_session_truncate(s, 0);
        pare_session_truncate(fork, 0);
        pare_session *sequences[] = {s, fork};
        assert_ok(pare_session_eval_many(sequences, 2, (const int32_t *[]){text, text + 5},
                                         (size_t[]){n, n - 5}, both, err));
        assert_true(difference(one, both, vocab) <= 1e-5 * range_of(one, vocab));

        pare_score scores[2] = {{.row = 10, .target = 1}, {.row = n - 1, .target = 2}};
        pare_score cut[2] = {{.row = 10, .target = 1}, {.row = n - 12, .target = 2}};
        pare_session_truncate(s, 0);
        pare_session_truncate(fork, 0);
        assert_ok(pare_session_score_many(&s, 1, &text, &n, scores, 2, err));
        const int32_t *rest = text + 11;
        size_t first = 11, left = n - 11;
        assert_ok(pare_session_score_many(&fork, 1, &text, &first, cut, 1, err));
        assert_ok(pare_session_score_many(&fork, 1, &rest, &left, cut + 1, 1, err));
        for (int i = 0; i < 2; i++) assert_true(scores[i].logprob == cut[i].logprob);
        pare_session_free(s);
        pare_session_free(fork);
        free(one);
        free(both);
        pare_model_free(m);
    }
}

/* A prefix that goes on behind another is that of both; a pass of few tokens and one of many differ
 * in roundings. */
static void longer_by_tokens(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FIXTURES; f++) {
        pare_model *m = load(fixtures[f]);
        pare_prefix *whole, *rest;
        assert_ok(pare_prefix_from_ids(&whole, m, ids, 12, err));
        assert_ok(pare_model_set_prefix_ids(m, ids, 5, err));
        assert_ok(pare_prefix_from_ids(&rest, m, ids + 5, 7, err));
        assert_int_equal(rest->attn.n, 12);
        assert_memory_equal(rest->ids, ids, 12 * sizeof *ids);
        size_t n = whole->bytes / sizeof(float);
        assert_true(difference(whole->values, rest->values, n) <=
                    1e-5 * range_of(whole->values, n));
        pare_prefix_free(whole);
        pare_prefix_free(rest);
        pare_model_free(m);
    }
}

static void lengths_and_positions(void **state) {
    (void)state;
    pare_model *m = load("gpt2"); /* 64 learned positions */
    pare_session *s;
    size_t most = pare_model_ctx_max(m);
    assert_ok(pare_model_set_prefix_ids(m, ids, 10, err));
    assert_int_equal(pare_model_ctx_max(m), most - 10);
    pare_session_options o = pare_session_options_default();
    assert_ok(pare_session_create(&s, m, &o, err));
    assert_int_equal(pare_session_n_ctx(s), most - 10);
    pare_session_free(s);
    o.n_ctx = most - 9;
    assert_fails(pare_session_create(&s, m, &o, err), PARE_ERR_ARG, "expected at most 54");

    int32_t many[64] = {0}, odd = -1;
    assert_fails(pare_model_set_prefix_ids(m, many, 64, err), PARE_ERR_ARG, "expected 1 to 63");
    assert_fails(pare_model_set_prefix_ids(m, many, 0, err), PARE_ERR_ARG, "expected 1 to 63");
    assert_fails(pare_model_set_prefix_ids(m, &odd, 1, err), PARE_ERR_ARG, "found id -1");
    assert_int_equal(pare_model_prefix_length(m), 10); /* what it had */
    pare_prefix *p;
    assert_fails(pare_prefix_from_ids(&p, m, many, 54, err), PARE_ERR_ARG, "found 64 positions");
    pare_model_free(m);
}

/* ---- files ---- */

static void what_is_written_is_read(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FIXTURES; f++) {
        pare_model *m = load(fixtures[f]);
        pare_prefix *p, *back;
        const char *path = test_path("cushion.safetensors");
        assert_ok(pare_prefix_from_ids(&p, m, ids, 5, err));
        assert_ok(pare_prefix_save(p, &m->config, "{\"tau\": 0.5}", path, err));
        assert_ok(pare_prefix_load(&back, &m->config, path, err));
        assert_int_equal(back->attn.n, 5);
        assert_memory_equal(p->values, back->values, p->bytes);
        assert_memory_equal(p->ids, back->ids, 5 * sizeof *ids);
        assert_false(back->tuned);
        pare_prefix_free(back);
        pare_error e = {0};
        assert_int_equal(pare_prefix_load(&back, &m->config, test_path("."), &e), PARE_ERR_INPUT);
        assert_non_null(strstr(e.message, "expected a file"));
        p->tuned = true;
        assert_ok(pare_prefix_save(p, &m->config, NULL, path, err));
        assert_ok(pare_prefix_load(&back, &m->config, path, err));
        assert_true(back->tuned);
        assert_memory_equal(p->ids, back->ids, 5 * sizeof *ids);
        pare_model_attach_prefix(m, back);
        for (int i = 0; i < 5; i++) assert_true(pare_model_prefix_holds(m, ids[i]));
        assert_false(pare_model_prefix_holds(m, -1));
        const int32_t text[] = {ids[2], ids[2]};
        assert_int_equal(pare_model_prefix_has_bos(m, ids[2], text, 2), 1);
        assert_int_equal(pare_model_prefix_has_bos(m, ids[2], text, 1), 0); /* nothing follows */
        assert_int_equal(pare_model_prefix_has_bos(m, ids[1], text, 2), 0);
        assert_int_equal(pare_model_prefix_has_bos(m, -1, text, 2), 0);
        pare_free(p->ids); /* of no tokens */
        p->ids = NULL;
        assert_ok(pare_prefix_save(p, &m->config, NULL, path, err));
        assert_ok(pare_model_set_prefix(m, path, err));
        assert_null(m->prefix->ids);
        assert_false(pare_model_prefix_holds(m, ids[0]));
        assert_memory_equal(p->values, m->prefix->values, p->bytes);
        pare_prefix_free(p);
        pare_model_free(m);
    }
}

/* A file with one thing changed. */
typedef struct change {
    const char *key, *value; /* of the metadata; value "": left out */
    const char *tensor;      /* left out, or */
    const char *dtype;       /* of that dtype, */
    size_t dims[3];          /* of those dims where not 0, */
    float number;            /* filled with it */
} change;

static const char *write_changed(const pare_model *m, const change *c) {
    const pare_model_config *k = &m->config;
    const char *path = test_path("changed.safetensors");
    pare_st_writer *w;
    char numbers[5][24];
    const size_t sizes[] = {k->n_layers, k->n_kv_heads, k->head_dim, k->dim, k->vocab_size};
    const char *const keys[] = {"format",     "version",  "arch", "token_ids", "n_layers",
                                "n_kv_heads", "head_dim", "dim",  "vocab_size"};
    const char *values[9] = {"pare-cushion", "1", k->arch, "[4, 5]"};
    for (size_t i = 0; i < 5; i++) {
        snprintf(numbers[i], sizeof numbers[i], "%zu", sizes[i]);
        values[4 + i] = numbers[i];
    }
    assert_ok(pare_st_writer_create(&w, path, 0, err));
    for (size_t i = 0; i < 9; i++) {
        const char *value = c->key && strcmp(c->key, keys[i]) == 0 ? c->value : values[i];
        if (*value || i == 0) assert_ok(pare_st_set_metadata(w, keys[i], value, err));
    }
    size_t n = 0, bytes[64];
    float data[4096];
    for (size_t i = 0; i < 2 * k->n_layers; i++) {
        char name[64];
        snprintf(name, sizeof name, "layers.%zu.%c", i / 2, i % 2 ? 'v' : 'k');
        size_t dims[3] = {2, k->n_kv_heads, k->head_dim};
        bool changed = c->tensor && strcmp(c->tensor, name) == 0;
        if (changed && !c->dtype) continue;
        if (changed && c->dims[0]) memcpy(dims, c->dims, sizeof dims);
        const char *dtype = changed ? c->dtype : "F32";
        assert_ok(pare_st_declare(w, name, dtype, dims, 3, NULL, err));
        bytes[n++] = dims[0] * dims[1] * dims[2] * (strcmp(dtype, "F32") == 0 ? 4 : 2);
    }
    if (c->tensor && strcmp(c->tensor, "more") == 0) {
        assert_ok(pare_st_declare(w, "more", "F32", (size_t[]){1}, 1, NULL, err));
        bytes[n++] = 4;
    }
    assert_ok(pare_st_begin(w, err));
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < 4096; j++) data[j] = i == 3 ? c->number : 0;
        assert_true(bytes[i] <= sizeof data);
        assert_ok(pare_st_write(w, i, data, bytes[i], err));
    }
    assert_ok(pare_st_finish(w, err));
    pare_st_writer_free(w);
    return path;
}

static void damaged_files_are_refused(void **state) {
    (void)state;
    pare_model *m = load("llama"); /* 2 kv heads of 24 */
    const struct {
        change c;
        pare_status status;
        const char *part;
    } cases[] = {
        {{0}, PARE_OK, NULL},
        {{.key = "format", .value = "pt"}, PARE_ERR_INPUT, "format: found pt"},
        {{.key = "version", .value = "2"}, PARE_ERR_UNSUPPORTED, "version: found 2, expected 1"},
        {{.key = "arch", .value = "gpt2"}, PARE_ERR_INPUT, "arch: found gpt2, expected llama"},
        {{.key = "head_dim", .value = "64"}, PARE_ERR_INPUT, "head_dim: found 64, expected 24"},
        {{.key = "vocab_size", .value = ""}, PARE_ERR_INPUT, "vocab_size: found none"},
        {{.key = "token_ids", .value = ""}, PARE_OK, NULL},
        {{.key = "token_ids", .value = "[1]"}, PARE_ERR_INPUT, "token_ids: found 1, expected 2"},
        {{.key = "token_ids", .value = "[1, -3]"}, PARE_ERR_INPUT, "found -3"},
        {{.key = "token_ids", .value = "[1, \"a\"]"}, PARE_ERR_INPUT, "expected"},
        {{.key = "token_ids", .value = "[1, "}, PARE_ERR_INPUT, "changed.safetensors"},
        {{.tensor = "layers.0.k"}, PARE_ERR_INPUT, "layers.0.k: found none"},
        {{.tensor = "layers.1.v"}, PARE_ERR_INPUT, "layers.1.v: found none"},
        {{.tensor = "more"}, PARE_ERR_INPUT, "tensors, expected"},
        {{.tensor = "layers.1.k", .dtype = "F32", .dims = {3, 2, 24}},
         PARE_ERR_INPUT,
         "[3, 2, 24]"},
        {{.tensor = "layers.0.k", .dtype = "F32", .dims = {2, 1, 48}},
         PARE_ERR_INPUT,
         "[2, 1, 48]"},
        {{.tensor = "layers.0.k", .dtype = "BF16"}, PARE_OK, NULL},
        {{.tensor = "layers.0.k", .dtype = "I16"}, PARE_ERR_UNSUPPORTED, "dtype I16"},
        {{.number = NAN}, PARE_ERR_INPUT, "found NaN"},
        {{.number = -INFINITY}, PARE_ERR_INPUT, "value 0: found Inf"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = write_changed(m, &cases[i].c);
        if (cases[i].status == PARE_OK)
            assert_ok(pare_model_set_prefix(m, path, err));
        else
            assert_fails(pare_model_set_prefix(m, path, err), cases[i].status, cases[i].part);
        assert_int_equal(pare_model_prefix_length(m), 2);
    }
    assert_fails(pare_model_set_prefix(m, test_path("none.safetensors"), err), PARE_ERR_INPUT,
                 "none");
    assert_fails(pare_model_set_prefix(m, test_write("short", "{}", 2), err), PARE_ERR_INPUT,
                 "short");
    pare_model_free(m);
}

static void add_entries(json_t *config, void *arg) { json_object_update_new(config, arg); }

/* A copy of a fixture with entries more in config.json. */
static const char *folder_with(json_t *more) {
    const copy_edit edit = {.config = add_entries, .arg = more};
    return copy_fixture("llama", "with", &edit);
}

static void folders_have_their_own(void **state) {
    (void)state;
    pare_model *m = load("llama"), *own;
    pare_prefix *p;
    char path[1200];
    assert_ok(pare_prefix_from_ids(&p, m, ids, 3, err));
    json_t *names[] = {json_pack("{s:s}", PARE_PREFIX_KEY, PARE_PREFIX_FILE),
                       json_pack("{s:{s:s, s:i, s:{}, s:s}}", "quantization_config", "quant_method",
                                 "pare", "version", 1, "tensors", PARE_PREFIX_KEY,
                                 PARE_PREFIX_FILE)};
    for (int i = 0; i < 2; i++) {
        const char *folder = folder_with(names[i]);
        snprintf(path, sizeof path, "%s/" PARE_PREFIX_FILE, folder);
        test_remove(path);
        assert_fails(pare_model_load(&own, rt, folder, err), PARE_ERR_INPUT, PARE_PREFIX_FILE);
        assert_ok(pare_prefix_save(p, &m->config, NULL, path, err));
        assert_ok(pare_model_load(&own, rt, folder, err));
        assert_int_equal(pare_model_prefix_length(own), 3);
        assert_ok(pare_model_set_prefix(own, NULL, err));
        assert_int_equal(pare_model_prefix_length(own), 0);
        pare_model_free(own);
    }
    json_t *bad[] = {json_string("../cushion.safetensors"), json_string(""),
                     json_string("/etc/passwd"), json_integer(3)};
    for (int i = 0; i < 4; i++)
        assert_fails(pare_model_load(&own, rt,
                                     folder_with(json_pack("{s:o}", PARE_PREFIX_KEY, bad[i])), err),
                     PARE_ERR_INPUT, PARE_PREFIX_KEY);
    pare_prefix_free(p);
    pare_model_free(m);
}

static int set_up(void **state) {
    (void)state;
    rt = test_runtime(2, pare_isa_best());
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    pare_runtime_free(rt);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cache_identity),
        cmocka_unit_test(codecs),
        cmocka_unit_test(sessions),
        cmocka_unit_test(longer_by_tokens),
        cmocka_unit_test(lengths_and_positions),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(folders_have_their_own),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
