/* pare eval: perplexity under a named protocol, and the distance to another model. */
#include "recording.h"

#include "pare/eval.h"

#include <stdlib.h>

typedef struct eval_options {
    const char *text, *against, *kv, *records;
    int protocol, compute;
    int64_t ctx, windows;
} eval_options;

static const cli_option table[] = {
    CLI_OPTION(eval_options, 0, "text", CLI_TEXT, text, "FILE", 0, 0,
               "the text to score, - = standard input"),
    CLI_OPTION(eval_options, 0, "protocol", CLI_CHOICE, protocol, "hf|llama.cpp", 0, 0,
               "how the text is cut and scored"),
    CLI_OPTION(eval_options, 'c', "ctx", CLI_INT, ctx, "N", 0, 1 << 30,
               "tokens a window; 0 = 2048 for hf, 512 for llama.cpp, at most the model's maximum"),
    CLI_OPTION(eval_options, 0, "windows", CLI_INT, windows, "N", 0, 1 << 30,
               "only the first N windows; 0 = all"),
    CLI_OPTION(eval_options, 0, "against", CLI_TEXT, against, "MODEL", 0, 0,
               "also measure the distance to this model, side by side"),
    CLI_OPTION(eval_options, 0, "compute", CLI_CHOICE, compute, "exact|fast", 0, 0,
               "f32 results, or 8-bit activations where the weights allow"),
    CLI_OPTION(
        eval_options, 0, "kv", CLI_TEXT, kv, "CODEC", 0, 0,
        "how keys and values are kept: f32, f16, bf16, q8_0 or q4_0 (default f32, with fast f16)"),
    CLI_OPTION(eval_options, 0, "records", CLI_TEXT, records, "FILE", 0, 0, CLI_RECORDS_HELP),
    {0},
};
static const eval_options defaults = {.compute = PARE_COMPUTE_EXACT};

/* How far a run has come: shown while it runs, and told when it is interrupted. */
typedef struct state {
    cli *c;
    size_t done, total;
    double ppl;
} state;

static void on_window(void *arg, size_t done, size_t total, double ppl) {
    state *s = arg;
    s->done = done;
    s->total = total;
    s->ppl = ppl;
    cli_progress_note(s->c, "ppl %.4f", ppl);
}

/* --- output --- */

static json_t *perplexity_json(const pare_perplexity *p) {
    char crc[9];
    json_t *out = json_object();
    snprintf(crc, sizeof crc, "%08x", (unsigned)p->crc32);
    json_object_set_new(out, "protocol", json_string(pare_protocol_name(p->protocol)));
    json_object_set_new(out, "ctx", json_integer((json_int_t)p->ctx));
    json_object_set_new(out, "ppl", cli_json_real(p->ppl));
    json_object_set_new(out, "ppl_stderr", cli_json_real(p->ppl_stderr));
    json_object_set_new(out, "nll_sum", cli_json_real(p->nll_sum));
    json_object_set_new(out, "n_scored", json_integer((json_int_t)p->n_scored));
    json_object_set_new(out, "n_tokens", json_integer((json_int_t)p->n_tokens));
    json_object_set_new(out, "n_windows", json_integer((json_int_t)p->n_windows));
    json_object_set_new(out, "crc32", json_string(crc));
    json_object_set_new(out, "seconds", cli_json_real(p->seconds));
    json_object_set_new(out, "tokens_per_s", cli_json_real(p->tokens_per_s));
    json_object_set_new(out, "compute",
                        json_string(p->compute == PARE_COMPUTE_EXACT ? "exact" : "fast"));
    return out;
}

static json_t *distance_json(const pare_distance *d) {
    json_t *out = json_object();
    json_object_set_new(out, "kl_mean", cli_json_real(d->kl_mean));
    json_object_set_new(out, "kl_mean_stderr", cli_json_real(d->kl_mean_stderr));
    json_object_set_new(out, "kl_p99", cli_json_real(d->kl_p99));
    json_object_set_new(out, "kl_max", cli_json_real(d->kl_max));
    json_object_set_new(out, "same_top", cli_json_real(d->same_top));
    json_object_set_new(out, "ppl_ratio", cli_json_real(d->ppl_ratio));
    json_object_set_new(out, "base_ppl", cli_json_real(d->base_ppl));
    json_object_set_new(out, "flips", json_null()); /* answers changed: needs tasks */
    return out;
}

static pare_status print_table(cli *c, const pare_perplexity *p) {
    cli_table t;
    cli_table_begin(&t,
                    "protocol|>ppl|>+-|>scored|>tokens|>windows|>crc32|compute|>time|>tokens/s");
    cli_cell(&t, "%s-%zu", pare_protocol_name(p->protocol), p->ctx);
    cli_cell(&t, "%.4f", p->ppl);
    cli_cell(&t, "%.4f", p->ppl_stderr);
    cli_cell(&t, "%zu", p->n_scored);
    cli_cell(&t, "%zu", p->n_tokens);
    cli_cell(&t, "%zu", p->n_windows);
    cli_cell(&t, "%08x", (unsigned)p->crc32);
    cli_cell(&t, "%s", p->compute == PARE_COMPUTE_EXACT ? "exact" : "fast");
    cli_cell(&t, "%s", cli_clock(p->seconds));
    cli_cell(&t, "%.1f", p->tokens_per_s);
    return cli_table_end(c, &t);
}

