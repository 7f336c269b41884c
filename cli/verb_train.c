/* pare train: a new model from text, or one that exists trained further. */
#include "recording.h"

#include "pare/bench.h"
#include "pare/train.h"

#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct train_options {
    const char *from, *config, *arch, *tokenizer, *optim, *lr_scale, *schedule, *sparsity,
        *act_sparsity, *val, *distill, *adapter, *records;
    cli_texts data;
    int64_t dim, layers, heads, kv_heads, head_dim, ffn_dim, vocab;
    int64_t steps, stop_at, batch, micro_batch, ctx, warmup, eval_every, save_every, log_every,
        eval_windows;
    double min_lr, clip, val_share, temperature, hard, ema;
    int compute;
    bool untied, recompute, restart, resume, keep_work, keep_best, dry_run;
} train_options;

#define INT(letter, name, field, value, min, max, help)                                            \
    CLI_OPTION(train_options, letter, name, CLI_INT, field, value, min, max, help)
#define TEXT(name, field, value, help)                                                             \
    CLI_OPTION(train_options, 0, name, CLI_TEXT, field, value, 0, 0, help)

static const cli_option train_table[] = {
    TEXT("from", from, "MODEL", "go on from this model (folder or GGUF); else a new one is made"),
    TEXT("arch", arch, "NAME", "of a new model: llama, qwen2, qwen3, gemma2, gemma3, gpt2, opt"),
    TEXT("config", config, "FILE",
         "of a new model: a config.json of transformers, in place of --arch and sizes"),
    INT(0, "dim", dim, "N", 1, 1 << 20, "width of a new model"),
    INT(0, "layers", layers, "N", 1, 4096, "layers of a new model"),
    INT(0, "heads", heads, "N", 1, 1 << 16, "query heads"),
    INT(0, "kv-heads", kv_heads, "N", 0, 1 << 16, "key/value heads; 0 = heads"),
    INT(0, "head-dim", head_dim, "N", 0, 1024, "width of a head; 0 = dim / heads"),
    INT(0, "ffn-dim", ffn_dim, "N", 0, 1 << 20,
        "inner width of the feed-forward part; 0 = 8/3 dim where it is gated, else 4 dim"),
    CLI_SWITCH(train_options, 0, "untied", untied, "a head of its own, not the embeddings"),
    TEXT("tokenizer", tokenizer, "MODEL",
         "model (or tokenizer.json) whose tokenizer a new one gets"),
    INT(0, "vocab", vocab, "N", 0, 1 << 24,
        "cut that tokenizer (byte-level BPE) to its first N tokens; 0 = all"),
    CLI_OPTION(train_options, 0, "data", CLI_TEXTS, data, "FILE", 0, 0,
               "text, or .jsonl with \"text\"; may be a pattern ('*.txt') and given again"),
    TEXT("val", val, "FILE", "held-out text (default: the end of the data)"),
    CLI_OPTION(train_options, 0, "val-share", CLI_SHARE, val_share, "SHARE", 0, 0,
               "share of the data that is held out"),
    INT(0, "steps", steps, "N", 1, 1e12, "optimizer steps"),
    INT(0, "stop-at", stop_at, "N", 0, 1e12, "stop after step N, ready to go on"),
    INT('b', "batch", batch, "N", 1, 1 << 20, "sequences of a step"),
    INT(0, "micro-batch", micro_batch, "N", 0, 1 << 20,
        "sequences computed at once, gradients added up; 0 = batch"),
    INT(0, "ctx", ctx, "N", 1, 1 << 20, "tokens of a sequence"),
    TEXT("optim", optim, "SPEC",
         "optimizer: adamw:lr=1e-3,beta2=0.95 (pare methods --slot optimizer)"),
    TEXT("lr-scale", lr_scale, "TARGET=X,...",
         "factors of the learning rate by tensor: embd=5,ffn=0.2 (attn, ffn, embd, output, all: "
         "matrices; /REGEX/: any); the first that fits counts"),
    TEXT("schedule", schedule, "NAME", "of the learning rate: cosine, linear, wsd, constant"),
    INT(0, "warmup", warmup, "N", -1, 1e12,
        "steps to the full rate; -1 = 5% of them, at most 1000"),
    CLI_OPTION(train_options, 0, "min-lr", CLI_SHARE, min_lr, "SHARE", 0, 0,
               "of the learning rate that is left at the end"),
    CLI_OPTION(train_options, 0, "clip", CLI_FLOAT, clip, "X", 0, 1e9,
               "largest norm of the gradient; 0 = no limit"),
    TEXT("sparsity", sparsity, "SPEC",
         "sparse training: rigl:sparsity=0.8,every=100 (pare methods --slot sparse_training)"),
    TEXT("act-sparsity", act_sparsity, "SPEC",
         "keep each token's highest feed-forward activations only, now and whenever the model "
         "computes: top_k:sparsity=0.5 (pare methods top_k)"),
    TEXT("adapter", adapter, "SPEC",
         "train this beside --from MODEL, which stays as it is: lora:rank=8,alpha=16 (pare methods "
         "lora)"),
    TEXT("distill", distill, "MODEL",
         "learn from this model's distributions instead of the text's tokens"),
    CLI_OPTION(train_options, 0, "temperature", CLI_FLOAT, temperature, "T", 1e-3, 1e3,
               "of both distributions"),
    CLI_OPTION(train_options, 0, "hard", CLI_SHARE, hard, "SHARE", 0, 0,
               "with --distill: share of the text's own tokens in the loss"),
    CLI_OPTION(
        train_options, 0, "ema", CLI_FLOAT, ema, "D", 0, 0.999999999,
        "evaluate and write an average of the weights after each step, with this decay (0.999)"),
    CLI_SWITCH(train_options, 0, "best", keep_best,
               "write the weights of least held-out loss, not the last ones"),
    CLI_OPTION(train_options, 0, "compute", CLI_CHOICE, compute, "exact|fast", 0, 0,
               "f32, or bf16 products with f32 masters where the processor has them"),
    CLI_SWITCH(train_options, 0, "recompute", recompute,
               "less memory: each layer is computed again in the backward pass"),
    INT(0, "eval-every", eval_every, "N", 0, 1e12,
        "steps between evaluations; 0 = before the first and after the last only"),
    INT(0, "eval-windows", eval_windows, "N", 1, 1 << 30, "held-out windows, at most"),
    INT(0, "save-every", save_every, "N", 0, 1e12,
        "steps between checkpoints; 0 = at the end only"),
    INT(0, "log-every", log_every, "N", 1, 1e9, "steps between lines of the log"),
    CLI_SWITCH(train_options, 0, "resume", resume,
               "refuse to begin anew: there must be a run to go on with"),
    CLI_SWITCH(train_options, 0, "restart", restart,
               "drop what an interrupted run left in OUT.work instead of going on"),
    CLI_SWITCH(
        train_options, 0, "keep-work", keep_work,
        "leave OUT.work (first weights, tokens, checkpoints) there: a longer --steps goes on "
        "from it"),
    CLI_SWITCH(train_options, 0, "dry-run", dry_run,
               "plan only: memory, disk and, by three steps and an evaluation, time"),
    TEXT("records", records, "FILE", CLI_RECORDS_HELP),
    {0},
};
static const train_options train_defaults = {.schedule = "cosine",
                                             .optim = "adamw",
                                             .batch = 16,
                                             .ctx = 256,
                                             .warmup = -1,
                                             .min_lr = 0.1,
                                             .clip = 1,
                                             .temperature = 1,
                                             .val_share = 0.02,
                                             .eval_every = 250,
                                             .save_every = 250,
                                             .log_every = 10,
                                             .eval_windows = 64,
                                             .compute = PARE_COMPUTE_FAST};

