/* pare info: what a model file holds, and the machine as pare sees it. */
#include "cli.h"
#include "pare/bench.h"
#include "pare/model.h"

#include <stdlib.h>
#include <string.h>

typedef struct info_options {
    bool cpu, measure, tensors, memory, verify;
    int64_t ctx;
} info_options;

static const cli_option table[] = {
    CLI_SWITCH(info_options, 0, "tensors", tensors, "list every tensor"),
    CLI_SWITCH(info_options, 0, "memory", memory, "memory that running the model takes"),
    CLI_OPTION(info_options, 'c', "ctx", CLI_INT, ctx, "N", 0, 1 << 30,
               "positions for --memory; 0 = the model's maximum, at most 4096"),
    CLI_SWITCH(info_options, 0, "verify", verify, "read every byte and look for NaN and Inf"),
    CLI_SWITCH(info_options, 0, "cpu", cpu, "the machine instead of a model"),
    CLI_SWITCH(info_options, 0, "measure", measure,
               "with --cpu: measure memory bandwidth and arithmetic peaks (two seconds)"),
    {0},
};
static const info_options defaults = {0};

/* --- the machine --- */

/* {"q4_k": "avx2", ...} by family. */
static json_t *kernels_json(pare_isa isa) {
    json_t *families = json_object();
    pare_kernel_choice k;
    for (size_t i = 0; pare_kernel_at(&k, i, isa); i++) {
        json_t *family = json_object_get(families, k.family);
        if (!family) {
            json_object_set_new(families, k.family, json_object());
            family = json_object_get(families, k.family);
        }
        json_object_set_new(family, k.name, json_string(pare_isa_name(k.isa)));
    }
    return families;
}

static pare_status print_kernels(cli *c, pare_isa isa) {
    cli_table t;
    pare_kernel_choice k;
    cli_table_begin(&t, "kernel|for|level");
    for (size_t i = 0; pare_kernel_at(&k, i, isa); i++) {
        cli_cell(&t, "%s", k.family);
        cli_cell(&t, "%s", k.name);
        cli_cell(&t, "%s", pare_isa_name(k.isa));
    }
    return cli_table_end(c, &t);
}

static pare_status run_cpu(cli *c, const info_options *o) {
    pare_status st = cli_runtime(c);
    pare_limits limits = {0};
    if (st == PARE_OK && o->measure) st = pare_limits_measure(&limits, c->rt, &c->err);
    if (st != PARE_OK) return st;
    pare_isa isa = pare_runtime_isa(c->rt);
    const char *mpi = pare_mpi_name();
    if (c->common.json) {
        json_t *out = cli_json_begin(c);
        json_object_set_new(out, "isa", json_string(pare_isa_name(isa)));
        json_object_set_new(out, "isa_best", json_string(pare_isa_name(pare_isa_best())));
        json_object_set_new(out, "kernels", kernels_json(isa));
        json_object_set_new(out, "mpi", mpi ? json_string(mpi) : json_null());
        const struct {
            const char *key;
            double value;
        } rates[] = {{"dram_read_bytes_per_s", limits.dram_read_bytes_per_s},
                     {"f32_flop_per_s", limits.f32_flop_per_s},
                     {"bf16_flop_per_s", limits.bf16_flop_per_s},
                     {"int8_op_per_s", limits.int8_op_per_s},
                     {"int4_op_per_s", limits.int4_op_per_s}};
        for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
            json_object_set_new(out, rates[i].key,
                                o->measure ? cli_json_real(rates[i].value) : json_null());
        return cli_json_print(c, out, true);
    }
    st = cli_printf(c, "cpu      %s\nisa      %s (best: %s)\nthreads  %d\nranks    %s\n",
                    pare_cpu_name(), pare_isa_name(isa), pare_isa_name(pare_isa_best()),
                    pare_runtime_threads(c->rt), mpi ? mpi : "without MPI");
    if (st == PARE_OK && o->measure)
        st = cli_printf(c,
                        "memory   %.1f GB/s read\nf32      %.1f GFLOP/s\nbf16     %.1f GFLOP/s%s\n"
                        "int8     %.1f GOP/s\nint4     %.1f GOP/s (int8 with codes of 4 bits)\n",
                        limits.dram_read_bytes_per_s / 1e9, limits.f32_flop_per_s / 1e9,
                        limits.bf16_flop_per_s / 1e9,
                        limits.bf16_flop_per_s == limits.f32_flop_per_s ? " (products in f32)" : "",
                        limits.int8_op_per_s / 1e9, limits.int4_op_per_s / 1e9);
    if (st == PARE_OK) st = cli_printf(c, "\n");
    return st == PARE_OK ? print_kernels(c, isa) : st;
}

/* --- a model --- */

typedef struct encoding_sum {
    const char *name;
    size_t tensors;
    uint64_t params, bytes;
} encoding_sum;

