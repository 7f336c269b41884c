#include "pipeline/cushion.h"

#include "base/os.h"
#include "base/rng.h"
#include "eval/perplexity.h"
#include "io/json.h"
#include "methods/spec.h"
#include "model/act.h"
#include "model/model.h"
#include "pipeline/cushion_eval.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    MAX_TEXT = 1 << 30,
    CAPACITY_ROWS = 8192, /* of hidden states that stand in memory at once */
    STREAM = 0xC0510,     /* of random numbers */
    N_CHECKS = 8,         /* texts that the result is looked at on, which the search did not see */
    CHECK_NUMBER = 1 << 16,
    START_TEXTS = 64,
    START_TOKENS = 512,
    NOTE_EVERY_S = 120
};

typedef struct cushion {
    pare_runtime *rt;
    const pare_cushion_input *in;
    const pare_cushion_options *o;
    pare_model *m;
    pare_tokenizer *tok;
    pare_cushion_eval *eval;
    pare_ids all; /* of the text file */
    int32_t *candidates;
    size_t n_candidates, capacity;
    int32_t *texts; /* [texts][n] of the search at work */
    pare_cushion_result result;
    pare_cushion_state state;
    double check_before[N_CHECKS], check_after[N_CHECKS], check_tuned[N_CHECKS];
    json_t *tuning; /* of the record, or NULL */
} cushion;

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "cushion: out of memory");
}

/* --- texts --- */

/* n tokens from a random place of the file, different ones for each number and i: for the checks
 * from the part that nothing is searched or trained on, where it is long enough, else from the
 * other. */
static const int32_t *place(const cushion *c, size_t n, uint64_t number, size_t i) {
    uint32_t r[4];
    const size_t held = c->all.n / PARE_CUSHION_HELD_PART, rest = c->all.n - held;
    const bool apart = held >= n && rest >= n, check = apart && number == CHECK_NUMBER;
    const size_t first = check ? rest : 0, all = check ? held : apart ? rest : c->all.n;
    pare_philox(r, pare_runtime_seed(c->rt), STREAM + number, i);
    uint64_t at = ((uint64_t)r[0] << 32 | r[1]) % (all - n + 1);
    return c->all.data + first + at;
}

/* Long enough for the search and for the tuning. *all is the caller's, also after a failure. */
static pare_status read_text(pare_ids *all, const pare_tokenizer *tok, const pare_cushion_input *in,
                             const pare_model_config *c, pare_error *err) {
    char *data;
    size_t size, first, tune_n;
    PARE_TRY(pare_file_read_all(&data, &size, in->text, MAX_TEXT, err));
    pare_status st = pare_eval_tokens(all, tok, data, size, PARE_PROTOCOL_HF, err);
    pare_free(data);
    if (st != PARE_OK) return st;
    /* texts begin anywhere: a BOS is the prefix's matter */
    first = all->n && pare_tokenizer_adds_bos(tok) && all->data[0] == pare_tokenizer_bos(tok);
    all->n -= first;
    if (all->n) memmove(all->data, all->data + first, all->n * sizeof *all->data);
    if (all->n < (size_t)in->options->n)
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: found %zu tokens, expected at least %d for a text of the search",
                         in->text, all->n, in->options->n);
    for (size_t i = 0; i < all->n; i++)
        if (all->data[i] < 0 || (size_t)all->data[i] >= c->vocab_size)
            return pare_fail(err, PARE_ERR_INPUT,
                             "%s: found token %d, expected ids below %zu, the model's vocabulary",
                             in->text, (int)all->data[i], c->vocab_size);
    return in->options->epochs ? pare_cushion_tune_length(&tune_n, in, c, all->n, err) : PARE_OK;
}

/* What a tokenizer puts in front of texts behind a prefix; -1: nothing, as where the prefix holds
 * it. */
