/* pare compress and pare convert: one streaming pass over a model's tensors. */
#include "act_options.h"
#include "prefix_options.h"
#include "recording.h"

#include "pare/compress.h"
#include "pare/eval.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct compress_options {
    const char *out, *recipe, *format, *keep, *eval, *calib, *records, *imatrix, *write_imatrix,
        *lora, *prefix;
    uint64_t split, max_memory, target_size;
    double target_bpw;
    int64_t windows, calib_samples, calib_ctx;
    int compute;
    bool no_fallback, dry_run, restart, true_sequential, keep_zeros;
} compress_options;

static const cli_option compress_table[] = {
    CLI_OPTION(compress_options, 'o', "out", CLI_TEXT, out, "OUT", 0, 0,
               "file (.gguf, replaced if it stands there) or folder (new or empty) to write"),
    CLI_OPTION(compress_options, 'r', "recipe", CLI_TEXT, recipe, "RECIPE", 0, 0,
               "steps joined by '+', or a file with one step per line"),
    CLI_OPTION(compress_options, 0, "format", CLI_TEXT, format, "FORMAT", 0, 0,
               "hf, gguf, or packed for other programs: compressed-tensors, int-quantized, gptq, "
               "gptq-v2, awq (default: gguf when OUT ends in .gguf, MODEL's without OUT, else hf)"),
    CLI_OPTION(compress_options, 0, "lora", CLI_TEXT, lora, "ADAPTER", 0, 0,
               "merge a low-rank adapter first (recipes of encodings only)"),
    CLI_SWITCH(compress_options, 0, "keep-zeros", keep_zeros,
               "with --lora: weights that are 0 stay 0"),
    CLI_OPTION(compress_options, 0, "prefix", CLI_TEXT, prefix, "FILE", 0, 0,
               "a cushion that becomes part of the output, and that calibration stands "
               "behind; none = no cushion (default: what MODEL has)"),
    CLI_OPTION(compress_options, 0, "calib", CLI_TEXT, calib, "FILE", 0, 0,
               "calibration text, for methods that measure a layer's inputs"),
    CLI_OPTION(compress_options, 0, "calib-samples", CLI_INT, calib_samples, "N", 0, 1 << 20,
               "sequences, from random places of the text; 0 = 128"),
    CLI_OPTION(compress_options, 0, "calib-ctx", CLI_INT, calib_ctx, "N", 0, 1 << 20,
               "tokens of a sequence; 0 = 512, at most the model's maximum"),
    CLI_OPTION(compress_options, 0, "imatrix", CLI_TEXT, imatrix, "FILE", 0, 0,
               "llama.cpp's importance matrix (GGUF or legacy), for block types"),
    CLI_OPTION(compress_options, 0, "write-imatrix", CLI_TEXT, write_imatrix, "FILE", 0, 0,
               "write one from the calibration (.dat: the legacy form)"),
    CLI_OPTION(compress_options, 0, "compute", CLI_CHOICE, compute, "exact|fast", 0, 0,
               "of calibration: f32, or 8-bit activations where the weights allow"),
    CLI_SWITCH(compress_options, 0, "true-sequential", true_sequential,
               "measure inputs again behind each group of a block's layers that was compressed"),
    CLI_OPTION(
        compress_options, 0, "max-memory", CLI_SIZE, max_memory, "SIZE", 0, 0,
        "keep activations in files where the process is planned to take more; refuse a run where "
        "that is not enough"),
    CLI_OPTION(
        compress_options, 0, "target-bpw", CLI_FLOAT, target_bpw, "X", 0, 64,
        "store in the largest mix (pare compress -r q4_k_m ...) of at most X bits per weight; "
        "-r may be left out, else the mix is for what its steps leave open"),
    CLI_OPTION(compress_options, 0, "target-size", CLI_SIZE, target_size, "SIZE", 0, 0,
               "the same for the output's size"),
    CLI_OPTION(compress_options, 0, "keep", CLI_TEXT, keep, "REGEX", 0, 0,
               "tensors whose names match stay as they are"),
    CLI_OPTION(compress_options, 0, "split", CLI_SIZE, split, "SIZE", 0, 0,
               "parts of at most SIZE"),
    CLI_OPTION(
        compress_options, 0, "eval", CLI_TEXT, eval, "FILE", 0, 0,
        "perplexity on FILE before and after (hf protocol), and of MODEL behind a cushion that "
        "OUT gets"),
    CLI_OPTION(compress_options, 0, "windows", CLI_INT, windows, "N", 0, 1e9,
               "with --eval: only the first N windows (0 = all)"),
    CLI_OPTION(compress_options, 0, "records", CLI_TEXT, records, "FILE", 0, 0, CLI_RECORDS_HELP),
    CLI_SWITCH(compress_options, 0, "no-fallback", no_fallback,
               "refuse a tensor whose rows or smallest values do not fit its encoding"),
    CLI_SWITCH(compress_options, 0, "restart", restart,
               "drop what an interrupted run left in OUT.work instead of going on"),
    CLI_SWITCH(compress_options, 0, "dry-run", dry_run, "plan only: sizes, memory, fallbacks"),
    {0},
};
static const compress_options compress_defaults = {.compute = PARE_COMPUTE_EXACT};

