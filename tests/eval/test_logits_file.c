/* llama.cpp's base files, made here by a plain reading of the format: what is computed beside one
 * equals llama.cpp's formulas in f64 on the codes, and the two models side by side within the
 * codes' precision; every field bent once is refused with one line. */
#include "support/test.h"
#include "support/tiny_model.h"

#include "base/memory.h"
#include "io/logits_file.h"
#include "pare/eval.h"
#include "pare/model.h"

#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { CTX = 21, WINDOWS = 3, FIRST = CTX / 2, ROWS = CTX - 1 - FIRST, N = WINDOWS * ROWS };
enum { HEADER = 20, MAX_BYTES = 1 << 20, ROW = 2 * ((TINY_VOCAB + 1) / 2) + 4 };

/* A file in memory. */
typedef struct image {
    char *data;
    size_t n;
} image;

static void put(image *to, const void *data, size_t n) {
    assert_true(to->n + n <= MAX_BYTES);
    memcpy(to->data + to->n, data, n);
    to->n += n;
}

static image begin_image(int32_t ctx, int32_t vocab, int32_t windows) {
    const int32_t counts[] = {ctx, vocab, windows};
    image to = {malloc(MAX_BYTES), 0};
    assert_non_null(to.data);
    put(&to, "_logits_", 8);
    put(&to, counts, sizeof counts);
    return to;
}

static void put_row(image *to, float scale, float smallest, const uint16_t *codes, size_t vocab) {
    const uint16_t padding = 0;
    put(to, &scale, 4);
    put(to, &smallest, 4);
    put(to, codes, 2 * vocab);
    if (vocab % 2) put(to, &padding, 2);
}

/* A valid file whose distributions are even. */
static image even_image(int32_t ctx, int32_t vocab, int32_t windows) {
    image to = begin_image(ctx, vocab, windows);
    const uint16_t codes[2 * TINY_VOCAB] = {0};
    const int32_t id = vocab - 1;
    for (int i = 0; i < windows * ctx; i++) put(&to, &id, sizeof id);
    for (int i = 0; i < windows * (ctx - 1 - ctx / 2); i++)
        put_row(&to, 0, -logf((float)vocab), codes, (size_t)vocab);
    return to;
}

static const char *write_image(image *from) {
    const char *path = test_write("base.kld", from->data, from->n);
    free(from->data);
    return path;
}

/* --- values --- */

typedef struct models {
    pare_runtime *rt;
    pare_model *m, *base;
    pare_tokenizer *tok;
    pare_ids ids;
    char text[CTX * WINDOWS + 7];
} models;

static void begin(models *x) {
    *x = (models){.rt = test_runtime(2, pare_isa_best())};
    for (size_t i = 0; i < sizeof x->text; i++) x->text[i] = (char)('a' + (i * i + i / 5) % 23);
    assert_ok(pare_model_load(&x->base, x->rt, tiny_model("base", NULL), err));
    assert_ok(pare_tokenizer_load(&x->tok, test_path("base"), err));
    assert_ok(pare_model_load(&x->m, x->rt, tiny_model("other", &(tiny_options){.seed = 5}), err));
    assert_ok(
        pare_eval_tokens(&x->ids, x->tok, x->text, sizeof x->text, PARE_PROTOCOL_LLAMA_CPP, err));
}

static void end(models *x) {
    pare_ids_free(&x->ids);
    pare_tokenizer_free(x->tok);
    pare_model_free(x->m);
    pare_model_free(x->base);
    pare_runtime_free(x->rt);
}

/* Logits behind token FIRST + i of each window, token by token: [N][TINY_VOCAB]. */
static void logits_of(const models *x, pare_model *m, float (*out)[TINY_VOCAB]) {
    const pare_session_options so = {.n_ctx = CTX, .compute = PARE_COMPUTE_EXACT};
    for (size_t w = 0; w < WINDOWS; w++) {
        pare_session *s;
        assert_ok(pare_session_create(&s, m, &so, err));
        for (size_t i = 0; i + 1 < CTX; i++) {
            float unscored[TINY_VOCAB], *row = i < FIRST ? unscored : out[w * ROWS + i - FIRST];
            assert_ok(pare_session_eval(s, x->ids.data + w * CTX + i, 1, row, err));
        }
        pare_session_free(s);
    }
}

