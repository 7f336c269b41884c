/* Speculative decoding on tiny models: the text is the one without it where that is promised, and
 * its distribution by a chi-square test with fixed seeds where a draft's guesses are drawn. */
#include "support/model_files.h"
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "base/rng.h"
#include "generate/speculate.h"
#include "model/lora.h"
#include "pare/compress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct setting {
    pare_runtime *rt;
    pare_model *model, *draft_model;
    pare_tokenizer *tok;
    pare_session *session, *draft;
    float *rows; /* of logits */
} setting;

/* draft: a folder, or NULL. */
static setting begin_on(int threads, const char *folder, const char *draft, size_t n_ctx) {
    setting s = {.rt = test_runtime(threads, PARE_ISA_AMX)};
    pare_session_options so = pare_session_options_default();
    so.n_ctx = n_ctx;
    assert_ok(pare_model_load(&s.model, s.rt, folder, err));
    assert_ok(pare_tokenizer_load(&s.tok, folder, err));
    assert_ok(pare_session_create(&s.session, s.model, &so, err));
    if (!draft) return s;
    assert_ok(pare_model_load(&s.draft_model, s.rt, draft, err));
    assert_ok(pare_session_create(&s.draft, s.draft_model, &so, err));
    return s;
}

static setting begin(const char *folder, const char *draft, size_t n_ctx) {
    return begin_on(2, folder, draft, n_ctx);
}

static void end(setting *s) {
    pare_session_free(s->draft);
    pare_model_free(s->draft_model);
    pare_session_free(s->session);
    pare_tokenizer_free(s->tok);
    pare_model_free(s->model);
    pare_runtime_free(s->rt);
}

/* --- looking up --- */

static void lookup_finds_the_longest_then_the_latest(void **state) {
    (void)state;
    uint32_t random = 1;
    int32_t ids[300];
    for (size_t n = 0; n <= 300; n++) {
        size_t best = 1, at = SIZE_MAX, match;
        for (size_t end = 1; end + 1 <= n; end++) {
            size_t k = 0;
            while (k < 16 && k < end && ids[end - 1 - k] == ids[n - 1 - k]) k++;
            if (k >= 2 && k >= best) best = k, at = end;
        }
        assert_int_equal(pare_lookup_find(ids, n, &match), at);
        if (at != SIZE_MAX) assert_int_equal(match, best);
        random = random * 1664525 + 1013904223;
        if (n < 300) ids[n] = (int32_t)(random >> 29) % (n < 200 ? 3 : 1); /* then all the same */
    }
}

/* --- how many --- */

static void counts_follow_what_was_right(void **state) {
    (void)state;
    pare_guess_gauge g;
    pare_guess_gauge_init(&g, 0);
    /* a second row costs next to nothing: one guess pays for the shortest match already, and until
     * fewer than one in 20 is right */
    assert_int_equal(pare_guess_count(&g, 0, 7), 1);
    g.accept[0] = 0.06;
    assert_int_equal(pare_guess_count(&g, 0, 7), 1);
    for (int i = 0; i < 20; i++) pare_guess_learn(&g, 3, 7, 7);
    const size_t most = pare_guess_count(&g, 3, 7);
    assert_in_range(most, 3, 7);
    assert_int_equal(pare_guess_count(&g, 3, 2), 2);
    assert_int_equal(pare_guess_count(&g, 3, 0), 0);
    /* never right: one guess in 65 tokens in the end, which costs less than 1% */
    size_t tried = 0;
    for (int i = 0; i < 2000; i++) {
        size_t n = pare_guess_count(&g, 3, 7);
        if (n) pare_guess_learn(&g, 3, n, 0);
        if (i >= 1000) tried += n;
    }
    assert_in_range(tried, 14, 17);
    /* right again: it is found out, and soon guessed in full */
    size_t rounds = 0;
    while (pare_guess_count(&g, 3, 7) < most && rounds < 300) {
        size_t n = pare_guess_count(&g, 3, 7);
        if (n) pare_guess_learn(&g, 3, n, n);
        rounds++;
    }
    assert_in_range(rounds, 1, 200);
    /* guesses that cost more than a token are not worth it however often they are right */
    pare_guess_gauge_init(&g, 1.5);
    for (int i = 0; i < 50; i++) pare_guess_learn(&g, 0, 1, 1);
    size_t n = 0;
    for (int i = 0; i < 10; i++) n += pare_guess_count(&g, 0, 7);
    assert_true(n <= 10); /* one at a time, to see how it goes */
}