static json_t *layer_json(const pare_layer_report *l) {
    json_t *o = json_object();
    json_object_set_new(o, "name", cli_json_string(l->name));
    json_object_set_new(o, "from", json_string(l->from));
    json_object_set_new(o, "encoding", json_string(l->encoding));
    json_object_set_new(o, "n_params", json_integer((json_int_t)l->n_params));
    json_object_set_new(o, "in_bytes", json_integer((json_int_t)l->in_bytes));
    json_object_set_new(o, "out_bytes", json_integer((json_int_t)l->out_bytes));
    json_object_set_new(o, "bits_per_weight", cli_json_real(l->bits_per_weight));
    json_object_set_new(o, "sparsity", cli_json_real(l->sparsity));
    json_object_set_new(o, "error", cli_json_real(l->error));
    json_object_set_new(o, "output_error",
                        l->output_error < 0 ? json_null() : cli_json_real(l->output_error));
    json_object_set_new(o, "seconds", cli_json_real(l->seconds));
    json_object_set_new(o, "changed", json_boolean(l->changed));
    return o;
}

static json_t *steps_json(const char *recipe) {
    json_t *steps = json_array();
    for (const char *p = recipe; *p;) {
        const char *end = strstr(p, " + ");
        size_t n = end ? (size_t)(end - p) : strlen(p);
        json_array_append_new(steps, cli_json_text(p, n));
        p += end ? n + 3 : n;
    }
    return steps;
}

static json_t *ppl_json(const pare_perplexity *p) {
    json_t *o = json_object();
    json_object_set_new(o, "protocol", json_string(pare_protocol_name(p->protocol)));
    json_object_set_new(o, "ctx", json_integer((json_int_t)p->ctx));
    json_object_set_new(o, "ppl", cli_json_real(p->ppl));
    json_object_set_new(o, "ppl_stderr", cli_json_real(p->ppl_stderr));
    json_object_set_new(o, "n_windows", json_integer((json_int_t)p->n_windows));
    json_object_set_new(o, "n_scored", json_integer((json_int_t)p->n_scored));
    return o;
}

static json_t *calib_json(const pare_compress_info *i) {
    char crc[9];
    json_t *o = json_object();
    snprintf(crc, sizeof crc, "%08x", (unsigned)i->calib_crc32);
    json_object_set_new(o, "samples", json_integer((json_int_t)i->calib_samples));
    json_object_set_new(o, "ctx", json_integer((json_int_t)i->calib_ctx));
    json_object_set_new(o, "crc32", json_string(crc));
    return o;
}

typedef struct compress_result {
    const pare_compress_info *info;
    uint64_t memory_bytes; /* planned peak of the process, with --eval of that too */
    const pare_perplexity *before, *after; /* NULL = not asked for */
    const pare_perplexity *behind;         /* MODEL behind OUT's cushion; NULL = as before */
    cli_clamped clamped;                   /* of `after`; json NULL without it */
    int64_t record_id;                     /* 0 = none */
    bool dry_run;
} compress_result;