/* As llama.cpp writes a row. */
static void encode(image *to, const float *logits) {
    uint16_t codes[TINY_VOCAB];
    float most = logits[0], least = logits[0];
    double sum = 0;
    for (int v = 0; v < TINY_VOCAB; v++) most = fmaxf(most, logits[v]);
    for (int v = 0; v < TINY_VOCAB; v++) least = fminf(least, logits[v]);
    for (int v = 0; v < TINY_VOCAB; v++) sum += exp((double)logits[v] - (double)most);
    least = fmaxf(least, most - 16);
    const float scale = (most - least) / 65535;
    for (int v = 0; v < TINY_VOCAB; v++)
        codes[v] = (uint16_t)lrintf(fmaxf(logits[v] - least, 0) / scale);
    put_row(to, scale, least - most - (float)log(sum), codes, TINY_VOCAB);
}

/* llama.cpp's sums over the rows of a file, in f64. */
typedef struct sums {
    double kl[N], dp[N], own, base;
    size_t same, n_below; /* entries that a KL leaves out */
} sums;

static void look(sums *s, const models *x, const image *file, float (*own)[TINY_VOCAB]) {
    const char *p = file->data + HEADER + sizeof(int32_t) * CTX * WINDOWS;
    *s = (sums){0};
    for (size_t n = 0; n < N; n++, p += sizeof(uint16_t) * ROW) {
        float range[2], most = -INFINITY, top = -INFINITY;
        uint16_t codes[TINY_VOCAB];
        int best = 0, base_best = 0;
        double lse = 0;
        memcpy(range, p, sizeof range);
        memcpy(codes, p + sizeof range, sizeof codes);
        for (int v = 0; v < TINY_VOCAB; v++)
            if (own[n][v] > most) most = own[n][best = v];
        for (int v = 0; v < TINY_VOCAB; v++) lse += exp((double)own[n][v] - (double)most);
        lse = log(lse) + (double)most;
        for (int v = 0; v < TINY_VOCAB; v++) {
            const float log_p = range[0] * (float)codes[v] + range[1];
            if (log_p > top) {
                top = log_p;
                base_best = v;
            }
            s->n_below += log_p <= -16;
            if (log_p > -16)
                s->kl[n] += exp((double)log_p) * ((double)log_p - (double)own[n][v] + lse);
        }
        const int32_t next = x->ids.data[n / ROWS * CTX + FIRST + n % ROWS + 1];
        const double base = (double)(range[0] * (float)codes[next] + range[1]),
                     log_p = (double)own[n][next] - lse;
        s->dp[n] = exp(log_p) - exp(base);
        s->own -= log_p;
        s->base -= base;
        s->same += best == base_best;
    }
}

static double mean(const double *x, int power) {
    double sum = 0;
    for (int i = 0; i < N; i++) sum += pow(x[i], power);
    return sum / N;
}

#define NEAR(a, b, bound) assert_true(fabs((a) - (b)) <= (bound))

static void compare(const models *x, image *file, float (*own)[TINY_VOCAB], pare_distance *d,
                    sums *s) {
    pare_perplexity ppl;
    look(s, x, file, own);
    const char *path = write_image(file);
    assert_true(pare_is_logits_file(path));
    assert_ok(pare_eval_against_logits(&ppl, d, x->rt, x->m, x->tok, path, NULL, 0, NULL, err));
    assert_true(ppl.protocol == PARE_PROTOCOL_LLAMA_CPP && ppl.ctx == CTX);
    assert_true(ppl.n_windows == WINDOWS && ppl.n_tokens == CTX * WINDOWS && ppl.n_scored == N);
    assert_int_equal(ppl.crc32, pare_ids_crc32(x->ids.data, CTX * WINDOWS));
    assert_int_equal(d->n_scored, N);
    NEAR(ppl.nll_sum, s->own, 1e-4);
    NEAR(log(d->base_ppl) * N, s->base, 1e-4);
    NEAR(d->kl_mean, mean(s->kl, 1), 1e-5);
    NEAR(d->dp_mean, mean(s->dp, 1), 1e-6);
    NEAR(d->dp_rms, sqrt(mean(s->dp, 2)), 1e-6);
    NEAR(d->same_top, (double)s->same / N, 1e-9);
    for (int i = 0; i < N; i++)
        assert_true(s->kl[i] >= d->kl_min - 1e-5 && s->kl[i] <= d->kl_max + 1e-5);
}

