/* Generation on a tiny model whose tokens are bytes: stop strings across token borders, streaming
 * of whole characters, limits, and that a failure leaves what was generated. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "pare/generate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct setting {
    pare_runtime *rt;
    pare_model *model;
    pare_tokenizer *tok;
    pare_session *session;
} setting;

static volatile sig_atomic_t cancel;

static setting begin(const char *folder, size_t n_ctx) {
    setting s = {0};
    pare_options options = pare_options_default();
    options.n_threads = 2;
    options.cancel = &cancel;
    cancel = 0;
    assert_ok(pare_runtime_create(&s.rt, &options, err));
    assert_ok(pare_model_load(&s.model, s.rt, folder, err));
    assert_ok(pare_tokenizer_load(&s.tok, folder, err));
    pare_session_options so = pare_session_options_default();
    so.n_ctx = n_ctx;
    assert_ok(pare_session_create(&s.session, s.model, &so, err));
    return s;
}

static void end(setting *s) {
    pare_session_free(s->session);
    pare_tokenizer_free(s->tok);
    pare_model_free(s->model);
    pare_runtime_free(s->rt);
}

static const int32_t prompt[5] = {'h', 'e', 'l', 'l', 'o'};
static const char *folder;

/* What on_text was given, in one piece; every piece must be whole UTF-8. */
typedef struct shown {
    char text[4096];
    size_t n, calls, stop_at; /* calls after which to end; 0 = never */
} shown;

static int show(void *arg, const char *text, size_t len) {
    shown *s = arg;
    assert_true(len > 0 && s->n + len < sizeof s->text);
    assert_true(((unsigned char)text[0] & 0xC0) != 0x80);
    memcpy(s->text + s->n, text, len);
    s->n += len;
    s->text[s->n] = '\0';
    return s->stop_at && ++s->calls >= s->stop_at;
}

static pare_generation generate(setting *s, pare_generate_options *o, shown *seen) {
    pare_generation g;
    *seen = (shown){.stop_at = seen->stop_at};
    o->on_text = show;
    o->arg = seen;
    pare_session_truncate(s->session, 0);
    assert_ok(pare_generate(&g, s->session, s->tok, prompt, 5, o, err));
    assert_int_equal(g.text[g.text_len], 0); /* the text may hold NUL: any byte is a token here */
    if (g.reason != PARE_STOP_CALLER) {
        assert_int_equal(seen->n, g.text_len);
        assert_memory_equal(seen->text, g.text, g.text_len);
    }
    return g;
}

static pare_generate_options options(size_t n) {
    pare_generate_options o = pare_generate_options_default();
    o.max_tokens = n;
    o.ignore_eos = true;
    o.sampler.top_k = 0;
    o.sampler.top_p = 1;
    o.sampler.min_p = 0;
    o.sampler.seed = 11;
    return o;
}

static void same_seed(void **state) {
    (void)state;
    setting s = begin(folder, 256);
    pare_generate_options o = options(100);
    shown seen = {0};
    pare_generation a = generate(&s, &o, &seen), b = generate(&s, &o, &seen);
    assert_int_equal(a.ids.n, 100);
    assert_int_equal(a.reason, PARE_STOP_LENGTH);
    assert_int_equal(a.prompt_tokens, 5);
    assert_int_equal(a.decoded, 99);
    assert_memory_equal(a.ids.data, b.ids.data, 100 * sizeof(int32_t));
    assert_true(a.prefill_s > 0 && a.first_token_s >= a.prefill_s && a.decode_s > 0);
    pare_generation_free(&a);
    pare_generation_free(&b);
    end(&s);
}

/* A second call on the session: the repeat penalty counts what the first one left there, and its
 * draws are others. */