/* The record of a compression; conversions leave none. Its id, or 0. */
static int64_t record(cli *c, const char *model, const compress_options *o,
                      const compress_result *r) {
    if (r->dry_run || !o->recipe) return 0;
    pare_record *record = cli_record_begin(c);
    if (!record) return 0;
    pare_error err = {0};
    pare_status st = pare_record_set_compression(record, r->info, &err);
    if (st == PARE_OK && r->after) st = pare_record_set_perplexity(record, r->after, &err);
    if (st != PARE_OK) cli_warn(c, "the record is incomplete: %s", err.message);
    record->model = model;
    record->out = o->out;
    record->text = o->eval;
    if (r->info->calib_samples) record->calib = o->calib;
    record->imatrix = o->imatrix;
    record->lora = o->lora;
    record->prefix = cli_prefix_file(o->prefix);
    if (r->before) record->base_ppl = r->before->ppl;
    if (r->clamped.site) record->clamped = r->clamped.share;
    if (r->behind) record->base_prefix_ppl = r->behind->ppl;
    return cli_record_end(c, record, o->records);
}

static pare_status print_json(cli *c, const compress_result *r) {
    const pare_compress_info *i = r->info;
    json_t *o = cli_json_begin(c), *layers = json_array(), *fallbacks = json_array(),
           *changed = json_array();
    for (size_t k = 0; k < i->n_layers; k++) {
        json_array_append_new(layers, layer_json(&i->layers[k]));
        if (i->layers[k].changed)
            json_array_append_new(changed, cli_json_string(i->layers[k].name));
    }
    for (size_t k = 0; k < i->n_fallbacks; k++)
        json_array_append_new(fallbacks, cli_json_string(i->fallbacks[k]));
    json_object_set_new(o, "recipe", cli_json_string(i->recipe));
    json_object_set_new(o, "format", json_string(i->format));
    json_object_set_new(o, "dry_run", json_boolean(r->dry_run));
    json_object_set_new(o, "steps", steps_json(i->recipe));
    json_object_set_new(o, "in_bytes", json_integer((json_int_t)i->in_bytes));
    json_object_set_new(o, "out_bytes", json_integer((json_int_t)i->out_bytes));
    json_object_set_new(o, "work_bytes", json_integer((json_int_t)i->work_bytes));
    json_object_set_new(o, "memory_bytes", json_integer((json_int_t)r->memory_bytes));
    json_object_set_new(o, "disk_bytes", json_integer((json_int_t)i->disk_bytes));
    json_object_set_new(o, "spill_bytes", json_integer((json_int_t)i->spill_bytes));
    json_object_set_new(o, "dense_pass", json_boolean(i->dense_pass));
    if (r->dry_run && i->planned_seconds > 0)
        json_object_set_new(o, "planned_seconds", cli_json_real(i->planned_seconds));
    json_object_set_new(o, "resumed_blocks", json_integer((json_int_t)i->n_resumed));
    if (i->calib_samples) json_object_set_new(o, "calib", calib_json(i));
    if (i->imatrix_sha256) json_object_set_new(o, "imatrix_sha256", json_string(i->imatrix_sha256));
    json_object_set_new(o, "bits_per_weight", cli_json_real(i->bits_per_weight));
    json_object_set_new(o, "sparsity", cli_json_real(i->sparsity));
    json_object_set_new(o, "peak_rss_bytes", json_integer((json_int_t)cli_peak_rss()));
    json_object_set_new(o, "seconds", cli_json_real(i->seconds));
    json_object_set_new(o, "lossless", json_boolean(i->lossless));
    json_object_set_new(o, "changed", changed);
    json_object_set_new(o, "fallbacks", fallbacks);
    if (i->prefix_search) json_object_set_new(o, "cushion", json_loads(i->prefix_search, 0, NULL));
    json_object_set_new(o, "layers", layers);
    json_object_set_new(o, "record_id", cli_record_id(r->record_id));
    if (r->before) json_object_set_new(o, "before", ppl_json(r->before));
    if (r->behind) json_object_set_new(o, "before_behind_prefix", ppl_json(r->behind));
    if (r->after) json_object_set_new(o, "after", ppl_json(r->after));
    if (r->clamped.json) json_object_set(o, "clamped", r->clamped.json);
    return cli_json_print(c, o, true);
}

