/* The analysis of outliers: windows of text pass through the model block by block. A probe sees the
 * input of every group of matrices; the block's output is taken after it. */
#include "pare/analyze.h"

#include "base/os.h"
#include "eval/perplexity.h"
#include "model/model.h"
#include "model/pass_room.h"
#include "model/prefix.h"
#include "pare/tokenizer.h"
#include "study/outlier_tally.h"

#include <math.h>
#include <string.h>

enum { MAX_SITES = 8 /* of a block */, N_WINDOWS = 10, N_LARGEST = 4 };

/* Attention on the first token and on the prefix: the attention operator once more, with values
 * whose first column is 1 at the first position and 0 elsewhere, the second 1 in the prefix. */
typedef struct mass {
    float *prefix_v; /* [prefix][kv_dim] */
    size_t prefix_bytes;
    float *k, *v;   /* [ctx][kv_dim]; of each head's values the first column is used */
    float *out;     /* [ctx][q_dim] */
    double *of_row; /* [2][ctx] sums over heads */
    size_t k_bytes, out_bytes;
} mass;

typedef struct analysis {
    pare_outliers result; /* first: what callers hold */
    pare_runtime *rt;
    pare_model *m;
    pare_tokenizer *tok;
    pare_pass_room room;
    pare_tally tally;
    mass mass;
    size_t n_largest;
    int32_t *ids; /* [n_windows][ctx] */
    float *h;     /* [n_windows][ctx][dim] */
    size_t h_bytes;
    pare_outlier_site *sites; /* [n_layers * MAX_SITES] */
    double *attention;        /* [n_layers] */
    double *attention_prefix; /* [n_layers] */
    pare_outlier_site *site;  /* being measured */
    size_t layer, window;
    bool embed;
} analysis;

pare_outlier_options pare_outlier_options_default(void) {
    return (pare_outlier_options){.compute = PARE_COMPUTE_EXACT};
}

static pare_status fail_memory(pare_error *err) {
    return pare_fail(err, PARE_ERR_NOMEM, "analysis: out of memory");
}

/* --- sites --- */

/* The words of the architecture's table stay while the model does; the caller's copy must outlive
 * it. "blk.3.ffn_down.weight" -> "ffn_down". */
static const char *site_name(const char *matrix) {
    static const char *const known[] = {"attn_qkv", "attn_q", "attn_output",
                                        "ffn_gate", "ffn_up", "ffn_down"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const char *at = strstr(matrix, known[i]);
        if (at && at[strlen(known[i])] == '.') return known[i];
    }
    return "other";
}

static pare_outlier_site *site_of(analysis *a, const char *name, size_t width) {
    pare_outliers *r = &a->result;
    for (size_t i = r->n_sites; i-- > 0 && a->sites[i].layer == a->layer;)
        if (strcmp(a->sites[i].name, name) == 0) return &a->sites[i];
    if (r->n_sites == r->n_layers * MAX_SITES) return NULL; /* no architecture has so many */
    pare_outlier_site *site = &a->sites[r->n_sites++];
    *site = (pare_outlier_site){.layer = a->layer, .name = name, .width = width};
    return site;
}

/* Keeps the largest ones in order; of equals the one that came first. */
static void add_token(pare_outlier_site *s, size_t most, const pare_outlier_token *t) {
    size_t at = s->n_tokens;
    while (at > 0 && fabsf(s->tokens[at - 1].value) < fabsf(t->value)) at--;
    if (at == most) return;
    if (s->n_tokens < most) s->n_tokens++;
    memmove(&s->tokens[at + 1], &s->tokens[at], (s->n_tokens - at - 1) * sizeof *t);
    s->tokens[at] = *t;
}

/* Takes a window's tally over, by one thread. */
static void add_window(analysis *a, const float *x, size_t ld) {
    pare_outlier_site *s = a->site;
    const pare_tally *t = &a->tally;
    double largest = 0;
    for (size_t i = 0; i < a->result.ctx; i++) {
        double most = (double)t->row_max[i];
        if (!(most <= largest)) largest = most; /* NaN stays */
        if (i && !(most <= s->largest_behind)) s->largest_behind = most;
        add_token(s, a->n_largest,
                  &(pare_outlier_token){.window = a->window,
                                        .position = i,
                                        .channel = t->row_channel[i],
                                        .id = a->ids[a->window * a->result.ctx + i],
                                        .value = x[i * ld + t->row_channel[i]]});
    }
    double share = 1.0 / (double)a->result.n_windows;
    s->top1 += share * largest;
    s->top10 += share * t->top10;
    s->top10_mean += share * t->top10_mean;
    s->median += share * t->median;
    if (!(largest <= s->largest)) s->largest = largest;
}