static void beside_models(void **state) {
    (void)state;
    models x;
    static float base[N][TINY_VOCAB], own[N][TINY_VOCAB];
    sums s;
    pare_distance d, both;
    pare_perplexity ppl;
    begin(&x);
    logits_of(&x, x.base, base);
    logits_of(&x, x.m, own);
    image file = begin_image(CTX, TINY_VOCAB, WINDOWS);
    put(&file, x.ids.data, sizeof(int32_t) * CTX * WINDOWS);
    for (int i = 0; i < N; i++) encode(&file, base[i]);
    compare(&x, &file, own, &d, &s);

    /* side by side: log p of the codes is off by half a step at most, here 2e-5 */
    pare_eval_options o = pare_eval_options_default();
    o.protocol = PARE_PROTOCOL_LLAMA_CPP;
    o.ctx = CTX;
    assert_ok(pare_eval_against(&ppl, &both, x.rt, x.m, x.tok, x.base, x.tok, x.text, sizeof x.text,
                                &o, err));
    assert_true(d.same_top == both.same_top && d.same_top_stderr == both.same_top_stderr);
    NEAR(d.kl_mean, both.kl_mean, 1e-4);
    NEAR(d.kl_p99, both.kl_p99, 1e-4);
    NEAR(d.kl_max, both.kl_max, 1e-4);
    NEAR(d.dp_rms, both.dp_rms, 1e-5);
    NEAR(d.ln_ratio, both.ln_ratio, 1e-4);
    NEAR(d.base_ppl / both.base_ppl, 1, 1e-4);
    NEAR(d.correlation, both.correlation, 1e-4);

    /* the first windows alone, with the text beside them */
    pare_distance part;
    o.max_windows = 2;
    assert_ok(pare_eval_against_logits(&ppl, &part, x.rt, x.m, x.tok, test_path("base.kld"), x.text,
                                       sizeof x.text, &o, err));
    assert_true(ppl.n_windows == 2 && part.n_scored == 2 * ROWS);
    assert_ok(pare_eval_against(&ppl, &both, x.rt, x.m, x.tok, x.base, x.tok, x.text, sizeof x.text,
                                &o, err));
    NEAR(part.kl_mean, both.kl_mean, 1e-4);
    end(&x);
}

/* Codes that no model has written: values below the floor of a KL, equal ones at the top, and rows
 * that sum to less than 1. */
static void any_codes(void **state) {
    (void)state;
    models x;
    static float own[N][TINY_VOCAB];
    sums s;
    pare_distance d;
    begin(&x);
    logits_of(&x, x.m, own);
    image file = begin_image(CTX, TINY_VOCAB, WINDOWS);
    put(&file, x.ids.data, sizeof(int32_t) * CTX * WINDOWS);
    uint32_t seed = 7;
    for (int i = 0; i < N; i++) {
        uint16_t codes[TINY_VOCAB];
        for (int v = 0; v < TINY_VOCAB; v++)
            codes[v] = (uint16_t)((seed = seed * 1664525 + 1013904223) >> (v % 3 ? 16 : 17));
        codes[20] = codes[10] = UINT16_MAX;
        put_row(&file, 20.0f / 65535, i % 2 ? -21 : -25, codes, TINY_VOCAB);
    }
    compare(&x, &file, own, &d, &s);
    assert_true(s.n_below > N && d.kl_min < 0); /* both occur */
    end(&x);
}

/* --- refusals --- */

typedef struct bend {
    size_t at; /* byte of an even file */
    int kind;  /* 0: i32, 1: f32 */
    int32_t i;
    float f;
    const char *told; /* NULL: accepted */
} bend;

static const size_t rows_at = HEADER + 4 * CTX * 2;

static pare_status open_and_read(const char *path, pare_error *err) {
    pare_logits_file f;
    pare_status st = pare_logits_file_open(&f, path, err);
    if (st != PARE_OK) {
        assert_true(!f.ids && f.file.fd == -1);
        return st;
    }
    uint16_t *rows = malloc(f.n_rows * f.row_codes * sizeof *rows);
    for (size_t w = 0; st == PARE_OK && w < f.n_windows; w++)
        st = pare_logits_file_read(rows, &f, w, 0, f.n_rows, err);
    free(rows);
    pare_logits_file_close(&f);
    return st;
}