static void table_row(cli_table *t, const pare_layer_report *l) {
    cli_cell(t, "%s", l->name);
    cli_cell(t, "%s", l->from);
    cli_cell(t, "%s", l->encoding);
    cli_cell(t, "%s", cli_bytes((double)l->out_bytes));
    cli_cell(t, "%.3f", l->bits_per_weight);
    cli_cell(t, "%.2f", 100 * l->sparsity);
    cli_cell(t, "%.5f", l->error);
    if (l->output_error < 0)
        cli_cell(t, "-");
    else
        cli_cell(t, "%.5f", l->output_error);
    cli_cell(t, "%.2f", l->seconds);
}

/* What a search for a prefix has found: a line for each token. */
static void print_cushion(cli *c, const char *text) {
    json_t *o = json_loads(text, 0, NULL), *tokens = json_object_get(o, "tokens"), *step;
    size_t i, at = json_array_size(json_object_get(o, "start_ids"));
    cli_printf(c, "prefix of %zu tokens\n", json_array_size(tokens));
    json_array_foreach(json_object_get(o, "steps"), i, step) {
        double whole = json_number_value(json_object_get(step, "brute_force_work"));
        bool kept = json_is_true(json_object_get(step, "kept"));
        const char *token = kept ? json_string_value(json_array_get(tokens, at++)) : NULL;
        cli_printf(c, "  %s %s: error %.4g -> %.4g, %.1f%% of the work saved\n",
                   kept ? "token" : "not kept: token", token ? token : "",
                   json_number_value(json_object_get(step, "error_before")),
                   json_number_value(json_object_get(step, "error_after")),
                   whole > 0 ? 100 - 100 * json_number_value(json_object_get(step, "work")) / whole
                             : 0);
    }
    json_decref(o);
}

static pare_status print_table(cli *c, const compress_result *r) {
    const pare_compress_info *i = r->info;
    cli_table t;
    size_t n_copied = 0;
    cli_table_begin(&t, "tensor|from|to|>size|>bits/w|>zero %|>error|>output|>s");
    for (size_t k = 0; k < i->n_layers; k++) {
        const pare_layer_report *l = &i->layers[k];
        if (strcmp(l->from, l->encoding) == 0 && !l->changed)
            n_copied++;
        else
            table_row(&t, l);
    }
    pare_status st = cli_table_end(c, &t);
    if (st != PARE_OK) return st;
    if (n_copied) cli_printf(c, "%zu tensors copied as they are\n", n_copied);
    if (i->prefix_search) print_cushion(c, i->prefix_search);
    cli_printf(c, "\n%s%s -> %s, %.3f bits per weight", r->dry_run ? "plan: " : "",
               cli_bytes((double)i->in_bytes), cli_bytes((double)i->out_bytes), i->bits_per_weight);
    if (r->dry_run) {
        cli_printf(c, ", memory %s", cli_bytes((double)r->memory_bytes));
        if (i->disk_bytes) cli_printf(c, ", disk beside it %s", cli_bytes((double)i->disk_bytes));
        if (i->spill_bytes)
            cli_printf(c, ", of it activations %s", cli_bytes((double)i->spill_bytes));
        if (i->planned_seconds > 0) cli_printf(c, ", about %s", cli_clock(i->planned_seconds));
        if (i->dense_pass)
            cli_printf(c, ", calibration runs through the dense model once before the blocks");
        return cli_printf(c, "\n");
    }
    if (i->n_resumed) cli_printf(c, ", %zu blocks of an earlier run", i->n_resumed);
    cli_printf(c, ", %.2f%% zeros, %.1f s, peak memory %s\n", 100 * i->sparsity, i->seconds,
               cli_bytes((double)cli_peak_rss()));
    if (r->before && r->after) {
        cli_printf(c, "perplexity (%s-%zu, %zu windows): %.4f before",
                   pare_protocol_name(r->before->protocol), r->before->ctx, r->before->n_windows,
                   r->before->ppl);
        if (r->behind) cli_printf(c, ", %.4f before behind the cushion", r->behind->ppl);
        cli_printf(c, ", %.4f after\n", r->after->ppl);
        cli_clamped_print(c, &r->clamped);
    }
    return cli_flush(c);
}