enum { MAX_ENCODINGS = 64 };

/* Sums by encoding, in the order of first appearance. */
static size_t sum_encodings(encoding_sum *sums, const pare_model_info *m) {
    size_t n = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        const pare_tensor_info *t = &m->tensors[i];
        size_t k = 0;
        while (k < n && strcmp(sums[k].name, t->encoding) != 0) k++;
        if (k == MAX_ENCODINGS) continue;
        if (k == n) sums[n++] = (encoding_sum){.name = t->encoding};
        sums[k].tensors++;
        sums[k].params += t->n_params;
        sums[k].bytes += t->n_bytes;
    }
    return n;
}

/* How the inputs of some matrices are quantized. */
typedef struct input_sum {
    const char *scheme;
    size_t tensors, n_kinds;
    const char *kinds[8]; /* see kind_of */
} input_sum;

enum { MAX_SCHEMES = 16 };

/* What the matrix is in its block: "attn_q.weight" of "blk.0.attn_q.weight". */
static const char *kind_of(const pare_tensor_info *t) {
    const char *dot = t->canonical ? strchr(t->canonical, '.') : NULL;
    return dot && (dot = strchr(dot + 1, '.')) ? dot + 1 : "?";
}

static int kind_length(const char *kind) { return (int)strcspn(kind, "."); }

/* By scheme and, in each, by kind, in the order of first appearance. */
static size_t sum_inputs(input_sum *sums, const pare_model_info *m) {
    size_t n = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        const pare_tensor_info *t = &m->tensors[i];
        size_t k = 0, j = 0;
        while (t->act && k < n && strcmp(sums[k].scheme, t->act) != 0) k++;
        if (!t->act || k == MAX_SCHEMES) continue;
        if (k == n) sums[n++] = (input_sum){.scheme = t->act};
        const char *kind = kind_of(t);
        sums[k].tensors++;
        while (j < sums[k].n_kinds && strcmp(sums[k].kinds[j], kind) != 0) j++;
        if (j == sums[k].n_kinds && j < sizeof sums->kinds / sizeof *sums->kinds)
            sums[k].kinds[sums[k].n_kinds++] = kind;
    }
    return n;
}

static json_t *inputs_json(const pare_model_info *m) {
    input_sum sums[MAX_SCHEMES];
    size_t n = sum_inputs(sums, m);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *o = json_object(), *kinds = json_array();
        for (size_t k = 0; k < sums[i].n_kinds; k++)
            json_array_append_new(
                kinds, cli_json_text(sums[i].kinds[k], (size_t)kind_length(sums[i].kinds[k])));
        json_object_set_new(o, "scheme", cli_json_string(sums[i].scheme));
        json_object_set_new(o, "tensors", json_integer((json_int_t)sums[i].tensors));
        json_object_set_new(o, "kinds", kinds);
        json_array_append_new(list, o);
    }
    return list;
}

/* A line a scheme. */
static pare_status print_inputs(cli *c, const pare_model_info *m) {
    input_sum sums[MAX_SCHEMES];
    size_t n = sum_inputs(sums, m);
    pare_status st = PARE_OK;
    for (size_t i = 0; i < n && st == PARE_OK; i++) {
        st = cli_printf(c, "inputs     %s, %zu matrices: ", sums[i].scheme, sums[i].tensors);
        for (size_t k = 0; k < sums[i].n_kinds && st == PARE_OK; k++)
            st = cli_printf(c, "%s%.*s", k ? ", " : "", kind_length(sums[i].kinds[k]),
                            sums[i].kinds[k]);
        if (st == PARE_OK) st = cli_printf(c, "\n");
    }
    return st;
}

static const char *shape_text(const pare_tensor_info *t, char *out, size_t size) {
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < t->n_dims && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, "%s%zu", i ? " x " : "", t->dims[i]);
    return out;
}

static const char *const kv_codecs[] = {"f32", "f16", "bf16", "q8_0", "q4_0", NULL};

static size_t memory_ctx(const info_options *o, const pare_model_info *m) {
    if (o->ctx > 0) return (size_t)o->ctx;
    return m->ctx_max && m->ctx_max < 4096 ? m->ctx_max : 4096;
}

static json_t *tensors_json(const pare_model_info *m) {
    json_t *list = json_array();
    for (size_t i = 0; i < m->n_tensors; i++) {
        const pare_tensor_info *t = &m->tensors[i];
        json_t *shape = json_array(), *item = json_object();
        for (size_t d = 0; d < t->n_dims; d++)
            json_array_append_new(shape, json_integer((json_int_t)t->dims[d]));
        json_object_set_new(item, "name", cli_json_string(t->name));
        json_object_set_new(item, "canonical", cli_json_string(t->canonical));
        json_object_set_new(item, "encoding", cli_json_string(t->encoding));
        json_object_set_new(item, "input", t->act ? cli_json_string(t->act) : json_null());
        json_object_set_new(item, "shape", shape);
        json_object_set_new(item, "params", json_integer((json_int_t)t->n_params));
        json_object_set_new(item, "bytes", json_integer((json_int_t)t->n_bytes));
        json_array_append_new(list, item);
    }
    return list;
}