static int32_t bos_of(const cushion *c, const int32_t *prefix, size_t n_prefix) {
    const int32_t bos = pare_tokenizer_added_bos(c->tok);
    for (size_t i = 0; i < n_prefix; i++)
        if (prefix[i] == bos) return -1;
    return bos;
}

/* As calibration and use have them, some texts begin with the BOS of a tokenizer that adds one. */
void pare_cushion_text(const pare_cushion_texts *t, int32_t *to, const int32_t *from, size_t n,
                       size_t i) {
    memcpy(to, from, n * sizeof *to);
    if (t->bos >= 0 && i % 2 == 0) to[0] = t->bos;
    if (t->n_prefix && i % 8 == 7) to[0] = t->prefix[i / 8 % t->n_prefix];
}

/* Texts of one search begin with different tokens where the file has them, and every second one
 * with BOS where the tokenizer adds one and the prefix so far has none. */
static pare_status draw(void *arg, size_t number, const int32_t *prefix, size_t n_prefix,
                        pare_error *err) {
    enum { TRIES = 16 };
    cushion *c = arg;
    const size_t n = (size_t)c->o->n, n_texts = (size_t)c->o->texts;
    (void)err;
    for (size_t t = 0; t < n_texts; t++) {
        bool again = true;
        for (size_t k = 0; k < TRIES && again; k++) {
            const int32_t *from = place(c, n, number, t * TRIES + k);
            again = false;
            for (size_t i = 0; i < t; i++) again |= c->texts[i * n] == *from;
            memcpy(c->texts + t * n, from, n * sizeof *from);
        }
    }
    const int32_t bos = bos_of(c, prefix, n_prefix);
    for (size_t t = 0; t < n_texts && bos >= 0; t += 2) c->texts[t * n] = bos;
    for (size_t k = 0; k < (size_t)c->o->repeats && n_prefix; k++)
        c->texts[(n_texts - 1 - k) * n] = prefix[n_prefix - 1 - k % n_prefix];
    return PARE_OK;
}

/* --- candidates --- */

/* What no text holds, by its name in brackets: never trained. */
static bool is_reserved(const char *token) {
    static const char *const parts[] = {"reserved", "unused", "pad"};
    const size_t n = strlen(token);
    const bool named = n > 2 && ((token[0] == '<' && token[n - 1] == '>') ||
                                 (token[0] == '[' && token[n - 1] == ']'));
    for (size_t i = 0; named && i < sizeof parts / sizeof *parts; i++)
        if (strcasestr(token, parts[i])) return true;
    return false;
}

static bool is_embedded(const pare_tensor *table, float *row, size_t id, size_t n) {
    double sum = 0;
    table->enc->decode(row, &table->view, id, 0, n);
    for (size_t i = 0; i < n; i++) sum += (double)row[i] * (double)row[i];
    return sum > 0 && isfinite(sum);
}

/* Leaves `pool` of them, still in order: each stays with the chance that it has to. */
static void draw_pool(cushion *c) {
    size_t left = c->n_candidates, wanted = (size_t)c->o->pool, n = 0;
    for (size_t i = 0; i < c->n_candidates && n < wanted; i++, left--) {
        uint32_t r[4];
        pare_philox(r, pare_runtime_seed(c->rt), STREAM - 1, i);
        if (((uint64_t)r[0] << 32 | r[1]) % left < wanted - n)
            c->candidates[n++] = c->candidates[i];
    }
    c->n_candidates = n;
}