/* "NAME: what" lines; those that say the same of many tensors become one. */
static void print_fallbacks(cli *c, const pare_compress_info *info) {
    for (size_t i = 0; i < info->n_fallbacks; i++) {
        const char *what = strstr(info->fallbacks[i], ": ");
        size_t same = 0, earlier = 0;
        for (size_t k = 0; what && k < info->n_fallbacks; k++) {
            const char *other = strstr(info->fallbacks[k], ": ");
            bool equal = other && strcmp(other, what) == 0;
            same += equal && k > i;
            earlier += equal && k < i;
        }
        if (earlier) continue;
        if (same)
            cli_fallback(c, "%s (and so of %zu other tensors)", info->fallbacks[i], same);
        else
            cli_fallback(c, "%s", info->fallbacks[i]);
    }
}

/* ctx: 0 = as the protocol has it. *guess: the perplexity of a guess among all tokens; clamped:
 * NULL, or what static grids did. prefix: NULL, or a cushion that the model stands behind then, all
 * its inputs in f32. */
static pare_status perplexity(cli *c, pare_perplexity *out, double *guess, cli_clamped *clamped,
                              const char *model, const char *prefix, size_t ctx,
                              const compress_options *o) {
    pare_model *m = NULL;
    pare_tokenizer *tok = NULL;
    char *text = NULL;
    size_t n = 0;
    pare_status st = cli_read(c, &text, &n, o->eval);
    if (st == PARE_OK) st = pare_tokenizer_load(&tok, model, &c->err);
    if (st == PARE_OK) st = pare_model_load(&m, c->rt, model, &c->err);
    if (st == PARE_OK && prefix) {
        const pare_act_options none = {.spec = "none"};
        st = pare_model_set_prefix(m, prefix, &c->err);
        if (st == PARE_OK && *pare_model_act(m)) st = pare_model_quantize_act(m, &none, &c->err);
    }
    if (st == PARE_OK && clamped) st = pare_model_count_clamped(m, &c->err);
    if (st == PARE_OK) {
        pare_eval_options eo = pare_eval_options_default();
        eo.max_windows = (size_t)o->windows;
        eo.ctx = ctx;
        *guess = (double)pare_model_vocab_size(m);
        st = pare_eval_perplexity(out, c->rt, m, tok, text, n, &eo, &c->err);
        cli_progress_end(c);
        if (st == PARE_OK && clamped) *clamped = cli_clamped_of(m);
    }
    free(text);
    pare_tokenizer_free(tok);
    pare_model_free(m);
    return st;
}

/* -r names a file where there is one; else it is the recipe itself. */
static pare_status recipe_text(cli *c, const char *recipe, char **text) {
    struct stat info;
    *text = NULL;
    if (recipe && stat(recipe, &info) == 0 && S_ISREG(info.st_mode)) {
        size_t n;
        return cli_read(c, text, &n, recipe);
    }
    *text = strdup(recipe ? recipe : "");
    return *text ? PARE_OK : cli_fail(c, PARE_ERR_NOMEM, "recipe: out of memory");
}

static pare_compress_options options_of(const char *model, const compress_options *o,
                                        const char *recipe) {
    return (pare_compress_options){.model = model,
                                   .out = o->out,
                                   .recipe = recipe,
                                   .format = o->format,
                                   .lora = o->lora,
                                   .lora_keep_zeros = o->keep_zeros,
                                   .prefix = cli_prefix_option(o->prefix),
                                   .keep = o->keep,
                                   .split_bytes = o->split,
                                   .calib = o->calib,
                                   .calib_samples = (size_t)o->calib_samples,
                                   .calib_ctx = (size_t)o->calib_ctx,
                                   .imatrix = o->imatrix,
                                   .write_imatrix = o->write_imatrix,
                                   .calib_compute = (pare_compute)o->compute,
                                   .true_sequential = o->true_sequential,
                                   .max_memory = o->max_memory,
                                   .restart = o->restart,
                                   .no_fallback = o->no_fallback,
                                   .dry_run = o->dry_run};
}

/* Results that nobody can have wanted end with exit 3: a layer whose output is further off than
 * that of a layer without weights, a model that says less than a guess among all tokens. */