/* --- the same text --- */

/* No more rows than give each the bits that it has alone: the same text rests on it. */
typedef struct rows_case {
    const char *folder;
    pare_compute compute;
    const char *kv; /* NULL: the default */
    bool adapter;
    size_t held; /* tokens before */
} rows_case;

static int keep_rows(void *arg, size_t first, size_t n, const float *logits) {
    setting *s = arg;
    const size_t vocab = pare_model_vocab_size(s->model);
    memcpy(s->rows + first * vocab, logits, n * vocab * sizeof *logits);
    return 0;
}

/* Adapters of every matrix; b, which begins as zeros, gets numbers too. */
static void attach_adapter(pare_model *m) {
    const pare_lora_options o = {.rank = 4, .alpha = 8, .targets = PARE_LORA_ALL};
    pare_lora *l;
    assert_ok(pare_lora_create(&l, m->source, &o, 1, err));
    for (size_t i = 0; i < l->n; i++) {
        float *b = (float *)(uintptr_t)l->pairs[i].adapter.b.view.part[0];
        for (size_t k = 0; k < l->pairs[i].out * 4; k++) b[k] = 0.1f * pare_rng_normal(2, i, k);
    }
    pare_model_attach_lora(m, l);
}

static void compare_rows(const rows_case *c) {
    static const int32_t ids[1 + PARE_DRAFT_MAX] = {5, 100, 7, 30, 255, 3, 77, 5};
    setting s = {.rt = test_runtime(2, PARE_ISA_AMX)};
    pare_session_options so = pare_session_options_default();
    so.n_ctx = 64;
    so.compute = c->compute;
    so.kv = c->kv;
    assert_ok(pare_model_load(&s.model, s.rt, c->folder, err));
    if (c->adapter) attach_adapter(s.model);
    assert_ok(pare_session_create(&s.session, s.model, &so, err));
    const size_t vocab = pare_model_vocab_size(s.model);
    int32_t before[64];
    for (size_t i = 0; i < c->held; i++) before[i] = (int32_t)(i * i * 7 % 200);
    assert_ok(pare_session_eval(s.session, before, c->held, NULL, err));
    size_t most = pare_model_alike_rows(s.model, c->held);
    assert_in_range(most, 2, 1 + PARE_DRAFT_MAX);
    s.rows = pare_malloc(most * vocab, sizeof *s.rows);
    float *one = pare_malloc(vocab, sizeof *one);
    assert_true(s.rows && one);
    for (size_t n = 1; n <= most; n++) {
        pare_session *together, *alone;
        assert_ok(pare_session_fork(&together, s.session, err));
        assert_ok(pare_session_fork(&alone, s.session, err));
        assert_ok(pare_session_eval_all(together, ids, n, 0, keep_rows, &s, err));
        for (size_t i = 0; i < n; i++) {
            assert_ok(pare_session_eval(alone, &ids[i], 1, one, err));
            if (memcmp(one, s.rows + i * vocab, vocab * sizeof *one) != 0)
                fail_msg("%s, %s, cache %s, behind %zu%s: row %zu of %zu differs", c->folder,
                         c->compute ? "fast" : "exact", c->kv ? c->kv : "as usual", c->held,
                         c->adapter ? ", with an adapter" : "", i, n);
        }
        pare_session_free(together);
        pare_session_free(alone);
    }
    pare_free(one);
    pare_free(s.rows);
    end(&s);
}

static void rows_have_the_bits_of_one(void **state) {
    (void)state;
    static const char *const recipes[] = {"f32",
                                          "bf16",
                                          "f16",
                                          "q8_0",
                                          "q4_0",
                                          "q5_1",
                                          "iq4_nl",
                                          "magnitude:sparsity=2:4 + nm24_q8",
                                          "magnitude:sparsity=0.5 + bitmap_bf16"};
    pare_runtime *rt = test_runtime(2, PARE_ISA_AMX);
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        char name[32], in[1024], out[1024];
        snprintf(name, sizeof name, "rows-%zu", i);
        snprintf(in, sizeof in, "%s", test_path("tiny"));
        snprintf(out, sizeof out, "%s", test_path(name));
        pare_compress_options o = {.model = in, .out = out, .recipe = recipes[i]};
        pare_compress_report *r;
        assert_ok(pare_compress(&r, rt, &o, err));
        pare_compress_report_free(r);
        for (int k = 0; k < 8; k++) {
            const rows_case c = {out, k & 1 ? PARE_COMPUTE_FAST : PARE_COMPUTE_EXACT, NULL,
                                 (k & 2) != 0, k & 4 ? 37 : 0};
            compare_rows(&c);
        }
    }
    pare_runtime_free(rt);
}