static pare_status find_candidates(cushion *c, pare_error *err) {
    const pare_tensor *table = &c->m->weights.token_embd.w;
    const size_t width = table->view.cols;
    size_t n = pare_tokenizer_vocab_size(c->tok);
    if (n > c->m->config.vocab_size) n = c->m->config.vocab_size;
    float *row = pare_calloc(width, sizeof *row);
    c->candidates = pare_calloc(n, sizeof *c->candidates);
    if (!row || !c->candidates) {
        pare_free(row);
        return fail_memory(err);
    }
    for (size_t i = 0; i < n; i++) {
        const char *token = pare_tokenizer_token(c->tok, (int32_t)i);
        if (token && *token && !is_reserved(token) && is_embedded(table, row, i, width))
            c->candidates[c->n_candidates++] = (int32_t)i;
    }
    pare_free(row);
    if (c->o->pool && (size_t)c->o->pool < c->n_candidates) draw_pool(c);
    if (c->n_candidates) return PARE_OK;
    return pare_fail(err, PARE_ERR_INPUT, "%s: found no token that a prefix could be made of",
                     c->in->model);
}

/* --- the start --- */

/* The tokens of a prefix's file. */
static pare_status start_from_file(pare_cushion_result *r, const pare_cushion_input *in,
                                   const pare_model_config *c, pare_error *err) {
    const pare_cushion_options *o = in->options;
    pare_prefix *p;
    if (o->start != PARE_CUSHION_START_NONE)
        return pare_fail(err, PARE_ERR_ARG,
                         "cushion: found start and --prefix %s, expected one of them", in->start);
    PARE_TRY(pare_prefix_load(&p, c, in->start, err));
    pare_status st = PARE_OK;
    if (!p->ids || p->tuned)
        st = pare_fail(err, PARE_ERR_ARG,
                       "%s: found a prefix of no tokens (a tuned one?), expected one that a search "
                       "can go on from",
                       in->start);
    else if (p->attn.n > (size_t)o->max_len)
        st = pare_fail(err, PARE_ERR_ARG, "%s: found %zu tokens, expected at most %d (max_len)",
                       in->start, p->attn.n, o->max_len);
    else
        for (size_t i = 0; i < p->attn.n; i++) r->ids[r->n++] = p->ids[i];
    r->n_start = r->n;
    pare_prefix_free(p);
    return st;
}

static pare_status start_from_prompt(pare_cushion_result *r, const pare_tokenizer *tok,
                                     const pare_cushion_options *o, bool from_file,
                                     pare_error *err) {
    pare_ids ids = {0};
    const char *text = o->prompt.s;
    if (strcmp(text, "none") == 0) return PARE_OK;
    if (o->start != PARE_CUSHION_START_NONE || from_file)
        return pare_fail(err, PARE_ERR_ARG,
                         "cushion: found prompt and %s, expected one beginning of the prefix",
                         from_file ? "--prefix" : "start");
    pare_status st =
        pare_tokenizer_encode(tok, &ids, text, strlen(text), PARE_TOK_PARSE_SPECIAL, err);
    if (st == PARE_OK && ids.n > (size_t)o->max_len)
        st = pare_fail(err, PARE_ERR_ARG,
                       "cushion: prompt: found %zu tokens, expected at most %d (max_len)", ids.n,
                       o->max_len);
    for (size_t i = 0; st == PARE_OK && i < ids.n; i++) r->ids[r->n++] = ids.data[i];
    r->n_start = r->n;
    pare_ids_free(&ids);
    return st;
}

/* All but the one that the model is asked for; none: r->n stays 0. */
static pare_status start_given(pare_cushion_result *r, const pare_tokenizer *tok,
                               const pare_cushion_input *in, const pare_model_config *c,
                               pare_error *err) {
    PARE_TRY(start_from_prompt(r, tok, in->options, in->start != NULL, err));
    if (r->n) return PARE_OK;
    if (in->start) return start_from_file(r, in, c, err);
    if (in->options->start != PARE_CUSHION_START_BOS) return PARE_OK;
    if (pare_tokenizer_bos(tok) < 0)
        return pare_fail(err, PARE_ERR_ARG, "cushion: start=bos: the tokenizer has no BOS");
    r->ids[r->n++] = pare_tokenizer_bos(tok);
    r->n_start = r->n;
    return PARE_OK;
}

