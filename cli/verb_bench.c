/* pare bench: how fast a model or single kernels run, and how near that is to the machine's limits.
 */
#include "act_options.h"
#include "bench.h"
#include "prefix_options.h"

#include <string.h>

typedef struct bench_options {
    cli_counts pp, tg, batch, depth;
    int64_t reps;
    const char *kv, *prefix, *prefix_tokens;
    int compute;
    bool kernels;
    cli_act act;
    bench_kernels_options kernel;
} bench_options;

static const cli_option table[] = {
    CLI_OPTION(bench_options, 0, "pp", CLI_COUNTS, pp, "N,..", 0, 1 << 24,
               "prefill of N tokens; 0 = none"),
    CLI_OPTION(bench_options, 0, "tg", CLI_COUNTS, tg, "N,..", 0, 1 << 24,
               "decode N steps; 0 = none"),
    CLI_OPTION(bench_options, 0, "depth", CLI_COUNTS, depth, "N,..", 0, 1 << 24,
               "tokens that are in the context already"),
    CLI_OPTION(bench_options, 0, "batch", CLI_COUNTS, batch, "N,..", 1, 4096,
               "decode: sequences that get a token each in a step"),
    CLI_OPTION(bench_options, 0, "reps", CLI_INT, reps, "N", 1, 1000,
               "timed repetitions, after one that is not counted"),
    CLI_OPTION(
        bench_options, 0, "kv", CLI_TEXT, kv, "CODEC", 0, 0,
        "how keys and values are kept: f32, f16, bf16, q8_0 or q4_0 (default f16, with exact f32)"),
    CLI_OPTION(bench_options, 0, "compute", CLI_CHOICE, compute, "exact|fast", 0, 0,
               "f32 results, or 8-bit activations where the weights allow"),
    CLI_PREFIX_OPTIONS(bench_options),
    CLI_ACT_OPTIONS(bench_options, act),
    CLI_SWITCH(bench_options, 0, "kernels", kernels, "single kernels instead of a model:"),
    CLI_OPTION(bench_options, 0, "only", CLI_TEXT, kernel.only, "NAME,..", 0, 0,
               "kernels to measure: linear_exact, linear_fast, encode, decode, attention, "
               "attention_fast, kv_store, kv_load, rmsnorm, add_rmsnorm, layernorm, rope, softmax, "
               "logsumexp, argmax, silu_mul, gelu_mul, softcap, quantize, mask_select, adamw "
               "(default all)"),
    CLI_OPTION(bench_options, 0, "encodings", CLI_TEXT, kernel.encodings, "NAME,..", 0, 0,
               "encodings of weights (default all that can be written)"),
    CLI_OPTION(bench_options, 0, "shape", CLI_TEXT, kernel.shape, "OUTxIN", 0, 0,
               "of the weights; operators treat rows of IN values (default 2048x5632)"),
    CLI_OPTION(bench_options, 0, "rows", CLI_COUNTS, kernel.rows, "N,..", 1, 65536, "rows at once"),
    CLI_OPTION(bench_options, 0, "heads", CLI_TEXT, kernel.heads, "N/KV/DIM", 0, 0,
               "of attention: heads, key-value heads, their width (default 32/8/128)"),
    CLI_OPTION(bench_options, 0, "ctx", CLI_INT, kernel.ctx, "N", 1, 1 << 24,
               "positions that attention reads"),
    CLI_SWITCH(bench_options, 0, "cached", kernel.cached,
               "weights, keys and values may stay in the caches from call to call"),
    {0},
};
static const bench_options defaults = {.pp = {{512}, 1},
                                       .tg = {{128}, 1},
                                       .depth = {{0}, 1},
                                       .batch = {{1}, 1},
                                       .reps = 3,
                                       .compute = PARE_COMPUTE_FAST,
                                       .kernel = {.shape = "2048x5632",
                                                  .heads = "32/8/128",
                                                  .rows = {{1, 4, 8, 16, 64, 512}, 6},
                                                  .ctx = 4096}};

/* Every combination: depths with prefills, depths with decodes and batches. */
enum { MAX_ROWS = CLI_MAX_ITEMS * CLI_MAX_ITEMS * (1 + CLI_MAX_ITEMS) };

typedef struct results {
    pare_limits limits;
    double read_rate; /* of as many bytes as the model has */
    pare_bench_row rows[MAX_ROWS];
    size_t n;
} results;

double bench_share(double value, double limit) {
    double s = limit > 0 ? value / limit : 0;
    return s < 1 ? s : 1;
}
static double bandwidth_share(const results *r, const pare_bench_row *row) {
    return bench_share(row->tokens_per_s * row->bytes_per_token, r->read_rate);
}
static double peak_share(const pare_bench_row *row) {
    return bench_share(row->flop_per_s, row->op_limit);
}

/* --- work --- */