static void check_bounds(cli *c, const compress_result *r, double guess) {
    for (size_t i = 0; i < r->info->n_layers; i++) {
        const pare_layer_report *t = &r->info->layers[i];
        if (!(t->output_error <= 1))
            cli_bound(c, "compress: %s: found an error of the output of %.3g, expected at most 1",
                      t->name, t->output_error);
    }
    if (r->after && !(r->after->ppl <= guess) && r->before->ppl <= guess)
        cli_bound(c, "compress: found a perplexity of %.4g, expected at most %.0f, a guess's",
                  r->after->ppl, guess);
}

/* The planned peak of all that the command does; of --eval one model at a time, MODEL and OUT,
 * whose weights alone may differ. Spilling does not help an evaluation: refused where it may not
 * take so much. */
static pare_status plan_memory(cli *c, uint64_t *bytes, const char *model,
                               const compress_options *o, const pare_compress_info *i) {
    uint64_t weights, others;
    struct stat text = {0};
    *bytes = i->memory_bytes;
    if (!o->eval) return PARE_OK;
    if (stat(o->eval, &text) != 0)
        return cli_fail(c, PARE_ERR_INPUT, "%s: open: %s", o->eval, strerror(errno));
    pare_status st = pare_eval_perplexity_memory(&weights, &others, c->rt, model,
                                                 (size_t)text.st_size, NULL, &c->err);
    if (st != PARE_OK) return st;
    if (i->out_bytes > weights) weights = i->out_bytes;
    uint64_t eval = i->resident_bytes + weights + others;
    if (eval > *bytes) *bytes = eval;
    if (!o->max_memory || eval <= o->max_memory + PARE_RESIDENT_WANDERS) return PARE_OK;
    return cli_fail(c, PARE_ERR_ARG,
                    "max-memory: found %llu bytes, expected at least %llu for --eval, which holds "
                    "a whole model; without it %llu are enough",
                    (unsigned long long)o->max_memory, (unsigned long long)eval,
                    (unsigned long long)i->memory_bytes);
}

static pare_status compress(cli *c, const char *model, const compress_options *o,
                            const char *recipe) {
    double guess = 0;
    pare_perplexity before = {0}, behind = {0}, after = {0};
    compress_result result = {.dry_run = o->dry_run};
    pare_status st = cli_runtime(c);
    bool eval = o->eval && !o->dry_run;
    if (st != PARE_OK) return st;
    pare_compress_options co = options_of(model, o, recipe);
    co.keep_work = true; /* until the record and the card are there */
    pare_compress_report *report = NULL;
    if (eval) { /* a slip in the recipe is told before the evaluation, which may take hours */
        co.dry_run = true;
        st = pare_compress(&report, c->rt, &co, &c->err);
        if (st == PARE_OK)
            st = plan_memory(c, &result.memory_bytes, model, o, pare_compress_result(report));
        pare_compress_report_free(report);
        report = NULL;
        co.dry_run = false;
        if (st == PARE_OK && pare_rank() == 0)
            st = perplexity(c, &before, &guess, NULL, model, NULL, 0, o);
        result.before = &before;
    }
    if (st == PARE_OK) st = pare_compress(&report, c->rt, &co, &c->err);
    cli_progress_end(c);
    if (st == PARE_OK && !eval)
        st = plan_memory(c, &result.memory_bytes, model, o, pare_compress_result(report));
    if (pare_rank() > 0) { /* the first rank evaluates, records and prints */
        pare_compress_report_free(report);
        return st;
    }
    if (st == PARE_OK && eval) {
        st = perplexity(c, &after, &guess, &result.clamped, o->out, NULL, 0, o);
        if (st == PARE_OK) result.after = &after;
        if (st == PARE_OK && before.ctx != after.ctx) /* a new cushion leaves less of the context */
            st = perplexity(c, &before, &guess, NULL, model, NULL, after.ctx, o);
        /* the model's own cushion, which OUT only keeps, stood there before */
        const pare_compress_info *i = pare_compress_result(report);
        if (st == PARE_OK && i->prefix_file && (o->prefix || i->prefix_search)) {
            st = perplexity(c, &behind, &guess, NULL, model, i->prefix_file, 0, o);
            if (st == PARE_OK) result.behind = &behind;
        }
    }
    bool cut = report && st == PARE_ERR_INTERRUPTED; /* OUT is there, the evaluation is not */
    if (cut)
        cli_fail(c, st, "%s is complete; 'pare eval %s --text %s' measures it", o->out, o->out,
                 o->eval);
    if (st == PARE_OK || cut) {
        result.info = pare_compress_result(report);
        print_fallbacks(c, result.info);
        check_bounds(c, &result, guess);
        result.record_id = record(c, model, o, &result);
        pare_status printed = c->common.json ? print_json(c, &result) : print_table(c, &result);
        if (st == PARE_OK) st = printed;
        pare_compress_settle(report);
    }
    json_decref(result.clamped.json);
    pare_compress_report_free(report);
    return st;
}