static void measure(pare_worker *w, analysis *a, const char *name, const float *x, size_t ld,
                    size_t n, size_t width) {
    if (w->id == 0) a->site = site_of(a, name, width);
    pare_barrier(w);
    if (!a->site) return;
    pare_tally_take(w, &a->tally, x, ld, n, width);
    if (w->id == 0) add_window(a, x, ld);
}

static bool see_input(pare_fwd *f, void *arg, const pare_op_out *outs, size_t n_outs,
                      const float *x, size_t ldx, size_t n, size_t in) {
    (void)n_outs;
    measure(f->w, arg, site_name(outs[0].name), x, ldx, n, in);
    return true;
}

/* --- attention --- */

/* Mean over heads and tokens behind the first. */
static double mean_mass(const double *of_row, size_t n, size_t n_heads) {
    double sum = 0;
    for (size_t i = 1; i < n; i++) sum += of_row[i];
    return n > 1 ? sum / ((double)(n - 1) * (double)n_heads) : 0;
}

static void see_attention(pare_fwd *f, void *arg, const float *q, size_t ldq,
                          const pare_attn_span *spans, size_t n_spans, size_t at,
                          const pare_attn *attn, size_t n) {
    analysis *a = arg;
    const pare_model_config *c = &a->m->config;
    const pare_kv_layer *from = &spans[0].layers[at];
    const size_t dim = c->head_dim, kv_dim = c->n_kv_heads * dim, q_dim = c->n_heads * dim;
    mass *m = &a->mass;
    size_t begin, end;
    (void)n_spans;
    pare_share(f->w, n, 1, &begin, &end);
    for (size_t i = begin; i < end; i++)
        for (size_t g = 0; g < c->n_kv_heads; g++)
            memcpy(m->k + i * kv_dim + g * dim, pare_kv_row(from, false, g, i), dim * sizeof *m->k);
    pare_barrier(f->w);
    const pare_kv_layer layer = pare_kv_layer_of(m->k, m->v, kv_dim, c->n_kv_heads, dim);
    pare_attn_span span = {.layers = &layer, .n = n};
    pare_kv_layer front_layer;
    pare_attn_prefix front = {&front_layer, 0};
    if (spans[0].prefix) { /* its keys, with the values that count */
        front_layer = spans[0].prefix->layers[at];
        front_layer.v = (uint8_t *)m->prefix_v;
        front.n = spans[0].prefix->n;
        span.prefix = &front;
    }
    pare_op_attention(f, m->out, q_dim, q, ldq, &span, 1, 0, attn, c->n_kv_heads, dim, n);
    for (size_t i = begin; i < end; i++)
        for (size_t part = 0; part < 2; part++) {
            double sum = 0;
            for (size_t h = 0; h < c->n_heads && part < dim; h++)
                sum += (double)m->out[i * q_dim + h * dim + part];
            m->of_row[part * n + i] = sum;
        }
    pare_barrier(f->w);
    if (f->w->id == 0) {
        double share = 1.0 / (double)a->result.n_windows;
        a->attention[a->layer] += share * mean_mass(m->of_row, n, c->n_heads);
        a->attention_prefix[a->layer] += share * mean_mass(m->of_row + n, n, c->n_heads);
    }
    pare_barrier(f->w);
}

/* --- the region that all threads run --- */

static void run_pass(pare_fwd *f, analysis *a, float *h, const int32_t *ids, size_t n) {
    const pare_attn_span alone = {.n = n, .prefix = pare_model_prefix(a->m)};
    pare_pass pass = {.ids = ids, .n = n, .spans = &alone, .n_spans = 1};
    pare_fwd_marks mark = pare_fwd_mark(f);
    if (a->embed || pare_fwd_planning(f)) pare_pass_embed(f, a->m, &pass, h);
    pare_pass_begin(f, a->m, &pass);
    pare_pass_layer(f, a->m, &pass, a->layer, h);
    pare_fwd_release(f, mark);
}

static void region_thread(pare_worker *w, void *arg) {
    analysis *a = arg;
    const size_t n = a->result.ctx, dim = a->m->config.dim;
    float *h = a->h + a->window * n * dim;
    pare_fwd f = pare_pass_room_fwd(&a->room, w, a->rt, a->result.compute);
    f.probe = see_input;
    f.attn_probe = see_attention;
    f.probe_arg = f.attn_probe_arg = a;
    run_pass(&f, a, h, a->ids + a->window * n, n);
    measure(w, a, "block_out", h, dim, n, dim);
}

static pare_status check_finite(const analysis *a, pare_error *err) {
    for (size_t i = 0; i < a->result.n_sites; i++) /* those before are finite */
        if (!isfinite(a->sites[i].top1))
            return pare_fail(err, PARE_ERR_INPUT,
                             "analysis: block %zu, %s, window %zu: found NaN or infinity, expected "
                             "finite activations",
                             a->layer, a->sites[i].name, a->window);
    return PARE_OK;
}