static void set_integer(json_t *object, const char *key, uint64_t value) {
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

/* Bytes of the cache with a codec; false where the codec does not fit the model's heads. */
static bool kv_bytes(const pare_description *d, size_t ctx, const char *codec, uint64_t *bytes) {
    return pare_description_kv_bytes(d, ctx, codec, bytes, NULL) == PARE_OK;
}

static json_t *memory_json(const pare_description *d, size_t ctx) {
    json_t *out = json_object(), *kv = json_object();
    set_integer(out, "ctx", ctx);
    set_integer(out, "weights_bytes", pare_description_info(d)->tensor_bytes);
    for (size_t i = 0; kv_codecs[i]; i++) {
        uint64_t bytes;
        if (kv_bytes(d, ctx, kv_codecs[i], &bytes)) set_integer(kv, kv_codecs[i], bytes);
    }
    json_object_set_new(out, "kv_bytes", kv);
    return out;
}

static pare_status print_model_json(cli *c, const info_options *o, const pare_description *d) {
    const pare_model_info *m = pare_description_info(d);
    json_t *out = cli_json_begin(c), *encodings = json_object();
    json_object_set_new(out, "format", cli_json_string(m->format));
    json_object_set_new(out, "arch", cli_json_string(m->arch));
    json_object_set_new(out, "name", cli_json_string(m->name));
    json_object_set_new(out, "file_type", cli_json_string(m->file_type));
    set_integer(out, "n_params", m->n_params);
    set_integer(out, "file_bytes", m->file_bytes);
    set_integer(out, "tensor_bytes", m->tensor_bytes);
    json_object_set_new(out, "bits_per_weight", cli_json_real(m->bits_per_weight));
    set_integer(out, "ctx_max", m->ctx_max);
    set_integer(out, "vocab_size", m->vocab_size);
    json_object_set_new(out, "tokenizer", cli_json_string(m->tokenizer));
    const struct {
        const char *key;
        size_t value;
    } shape[] = {{"n_layers", m->n_layers},
                 {"dim", m->dim},
                 {"ffn_dim", m->ffn_dim},
                 {"n_heads", m->n_heads},
                 {"n_kv_heads", m->n_kv_heads},
                 {"head_dim", m->head_dim},
                 {"sliding_window", m->sliding_window},
                 {"prefix_length", m->prefix_length},
                 {"n_tensors", m->n_tensors}};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        set_integer(out, shape[i].key, shape[i].value);
    json_object_set_new(out, "tied_embeddings", json_boolean(m->tied_embeddings));

    encoding_sum sums[MAX_ENCODINGS];
    size_t n = sum_encodings(sums, m);
    for (size_t i = 0; i < n; i++) {
        json_t *e = json_object();
        set_integer(e, "tensors", sums[i].tensors);
        set_integer(e, "params", sums[i].params);
        set_integer(e, "bytes", sums[i].bytes);
        json_object_set_new(encodings, sums[i].name, e);
    }
    json_object_set_new(out, "encodings", encodings);
    json_object_set_new(out, "inputs", inputs_json(m));
    json_object_set_new(out, "tensors", o->tensors ? tensors_json(m) : json_array());
    if (o->memory) json_object_set_new(out, "memory", memory_json(d, memory_ctx(o, m)));
    if (o->verify) json_object_set_new(out, "verified", json_true());
    return cli_json_print(c, out, true);
}

static pare_status print_summary(cli *c, const pare_model_info *m) {
    const char *tied = m->tied_embeddings ? ", output tied to the embedding" : "";
    char window[48] = "", cushion[48] = "";
    if (m->prefix_length)
        snprintf(cushion, sizeof cushion, ", behind a cushion of %zu", m->prefix_length);
    if (m->sliding_window)
        snprintf(window, sizeof window, ", local layers see %zu", m->sliding_window);
    return cli_printf(c,
                      "name       %.80s\n"
                      "format     %s%s%s\n"
                      "arch       %s: %zu layers, width %zu, FFN %zu%s\n"
                      "attention  %zu heads (%zu for keys and values) of %zu%s\n"
                      "params     %s\n"
                      "size       %s, %.3f bits per weight\n"
                      "context    %zu%s\n"
                      "tokenizer  %.80s\n",
                      m->name, m->format, *m->file_type ? ", " : "", m->file_type, m->arch,
                      m->n_layers, m->dim, m->ffn_dim, tied, m->n_heads, m->n_kv_heads, m->head_dim,
                      window, cli_count((double)m->n_params), cli_bytes((double)m->file_bytes),
                      m->bits_per_weight, m->ctx_max, cushion, m->tokenizer);
}

static pare_status print_encodings(cli *c, const pare_model_info *m) {
    encoding_sum sums[MAX_ENCODINGS];
    size_t n = sum_encodings(sums, m);
    cli_table t;
    cli_table_begin(&t, "encoding|>tensors|>params|>bytes|>bits/weight");
    for (size_t i = 0; i < n; i++) {
        cli_cell(&t, "%s", sums[i].name);
        cli_cell(&t, "%zu", sums[i].tensors);
        cli_cell(&t, "%llu", (unsigned long long)sums[i].params);
        cli_cell(&t, "%llu", (unsigned long long)sums[i].bytes);
        cli_cell(&t, "%.3f",
                 sums[i].params ? 8.0 * (double)sums[i].bytes / (double)sums[i].params : 0.0);
    }
    return cli_table_end(c, &t);
}

static pare_status print_tensors(cli *c, const pare_model_info *m) {
    cli_table t;
    cli_table_begin(&t, "tensor|encoding|>shape|>bytes");
    for (size_t i = 0; i < m->n_tensors; i++) {
        char shape[96];
        cli_cell(&t, "%s", m->tensors[i].name);
        cli_cell(&t, "%s", m->tensors[i].encoding);
        cli_cell(&t, "%s", shape_text(&m->tensors[i], shape, sizeof shape));
        cli_cell(&t, "%llu", (unsigned long long)m->tensors[i].n_bytes);
    }
    return cli_table_end(c, &t);
}

static pare_status print_memory(cli *c, const pare_description *d, size_t ctx) {
    const pare_model_info *m = pare_description_info(d);
    cli_table t;
    pare_status st = cli_printf(c, "memory for %zu positions, without scratch\n", ctx);
    if (st != PARE_OK) return st;
    cli_table_begin(&t, "keys and values in|>bytes|>with weights|>total");
    for (size_t i = 0; kv_codecs[i]; i++) {
        uint64_t bytes;
        if (!kv_bytes(d, ctx, kv_codecs[i], &bytes)) continue;
        cli_cell(&t, "%s", kv_codecs[i]);
        cli_cell(&t, "%llu", (unsigned long long)bytes);
        cli_cell(&t, "%llu", (unsigned long long)(bytes + m->tensor_bytes));
        cli_cell(&t, "%s", cli_bytes((double)(bytes + m->tensor_bytes)));
    }
    return cli_table_end(c, &t);
}

static pare_status print_model(cli *c, const info_options *o, const pare_description *d) {
    const pare_model_info *m = pare_description_info(d);
    pare_status st = print_summary(c, m);
    if (st == PARE_OK) st = print_inputs(c, m);
    if (st == PARE_OK) st = cli_printf(c, "\n");
    if (st == PARE_OK) st = print_encodings(c, m);
    if (st == PARE_OK && o->memory) st = cli_printf(c, "\n");
    if (st == PARE_OK && o->memory) st = print_memory(c, d, memory_ctx(o, m));
    if (st == PARE_OK && o->tensors) st = cli_printf(c, "\n");
    if (st == PARE_OK && o->tensors) st = print_tensors(c, m);
    if (st == PARE_OK && o->verify)
        st = cli_printf(c, "\nverified: every value is finite, every block is whole\n");
    return st;
}

static pare_status run(cli *c, const void *options, char **args, size_t n_args) {
    const info_options *o = options;
    if (o->cpu) {
        if (n_args)
            return cli_fail(c, PARE_ERR_ARG, "info: found both --cpu and MODEL, expected one");
        return run_cpu(c, o);
    }
    if (o->measure) return cli_fail(c, PARE_ERR_ARG, "info: --measure needs --cpu");
    if (!n_args) return cli_fail(c, PARE_ERR_ARG, "info: found no MODEL, expected one, or --cpu");
    pare_description *d = NULL;
    pare_status st = cli_runtime(c);
    if (st == PARE_OK) st = pare_describe(&d, args[0], &c->err);
    if (st == PARE_OK && o->verify) st = pare_description_verify(d, c->rt, &c->err);
    if (st == PARE_OK) st = c->common.json ? print_model_json(c, o, d) : print_model(c, o, d);
    pare_description_free(d);
    return st;
}

const cli_verb cli_verb_info = {
    .name = "info",
    .arguments = "MODEL | --cpu",
    .summary = "what a model file holds, or the machine",
    .notes =
        "Of a model only headers and the tokenizer are read, unless --verify asks for every byte.",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .max_args = 1,
    .examples = {"pare info model.gguf", "pare info model.gguf --memory --ctx 2048",
                 "pare info model.gguf --tensors --json", "pare info --cpu --measure"},
    .run = run,
};