/* "RECIPE + MIX"; free with free(). */
static char *with_mix(const char *recipe, const char *mix) {
    size_t n = strlen(recipe) + strlen(mix) + 4;
    char *text = malloc(n);
    if (text) snprintf(text, n, "%s%s%s", recipe, *recipe ? " + " : "", mix);
    return text;
}

static bool fits(const compress_options *o, const pare_compress_info *i) {
    return (o->target_bpw == 0 || i->bits_per_weight <= o->target_bpw) &&
           (o->target_size == 0 || i->out_bytes <= o->target_size);
}

/* Puts the largest mix that meets the targets behind the recipe. */
static pare_status choose_mix(cli *c, const char *model, const compress_options *o, char **recipe) {
    char *best = NULL;
    const char *best_name = NULL;
    uint64_t largest = 0, smallest = UINT64_MAX;
    double least_bits = 0;
    pare_status st = cli_runtime(c);
    for (size_t i = 0; st == PARE_OK && pare_mix_name_at(i); i++) {
        char *text = with_mix(*recipe ? *recipe : "", pare_mix_name_at(i));
        pare_compress_report *report = NULL;
        if (!text) {
            st = cli_fail(c, PARE_ERR_NOMEM, "recipe: out of memory");
            break;
        }
        pare_compress_options co = options_of(model, o, text);
        co.dry_run = true;
        co.restart = true; /* OUT.work is of one mix, which is looked for: nothing is dropped */
        st = pare_compress(&report, c->rt, &co, &c->err);
        const pare_compress_info *info = st == PARE_OK ? pare_compress_result(report) : NULL;
        if (info && info->out_bytes < smallest) {
            smallest = info->out_bytes;
            least_bits = info->bits_per_weight;
        }
        if (info && fits(o, info) && info->out_bytes > largest) {
            largest = info->out_bytes;
            free(best);
            best = text;
            best_name = pare_mix_name_at(i);
            text = NULL;
        }
        free(text);
        pare_compress_report_free(report);
    }
    if (st == PARE_OK && !best)
        st = cli_fail(c, PARE_ERR_ARG,
                      "target: found none that fits, expected at least %s (%.3f bits per weight)",
                      cli_bytes((double)smallest), least_bits);
    if (st != PARE_OK) {
        free(best);
        return st;
    }
    cli_note(c, "stored as %s: %s", best_name, cli_bytes((double)largest));
    free(*recipe);
    *recipe = best;
    return PARE_OK;
}

static pare_status run_compress(cli *c, const void *opts, char **args, size_t n_args) {
    (void)n_args;
    compress_options o = *(const compress_options *)opts;
    bool target = o.target_bpw > 0 || o.target_size > 0;
    if (!o.recipe && !target)
        return cli_fail(c, PARE_ERR_ARG, "compress: found no recipe, expected -r RECIPE");
    if (!o.out && !o.dry_run)
        return cli_fail(c, PARE_ERR_ARG, "compress: found no output, expected -o OUT");
    if (o.eval && strcmp(o.eval, "-") == 0)
        return cli_fail(c, PARE_ERR_ARG,
                        "eval: found standard input, expected a file: it is read before and after");
    char *recipe;
    pare_status st = recipe_text(c, o.recipe, &recipe);
    if (st == PARE_OK && o.recipe && !target && !recipe[strspn(recipe, " \t\r\n")])
        st = cli_fail(c, PARE_ERR_ARG,
                      "compress: found an empty recipe, expected steps joined by '+' (a copy in "
                      "another container: pare convert)");
    if (st == PARE_OK && target) st = choose_mix(c, args[0], &o, &recipe);
    if (!o.recipe) o.recipe = recipe; /* there is one now: a record is kept */
    if (st == PARE_OK) st = compress(c, args[0], &o, recipe);
    free(recipe);
    return st;
}