/* Sliding windows (7, 9 and 11 tokens) before, at and behind their ends, and every form of cache
 * (q8_0 and q4_0 where a head has 32 values). */
static void windows_and_caches_keep_the_bits(void **state) {
    (void)state;
    static const struct {
        const char *model, *kv;
    } cases[] = {{"mistral", "f32"}, {"mistral", "f16"}, {"gemma2", "f16"}, {"gemma3", "bf16"},
                 {"qwen2", "f16"},   {"qwen3", "f32"},   {"qwen3", "f16"},  {"qwen3", "bf16"},
                 {"qwen3", "q8_0"},  {"qwen3", "q4_0"}};
    static const size_t held[] = {0, 5, 8, 37};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t h = 0; h < 8; h++) {
            const rows_case c = {fixture_path(cases[i].model),
                                 h & 1 ? PARE_COMPUTE_FAST : PARE_COMPUTE_EXACT, cases[i].kv, false,
                                 held[h / 2]};
            compare_rows(&c);
        }
}

typedef struct variant {
    double temperature, penalty, top_p, min_p;
    size_t top_k, max_tokens, n_ctx;
    bool ignore_eos;
    const char *stop;
} variant;

static pare_generate_options options(const variant *v) {
    pare_generate_options o = pare_generate_options_default();
    o.sampler = (pare_sampler_options){.temperature = v->temperature,
                                       .top_k = v->top_k,
                                       .top_p = v->top_p,
                                       .min_p = v->min_p,
                                       .repeat_penalty = v->penalty,
                                       .repeat_last_n = 64,
                                       .seed = 7};
    o.max_tokens = v->max_tokens;
    o.ignore_eos = v->ignore_eos;
    o.stop = &v->stop;
    o.n_stop = v->stop != NULL;
    return o;
}

/* A text that repeats itself: small temperatures keep to it. */
static const int32_t prompt[] = {'a', 'b', 'c', 'a', 'b', 'c', 'a', 'b', 'c', 'a', 'b'};
enum { PROMPT = sizeof prompt / sizeof *prompt };

static pare_generation generate(setting *s, const pare_generate_options *o) {
    pare_generation g;
    pare_session_truncate(s->session, 0);
    if (s->draft) pare_session_truncate(s->draft, 0);
    assert_ok(pare_generate(&g, s->session, s->tok, prompt, PROMPT, o, err));
    return g;
}

/* With guesses and without: ids, text, why it ends, and what the session holds afterwards. */
static void compare(setting *s, pare_generate_options o, size_t *drafted, size_t *accepted) {
    pare_generation a = generate(s, &o);
    size_t position = pare_session_position(s->session);
    assert_int_equal(a.drafted, 0);
    o.speculate.lookup = s->draft == NULL;
    o.speculate.draft = s->draft;
    for (o.speculate.max = 1; o.speculate.max <= PARE_DRAFT_MAX; o.speculate.max += 3) {
        pare_generation b = generate(s, &o);
        assert_int_equal(b.ids.n, a.ids.n);
        if (a.ids.n) assert_memory_equal(b.ids.data, a.ids.data, a.ids.n * sizeof(int32_t));
        assert_int_equal(b.text_len, a.text_len);
        assert_memory_equal(b.text, a.text, a.text_len);
        assert_int_equal(b.reason, a.reason);
        assert_int_equal(b.decoded, a.decoded);
        assert_int_equal(pare_session_position(s->session), position);
        assert_true(b.accepted <= b.drafted);
        if (s->draft) assert_true(pare_session_position(s->draft) <= position);
        *drafted += b.drafted;
        *accepted += b.accepted;
        pare_generation_free(&b);
    }
    pare_generation_free(&a);
}