typedef struct train_view {
    cli *c;
    double peak; /* FLOP/s of the machine's products; 0: not known */
} train_view;

static json_t *line_json(const train_view *v, const pare_train_line *l) {
    json_t *o = cli_json_begin(v->c);
    json_object_set_new(o, "step", json_integer((json_int_t)l->step));
    json_object_set_new(o, "loss", cli_json_real(l->loss));
    json_object_set_new(o, "lr", cli_json_real(l->lr));
    json_object_set_new(o, "grad_norm", cli_json_real(l->grad_norm));
    json_object_set_new(o, "sparsity", cli_json_real(l->sparsity));
    json_object_set_new(o, "left_out", cli_json_real(l->left_out));
    json_object_set_new(o, "tokens_per_s", cli_json_real(l->tokens_per_s));
    json_object_set_new(o, "flop_per_s", cli_json_real(l->flop_per_s));
    json_object_set_new(o, "peak_share",
                        cli_json_real(v->peak > 0 ? l->flop_per_s / v->peak : (double)NAN));
    if (isfinite(l->val_loss)) {
        json_object_set_new(o, "val_loss", cli_json_real(l->val_loss));
        json_object_set_new(o, "val_ppl", cli_json_real(exp(l->val_loss)));
    }
    return o;
}

static void on_line(void *arg, const pare_train_line *l) {
    const train_view *v = arg;
    cli *c = v->c;
    if (c->common.json) {
        cli_json_print(c, line_json(v, l), false);
        cli_flush(c);
        return;
    }
    cli_progress_clear(c);
    if (l->step == 0) {
        cli_printf(c, "step %6u  held out %.4f (ppl %.2f)\n", 0, l->val_loss, exp(l->val_loss));
        cli_flush(c);
        return;
    }
    cli_printf(c, "step %6llu  loss %7.4f  lr %.2e  |g| %8.3f  %7.0f tok/s  %6.1f GFLOP/s",
               (unsigned long long)l->step, l->loss, l->lr, l->grad_norm, l->tokens_per_s,
               l->flop_per_s / 1e9);
    if (v->peak > 0) cli_printf(c, " (%2.0f%% of peak)", 100 * l->flop_per_s / v->peak);
    if (l->sparsity > 0) cli_printf(c, "  %5.2f%% zeros", 100 * l->sparsity);
    if (l->left_out >= 0.005) cli_printf(c, "  %2.0f%% left out", 100 * l->left_out);
    if (isfinite(l->val_loss))
        cli_printf(c, "  held out %.4f (ppl %.2f)", l->val_loss, exp(l->val_loss));
    cli_printf(c, "\n");
    cli_flush(c);
}