static pare_status measure_all(cli *c, results *r, pare_model *m, const bench_options *o) {
    pare_bench_options bo = {.reps = (size_t)o->reps,
                             .kv = o->kv,
                             .compute = (pare_compute)o->compute,
                             .limits = &r->limits};
    pare_status st = PARE_OK;
    for (size_t d = 0; d < o->depth.n; d++) {
        bo.depth = o->depth.item[d];
        for (size_t i = 0; i < o->pp.n && st == PARE_OK; i++)
            if (o->pp.item[i])
                st = pare_bench_prefill(&r->rows[r->n++], c->rt, m, &bo, o->pp.item[i], 0, &c->err);
        for (size_t i = 0; i < o->tg.n; i++)
            for (size_t b = 0; b < o->batch.n && st == PARE_OK; b++)
                if (o->tg.item[i])
                    st = pare_bench_decode(&r->rows[r->n++], c->rt, m, &bo, o->tg.item[i],
                                           o->batch.item[b], &c->err);
    }
    return st;
}

static pare_status measure_limits(cli *c, results *r, const pare_model *m) {
    /* a small model lies in the caches: then their speed is the limit */
    size_t bytes = pare_model_weight_bytes(m), most = (size_t)512 << 20;
    pare_status st = pare_limits_measure(&r->limits, c->rt, &c->err);
    if (st == PARE_OK)
        st = pare_limits_read_rate(&r->read_rate, c->rt, bytes < most ? bytes : most, &c->err);
    return st;
}

/* --- output --- */

json_t *bench_limits_json(const pare_limits *l) {
    json_t *out = json_object();
    json_object_set_new(out, "dram_read_bytes_per_s", cli_json_real(l->dram_read_bytes_per_s));
    json_object_set_new(out, "f32_flop_per_s", cli_json_real(l->f32_flop_per_s));
    json_object_set_new(out, "bf16_flop_per_s", cli_json_real(l->bf16_flop_per_s));
    json_object_set_new(out, "int8_op_per_s", cli_json_real(l->int8_op_per_s));
    json_object_set_new(out, "int4_op_per_s", cli_json_real(l->int4_op_per_s));
    return out;
}

static json_t *row_json(const results *r, const pare_bench_row *row) {
    json_t *out = json_object();
    json_object_set_new(out, "what", json_string(row->what));
    json_object_set_new(out, "n", json_integer((json_int_t)row->n));
    json_object_set_new(out, "batch", json_integer((json_int_t)row->batch));
    json_object_set_new(out, "depth", json_integer((json_int_t)row->depth));
    json_object_set_new(out, "reps", json_integer((json_int_t)row->reps));
    json_object_set_new(out, "tokens_per_s", cli_json_real(row->tokens_per_s));
    json_object_set_new(out, "stddev", cli_json_real(row->stddev));
    json_object_set_new(out, "bytes_per_token", cli_json_real(row->bytes_per_token));
    json_object_set_new(out, "share_of_bandwidth", cli_json_real(bandwidth_share(r, row)));
    json_object_set_new(out, "flop_per_s", cli_json_real(row->flop_per_s));
    json_object_set_new(out, "op_limit", cli_json_real(row->op_limit));
    json_object_set_new(out, "share_of_peak", cli_json_real(peak_share(row)));
    return out;
}

static pare_status print_json(cli *c, const results *r, const pare_model *m,
                              const bench_options *o) {
    json_t *out = cli_json_begin(c), *rows = json_array();
    json_t *limits = bench_limits_json(&r->limits);
    json_object_set_new(limits, "read_bytes_per_s", cli_json_real(r->read_rate));
    json_object_set_new(out, "compute", json_string(o->compute ? "fast" : "exact"));
    const char *act = pare_model_act(m);
    json_object_set_new(out, "act", *act ? json_string(act) : json_null());
    json_object_set_new(out, "prefix_positions",
                        json_integer((json_int_t)pare_model_prefix_length(m)));
    json_object_set_new(out, "limits", limits);
    for (size_t i = 0; i < r->n; i++) json_array_append_new(rows, row_json(r, &r->rows[i]));
    json_object_set_new(out, "rows", rows);
    return cli_json_print(c, out, true);
}

static pare_status print_table(cli *c, const results *r, const bench_options *o) {
    cli_table t;
    cli_table_begin(&t, "what|>n|>batch|>depth|>tokens/s|>+-|>MB/token|>% of bandwidth|>GFLOP/s|"
                        ">% of peak");
    for (size_t i = 0; i < r->n; i++) {
        const pare_bench_row *row = &r->rows[i];
        cli_cell(&t, "%s", row->what);
        cli_cell(&t, "%zu", row->n);
        cli_cell(&t, "%zu", row->batch);
        cli_cell(&t, "%zu", row->depth);
        cli_cell(&t, "%.1f", row->tokens_per_s);
        cli_cell(&t, "%.1f", row->stddev);
        cli_cell(&t, "%.2f", row->bytes_per_token / 1e6);
        cli_cell(&t, "%.1f", 100 * bandwidth_share(r, row));
        cli_cell(&t, "%.1f", row->flop_per_s / 1e9);
        cli_cell(&t, "%.1f", 100 * peak_share(row));
    }
    pare_status st = cli_table_end(c, &t);
    if (st != PARE_OK) return st;
    const pare_limits *l = &r->limits;
    return cli_printf(
        c,
        "\n%s; limits in this run: %.1f GB/s (a buffer of the model's size), products "
        "f32 %.0f, bf16 %.0f, int8 %.0f, int4 %.0f G/s, each weight's those that its "
        "encoding allows\n",
        o->compute ? "fast" : "exact", r->read_rate / 1e9, l->f32_flop_per_s / 1e9,
        l->bf16_flop_per_s / 1e9, l->int8_op_per_s / 1e9, l->int4_op_per_s / 1e9);
}