static void lookup_gives_the_same_text(void **state) {
    (void)state;
    const variant variants[] = {
        {.max_tokens = 150, .penalty = 1, .top_p = 1, .n_ctx = 256, .ignore_eos = true},
        {.max_tokens = 1, .penalty = 1, .top_p = 1, .n_ctx = 256},
        {.max_tokens = 2, .penalty = 1, .top_p = 1, .n_ctx = 256},
        {.max_tokens = SIZE_MAX, .penalty = 1, .top_p = 1, .n_ctx = 40, .ignore_eos = true},
        {.max_tokens = SIZE_MAX, .penalty = 1, .top_p = 1, .n_ctx = PROMPT, .ignore_eos = true},
        {.max_tokens = 150, .penalty = 1.3, .top_p = 1, .n_ctx = 256, .ignore_eos = true},
        {.max_tokens = 150, .temperature = 0.02, .penalty = 1, .top_p = 1, .n_ctx = 256},
        {.max_tokens = 150,
         .temperature = 0.05,
         .penalty = 1.02,
         .top_p = 0.9,
         .min_p = 0.05,
         .top_k = 20,
         .n_ctx = 256,
         .ignore_eos = true},
        {.max_tokens = 150, .temperature = 1, .penalty = 1, .top_p = 1, .n_ctx = 256},
    };
    size_t drafted = 0, accepted = 0;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        setting s = begin(test_path("tiny"), NULL, variants[i].n_ctx);
        compare(&s, options(&variants[i]), &drafted, &accepted);
        end(&s);
    }
    assert_true(accepted > 100 && drafted > accepted + 20);
}

/* A stop string, and an end token, in the middle of a pass. */
static void stops_inside_a_pass(void **state) {
    (void)state;
    setting s = begin(test_path("tiny"), NULL, 256);
    variant v = {.max_tokens = 100, .penalty = 1, .top_p = 1, .ignore_eos = true};
    pare_generate_options o = options(&v);
    pare_generation whole = generate(&s, &o);
    size_t drafted = 0, accepted = 0;
    for (size_t at = 40; at < 60; at++) {
        char stop[5] = "";
        for (size_t i = 0; i < 4; i++) {
            if (whole.ids.data[at + i] == 0 || whole.ids.data[at + i] > 127) goto next;
            stop[i] = (char)whole.ids.data[at + i];
        }
        v.stop = stop;
        compare(&s, options(&v), &drafted, &accepted);
    next:;
    }
    for (size_t n = 20; n < 40; n++) {
        v = (variant){.max_tokens = n, .penalty = 1, .top_p = 1};
        compare(&s, options(&v), &drafted, &accepted);
    }
    assert_true(accepted > 100);
    pare_generation_free(&whole);
    end(&s);
}

static void a_greedy_draft_gives_the_same_text(void **state) {
    (void)state;
    static const char *const drafts[] = {"tiny", "near", "other"};
    for (size_t k = 0; k < 3; k++) {
        const variant variants[] = {
            {.max_tokens = 100, .penalty = 1, .top_p = 1, .n_ctx = 256, .ignore_eos = true},
            {.max_tokens = 100, .penalty = 1.3, .top_p = 1, .n_ctx = 256},
            {.max_tokens = SIZE_MAX, .penalty = 1.1, .top_p = 1, .n_ctx = 50, .ignore_eos = true},
        };
        size_t drafted = 0, accepted = 0;
        for (size_t i = 0; i < 3; i++) {
            setting s = begin(test_path("tiny"), test_path(drafts[k]), variants[i].n_ctx);
            compare(&s, options(&variants[i]), &drafted, &accepted);
            end(&s);
        }
        assert_true(drafted > 10);
        if (k == 0) assert_int_equal(drafted, accepted); /* itself is always right */
    }
}

/* --- the same distribution --- */

enum { DEPTH = 3, TOP = 4, LEAVES = 64, DRAWS = 4000 };

typedef struct outcome {
    int32_t ids[DEPTH];
    double p;
    size_t n;
} outcome;