const cli_verb cli_verb_compress = {
    .name = "compress",
    .arguments = "MODEL -o OUT -r RECIPE",
    .summary = "makes a model smaller by a recipe of methods and encodings",
    .notes = "A recipe is STEP + STEP...: a method (pare methods), the name of an encoding or of a "
             "mix. STEP@TARGET "
             "is for some tensors only: attn, ffn, embd, output, all or /REGEX/. The output "
             "appears under its name "
             "when it is complete and was read back. With methods, finished blocks are kept in "
             "OUT.work: the same command goes on where a run was cut off.",
    .options = compress_table,
    .defaults = &compress_defaults,
    .options_size = sizeof(compress_options),
    .min_args = 1,
    .max_args = 1,
    .examples = {"pare compress model.gguf -o small.gguf -r q4_k_m",
                 "pare compress model.gguf -o sparse -r 'magnitude:sparsity=0.5 + bitmap_q8'",
                 "pare compress model.gguf --target-bpw 6 --dry-run",
                 "pare compress model.gguf -o gptq -r gptq:bits=4,group=64 --calib wiki.test.raw "
                 "--calib-samples 4 --calib-ctx 64"},
    .ranks = true,
    .run = run_compress,
};

/* --- convert --- */

typedef struct convert_options {
    const char *format, *lora, *prefix;
    uint64_t split;
    bool keep_zeros;
} convert_options;

static const cli_option convert_table[] = {
    CLI_OPTION(convert_options, 0, "format", CLI_TEXT, format, "FORMAT", 0, 0,
               "hf, gguf, compressed-tensors, int-quantized, gptq, gptq-v2, awq (default: gguf "
               "when OUT ends in .gguf, else hf)"),
    CLI_OPTION(convert_options, 0, "split", CLI_SIZE, split, "SIZE", 0, 0, "parts of at most SIZE"),
    CLI_OPTION(convert_options, 0, "prefix", CLI_TEXT, prefix, "FILE", 0, 0,
               "a cushion that becomes part of the output; none = no cushion (default: what "
               "MODEL's folder has)"),
    CLI_OPTION(convert_options, 0, "lora", CLI_TEXT, lora, "ADAPTER", 0, 0,
               "merge a low-rank adapter (a folder of PEFT's or pare train's); its matrices become "
               "f32"),
    CLI_SWITCH(convert_options, 0, "keep-zeros", keep_zeros,
               "with --lora: weights that are 0 stay 0"),
    {0},
};
static const convert_options convert_defaults = {0};

static pare_status run_convert(cli *c, const void *opts, char **args, size_t n_args) {
    (void)n_args;
    const convert_options *v = opts;
    compress_options o = {.out = args[1],
                          .format = v->format,
                          .split = v->split,
                          .lora = v->lora,
                          .prefix = v->prefix,
                          .keep_zeros = v->keep_zeros};
    if (v->keep_zeros && !v->lora)
        return cli_fail(c, PARE_ERR_ARG,
                        "convert: found --keep-zeros without --lora, expected both");
    return compress(c, args[0], &o, "");
}

const cli_verb cli_verb_convert = {
    .name = "convert",
    .arguments = "MODEL OUT",
    .summary = "writes a model into another container, the same numbers",
    .notes = "With --lora ADAPTER the adapter becomes part of the weights. To store the result in "
             "few bits, compress it afterwards, or at once: pare compress MODEL --lora ADAPTER.",
    .options = convert_table,
    .defaults = &convert_defaults,
    .options_size = sizeof(convert_options),
    .min_args = 2,
    .max_args = 2,
    .examples = {"pare convert model.gguf folder",
                 "pare convert model.gguf parts.gguf --split 1GiB"},
    .run = run_convert,
};