/* The files that the patterns name; free with globfree. */
static pare_status expand(cli *c, glob_t *files, const char *pattern) {
    int failed = glob(pattern, files->gl_pathc ? GLOB_APPEND : 0, NULL, files);
    if (failed == GLOB_NOMATCH)
        return cli_fail(c, PARE_ERR_INPUT, "%s: found no such file, expected text", pattern);
    return failed ? cli_fail(c, PARE_ERR_IO, "%s: cannot be listed", pattern) : PARE_OK;
}

/* The record of a run that is finished; its id, or 0. */
static int64_t record(cli *c, const pare_train_options *t, const pare_train_report *report,
                      const char *records) {
    if (pare_rank() > 0) return 0; /* the first rank's */
    pare_record *r = report->finished ? cli_record_begin(c) : NULL;
    pare_error err = {0};
    if (r && pare_record_set_training(r, t, report, &err) != PARE_OK)
        cli_warn(c, "the record is incomplete: %s", err.message);
    return cli_record_end(c, r, records);
}

static pare_status print_result(cli *c, const char *out, const pare_train_report *r,
                                int64_t record_id) {
    if (!c->common.json) {
        cli_printf(c, "%s: %llu steps, loss %.4f", r->finished ? out : "stopped",
                   (unsigned long long)r->steps, r->loss);
        if (isfinite(r->val_ppl))
            cli_printf(c, ", held out %.4f (perplexity %.3f)", r->val_loss, r->val_ppl);
        if (isfinite(r->val_ppl) && r->val_step != r->steps)
            cli_printf(c, " after step %llu", (unsigned long long)r->val_step);
        cli_printf(c, ", %s parameters, %.0f tok/s, peak memory %s\n",
                   cli_count((double)r->n_params), r->tokens_per_s,
                   cli_bytes((double)r->peak_rss_bytes));
        return cli_flush(c);
    }
    json_t *o = cli_json_begin(c);
    json_object_set_new(o, "out", cli_json_string(out));
    json_object_set_new(o, "finished", json_boolean(r->finished));
    json_object_set_new(o, "steps", json_integer((json_int_t)r->steps));
    json_object_set_new(o, "tokens", json_integer((json_int_t)r->tokens));
    json_object_set_new(o, "n_params", json_integer((json_int_t)r->n_params));
    json_object_set_new(o, "final_loss", cli_json_real(r->loss));
    json_object_set_new(o, "val_loss", cli_json_real(r->val_loss));
    json_object_set_new(o, "val_ppl", cli_json_real(r->val_ppl));
    json_object_set_new(o, "val_step",
                        isfinite(r->val_ppl) ? json_integer((json_int_t)r->val_step) : json_null());
    json_object_set_new(o, "best_val_loss", cli_json_real(r->best_val_loss));
    json_object_set_new(o, "first_val_loss", cli_json_real(r->first_val_loss));
    json_object_set_new(o, "sparsity", cli_json_real(r->sparsity));
    json_object_set_new(o, "left_out", cli_json_real(r->left_out));
    json_object_set_new(o, "skipped", json_integer((json_int_t)r->n_skipped));
    json_object_set_new(o, "seconds", cli_json_real(r->seconds));
    json_object_set_new(o, "tokens_per_s", cli_json_real(r->tokens_per_s));
    json_object_set_new(o, "flop_per_s", cli_json_real(r->flop_per_s));
    json_object_set_new(o, "peak_rss_bytes", json_integer((json_int_t)r->peak_rss_bytes));
    json_object_set_new(o, "record_id", cli_record_id(record_id));
    return cli_json_print(c, o, false);
}