static pare_status start(cushion *c, pare_error *err) {
    pare_cushion_result *r = &c->result;
    PARE_TRY(start_given(r, c->tok, c->in, &c->m->config, err));
    if (r->n || c->o->start != PARE_CUSHION_START_OUTLIERS) return PARE_OK;
    const size_t ctx = c->m->config.ctx_max ? c->m->config.ctx_max : SIZE_MAX;
    size_t n = (size_t)START_TOKENS < c->all.n ? (size_t)START_TOKENS : c->all.n;
    if (n > ctx) n = ctx;
    int32_t *texts = pare_malloc((size_t)START_TEXTS * n, sizeof *texts);
    if (!texts) return fail_memory(err);
    for (size_t t = 0; t < START_TEXTS; t++)
        memcpy(texts + t * n, place(c, n, CHECK_NUMBER + 1, t), n * sizeof *texts);
    pare_status st =
        pare_cushion_outlier_tokens(r->ids, &r->n, (size_t)c->o->max_len, c->m, texts, START_TEXTS,
                                    n, pare_tokenizer_bos(c->tok), c->in->compute, err);
    pare_free(texts);
    r->n_start = r->n;
    return st;
}

pare_status pare_cushion_check(const pare_cushion_input *in, const pare_model_config *c,
                               pare_error *err) {
    pare_tokenizer *tok;
    pare_ids all = {0};
    pare_cushion_result begun = {0};
    PARE_TRY(pare_tokenizer_load(&tok, in->model, err));
    pare_status st = start_given(&begun, tok, in, c, err);
    if (st == PARE_OK) st = read_text(&all, tok, in, c, err);
    pare_ids_free(&all);
    pare_tokenizer_free(tok);
    return st;
}

/* --- what the search asks for --- */

static pare_status set_prefix(void *arg, const int32_t *ids, size_t n, pare_error *err) {
    cushion *c = arg;
    return pare_cushion_eval_prefix(c->eval, ids, n, err);
}

static void begin(void *arg, const int32_t *candidates, size_t n, size_t text, size_t n_tokens) {
    cushion *c = arg;
    pare_cushion_eval_begin(c->eval, candidates, n, c->texts + text * (size_t)c->o->n, n_tokens);
}

static pare_status block(void *arg, double *lq, pare_error *err) {
    cushion *c = arg;
    return pare_cushion_eval_block(c->eval, lq, err);
}

static void keep(void *arg, const size_t *which, size_t n) {
    cushion *c = arg;
    pare_cushion_eval_keep(c->eval, which, n);
}

/* --- what a run that was cut off had found --- */

static pare_status noted(void *arg, const pare_cushion_step *step, pare_error *err) {
    cushion *c = arg;
    (void)step;
    return pare_cushion_keep_steps(&c->state, &c->result, err);
}

static pare_status within(void *arg, const pare_cushion_within *w, bool last, pare_error *err) {
    return pare_cushion_keep_within(&((cushion *)arg)->state, w, last, err);
}

static pare_status again(void *arg, pare_cushion_within *w, pare_error *err) {
    cushion *c = arg;
    return pare_cushion_resume_within(&c->state, w, c->n_candidates, err);
}

/* --- a look at texts that the search did not see --- */

/* The first ones begin with the prefix's own tokens. */
static pare_status errors_of_checks(cushion *c, double *lq, const pare_prefix *p, pare_error *err) {
    const size_t n = (size_t)c->o->n;
    pare_cushion_eval_behind(c->eval, p);
    for (size_t k = 0; k < N_CHECKS; k++) {
        const pare_cushion_texts plain = {.bos = bos_of(c, c->result.ids, p ? c->result.n : 0)};
        pare_cushion_text(&plain, c->texts, place(c, n, CHECK_NUMBER, k), n, k);
        if (k < c->result.n && k < N_CHECKS / 2) c->texts[0] = c->result.ids[k];
        pare_cushion_eval_begin(c->eval, NULL, 1, c->texts, n);
        lq[k] = 0;
        for (size_t b = 0; b < c->m->config.n_layers; b++) {
            double of_block;
            PARE_TRY(pare_cushion_eval_block(c->eval, &of_block, err));
            lq[k] += of_block;
        }
    }
    return PARE_OK;
}

