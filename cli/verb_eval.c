/* pare eval: perplexity under a named protocol, zero-shot tasks, and the distance to another model.
 */
#include "act_options.h"
#include "eval_tasks.h"
#include "prefix_options.h"
#include "recording.h"

#include <stdlib.h>
#include <string.h>

typedef struct eval_options {
    const char *text, *tasks, *data, *against, *save_logits, *kv, *records, *lora, *prefix,
        *prefix_tokens;
    cli_act act;
    int protocol, bos, compute; /* protocol -1: none was asked for */
    int64_t ctx, windows, limit;
    bool logits; /* `against` is a base file of llama.cpp */
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
    CLI_OPTION(eval_options, 0, "tasks", CLI_TEXT, tasks, "LIST", 0, 0,
               "zero-shot tasks: \"piqa,arc_easy\"; all = the ten"),
    CLI_OPTION(eval_options, 0, "limit", CLI_INT, limit, "N", 0, 1 << 30,
               "only the first N documents of each task; 0 = all"),
    CLI_OPTION(eval_options, 0, "data", CLI_TEXT, data, "DIR", 0, 0,
               "folder of the tasks' files (default $PARE_DATA/tasks, else ../shared/data/tasks)"),
    CLI_OPTION(eval_options, 0, "bos", CLI_CHOICE, bos, "auto|always|never", 0, 0,
               "whether a BOS stands before each request of a task; auto = as the tokenizer does"),
    CLI_OPTION(eval_options, 0, "against", CLI_TEXT, against, "MODEL", 0, 0,
               "also measure the distance to this model, side by side, or to a base file of "
               "llama.cpp"),
    CLI_OPTION(eval_options, 0, "save-logits", CLI_TEXT, save_logits, "FILE", 0, 0,
               "write the distributions of the scored tokens as a base file of llama.cpp "
               "(--protocol llama.cpp; 2 bytes a vocabulary entry and token)"),
    CLI_OPTION(eval_options, 0, "compute", CLI_CHOICE, compute, "exact|fast", 0, 0,
               "f32 results, or 8-bit activations where the weights allow"),
    CLI_OPTION(
        eval_options, 0, "kv", CLI_TEXT, kv, "CODEC", 0, 0,
        "how keys and values are kept: f32, f16, bf16, q8_0 or q4_0 (default f32, with fast f16)"),
    CLI_OPTION(eval_options, 0, "lora", CLI_TEXT, lora, "ADAPTER", 0, 0,
               "compute with a low-rank adapter (a folder of PEFT's or pare train's)"),
    CLI_PREFIX_OPTIONS(eval_options),
    CLI_ACT_OPTIONS(eval_options, act),
    CLI_OPTION(eval_options, 0, "records", CLI_TEXT, records, "FILE", 0, 0, CLI_RECORDS_HELP),
    {0},
};
static const eval_options defaults = {.protocol = -1, .compute = PARE_COMPUTE_EXACT};

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

/* [{"share": 0.99, "value": ...}, ...] */
static json_t *percentiles_json(const double *shares, const double *values, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(
            list, json_pack("{s:f, s:o}", "share", shares[i], "value", cli_json_real(values[i])));
    return list;
}

static json_t *distance_json(const pare_distance *d) {
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"kl_mean", d->kl_mean},
                   {"kl_mean_stderr", d->kl_mean_stderr},
                   {"kl_median", d->kl_median},
                   {"kl_p99", d->kl_p99},
                   {"kl_min", d->kl_min},
                   {"kl_max", d->kl_max},
                   {"same_top", d->same_top},
                   {"same_top_stderr", d->same_top_stderr},
                   {"dp_mean", d->dp_mean},
                   {"dp_mean_stderr", d->dp_mean_stderr},
                   {"dp_rms", d->dp_rms},
                   {"dp_rms_stderr", d->dp_rms_stderr},
                   {"ppl_ratio", d->ppl_ratio},
                   {"ln_ratio", d->ln_ratio},
                   {"ln_ratio_stderr", d->ln_ratio_stderr},
                   {"correlation", d->correlation},
                   {"base_ppl", d->base_ppl}};
    json_t *out = json_object();
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_object_set_new(out, numbers[i].key, cli_json_real(numbers[i].value));
    json_object_set_new(out, "kl_percentiles",
                        percentiles_json(pare_kl_shares, d->kl_percentile, PARE_N_KL_SHARES));
    json_object_set_new(out, "dp_percentiles",
                        percentiles_json(pare_dp_shares, d->dp_percentile, PARE_N_DP_SHARES));
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
    cli_table_begin(&t, ">KL mean|>+-|>median|>p99|>max|>same top (%)|>+-|>RMS dp (%)|>+-|>ln ppl "
                        "ratio|>+-|>base ppl");
    cli_cell(&t, "%.6f", d->kl_mean);
    cli_cell(&t, "%.6f", d->kl_mean_stderr);
    cli_cell(&t, "%.6f", d->kl_median);
    cli_cell(&t, "%.6f", d->kl_p99);
    cli_cell(&t, "%.6f", d->kl_max);
    cli_cell(&t, "%.2f", 100 * d->same_top);
    cli_cell(&t, "%.2f", 100 * d->same_top_stderr);
    cli_cell(&t, "%.3f", 100 * d->dp_rms);
    cli_cell(&t, "%.3f", 100 * d->dp_rms_stderr);
    cli_cell(&t, "%.5f", d->ln_ratio);
    cli_cell(&t, "%.5f", d->ln_ratio_stderr);
    cli_cell(&t, "%.4f", d->base_ppl);
    return cli_table_end(c, &t);
}