static pare_status print_plan(cli *c, const pare_train_plan *p, const train_options *o) {
    const struct {
        const char *key, *what;
        uint64_t bytes;
    } sizes[] = {{"weights_bytes", "weights", p->weights_bytes},
                 {"gradients_bytes", "gradients", p->gradients_bytes},
                 {"optimizer_bytes", "optimizer", p->optimizer_bytes},
                 {"masks_bytes", "masks", p->masks_bytes},
                 {"copies_bytes", "copies of the weights", p->copies_bytes},
                 {"passes_bytes", "activations", p->passes_bytes},
                 {"teacher_bytes", "teacher", p->teacher_bytes},
                 {"tokenizer_bytes", "tokenizer", p->tokenizer_bytes},
                 {"memory_bytes", "memory", p->memory_bytes},
                 {"tokens_bytes", "tokens", p->tokens_bytes},
                 {"checkpoint_bytes", "a checkpoint", p->checkpoint_bytes},
                 {"model_bytes", "the model", p->model_bytes},
                 {"disk_bytes", "disk, at most", p->disk_bytes}};
    enum { N_SIZES = sizeof sizes / sizeof sizes[0] };
    const double epochs = (double)o->steps * (double)p->tokens_per_step / (double)p->text_tokens;
    if (c->common.json) {
        json_t *j = cli_json_begin(c);
        json_object_set_new(j, "dry_run", json_true());
        json_object_set_new(j, "n_params", json_integer((json_int_t)p->n_params));
        json_object_set_new(j, "tokens_per_step", json_integer((json_int_t)p->tokens_per_step));
        json_object_set_new(j, "text_tokens", json_integer((json_int_t)p->text_tokens));
        json_object_set_new(j, "epochs", cli_json_real(epochs));
        json_object_set_new(j, "flop_per_step", cli_json_real(p->flop_per_step));
        for (size_t i = 0; i < N_SIZES; i++)
            json_object_set_new(j, sizes[i].key, json_integer((json_int_t)sizes[i].bytes));
        json_object_set_new(j, "step_s", cli_json_real(p->step_seconds));
        json_object_set_new(j, "eval_s", cli_json_real(p->eval_seconds));
        json_object_set_new(j, "planned_seconds", cli_json_real(p->planned_seconds));
        return cli_json_print(c, j, false);
    }
    cli_table t;
    cli_table_begin(&t, "what|>size");
    for (size_t i = 0; i < N_SIZES; i++) {
        if (!sizes[i].bytes) continue;
        cli_cell(&t, "%s", sizes[i].what);
        cli_cell(&t, "%s", cli_bytes((double)sizes[i].bytes));
    }
    pare_status st = cli_table_end(c, &t);
    if (st != PARE_OK) return st;
    cli_printf(c, "\nplan: %s parameters, %lld steps of %llu tokens, %.2f epochs",
               cli_count((double)p->n_params), (long long)o->steps,
               (unsigned long long)p->tokens_per_step, epochs);
    cli_printf(c, ", %.3g GFLOP a step", p->flop_per_step / 1e9);
    if (isfinite(p->planned_seconds))
        cli_printf(c, ", %.3g s a step, about %s in all", p->step_seconds,
                   cli_clock(p->planned_seconds));
    else
        cli_printf(c, "; too little memory here to measure its time");
    cli_printf(c, "\n");
    return cli_flush(c);
}