static pare_status run_model(cli *c, const bench_options *o, const char *path) {
    static results r; /* large, and one process runs one verb */
    pare_model *m = NULL;
    pare_status st = cli_runtime(c);
    if (st == PARE_OK) st = pare_model_load(&m, c->rt, path, &c->err);
    if (st == PARE_OK) st = cli_set_prefix(c, m, path, o->prefix, o->prefix_tokens);
    if (st == PARE_OK) st = cli_act_apply(c, &o->act, m);
    if (st == PARE_OK) st = measure_limits(c, &r, m);
    if (st == PARE_OK) st = measure_all(c, &r, m, o);
    cli_progress_end(c);
    if (st == PARE_OK) st = c->common.json ? print_json(c, &r, m, o) : print_table(c, &r, o);
    pare_model_free(m);
    return st;
}

/* Refuses options of the other kind of benchmark, which would have no effect. */
static pare_status check_options(cli *c, const bench_options *o) {
    static const bench_options *const d = &defaults;
    const bench_kernels_options *k = &o->kernel, *dk = &d->kernel;
    const struct {
        const char *name;
        bool of_kernels, given;
    } given[] = {
        {"pp", false, memcmp(&o->pp, &d->pp, sizeof o->pp) != 0},
        {"tg", false, memcmp(&o->tg, &d->tg, sizeof o->tg) != 0},
        {"depth", false, memcmp(&o->depth, &d->depth, sizeof o->depth) != 0},
        {"batch", false, memcmp(&o->batch, &d->batch, sizeof o->batch) != 0},
        {"kv", false, o->kv != d->kv},
        {"compute", false, o->compute != d->compute},
        {"prefix", false, o->prefix != d->prefix},
        {"prefix-tokens", false, o->prefix_tokens != d->prefix_tokens},
        {"act", false, o->act.spec != NULL},
        {"only", true, k->only != dk->only},
        {"encodings", true, k->encodings != dk->encodings},
        {"shape", true, k->shape != dk->shape},
        {"rows", true, memcmp(&k->rows, &dk->rows, sizeof k->rows) != 0},
        {"heads", true, k->heads != dk->heads},
        {"ctx", true, k->ctx != dk->ctx},
        {"cached", true, k->cached},
    };
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        if (given[i].given && given[i].of_kernels != o->kernels)
            return cli_fail(c, PARE_ERR_ARG, "bench: --%s: found it with %s, expected %s",
                            given[i].name, o->kernels ? "--kernels" : "a model",
                            o->kernels ? "a model" : "--kernels");
    return PARE_OK;
}

static pare_status run(cli *c, const void *options, char **args, size_t n_args) {
    const bench_options *o = options;
    if (o->kernels == (n_args > 0))
        return cli_fail(
            c, PARE_ERR_ARG,
            "bench: found %s, expected either MODEL or --kernels; see 'pare help bench'",
            n_args ? "both" : "neither a model nor --kernels");
    pare_status st = check_options(c, o);
    if (st != PARE_OK) return st;
    return o->kernels ? bench_kernels(c, &o->kernel, (size_t)o->reps) : run_model(c, o, args[0]);
}

const cli_verb cli_verb_bench = {
    .name = "bench",
    .arguments = "MODEL|--kernels",
    .summary = "speed of a model, or of single kernels, against the machine's limits",
    .notes =
        "Every combination of --pp or --tg with --depth and --batch is a row. Decoding is bound by "
        "reading the weights, prefill by arithmetic: the shares tell how near each comes to what "
        "this machine reached in the same run.\n\n"
        "With --kernels every kernel is a row, with the share of the limit that binds it (memory, "
        "or products of a kind), and linear layers with their error: RMS of the difference to f64 "
        "over the RMS of the result. Exit 3 when it is above 1e-6 for linear_exact.",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .min_args = 0,
    .max_args = 1,
    .examples = {"pare bench model.gguf --pp 64 --tg 16 --reps 2",
                 "pare bench model.gguf --pp 0 --tg 16 --batch 1,4,16 --reps 2 --json",
                 "pare bench model.gguf --pp 64 --tg 8 --depth 0,128 --compute exact --reps 1",
                 "pare bench --kernels --only linear_exact,linear_fast --encodings q4_k,q8_0 "
                 "--shape 512x512 --rows 1,64 --reps 1"},
    .run = run,
};