static void bent(void **state) {
    (void)state;
    const bend cases[] = {
        {8, 0, 0, 0, "base.kld: n_ctx: found 0, expected at least 3"},
        {8, 0, 2, 0, "n_ctx: found 2, expected at least 3"},
        {8, 0, -1, 0, "n_ctx: found -1"},
        {8, 0, 3, 0, "expected 1100 (n_chunk 2, n_ctx 3, n_vocab 259)"},
        {8, 0, INT_MAX, 0, "n_ctx 2147483647"},
        {12, 0, 0, 0, "n_vocab: found 0, expected at least 1"},
        {12, 0, -5, 0, "n_vocab: found -5"},
        {12, 0, TINY_VOCAB + 2, 0, "n_vocab 261"},
        /* the padding taken for an entry: the same size, and rows that do not sum to 1 */
        {12, 0, TINY_VOCAB + 1, 0, "expected a range of log p up to 0 at most, or scale 0 and"},
        {12, 0, INT_MAX, 0, "n_vocab 2147483647"},
        {16, 0, 0, 0, "n_chunk: found 0"},
        {16, 0, 1, 0, "n_chunk 1"},
        {16, 0, INT_MIN, 0, "n_chunk: found -2147483648"},
        {16, 0, INT_MAX, 0, "n_chunk 2147483647"},
        {HEADER, 0, TINY_VOCAB - 1, 0, NULL},
        {HEADER, 0, TINY_VOCAB, 0, "chunk 0: token 0: found id 259, expected 0 to 258"},
        {HEADER + 4 * CTX + 8, 0, -1, 0, "chunk 1: token 2: found id -1"},
        {rows_at, 1, 0, NAN, "chunk 0: row 0: found scale nan"},
        {rows_at, 1, 0, INFINITY, "found scale inf"},
        {rows_at, 1, 0, -1e-9f, "found scale -1e-09"},
        {rows_at, 1, 0, 1, "found scale 1 "},
        {rows_at, 1, 0, 8e-5f, NULL}, /* -ln 259 + 65535 * 8e-5 = -0.31 */
        {rows_at + 2 * ROW + 4, 1, 0, NAN, "chunk 0: row 1: found scale 0 and smallest log p nan"},
        {rows_at + 4, 1, 0, -INFINITY, "smallest log p -inf"},
        {rows_at + 4, 1, 0, 0, "found scale 0 and smallest log p 0"},
        {rows_at + 4, 1, 0, -5.5572f, NULL}, /* -ln 259 = -5.55683 */
        {rows_at + 4, 1, 0, 0.01f, "smallest log p 0.01"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image file = even_image(CTX, TINY_VOCAB, 2);
        if (cases[i].kind)
            memcpy(file.data + cases[i].at, &cases[i].f, 4);
        else
            memcpy(file.data + cases[i].at, &cases[i].i, 4);
        const char *path = write_image(&file);
        if (cases[i].told)
            assert_fails(open_and_read(path, err), PARE_ERR_INPUT, cases[i].told);
        else
            assert_ok(open_and_read(path, err));
    }
}

static void cut_off(void **state) {
    (void)state;
    image file = even_image(CTX, TINY_VOCAB, 2);
    file.data[file.n] = 0;
    for (size_t n = 0; n <= file.n + 1; n += n < rows_at ? 1 : n + 97 < file.n ? 97 : 1) {
        const char *path = test_write("base.kld", file.data, n);
        assert_int_equal(pare_is_logits_file(path), n >= 8);
        if (n == file.n)
            assert_ok(open_and_read(path, err));
        else
            assert_fails(open_and_read(path, err), PARE_ERR_INPUT,
                         n < 8        ? "found no '_logits_'"
                         : n < HEADER ? "expected a header of 20"
                                      : " bytes, expected ");
    }
    file.data[3] = 'G';
    const char *path = test_write("base.kld", file.data, file.n);
    assert_false(pare_is_logits_file(path));
    assert_fails(open_and_read(path, err), PARE_ERR_INPUT, "found no '_logits_'");
    assert_false(pare_is_logits_file(test_path("none")) || pare_is_logits_file(test_folder()));
    free(file.data);
}

static void other_model(void **state) {
    (void)state;
    models x;
    pare_perplexity ppl;
    pare_distance d;
    begin(&x);
    pare_eval_options o = pare_eval_options_default();
    const char *text = NULL;
    size_t len = 0;
#define RUN(path) pare_eval_against_logits(&ppl, &d, x.rt, x.m, x.tok, path, text, len, &o, err)
    image file = even_image(CTX, TINY_VOCAB - 1, 2);
    assert_fails(RUN(write_image(&file)), PARE_ERR_INPUT,
                 "n_vocab: found 258, expected the model's vocabulary of 259");
    file = even_image(TINY_CTX, TINY_VOCAB, 1);
    assert_ok(RUN(write_image(&file)));
    file = even_image(TINY_CTX + 1, TINY_VOCAB, 1);
    assert_fails(RUN(write_image(&file)), PARE_ERR_INPUT,
                 "n_ctx: found 513 tokens, expected at most 512 (the model's maximum)");
    file = even_image(CTX, TINY_VOCAB, 2);
    memcpy(file.data + HEADER, x.ids.data, sizeof(int32_t) * CTX * 2);
    char *path = strdup(write_image(&file));
    o.ctx = CTX + 1;
    assert_fails(RUN(path), PARE_ERR_ARG, "context: found 22 tokens, expected the 21 of ");
    o.ctx = CTX;
    assert_ok(RUN(path));
    text = x.text;
    len = 2 * CTX;
    assert_ok(RUN(path));
    len--;
    assert_fails(RUN(path), PARE_ERR_INPUT, "found 42 tokens, expected at most the 41 of text");
    x.text[5] = '!';
    o.name = "wiki";
    assert_fails(RUN(path), PARE_ERR_INPUT, "base.kld: token 5: found id ");
    assert_fails(RUN("none"), PARE_ERR_INPUT, "none");
    free(path);
    end(&x);
#undef RUN
}

/* --- files that pare writes --- */

/* Beside llama.cpp's formulas on logits of a token at a time, code by code; a model beside its own
 * file; the perplexity is the one without a file. */
static void written(void **state) {
    (void)state;
    models x;
    static float logits[N][TINY_VOCAB];
    pare_perplexity ppl, plain;
    pare_distance d;
    begin(&x);
    pare_eval_options o = pare_eval_options_default();
    o.protocol = PARE_PROTOCOL_LLAMA_CPP;
    o.ctx = CTX;
    char *path = strdup(test_path("saved.kld")), *found;
    size_t n;
    logits_of(&x, x.base, logits);
    image want = begin_image(CTX, TINY_VOCAB, WINDOWS);
    put(&want, x.ids.data, sizeof(int32_t) * CTX * WINDOWS);
    for (int i = 0; i < N; i++) encode(&want, logits[i]);
    for (int again = 0; again < 2; again++) { /* an older one is replaced */
        assert_ok(
            pare_eval_save_logits(&ppl, x.rt, x.base, x.tok, x.text, sizeof x.text, path, &o, err));
        assert_ok(pare_file_read_all(&found, &n, path, MAX_BYTES, err));
        assert_int_equal(n, want.n);
        assert_memory_equal(found, want.data, HEADER + sizeof(int32_t) * CTX * WINDOWS);
        image got = {found, n};
        for (int i = 0; i < N; i++) {
            float a[2], b[2];
            const size_t at =
                HEADER + sizeof(int32_t) * CTX * WINDOWS + 2 * (size_t)ROW * (size_t)i;
            memcpy(a, got.data + at, sizeof a);
            memcpy(b, want.data + at, sizeof b);
            NEAR(a[0], b[0], 1e-9); /* f32 sums in another order */
            NEAR(a[1], b[1], 2e-6);
            for (int v = 0; v < TINY_VOCAB; v++) {
                uint16_t p, q;
                memcpy(&p, got.data + at + 8 + 2 * v, 2);
                memcpy(&q, want.data + at + 8 + 2 * v, 2);
                assert_true(abs(p - q) <= 2);
            }
        }
        pare_free(found);
    }
    assert_ok(pare_eval_perplexity(&plain, x.rt, x.base, x.tok, x.text, sizeof x.text, &o, err));
    assert_true(ppl.n_scored == plain.n_scored && ppl.crc32 == plain.crc32);
    NEAR(ppl.nll_sum, plain.nll_sum, 1e-4);
    /* half a step of the codes: 2e-5 */
    assert_ok(pare_eval_against_logits(&plain, &d, x.rt, x.base, x.tok, path, x.text, sizeof x.text,
                                       NULL, err));
    NEAR(d.kl_mean, 0, 2e-5);
    NEAR(d.kl_max, 0, 2e-5);
    NEAR(d.ln_ratio, 0, 2e-5);
    assert_true(d.same_top == 1);
    free(want.data);
    free(path);
    end(&x);
}

/* Rows of every kind come back: even ones, values far below the largest, none at all. */
static void written_rows(void **state) {
    (void)state;
    enum { V = 5 };
    static const float rows[][V] = {{0, 0, 0, 0, 0},
                                    {-3, 4, 1, 2, 4},
                                    {100, 0, 99, 84.5f, 84},
                                    {1e-38f, 0, 0, 0, 0},
                                    {-INFINITY, 2, 3, -INFINITY, 2.5f},
                                    {3e38f, -3e38f, 0, 1, 2}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double most = -INFINITY, lse = 0;
        uint16_t row[V + 1 + 4];
        float back[V];
        for (int v = 0; v < V; v++) most = fmax(most, (double)rows[i][v]);
        for (int v = 0; v < V; v++) lse += exp((double)rows[i][v] - most);
        lse = most + log(lse);
        pare_logits_file_encode(row, rows[i], V, lse);
        assert_int_equal(row[V + 4], 0);
        pare_logits_file_decode(back, &(pare_logits_file){.vocab_size = V, .row_codes = V + 5},
                                row);
        for (int v = 0; v < V; v++) {
            const double want = fmax((double)rows[i][v] - lse, most - 16 - lse);
            NEAR((double)back[v], want, 16.0 / 65535 / 2 + 2e-6);
        }
    }
}

static void not_written(void **state) {
    (void)state;
    models x;
    pare_perplexity ppl;
    begin(&x);
    pare_eval_options o = pare_eval_options_default();
    char *path = strdup(test_path("none.kld"));
#define SAVE(to) pare_eval_save_logits(&ppl, x.rt, x.m, x.tok, x.text, sizeof x.text, to, &o, err)
    o.ctx = CTX;
    assert_fails(SAVE(path), PARE_ERR_ARG, "none.kld: found protocol hf, expected llama.cpp");
    o.protocol = PARE_PROTOCOL_LLAMA_CPP;
    o.ctx = 2;
    assert_fails(SAVE(path), PARE_ERR_ARG, "found windows of 2 tokens, expected at least 3");
    o.ctx = CTX;
    assert_fails(SAVE("/nowhere/none.kld"), PARE_ERR_INPUT, "/nowhere/none.kld: ");
    const char *other = test_write("notes", "mine", 4);
    assert_fails(SAVE(other), PARE_ERR_ARG, "notes: found something else than a base file");
    assert_fails(SAVE(test_folder()), PARE_ERR_ARG, "found something else than a base file");
    pare_logits_writer w;
    assert_fails(pare_logits_writer_open(&w, path, x.ids.data, 512, 1 << 24, 1 << 24, err),
                 PARE_ERR_IO, "MiB free on its disk, expected the ");
    assert_fails(pare_logits_writer_open(&w, path, x.ids.data, 512, SIZE_MAX / 4, 2, err),
                 PARE_ERR_ARG, "expected what fits in a base file");
    struct rlimit before, less = {.rlim_cur = 4096}; /* the disk is full in the middle */
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    less.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &less), 0);
    assert_fails(SAVE(path), PARE_ERR_IO, "none.kld");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_false(pare_path_exists(path));
    free(path);
    end(&x);
#undef SAVE
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beside_models), cmocka_unit_test(any_codes),   cmocka_unit_test(bent),
        cmocka_unit_test(cut_off),       cmocka_unit_test(other_model), cmocka_unit_test(written),
        cmocka_unit_test(written_rows),  cmocka_unit_test(not_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