static pare_status fallback(const cushion *c, const char *line, pare_error *err) {
    return c->in->fallback ? c->in->fallback(c->in->fallback_arg, line, err) : PARE_OK;
}

/* Errors behind a prefix; one that grows is told. */
static pare_status check(cushion *c, double *lq, const pare_prefix *p, const char *what,
                         pare_error *err) {
    double worst = 0;
    char line[160];
    PARE_TRY(errors_of_checks(c, lq, p, err));
    for (size_t k = 0; k < N_CHECKS; k++)
        if (c->check_before[k] > 0) worst = fmax(worst, lq[k] / c->check_before[k]);
    if (worst <= 1) return PARE_OK;
    snprintf(
        line, sizeof line,
        "cushion: on one of %d other texts the error grows behind the %s prefix, to %.2f times",
        N_CHECKS, what, worst);
    return fallback(c, line, err);
}

/* --- the record --- */

static json_t *ids_json(const int32_t *ids, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static json_t *reals_json(const double *x, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, pare_json_number(x[i]));
    return list;
}

static json_t *tokens_json(const cushion *c) {
    json_t *list = json_array();
    for (size_t i = 0; i < c->result.n; i++) {
        const char *token = pare_tokenizer_token(c->tok, c->result.ids[i]);
        json_t *text = token ? json_string(token) : NULL;
        json_array_append_new(list, text ? text : json_null());
    }
    return list;
}

static pare_status make_record(const cushion *c, char **record, pare_error *err) {
    const pare_cushion_result *r = &c->result;
    size_t failures = pare_json_failures();
    char *params = pare_params_text(pare_method_find("cushioncache")->params, c->o);
    json_t *o = params ? json_object() : NULL;
    if (o) {
        json_object_set_new(o, "method", json_sprintf("cushioncache%s", params));
        json_object_set_new(o, "seed", json_integer((json_int_t)pare_runtime_seed(c->rt)));
        json_object_set_new(o, "compute",
                            json_string(c->in->compute == PARE_COMPUTE_EXACT ? "exact" : "fast"));
        json_object_set_new(o, "text_tokens", json_integer((json_int_t)c->all.n));
        json_object_set_new(o, "text_crc32", json_integer(pare_ids_crc32(c->all.data, c->all.n)));
        json_object_set_new(o, "n_candidates", json_integer((json_int_t)c->n_candidates));
        json_object_set_new(o, "start_ids", ids_json(r->ids, r->n_start));
        json_object_set_new(o, "token_ids", ids_json(r->ids, r->n));
        json_object_set_new(o, "tokens", tokens_json(c));
        json_object_set_new(o, "steps", pare_cushion_steps_json(r));
        json_object_set_new(o, "check_before", reals_json(c->check_before, r->n ? N_CHECKS : 0));
        json_object_set_new(o, "check_after", reals_json(c->check_after, r->n ? N_CHECKS : 0));
        if (c->tuning) {
            json_object_set_new(o, "check_tuned", reals_json(c->check_tuned, N_CHECKS));
            json_object_set(o, "tuning", c->tuning);
        }
    }
    char *dumped = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    *record = dumped && pare_json_failures() == failures ? pare_strdup(dumped) : NULL;
    free(dumped);
    json_decref(o);
    pare_free(params);
    return *record ? PARE_OK : fail_memory(err);
}

/* --- all of it --- */

static size_t capacity_of(const pare_cushion_options *o) {
    size_t rows = (size_t)o->n + 1;
    return CAPACITY_ROWS / rows ? CAPACITY_ROWS / rows : 1;
}