/* All continuations of `prompt` and ids[0, depth) with their probabilities. */
static void enumerate(setting *s, const pare_sampler_options *o, int32_t *ids, size_t depth,
                      double p, outcome *out, size_t *n_out) {
    if (depth == DEPTH) {
        outcome *leaf = &out[(*n_out)++];
        assert_true(*n_out <= LEAVES);
        memcpy(leaf->ids, ids, sizeof leaf->ids);
        leaf->p = p;
        leaf->n = 0;
        return;
    }
    float logits[TINY_VOCAB];
    pare_sampler *sampler;
    assert_ok(pare_sampler_create(&sampler, TINY_VOCAB, o, err));
    pare_session_truncate(s->session, 0);
    assert_ok(pare_session_eval(s->session, prompt, PROMPT, depth ? NULL : logits, err));
    if (depth) assert_ok(pare_session_eval(s->session, ids, depth, logits, err));
    for (size_t i = 0; i < PROMPT; i++) pare_sampler_accept(sampler, prompt[i]);
    for (size_t i = 0; i < depth; i++) pare_sampler_accept(sampler, ids[i]);
    for (int32_t id = 256; id < TINY_VOCAB; id++) pare_sampler_ban(sampler, id);
    int32_t id;
    const pare_candidate *c;
    assert_ok(pare_sampler_pick(&id, sampler, logits, err));
    size_t n = pare_sampler_candidates(sampler, &c);
    double mass = pare_sampler_mass(sampler);
    for (size_t i = 0; i < n; i++) {
        ids[depth] = c[i].id;
        enumerate(s, o, ids, depth + 1, p * c[i].p / mass, out, n_out);
    }
    pare_sampler_free(sampler);
}

/* sum (n - expected)^2 / expected; cells that expect less than 5 are taken together. */
static double chi_square(const outcome *o, size_t n, size_t *degrees) {
    double chi = 0, rest = 0, rest_n = 0;
    *degrees = 0;
    for (size_t i = 0; i < n; i++) {
        double expected = o[i].p * DRAWS;
        if (expected < 5) {
            rest += expected;
            rest_n += (double)o[i].n;
            continue;
        }
        chi += ((double)o[i].n - expected) * ((double)o[i].n - expected) / expected;
        ++*degrees;
    }
    if (rest > 0) chi += (rest_n - rest) * (rest_n - rest) / rest;
    return chi;
}

static void a_drawing_draft_keeps_the_distribution(void **state) {
    (void)state;
    const variant variants[] = {
        {.temperature = 1, .penalty = 1, .top_k = TOP, .top_p = 1},
        {.temperature = 0.4, .penalty = 1.2, .top_k = TOP, .top_p = 0.9, .min_p = 0.1},
    };
    for (size_t k = 0; k < 2; k++) {
        setting s = begin_on(1, test_path("tiny"), test_path("near"), 64);
        variant v = variants[k];
        v.max_tokens = DEPTH;
        v.ignore_eos = true;
        pare_generate_options o = options(&v);
        outcome outcomes[LEAVES];
        int32_t ids[DEPTH];
        size_t n = 0, drafted = 0, accepted = 0, degrees;
        enumerate(&s, &o.sampler, ids, 0, 1, outcomes, &n);
        /* the prompt but its last token is computed once */
        o.speculate.draft = s.draft;
        o.before = prompt;
        o.n_before = PROMPT - 1;
        pare_session_truncate(s.session, 0);
        assert_ok(pare_session_eval(s.session, prompt, PROMPT - 1, NULL, err));
        for (size_t i = 0; i < DRAWS; i++) {
            o.sampler.seed = i;
            pare_generation g;
            pare_session_truncate(s.session, PROMPT - 1);
            pare_session_truncate(s.draft, PROMPT - 1);
            assert_ok(pare_generate(&g, s.session, s.tok, prompt + PROMPT - 1, 1, &o, err));
            size_t at = 0;
            assert_int_equal(g.ids.n, DEPTH);
            while (at < n && memcmp(outcomes[at].ids, g.ids.data, sizeof ids) != 0) at++;
            assert_true(at < n); /* nothing that sampling would have left out */
            outcomes[at].n++;
            drafted += g.drafted;
            accepted += g.accepted;
            pare_generation_free(&g);
        }
        double chi = chi_square(outcomes, n, &degrees);
        /* mean `degrees`, deviation sqrt(2 degrees): five deviations are never reached by chance */
        if (!(chi < (double)degrees + 5 * sqrt(2 * (double)degrees)))
            fail_msg("chi-square %.1f with %zu degrees", chi, degrees);
        assert_true(degrees >= 8);
        /* both ways are taken */
        assert_true(accepted > drafted / 5 && accepted < drafted * 19 / 20);
        end(&s);
    }
}

/* The same seed gives the same text with a draft too. */
static void a_seed_gives_one_text(void **state) {
    (void)state;
    setting s = begin(test_path("tiny"), test_path("near"), 256);
    variant v = {.temperature = 0.7,
                 .penalty = 1,
                 .top_k = 20,
                 .top_p = 1,
                 .max_tokens = 100,
                 .ignore_eos = true};
    pare_generate_options o = options(&v);
    o.speculate.draft = s.draft;
    pare_generation a = generate(&s, &o), b = generate(&s, &o);
    assert_int_equal(a.ids.n, 100);
    assert_memory_equal(a.ids.data, b.ids.data, 100 * sizeof(int32_t));
    assert_int_equal(a.drafted, b.drafted);
    pare_generation_free(&a);
    pare_generation_free(&b);
    end(&s);
}