/* What a run has found; NULL = not asked for. */
typedef struct result {
    const pare_perplexity *ppl;
    const pare_distance *distance;
    const eval_tasks *tasks;
    size_t prefix_positions; /* in front of every sequence */
    const char *act;         /* how activations are quantized; NULL: they are not */
    cli_clamped clamped;
} result;

static json_t *against_json(const result *r) {
    json_t *out = r->distance ? distance_json(r->distance) : json_object();
    if (r->tasks)
        eval_tasks_pairs_json(r->tasks, out);
    else
        json_object_set_new(out, "flips", json_null()); /* answers changed: needs tasks */
    return out;
}

static pare_status print_json(cli *c, const result *r, bool against, int64_t record_id) {
    json_t *out = cli_json_begin(c);
    json_object_set_new(out, "prefix_positions", json_integer((json_int_t)r->prefix_positions));
    if (r->ppl) json_object_set_new(out, "perplexity", perplexity_json(r->ppl));
    if (r->tasks) eval_tasks_json(r->tasks, out);
    if (against) json_object_set_new(out, "against", against_json(r));
    json_object_set_new(out, "act", r->act ? json_string(r->act) : json_null());
    json_object_set_new(out, "clamped", r->clamped.json);
    json_object_set_new(out, "record_id", cli_record_id(record_id));
    return cli_json_print(c, out, true);
}

static pare_status print_tables(cli *c, const result *r) {
    pare_status st = r->ppl ? print_table(c, r->ppl) : PARE_OK;
    if (st == PARE_OK) cli_clamped_print(c, &r->clamped);
    if (st == PARE_OK && r->distance) st = cli_printf(c, "\n");
    if (st == PARE_OK && r->distance) st = print_distance(c, r->distance);
    if (st == PARE_OK && r->ppl && r->tasks) st = cli_printf(c, "\n");
    return st == PARE_OK && r->tasks ? eval_tasks_print(r->tasks) : st;
}