static void goes_on(void **state) {
    (void)state;
    setting s = begin(folder, 256);
    pare_generate_options o = options(30);
    o.sampler.temperature = 0;
    o.sampler.repeat_penalty = 1000;
    o.sampler.repeat_last_n = 256;
    shown seen = {0};
    pare_generation first = generate(&s, &o, &seen), g;
    int32_t held[64];
    const size_t n = pare_session_position(s.session);
    assert_int_equal(n, 5 + 29);
    memcpy(held, prompt, sizeof prompt);
    memcpy(held + 5, first.ids.data, 29 * sizeof *held);
    o.before = held;
    o.n_before = n;
    assert_ok(pare_generate(&g, s.session, s.tok, prompt, 5, &o, err));
    for (size_t i = 0; i < g.ids.n; i++)
        for (size_t j = 0; j < n; j++) assert_int_not_equal(g.ids.data[i], held[j]);
    pare_generation_free(&g);
    /* as if all of it were one prompt */
    int32_t all[64];
    memcpy(all, held, n * sizeof *all);
    memcpy(all + n, prompt, sizeof prompt);
    pare_generation whole;
    pare_session_truncate(s.session, n);
    assert_ok(pare_generate(&g, s.session, s.tok, prompt, 5, &o, err));
    pare_session_truncate(s.session, 0);
    o.n_before = 0;
    assert_ok(pare_generate(&whole, s.session, s.tok, all, n + 5, &o, err));
    assert_memory_equal(g.ids.data, whole.ids.data, 30 * sizeof(int32_t));
    pare_generation_free(&whole);
    pare_generation_free(&g);
    pare_generation_free(&first);

    /* at such a temperature the draw alone decides: of 30 out of 256, equal by chance are 0.1 */
    o = options(30);
    o.sampler.temperature = 1000;
    first = generate(&s, &o, &seen);
    assert_ok(pare_generate(&g, s.session, s.tok, prompt, 5, &o, err));
    size_t same = 0;
    for (size_t i = 0; i < 30; i++) same += g.ids.data[i] == first.ids.data[i];
    assert_true(same < 5);
    pare_generation_free(&g);
    pare_generation_free(&first);
    /* what is not there cannot be told of */
    pare_error err = {0};
    o.before = held;
    o.n_before = 3;
    assert_int_equal(pare_generate(&g, s.session, s.tok, prompt, 5, &o, &err), PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "before: found 3 tokens"));
    pare_generation_free(&g);
    end(&s);
}

/* A stop string taken from the middle of a known text: the text ends right before it, though its
 * bytes are tokens of their own. */
static void stop_strings(void **state) {
    (void)state;
    setting s = begin(folder, 256);
    pare_generate_options o = options(100);
    shown seen = {0};
    pare_generation whole = generate(&s, &o, &seen);
    /* three characters that begin where the text has ASCII, and an earlier part of the text does
     * not hold */
    size_t at = SIZE_MAX;
    char stop[8] = "";
    for (size_t i = 10; i + 3 < whole.text_len && at == SIZE_MAX; i++) {
        const signed char *c = (const signed char *)whole.text + i;
        if (c[0] <= 0 || c[1] <= 0 || c[2] <= 0) continue;
        memcpy(stop, c, 3);
        if (memmem(whole.text, whole.text_len, stop, 3) == whole.text + i) at = i;
    }
    assert_true(at != SIZE_MAX);
    const char *const stops[] = {"", "never in this text", stop};
    o.stop = stops;
    o.n_stop = 3;
    pare_generation cut = generate(&s, &o, &seen);
    assert_int_equal(cut.reason, PARE_STOP_STRING);
    assert_int_equal(cut.text_len, at);
    assert_memory_equal(cut.text, whole.text, at);
    assert_true(cut.ids.n < whole.ids.n);
    pare_generation_free(&cut);
    /* a stop string that never completes holds nothing back for good */
    char half[8];
    size_t last = whole.text_len;
    while (last && (signed char)whole.text[last - 1] <= 0) last--;
    snprintf(half, sizeof half, "%c\x01\x02", whole.text[last - 1]);
    const char *const unfinished[] = {half};
    o.stop = unfinished;
    o.n_stop = 1;
    cut = generate(&s, &o, &seen);
    assert_int_equal(cut.text_len, whole.text_len);
    assert_memory_equal(cut.text, whole.text, whole.text_len);
    pare_generation_free(&cut);
    pare_generation_free(&whole);
    end(&s);
}