static pare_status run(analysis *a, pare_error *err) {
    const size_t n_windows = a->result.n_windows, n_layers = a->result.n_layers;
    const double total = (double)n_windows * (double)n_layers;
    double start = pare_now_s();
    for (a->layer = 0; a->layer < n_layers; a->layer++) {
        PARE_TRY(pare_model_load_layers(a->m, a->layer, a->layer + 1, err));
        a->embed = a->layer == 0;
        for (a->window = 0; a->window < n_windows; a->window++) {
            pare_progress(a->rt, "outliers", (double)(a->layer * n_windows + a->window), total,
                          "windows through blocks");
            PARE_TRY(pare_check_cancel(a->rt, err));
            pare_team_run(a->rt, region_thread, a);
            PARE_TRY(check_finite(a, err));
        }
        pare_model_drop_layer(a->m, a->layer);
    }
    pare_progress(a->rt, "outliers", total, total, "windows through blocks");
    a->result.seconds = pare_now_s() - start;
    return PARE_OK;
}

/* --- set-up --- */

static pare_status read_windows(analysis *a, const char *text, size_t len,
                                const pare_outlier_options *o, pare_error *err) {
    pare_eval_options eo = {.protocol = PARE_PROTOCOL_HF,
                            .ctx = o->ctx,
                            .max_windows = o->n_windows ? o->n_windows : N_WINDOWS,
                            .name = o->name};
    pare_ppl_plan plan;
    pare_ids all = {0};
    pare_outliers *r = &a->result;
    PARE_TRY(pare_eval_tokens(&all, a->tok, text, len, eo.protocol, err));
    const int32_t bos = pare_tokenizer_added_bos(a->tok);
    const size_t skip = pare_model_prefix_has_bos(a->m, bos, all.data, all.n);
    pare_status st =
        pare_ppl_plan_make(&plan, &eo, all.n - skip, pare_model_ctx_max(a->m), -1, err);
    if (st == PARE_OK) {
        r->ctx = plan.ctx;
        r->n_windows = plan.n_windows;
        r->n_text = all.n;
        r->crc32 = pare_ids_crc32(all.data, all.n);
        a->ids = pare_malloc(r->n_windows * r->ctx, sizeof *a->ids);
        if (!a->ids) st = fail_memory(err);
    }
    for (size_t k = 0; st == PARE_OK && k < r->n_windows; k++)
        pare_ppl_window(a->ids + k * r->ctx, &plan, all.data + skip, k);
    pare_ids_free(&all);
    for (size_t i = 0; st == PARE_OK && i < r->n_windows * r->ctx; i++)
        if (a->ids[i] < 0 || (size_t)a->ids[i] >= a->m->config.vocab_size)
            st = pare_fail(err, PARE_ERR_INPUT,
                           "%s: found token %d, expected ids below %zu, the model's vocabulary",
                           o->name ? o->name : "text", (int)a->ids[i], a->m->config.vocab_size);
    return st;
}

static pare_status make_mass(analysis *a, pare_error *err) {
    const pare_model_config *c = &a->m->config;
    const size_t ctx = a->result.ctx, kv_dim = c->n_kv_heads * c->head_dim;
    mass *m = &a->mass;
    m->k_bytes = ctx * kv_dim * sizeof *m->k;
    m->out_bytes = ctx * c->n_heads * c->head_dim * sizeof *m->out;
    m->k = pare_big_alloc(m->k_bytes);
    m->v = pare_big_alloc(m->k_bytes);
    m->out = pare_big_alloc(m->out_bytes);
    m->of_row = pare_calloc(2 * ctx, sizeof *m->of_row);
    const size_t front = a->result.prefix_length;
    m->prefix_bytes = (front ? front : 1) * kv_dim * sizeof *m->v;
    m->prefix_v = pare_big_alloc(m->prefix_bytes);
    if (!m->k || !m->v || !m->out || !m->of_row || !m->prefix_v) return fail_memory(err);
    for (size_t i = 0; i < front * c->n_kv_heads && c->head_dim > 1; i++)
        m->prefix_v[i * c->head_dim + 1] = 1;
    for (size_t g = 0; g < c->n_kv_heads; g++) m->v[g * c->head_dim] = 1;
    return PARE_OK;
}