static pare_status print_distance(cli *c, const pare_distance *d) {
    cli_table t;
    cli_table_begin(&t, ">KL mean|>+-|>KL p99|>KL max|>same top (%)|>ppl ratio|>base ppl");
    cli_cell(&t, "%.6f", d->kl_mean);
    cli_cell(&t, "%.6f", d->kl_mean_stderr);
    cli_cell(&t, "%.6f", d->kl_p99);
    cli_cell(&t, "%.6f", d->kl_max);
    cli_cell(&t, "%.2f", 100 * d->same_top);
    cli_cell(&t, "%.5f", d->ppl_ratio);
    cli_cell(&t, "%.4f", d->base_ppl);
    return cli_table_end(c, &t);
}

static pare_status print_result(cli *c, const pare_perplexity *p, const pare_distance *d,
                                int64_t record_id) {
    cli_progress_end(c);
    if (c->common.json) {
        json_t *out = cli_json_begin(c);
        json_object_set_new(out, "perplexity", perplexity_json(p));
        if (d) json_object_set_new(out, "against", distance_json(d));
        json_object_set_new(out, "record_id", cli_record_id(record_id));
        return cli_json_print(c, out, true);
    }
    pare_status st = print_table(c, p);
    if (st == PARE_OK && d) st = cli_printf(c, "\n");
    return st == PARE_OK && d ? print_distance(c, d) : st;
}

/* The id of the run's record, or 0. */
static int64_t record(cli *c, const char *model, const eval_options *o, const pare_perplexity *p,
                      const pare_distance *d) {
    pare_record *r = cli_record_begin(c);
    if (!r) return 0;
    pare_error err = {0};
    if (pare_record_set_perplexity(r, p, &err) != PARE_OK)
        cli_warn(c, "the record is incomplete: %s", err.message);
    if (d) pare_record_set_distance(r, d);
    r->model = model;
    r->text = o->text;
    r->against = o->against;
    r->kv = o->kv;
    return cli_record_end(c, r, o->records);
}

/* --- work --- */

typedef struct loaded {
    pare_tokenizer *tok;
    pare_model *model;
} loaded;

static pare_status load(cli *c, loaded *l, const char *path) {
    pare_status st = pare_tokenizer_load(&l->tok, path, &c->err);
    return st == PARE_OK ? pare_model_load(&l->model, c->rt, path, &c->err) : st;
}

static void unload(loaded *l) {
    pare_model_free(l->model);
    pare_tokenizer_free(l->tok);
}

static pare_status run(cli *c, const void *options, char **args, size_t n_args) {
    const eval_options *o = options;
    (void)n_args;
    if (!o->text) return cli_fail(c, PARE_ERR_ARG, "eval: found no --text, expected --text FILE");
    pare_eval_options eo = pare_eval_options_default();
    eo.protocol = (pare_protocol)o->protocol;
    eo.ctx = (size_t)o->ctx;
    eo.max_windows = (size_t)o->windows;
    eo.compute = (pare_compute)o->compute;
    eo.kv = o->kv;
    eo.name = o->text;
    eo.on_window = on_window;
    state progress = {.c = c};
    eo.arg = &progress;
    loaded model = {0}, base = {0};
    char *text = NULL;
    size_t n = 0;
    pare_perplexity ppl;
    pare_distance distance;
    pare_status st = cli_runtime(c);
    if (st == PARE_OK) st = cli_read(c, &text, &n, o->text);
    if (st == PARE_OK) st = load(c, &model, args[0]);
    if (st == PARE_OK && o->against) st = load(c, &base, o->against);
    if (st == PARE_OK && o->against)
        st = pare_eval_against(&ppl, &distance, c->rt, model.model, model.tok, base.model, base.tok,
                               text, n, &eo, &c->err);
    else if (st == PARE_OK)
        st = pare_eval_perplexity(&ppl, c->rt, model.model, model.tok, text, n, &eo, &c->err);
    if (st == PARE_ERR_INTERRUPTED && progress.done)
        cli_fail(c, st,
                 "after %zu of %zu windows, perplexity so far %.4f; the same command starts again",
                 progress.done, progress.total, progress.ppl);
    if (st == PARE_OK) {
        const pare_distance *d = o->against ? &distance : NULL;
        st = print_result(c, &ppl, d, record(c, args[0], o, &ppl, d));
    }
    free(text);
    unload(&model);
    unload(&base);
    return st;
}

const cli_verb cli_verb_eval = {
    .name = "eval",
    .arguments = "MODEL",
    .summary = "perplexity, and the distance to another model",
    .notes =
        "A perplexity means something only with its protocol. hf: rows joined as the papers do, "
        "windows of 2048 tokens, all but the first scored. llama.cpp: the raw text, windows of "
        "512, "
        "the second half scored. The CRC-32 of the ids tells whether two programs scored the same "
        "tokens. --against gives KL(other || MODEL) over the full vocabulary.",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .min_args = 1,
    .max_args = 1,
    .examples =
        {"pare eval model.gguf --text wiki.test.raw --ctx 256 --windows 4",
         "pare eval model.gguf --text wiki.test.raw --protocol llama.cpp --ctx 128 --windows 4 "
         "--json",
         "pare eval model.gguf --text wiki.test.raw --ctx 128 --windows 2 --against model.gguf"},
    .run = run,
};