/* --- a conversation: the session holds something already --- */

static void goes_on_behind_what_is_held(void **state) {
    (void)state;
    setting s = begin(test_path("tiny"), test_path("tiny"), 256);
    variant v = {.max_tokens = 30, .penalty = 1, .top_p = 1, .ignore_eos = true};
    int32_t held[200];
    for (int draft = 0; draft < 2; draft++) {
        size_t drafted = 0;
        pare_generation texts[2];
        for (int with = 0; with < 2; with++) {
            pare_generate_options o = options(&v);
            o.speculate.lookup = with && !draft;
            o.speculate.draft = with && draft ? s.draft : NULL;
            pare_generation first = generate(&s, &o);
            size_t n = pare_session_position(s.session);
            memcpy(held, prompt, sizeof prompt);
            memcpy(held + PROMPT, first.ids.data, (n - PROMPT) * sizeof *held);
            o.before = held;
            o.n_before = n;
            assert_ok(pare_generate(&texts[with], s.session, s.tok, prompt, 3, &o, err));
            drafted += texts[with].drafted;
            pare_generation_free(&first);
        }
        assert_memory_equal(texts[0].ids.data, texts[1].ids.data, 30 * sizeof(int32_t));
        assert_true(drafted > 0);
        pare_generation_free(&texts[0]);
        pare_generation_free(&texts[1]);
    }
    /* what cannot be */
    pare_generate_options o = options(&v);
    pare_generation g;
    pare_error err = {0};
    o.speculate = (pare_speculate_options){.lookup = true, .max = 7};
    o.before = held;
    o.n_before = 3;
    assert_int_equal(pare_generate(&g, s.session, s.tok, prompt, 3, &o, &err), PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "before: found 3 tokens"));
    pare_generation_free(&g);
    o.n_before = 0;
    o.speculate = (pare_speculate_options){.draft = s.draft, .max = 7};
    assert_int_equal(pare_generate(&g, s.session, s.tok, prompt, 3, &o, &err), PARE_ERR_ARG);
    pare_generation_free(&g);
    o.speculate = (pare_speculate_options){.draft = s.session, .max = 7};
    o.n_before = pare_session_position(s.session);
    assert_int_equal(pare_generate(&g, s.session, s.tok, prompt, 3, &o, &err), PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "the session itself"));
    pare_generation_free(&g);
    o.n_before = 0;
    o.speculate = (pare_speculate_options){.draft = s.draft, .max = 7};
    pare_session_truncate(s.session, 0); /* but the draft holds more */
    assert_int_equal(pare_generate(&g, s.session, s.tok, prompt, 3, &o, &err), PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "speculate.draft"));
    pare_generation_free(&g);
    for (size_t max = 0; max <= 8; max += 8) {
        o.speculate = (pare_speculate_options){.lookup = true, .max = max};
        assert_int_equal(pare_generate(&g, s.session, s.tok, prompt, 3, &o, &err), PARE_ERR_ARG);
        assert_non_null(strstr(err.message, "expected 1 to 7"));
        pare_generation_free(&g);
    }
    end(&s);
}

static int make_models(void **state) {
    (void)state;
    tiny_model("tiny", NULL);
    tiny_model("near", &(tiny_options){.scale = 0.09f});
    tiny_model("other", &(tiny_options){.seed = 1});
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lookup_finds_the_longest_then_the_latest),
        cmocka_unit_test(counts_follow_what_was_right),
        cmocka_unit_test(rows_have_the_bits_of_one),
        cmocka_unit_test(windows_and_caches_keep_the_bits),
        cmocka_unit_test(lookup_gives_the_same_text),
        cmocka_unit_test(stops_inside_a_pass),
        cmocka_unit_test(a_greedy_draft_gives_the_same_text),
        cmocka_unit_test(a_drawing_draft_keeps_the_distribution),
        cmocka_unit_test(a_seed_gives_one_text),
        cmocka_unit_test(goes_on_behind_what_is_held),
    };
    return cmocka_run_group_tests(tests, make_models, NULL);
}