static pare_status run_train(cli *c, const void *opts, char **args, size_t n_args) {
    const train_options *o = opts;
    if (!o->data.n) return cli_fail(c, PARE_ERR_ARG, "train: found no text, expected --data FILE");
    if (!o->steps)
        return cli_fail(c, PARE_ERR_ARG, "train: found no number of steps, expected --steps N");
    bool sizes = o->arch && o->dim && o->layers && o->heads;
    if (!o->from && ((!sizes && !o->config) || !o->tokenizer))
        return cli_fail(
            c, PARE_ERR_ARG,
            "train: found neither --from MODEL nor all of --arch, --dim, --layers, --heads, "
            "--tokenizer, expected one of them");
    bool more = o->kv_heads || o->head_dim || o->ffn_dim || o->untied;
    if (o->config && (o->arch || o->dim || o->layers || o->heads || more))
        return cli_fail(c, PARE_ERR_ARG, "train: found --config with sizes, expected one of them");
    if (o->from && (o->config || o->arch || o->dim || o->layers || o->heads || more ||
                    o->tokenizer || o->vocab))
        return cli_fail(c, PARE_ERR_ARG,
                        "train: found --from with options of a new model, expected one of them");
    glob_t files = {0};
    pare_status st = PARE_OK;
    for (size_t i = 0; i < o->data.n && st == PARE_OK; i++) st = expand(c, &files, o->data.item[i]);
    for (size_t i = 1; i < n_args && st == PARE_OK; i++)
        st = expand(c, &files, args[i]); /* *.txt */
    if (st == PARE_OK) st = cli_runtime(c);
    if (st == PARE_OK) {
        pare_train_options t = pare_train_options_default();
        t.out = args[0];
        t.from = o->from;
        t.shape = (pare_train_shape){.config = o->config,
                                     .arch = o->arch,
                                     .dim = (size_t)o->dim,
                                     .n_layers = (size_t)o->layers,
                                     .n_heads = (size_t)o->heads,
                                     .n_kv_heads = (size_t)o->kv_heads,
                                     .head_dim = (size_t)o->head_dim,
                                     .ffn_dim = (size_t)o->ffn_dim,
                                     .untied = o->untied,
                                     .tokenizer = o->tokenizer,
                                     .vocab_size = (size_t)o->vocab};
        t.data = (const char *const *)files.gl_pathv;
        t.n_data = files.gl_pathc;
        t.val = o->val;
        t.val_share = o->val_share;
        t.steps = (uint64_t)o->steps;
        t.stop_at = (uint64_t)o->stop_at;
        t.batch = (size_t)o->batch;
        t.micro_batch = (size_t)o->micro_batch;
        t.ctx = (size_t)o->ctx;
        t.optim = o->optim;
        t.lr_scale = o->lr_scale;
        t.schedule = o->schedule;
        if (o->warmup >= 0) t.warmup = (uint64_t)o->warmup;
        t.min_lr = o->min_lr;
        t.clip = o->clip;
        t.sparsity = o->sparsity;
        t.act_sparsity = o->act_sparsity;
        t.adapter = o->adapter;
        t.distill = o->distill;
        t.temperature = o->temperature;
        t.hard = o->hard;
        t.ema = o->ema;
        t.keep_best = o->keep_best;
        t.compute = (pare_compute)o->compute;
        t.recompute = o->recompute;
        t.eval_every = (uint64_t)o->eval_every;
        t.save_every = (uint64_t)o->save_every;
        t.log_every = (uint64_t)o->log_every;
        t.eval_windows = (size_t)o->eval_windows;
        t.restart = o->restart;
        t.resume = o->resume;
        t.keep_work = o->keep_work;
        train_view view = {.c = c};
        pare_train_plan plan;
        if (o->dry_run) {
            st = pare_train_estimate(&plan, c->rt, &t, &c->err);
            cli_progress_end(c);
            if (st == PARE_OK) st = print_plan(c, &plan, o);
            globfree(&files);
            return st;
        }
        t.on_line = on_line;
        t.arg = &view;
        pare_train_report r;
        st = pare_limits_peak(&view.peak, c->rt, t.compute, &c->err);
        if (st == PARE_OK) st = pare_train(&r, c->rt, &t, &c->err);
        cli_progress_end(c);
        if (st == PARE_OK && r.missed_sparsity) c->fell_back = true; /* the library tells it */
        if (st == PARE_OK && r.n_skipped)
            cli_fallback(c, "%llu steps were left out: their gradient was not finite",
                         (unsigned long long)r.n_skipped);
        if (st == PARE_OK) st = print_result(c, args[0], &r, record(c, &t, &r, o->records));
    }
    globfree(&files);
    return st;
}

const cli_verb cli_verb_train = {
    .name = "train",
    .arguments = "OUT --data FILE...",
    .summary = "trains a new model on text, or goes on from one",
    .notes =
        "Checkpoints lie in OUT.work: the same command goes on where a run was cut off and ends "
        "with the same bytes. The learning rate rises for --warmup steps and then follows "
        "--schedule; wsd holds it and falls in the last fifth.",
    .options = train_table,
    .defaults = &train_defaults,
    .options_size = sizeof(train_options),
    .min_args = 1,
    .max_args = 1 << 16,
    .examples =
        {"pare train new --arch llama --dim 64 --layers 2 --heads 4 --tokenizer model.gguf "
         "--data wiki.test.raw --steps 20 --batch 4 --ctx 64",
         "pare train tuned --from model.gguf --data wiki.test.raw --steps 4 --batch 1 --ctx 64 "
         "--optim adamw:lr=1e-4",
         "pare train planned --from model.gguf --data wiki.test.raw --steps 1000 --batch 1 --ctx "
         "64 "
         "--dry-run"},
    .ranks = true,
    .run = run_train,
};