/* Tokens of a text of the tuning where the file is long enough. */
static size_t longest_tuned(const pare_cushion_options *o, const pare_model_config *c) {
    size_t n = 0;
    pare_error ignored;
    const pare_cushion_input in = {.options = o, .text = ""};
    return pare_cushion_tune_length(&n, &in, c, SIZE_MAX, &ignored) == PARE_OK ? n : 0;
}

/* What the tape keeps of a token in each layer, and the widest layer with its gradients. */
static uint64_t tuning_memory(const pare_cushion_options *o, const pare_model_config *c) {
    const uint64_t texts = (uint64_t)(o->batch < o->tune_texts ? o->batch : o->tune_texts),
                   rows = texts * (uint64_t)longest_tuned(o, c), heads = c->n_heads * c->head_dim,
                   kv = c->n_kv_heads * c->head_dim,
                   kept = 3 * c->dim + 2 * heads + 2 * kv + 3 * c->ffn_dim,
                   errors =
                       (o->site != PARE_CUSHION_LINEAR_IN ? c->dim : 0) +
                       (o->site != PARE_CUSHION_BLOCK_OUT ? 2 * c->dim + heads + c->ffn_dim : 0);
    return sizeof(float) * (rows * (c->n_layers * (kept + errors) + 2 * kept) +
                            7 * 2 * (uint64_t)o->max_len * c->n_layers * kv) +
           ((uint64_t)64 << 20);
}

uint64_t pare_cushion_memory(const pare_cushion_options *o, const pare_model_config *c) {
    const uint64_t rows = (uint64_t)o->n + 1, kv_dim = c->n_kv_heads * c->head_dim,
                   pass = rows > PARE_CUSHION_PASS_ROWS ? rows : PARE_CUSHION_PASS_ROWS,
                   widest = 3 * c->dim + 2 * c->n_heads * c->head_dim + 2 * kv_dim + 3 * c->ffn_dim;
    const uint64_t search = sizeof(float) * (capacity_of(o) * rows * c->dim + pass * widest +
                                             2 * (uint64_t)o->max_len * c->n_layers * kv_dim) +
                            8 * (uint64_t)o->texts * rows + 32 * (uint64_t)c->vocab_size;
    const uint64_t tuning = o->epochs ? tuning_memory(o, c) : 0;
    return search > tuning ? search : tuning;
}

double pare_cushion_tokens(const pare_cushion_options *o, const pare_model_config *c) {
    double all = (double)c->vocab_size;
    if (o->pool && (double)o->pool < all) all = (double)o->pool;
    double some = o->candidates && (double)o->candidates < all ? (double)o->candidates : all;
    const double searched = o->tau > 0 ? (double)o->max_len : 0;
    return searched *
               (all * (double)(o->screen + 1) + some * (double)(o->n + 1) * (double)o->texts) +
           3.0 * o->epochs * o->tune_texts * (double)longest_tuned(o, c);
}

static pare_status open_eval(cushion *c, pare_error *err) {
    const pare_cushion_eval_options eo = {
        .scheme = {.granularity = (pare_act_granularity)c->o->granularity,
                   .formula = (pare_act_formula)c->o->formula,
                   .bits = c->o->bits,
                   .symmetric = c->o->symmetric},
        .site = (pare_cushion_site)c->o->site,
        .compute = c->in->compute,
        .max_prefix = (size_t)c->o->max_len,
        .max_text = (size_t)c->o->n,
        .capacity = c->capacity};
    return pare_cushion_eval_open(&c->eval, c->m, &eo, err);
}