static void limits(void **state) {
    (void)state;
    setting s = begin(folder, 16);
    pare_generate_options o = options(SIZE_MAX);
    shown seen = {0};
    pare_generation g = generate(&s, &o, &seen);
    assert_int_equal(g.reason, PARE_STOP_CONTEXT);
    assert_int_equal(pare_session_position(s.session), 16);
    assert_int_equal(g.ids.n, 12); /* 11 computed after the prompt, one more chosen */
    pare_generation_free(&g);
    o.max_tokens = 0;
    g = generate(&s, &o, &seen);
    assert_int_equal(g.ids.n, 0);
    assert_int_equal(pare_session_position(s.session), 5);
    pare_generation_free(&g);
    o.max_tokens = 50;
    seen.stop_at = 3;
    g = generate(&s, &o, &seen);
    assert_int_equal(g.reason, PARE_STOP_CALLER);
    assert_int_equal(seen.calls, 3);
    pare_generation_free(&g);

    pare_error err = {0};
    pare_session_truncate(s.session, 0);
    assert_int_equal(pare_generate(&g, s.session, s.tok, prompt, 0, &o, &err), PARE_ERR_ARG);
    pare_generation_free(&g);
    const int32_t many[17] = {0};
    assert_int_equal(pare_generate(&g, s.session, s.tok, many, 17, &o, &err), PARE_ERR_ARG);
    assert_non_null(strstr(err.message, "found 17 tokens, expected at most 16"));
    pare_generation_free(&g);
    const int32_t wrong[1] = {TINY_VOCAB};
    assert_int_equal(pare_generate(&g, s.session, s.tok, wrong, 1, &o, &err), PARE_ERR_ARG);
    pare_generation_free(&g);
    end(&s);
}

static int cancel_later(void *arg, const char *text, size_t len) {
    (void)text;
    (void)len;
    if (++*(int *)arg == 4) cancel = 1;
    return 0;
}

static void interruption_keeps_text(void **state) {
    (void)state;
    setting s = begin(folder, 256);
    pare_generate_options o = options(200);
    int calls = 0;
    pare_generation g;
    o.on_text = cancel_later;
    o.arg = &calls;
    assert_int_equal(pare_generate(&g, s.session, s.tok, prompt, 5, &o, NULL),
                     PARE_ERR_INTERRUPTED);
    assert_in_range(g.ids.n, 4, 199);
    assert_true(g.text_len > 0);
    pare_generation_free(&g);
    end(&s);
}

/* N17: the request fails. */
/* The last report of a stage. */
typedef struct reported {
    double prompt, answer, total;
} reported;

static void keep_progress(void *arg, const char *stage, double done, double total,
                          const char *unit) {
    reported *r = arg;
    assert_string_equal(unit, "tokens");
    *(strcmp(stage, "prompt") == 0 ? &r->prompt : &r->answer) = done;
    r->total = total;
}

/* A prompt of several batches, and an answer that nobody is shown. */
static void tells_how_far_it_is(void **state) {
    (void)state;
    reported told = {0};
    pare_options ro = pare_options_default();
    ro.n_threads = 2;
    ro.progress = keep_progress;
    ro.callback_arg = &told;
    setting s = {0};
    pare_session_options so = pare_session_options_default();
    so.n_ctx = 64;
    so.n_batch = 4;
    assert_ok(pare_runtime_create(&s.rt, &ro, err));
    assert_ok(pare_model_load(&s.model, s.rt, folder, err));
    assert_ok(pare_tokenizer_load(&s.tok, folder, err));
    assert_ok(pare_session_create(&s.session, s.model, &so, err));
    pare_generate_options o = options(12);
    pare_generation g;
    assert_ok(pare_generate(&g, s.session, s.tok, prompt, 5, &o, err));
    assert_true(told.prompt == 5 && told.answer == 12 && told.total == 12);
    pare_generation_free(&g);
    told = (reported){0};
    shown seen = {0};
    g = generate(&s, &o, &seen);
    assert_true(told.prompt == 5 && told.answer == 0);
    pare_generation_free(&g);
    end(&s);
}

static void not_numbers(void **state) {
    (void)state;
    setting s = begin(tiny_model("wild", &(tiny_options){.final_norm = 3e38f}), 64);
    pare_generate_options o = options(4);
    pare_generation g;
    pare_error err = {0};
    assert_int_equal(pare_generate(&g, s.session, s.tok, prompt, 5, &o, &err), PARE_ERR_INPUT);
    assert_non_null(strstr(err.message, "NaN"));
    assert_int_equal(g.ids.n, 0);
    pare_generation_free(&g);
    end(&s);
}

int main(void) {
    folder = tiny_model("tiny", NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_seed),
        cmocka_unit_test(goes_on),
        cmocka_unit_test(stop_strings),
        cmocka_unit_test(limits),
        cmocka_unit_test(interruption_keeps_text),
        cmocka_unit_test(not_numbers),
        cmocka_unit_test(tells_how_far_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