/* The id of the run's record, or 0. */
static int64_t record(cli *c, const char *model, const eval_options *o, const result *found) {
    pare_record *r = cli_record_begin(c);
    if (!r) return 0;
    pare_error err = {0};
    if (found->ppl && pare_record_set_perplexity(r, found->ppl, &err) != PARE_OK)
        cli_warn(c, "the record is incomplete: %s", err.message);
    if (found->distance) pare_record_set_distance(r, found->distance);
    if (found->tasks && pare_record_set_tasks(r, found->tasks->results,
                                              found->tasks->paired ? found->tasks->pairs : NULL,
                                              found->tasks->n, &err) != PARE_OK)
        cli_warn(c, "the record is incomplete: %s", err.message);
    r->model = model;
    r->text = o->text;
    r->against = o->against;
    r->lora = o->lora;
    r->prefix = cli_prefix_file(o->prefix);
    r->prefix_tokens = o->prefix_tokens;
    r->kv = o->kv;
    r->act = found->act;
    if (found->clamped.site) r->clamped = found->clamped.share;
    if (o->act.spec) {
        r->calib = o->act.calib;
        r->calib_samples = o->act.calib_samples;
        r->calib_ctx = o->act.calib_ctx;
    }
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

/* base NULL: no distance to a model. text NULL: to a file, without a text. */
static pare_status run_text(cli *c, const eval_options *o, pare_perplexity *ppl,
                            pare_distance *distance, const char *text, size_t n,
                            const loaded *model, const loaded *base) {
    state progress = {.c = c};
    pare_eval_options eo = pare_eval_options_default();
    if (o->protocol >= 0) eo.protocol = (pare_protocol)o->protocol;
    if (o->save_logits) eo.protocol = PARE_PROTOCOL_LLAMA_CPP;
    eo.ctx = (size_t)o->ctx;
    eo.max_windows = (size_t)o->windows;
    eo.compute = (pare_compute)o->compute;
    eo.kv = o->kv;
    eo.name = o->text;
    eo.on_window = on_window;
    eo.arg = &progress;
    pare_status st;
    if (base)
        st = pare_eval_against(ppl, distance, c->rt, model->model, model->tok, base->model,
                               base->tok, text, n, &eo, &c->err);
    else if (o->logits)
        st = pare_eval_against_logits(ppl, distance, c->rt, model->model, model->tok, o->against,
                                      text, n, &eo, &c->err);
    else if (o->save_logits)
        st = pare_eval_save_logits(ppl, c->rt, model->model, model->tok, text, n, o->save_logits,
                                   &eo, &c->err);
    else
        st = pare_eval_perplexity(ppl, c->rt, model->model, model->tok, text, n, &eo, &c->err);
    if (st == PARE_ERR_INTERRUPTED && progress.done)
        cli_fail(c, st,
                 "after %zu of %zu windows, perplexity so far %.4f; the same command starts again",
                 progress.done, progress.total, progress.ppl);
    cli_progress_end(c);
    return st;
}

static pare_status run_all(cli *c, const eval_options *o, const char *path, eval_tasks *tasks) {
    loaded model = {0}, base = {0};
    pare_perplexity ppl;
    pare_distance distance;
    char *text = NULL;
    size_t n = 0;
    const loaded *other = o->against && !o->logits ? &base : NULL;
    const bool scored = o->text || o->logits;
    pare_status st = PARE_OK;
    if (o->text) st = cli_read(c, &text, &n, o->text);
    if (st == PARE_OK && o->tasks) st = eval_tasks_begin(tasks, c, o->tasks, o->data);
    if (st == PARE_OK) st = load(c, &model, path);
    if (st == PARE_OK && o->lora) st = pare_model_add_lora(model.model, o->lora, &c->err);
    if (st == PARE_OK) st = cli_set_prefix(c, model.model, path, o->prefix, o->prefix_tokens);
    if (st == PARE_OK) st = cli_act_apply(c, &o->act, model.model);
    if (st == PARE_OK) st = pare_model_count_clamped(model.model, &c->err);
    if (st == PARE_OK && other) st = load(c, &base, o->against);
    if (st == PARE_OK && scored) st = run_text(c, o, &ppl, &distance, text, n, &model, other);
    if (st == PARE_OK && o->tasks)
        st = eval_tasks_run(tasks, model.model, model.tok, base.model, base.tok);
    if (st == PARE_OK) {
        const result r = {scored ? &ppl : NULL,
                          scored && o->against ? &distance : NULL,
                          o->tasks ? tasks : NULL,
                          pare_model_prefix_length(model.model),
                          *pare_model_act(model.model) ? pare_model_act(model.model) : NULL,
                          cli_clamped_of(model.model)};
        int64_t id = record(c, path, o, &r);
        if (c->common.json) {
            st = print_json(c, &r, o->against != NULL, id);
        } else {
            st = print_tables(c, &r);
            json_decref(r.clamped.json);
        }
    }
    free(text);
    unload(&model);
    unload(&base);
    return st;
}

/* What a base file rules out. */
static pare_status check_logits(cli *c, const eval_options *o) {
    if (o->protocol == PARE_PROTOCOL_HF)
        return cli_fail(c, PARE_ERR_ARG,
                        "eval: found --protocol hf, expected llama.cpp, which base files are of");
    if (o->tasks)
        return cli_fail(c, PARE_ERR_ARG,
                        "eval: found --tasks with the base file %s, expected a model to answer "
                        "them too",
                        o->against);
    return PARE_OK;
}

/* What writing one does. */
static pare_status check_save(cli *c, const eval_options *o) {
    if (!o->text) return cli_fail(c, PARE_ERR_ARG, "eval: found --save-logits without a --text");
    if (!*o->save_logits || strcmp(o->save_logits, "-") == 0)
        return cli_fail(c, PARE_ERR_ARG, "eval: --save-logits: found '%s', expected a file's name",
                        o->save_logits);
    if (o->protocol == PARE_PROTOCOL_HF)
        return cli_fail(c, PARE_ERR_ARG,
                        "eval: found --protocol hf with --save-logits, expected llama.cpp, which "
                        "base files are of");
    if (o->against)
        return cli_fail(c, PARE_ERR_ARG,
                        "eval: found --save-logits with --against, expected one of them");
    return PARE_OK;
}

/* Refuses options of a text without one and of tasks without any, which would have no effect. */
static pare_status check_options(cli *c, const eval_options *o) {
    static const eval_options *const d = &defaults;
    const struct {
        const char *name;
        bool of_tasks, given;
    } given[] = {
        {"protocol", false, o->protocol != d->protocol},
        {"ctx", false, o->ctx != d->ctx},
        {"windows", false, o->windows != d->windows},
        {"limit", true, o->limit != d->limit},
        {"data", true, o->data != d->data},
        {"bos", true, o->bos != d->bos},
    };
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        if (given[i].given && !(given[i].of_tasks ? o->tasks != NULL : o->text || o->logits))
            return cli_fail(c, PARE_ERR_ARG, "eval: --%s: found it without %s, expected %s",
                            given[i].name, given[i].of_tasks ? "--tasks" : "--text",
                            given[i].of_tasks ? "--tasks LIST" : "--text FILE");
    return PARE_OK;
}

static pare_status run(cli *c, const void *options, char **args, size_t n_args) {
    eval_options with_file = *(const eval_options *)options;
    const eval_options *o = &with_file;
    (void)n_args;
    with_file.logits = o->against && pare_is_logits_file(o->against);
    if (!o->text && !o->tasks && !o->logits)
        return cli_fail(c, PARE_ERR_ARG,
                        "eval: found no --text and no --tasks, expected --text FILE or --tasks "
                        "LIST");
    if (o->logits && check_logits(c, o) != PARE_OK) return c->err.status;
    if (o->save_logits && check_save(c, o) != PARE_OK) return c->err.status;
    if (check_options(c, o) != PARE_OK) return c->err.status;
    eval_tasks *tasks = calloc(1, sizeof *tasks);
    if (!tasks) return cli_fail(c, PARE_ERR_NOMEM, "eval: out of memory");
    tasks->options = pare_tasks_options_default();
    tasks->options.limit = (size_t)o->limit;
    tasks->options.bos = (pare_bos)o->bos;
    tasks->options.compute = (pare_compute)o->compute;
    tasks->options.kv = o->kv;
    pare_status st = cli_runtime(c);
    if (st == PARE_OK) st = run_all(c, o, args[0], tasks);
    eval_tasks_free(tasks);
    free(tasks);
    return st;
}

const cli_verb cli_verb_eval = {
    .name = "eval",
    .arguments = "MODEL",
    .summary = "perplexity, zero-shot tasks, and the distance to another model",
    .notes =
        "A perplexity means something only with its protocol. hf: rows joined as the papers do, "
        "windows of 2048 tokens, all but the first scored. llama.cpp: the raw text, windows of "
        "512, "
        "the second half scored. The CRC-32 of the ids tells whether two programs scored the same "
        "tokens. Tasks are asked as lm-evaluation-harness asks them, without examples; "
        "docs/tasks.md "
        "has the prompts and the files. --against gives KL(other || MODEL) over the full "
        "vocabulary "
        "and the answers that are right in one of the two only; a file that llama-perplexity "
        "--kl-divergence-base has written stands for the other model, its tokens for the text, and "
        "values are then llama.cpp's; --save-logits writes such a file. --prefix and "
        "--prefix-tokens are "
        "MODEL's; the other model keeps what it has.",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .min_args = 1,
    .max_args = 1,
    .examples =
        {"pare eval model.gguf --text wiki.test.raw --ctx 256 --windows 4",
         "pare eval model.gguf --text wiki.test.raw --protocol llama.cpp --ctx 128 --windows 4 "
         "--json",
         "pare eval model.gguf --text wiki.test.raw --ctx 128 --windows 2 --against model.gguf",
         "pare eval model.gguf --tasks copa,rte --data tasks --limit 20"},
    .run = run,
};