static pare_status set_up(cushion *c, pare_error *err) {
    const size_t n = (size_t)c->o->n;
    PARE_TRY(pare_model_load(&c->m, c->rt, c->in->model, err));
    pare_model_attach_prefix(c->m, NULL); /* the search makes all of it */
    pare_model_detach_act(c->m);          /* only L_q sees a quantizer */
    PARE_TRY(pare_tokenizer_load(&c->tok, c->in->model, err));
    PARE_TRY(read_text(&c->all, c->tok, c->in, &c->m->config, err));
    PARE_TRY(find_candidates(c, err));
    c->capacity = capacity_of(c->o);
    PARE_TRY(open_eval(c, err));
    c->texts = pare_calloc((size_t)c->o->texts * n, sizeof *c->texts);
    return c->texts ? PARE_OK : fail_memory(err);
}

/* Of the keys and values of *p, which becomes another one. */
static pare_status tune(cushion *c, pare_prefix **p, pare_error *err) {
    const pare_cushion_texts texts = {.ids = c->all.data,
                                      .n_ids = c->all.n,
                                      .bos = bos_of(c, c->result.ids, c->result.n),
                                      .prefix = c->result.ids,
                                      .n_prefix = c->result.n};
    pare_cushion_eval_close(c->eval); /* room for gradients */
    c->eval = NULL;
    pare_model_attach_prefix(c->m, *p);
    *p = NULL;
    PARE_TRY(pare_cushion_tune(p, &c->tuning, c->m, c->in, &texts, err));
    PARE_TRY(open_eval(c, err));
    PARE_TRY(check(c, c->check_tuned, *p, "tuned", err));
    if ((*p)->tuned) return PARE_OK;
    return fallback(c,
                    "cushion: tuning did not lower the loss of text held out: the prefix is as it "
                    "was found",
                    err);
}

static pare_status make(cushion *c, pare_prefix **out, char **record, pare_error *err) {
    PARE_TRY(set_up(c, err));
    PARE_TRY(start(c, err));
    c->state = (pare_cushion_state){.rt = c->rt,
                                    .work = c->in->work,
                                    .every_s = c->in->note_every_s != 0 ? c->in->note_every_s
                                                                        : NOTE_EVERY_S,
                                    .saved_s = pare_now_s()};
    pare_cushion_resume_steps(&c->state, c->o, &c->result);
    const pare_cushion_job job = {.rt = c->rt,
                                  .n_blocks = c->m->config.n_layers,
                                  .capacity = c->capacity,
                                  .candidates = c->candidates,
                                  .n_candidates = c->n_candidates,
                                  .arg = c,
                                  .draw = draw,
                                  .prefix = set_prefix,
                                  .begin = begin,
                                  .block = block,
                                  .keep = keep,
                                  .noted = noted,
                                  .within = within,
                                  .again = again};
    PARE_TRY(pare_cushion_search(&job, c->o, &c->result, err));
    if (c->result.n) {
        PARE_TRY(errors_of_checks(c, c->check_before, NULL, err));
        PARE_TRY(pare_prefix_from_ids(out, c->m, c->result.ids, c->result.n, err));
        PARE_TRY(check(c, c->check_after, *out, "searched", err));
        if (c->o->epochs) PARE_TRY(tune(c, out, err));
    }
    return make_record(c, record, err);
}

pare_status pare_cushion_make(pare_prefix **out, char **record, pare_runtime *rt,
                              const pare_cushion_input *in, pare_error *err) {
    cushion *c = pare_calloc(1, sizeof *c);
    *out = NULL;
    *record = NULL;
    if (!c) return fail_memory(err);
    c->rt = rt;
    c->in = in;
    c->o = in->options;
    pare_status st = make(c, out, record, err);
    if (st != PARE_OK) {
        pare_free(*record);
        *record = NULL;
        pare_prefix_free(*out);
        *out = NULL;
    }
    json_decref(c->tuning);
    pare_cushion_eval_close(c->eval);
    pare_model_free(c->m);
    pare_tokenizer_free(c->tok);
    pare_ids_free(&c->all);
    pare_free(c->candidates);
    pare_free(c->texts);
    pare_free(c);
    return st;
}