static pare_status make_room(analysis *a, pare_error *err) {
    const pare_model_config *c = &a->m->config;
    const size_t ctx = a->result.ctx;
    size_t width = c->ffn_dim > c->dim ? c->ffn_dim : c->dim, values;
    if (c->n_heads * c->head_dim > width) width = c->n_heads * c->head_dim;
    if (!pare_mul_size(&values, ctx, width) || values > UINT32_MAX)
        return pare_fail(err, PARE_ERR_ARG,
                         "context: found %zu tokens, expected fewer than %zu for blocks as wide as "
                         "these",
                         ctx, (size_t)UINT32_MAX / width);
    if (!pare_mul_size(&a->h_bytes, a->result.n_windows * sizeof *a->h, ctx * c->dim))
        return fail_memory(err);
    pare_worker worker;
    pare_fwd f = pare_fwd_plan(&worker, pare_runtime_threads(a->rt), pare_runtime_isa(a->rt),
                               a->result.compute);
    run_pass(&f, a, NULL, NULL, ctx);
    PARE_TRY(pare_pass_room_make(&a->room, &f, a->rt, err));
    PARE_TRY(pare_tally_init(&a->tally, ctx, pare_runtime_threads(a->rt), err));
    PARE_TRY(make_mass(a, err));
    a->h = pare_big_alloc(a->h_bytes);
    a->sites = pare_calloc(c->n_layers * MAX_SITES, sizeof *a->sites);
    a->attention = pare_calloc(c->n_layers, sizeof *a->attention);
    a->attention_prefix = pare_calloc(c->n_layers, sizeof *a->attention_prefix);
    return a->h && a->sites && a->attention && a->attention_prefix ? PARE_OK : fail_memory(err);
}

static pare_status set_up(analysis *a, const char *model, const char *text, size_t len,
                          const pare_outlier_options *o, pare_error *err) {
    pare_source *source;
    PARE_TRY(pare_source_open(&source, model, err));
    PARE_TRY(pare_model_open(&a->m, a->rt, source, err));
    PARE_TRY(pare_source_check_complete(a->m->source, err));
    if (!o->prefix)
        PARE_TRY(pare_model_load_own_prefix(a->m, err));
    else if (*o->prefix)
        PARE_TRY(pare_model_set_prefix(a->m, o->prefix, err));
    if (pare_source_act(a->m->source))
        pare_warn(a->rt,
                  "%s: has the inputs of its matrices quantized; what is looked at here are those "
                  "of the same weights with inputs as they are",
                  model);
    a->result.prefix_length = pare_model_prefix_length(a->m);
    PARE_TRY(pare_tokenizer_load(&a->tok, model, err));
    a->result.n_layers = a->m->config.n_layers;
    a->result.compute = o->compute;
    a->n_largest = o->n_largest ? o->n_largest : N_LARGEST;
    if (a->n_largest > PARE_MAX_LARGEST)
        return pare_fail(err, PARE_ERR_ARG, "largest tokens: found %zu, expected at most %d",
                         o->n_largest, PARE_MAX_LARGEST);
    PARE_TRY(read_windows(a, text, len, o, err));
    return make_room(a, err);
}

/* All but the results. */
static void free_work(analysis *a) {
    pare_model_free(a->m);
    pare_tokenizer_free(a->tok);
    pare_pass_room_free(&a->room);
    pare_tally_free(&a->tally);
    if (a->mass.k) pare_big_free(a->mass.k, a->mass.k_bytes);
    if (a->mass.v) pare_big_free(a->mass.v, a->mass.k_bytes);
    if (a->mass.out) pare_big_free(a->mass.out, a->mass.out_bytes);
    if (a->mass.prefix_v) pare_big_free(a->mass.prefix_v, a->mass.prefix_bytes);
    pare_free(a->mass.of_row);
    pare_free(a->ids);
    if (a->h) pare_big_free(a->h, a->h_bytes);
}

pare_status pare_analyze_outliers(pare_outliers **out, pare_runtime *rt, const char *model,
                                  const char *text, size_t len, const pare_outlier_options *options,
                                  pare_error *err) {
    const pare_outlier_options o = options ? *options : pare_outlier_options_default();
    *out = NULL;
    analysis *a = pare_calloc(1, sizeof *a);
    if (!a) return fail_memory(err);
    a->rt = rt;
    pare_status st = set_up(a, model, text, len, &o, err);
    if (st == PARE_OK) st = run(a, err);
    free_work(a);
    a->result.sites = a->sites;
    a->result.attention_first = a->attention;
    a->result.attention_prefix = a->attention_prefix;
    for (size_t l = 0; l < a->result.n_layers && a->attention_prefix && !a->result.prefix_length;
         l++)
        a->attention_prefix[l] = (double)NAN;
    if (st == PARE_OK)
        *out = &a->result;
    else
        pare_outliers_free(&a->result);
    return st;
}

void pare_outliers_free(pare_outliers *o) {
    analysis *a = (analysis *)(void *)o; /* its first member */
    if (!a) return;
    pare_free(a->sites);
    pare_free(a->attention);
    pare_free(a->attention_prefix);
    pare_free(a);
}
