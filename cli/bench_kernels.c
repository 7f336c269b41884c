/* pare bench --kernels: every kernel against the limit that binds it. */
#include "bench.h"
#include "pare/encoding.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What issue and documentation promise of the `exact` mode. */
#define EXACT_ERROR 1e-6

enum { MAX_NAMES = 64 };

typedef struct results {
    pare_limits limits;
    pare_kernel_row *row;
    size_t n, capacity;
    bool failed; /* memory was out */
} results;

static void keep_row(void *arg, const pare_kernel_row *row) {
    results *r = arg;
    if (r->n == r->capacity) {
        size_t capacity = r->capacity ? 2 * r->capacity : 64;
        pare_kernel_row *more = realloc(r->row, capacity * sizeof *more);
        if (!more) {
            r->failed = true;
            return;
        }
        r->row = more;
        r->capacity = capacity;
    }
    r->row[r->n++] = *row;
}

static double bandwidth_share(const pare_kernel_row *row) {
    return bench_share(row->bytes / row->seconds, row->read_limit);
}
static double peak_share(const pare_kernel_row *row) {
    return row->ops > 0 ? bench_share(row->ops / row->seconds, row->op_limit) : 0;
}
static bool bound_by_memory(const pare_kernel_row *row) {
    return bandwidth_share(row) >= peak_share(row);
}
static const char *limit_name(const pare_kernel_row *row) {
    return bound_by_memory(row) ? "memory" : row->products;
}
static double limit_share(const pare_kernel_row *row) {
    return bound_by_memory(row) ? bandwidth_share(row) : peak_share(row);
}

/* --- options --- */

/* n numbers with `separator` between: "32/8/128". */
static bool parse_numbers(size_t *out, size_t n, char separator, const char *text) {
    for (size_t i = 0; i < n; i++) {
        char *end;
        if (!isdigit((unsigned char)*text)) return false;
        errno = 0;
        out[i] = strtoul(text, &end, 10);
        if (errno || *end != (i + 1 < n ? separator : '\0')) return false;
        text = end + 1;
    }
    return true;
}

/* The names of a list with commas, cut apart in `text`; each must be one of known[] (NULL ends). */
static pare_status parse_names(cli *c, const char **names, size_t *n, const char *option,
                               char *text, const char *const *known) {
    *n = 0;
    while (text) {
        char *name = strsep(&text, ",");
        size_t k = 0;
        while (known[k] && strcmp(known[k], name) != 0) k++;
        const char *near = known[k] ? NULL : cli_nearest(name, known);
        if (!known[k])
            return cli_fail(
                c, PARE_ERR_ARG, "bench: --%s: found '%s', expected names with commas%s%s%s",
                option, name, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
        if (*n == MAX_NAMES)
            return cli_fail(c, PARE_ERR_ARG,
                            "bench: --%s: found more than %d names, expected fewer", option,
                            MAX_NAMES);
        names[(*n)++] = known[k];
    }
    return PARE_OK;
}

static pare_status parse_list(cli *c, const char **names, size_t *n, const char *option,
                              const char *text, const char *const *known) {
    *n = 0;
    if (!text) return PARE_OK;
    char *copy = strdup(text);
    if (!copy) return cli_fail(c, PARE_ERR_NOMEM, "bench: out of memory");
    pare_status st = parse_names(c, names, n, option, copy, known);
    free(copy);
    return st;
}

static pare_status parse_options(cli *c, pare_kernel_bench_options *out, const char **encodings,
                                 const char **kernels, const bench_kernels_options *o) {
    const char *known[MAX_NAMES + 1] = {NULL};
    size_t numbers[3], i;
    if (!parse_numbers(numbers, 2, 'x', o->shape))
        return cli_fail(c, PARE_ERR_ARG, "bench: --shape: found '%s', expected OUTxIN", o->shape);
    out->out_dim = numbers[0];
    out->in_dim = numbers[1];
    if (!parse_numbers(numbers, 3, '/', o->heads))
        return cli_fail(c, PARE_ERR_ARG, "bench: --heads: found '%s', expected N/KV/DIM", o->heads);
    out->n_heads = numbers[0];
    out->n_kv_heads = numbers[1];
    out->head_dim = numbers[2];
    for (i = 0; i < MAX_NAMES && pare_encoding_at(i); i++)
        known[i] = pare_encoding_name(pare_encoding_at(i));
    pare_status st = parse_list(c, encodings, &out->n_encodings, "encodings", o->encodings, known);
    if (st != PARE_OK) return st;
    for (i = 0; i < MAX_NAMES && pare_bench_kernel_name(i); i++)
        known[i] = pare_bench_kernel_name(i);
    known[i] = NULL;
    return parse_list(c, kernels, &out->n_kernels, "only", o->only, known);
}

/* Whether one of the kernels that are asked for has one of these names; with none given, all are.
 */
static bool measures(const pare_kernel_bench_options *k, const char *const *names) {
    for (size_t i = 0; i < k->n_kernels; i++)
        for (size_t j = 0; names[j]; j++)
            if (k->kernels[i] && strcmp(k->kernels[i], names[j]) == 0) return true;
    return k->n_kernels == 0;
}

/* Options that no kernel of --only looks at. */
static void tell_unused(cli *c, const pare_kernel_bench_options *k,
                        const bench_kernels_options *o) {
    static const char *const encoded[] = {"linear_exact", "linear_fast", "encode", "decode", NULL};
    static const char *const cached[] = {"attention", "attention_fast", "kv_store", "kv_load",
                                         NULL};
    const size_t ctx = pare_kernel_bench_options_default().ctx;
    if (o->encodings && !measures(k, encoded))
        cli_warn(c, "--encodings %s: --only %s measures nothing that has encodings", o->encodings,
                 o->only);
    if (k->ctx != ctx && !measures(k, cached))
        cli_warn(c, "--ctx %zu: --only %s measures nothing that has a context", k->ctx, o->only);
}

/* --- output --- */

static json_t *row_json(const pare_kernel_row *row) {
    json_t *out = json_object();
    json_object_set_new(out, "kernel", json_string(row->kernel));
    json_object_set_new(out, "encoding", json_string(row->encoding));
    json_object_set_new(out, "rows", json_integer((json_int_t)row->rows));
    json_object_set_new(out, "time_s", cli_json_real(row->seconds));
    json_object_set_new(out, "bytes_per_s", cli_json_real(row->bytes / row->seconds));
    json_object_set_new(out, "share_of_bandwidth", cli_json_real(bandwidth_share(row)));
    bool counted = row->ops > 0;
    json_object_set_new(out, "op_per_s", cli_json_real(counted ? row->ops / row->seconds : NAN));
    json_object_set_new(out, "share_of_peak", cli_json_real(counted ? peak_share(row) : NAN));
    json_object_set_new(out, "limit", json_string(limit_name(row)));
    json_object_set_new(out, "share_of_limit", cli_json_real(limit_share(row)));
    json_object_set_new(out, "rms_error", cli_json_real(row->rms_error));
    return out;
}

static pare_status print_json(cli *c, const results *r) {
    json_t *out = cli_json_begin(c), *rows = json_array();
    json_object_set_new(out, "limits", bench_limits_json(&r->limits));
    for (size_t i = 0; i < r->n; i++) json_array_append_new(rows, row_json(&r->row[i]));
    json_object_set_new(out, "rows", rows);
    return cli_json_print(c, out, true);
}

static pare_status print_table(cli *c, const results *r) {
    const pare_limits *l = &r->limits;
    cli_table t;
    cli_table_begin(&t, "kernel|encoding|>rows|>us|>GB/s|>G op/s|limit|>% of limit|>RMS error");
    for (size_t i = 0; i < r->n; i++) {
        const pare_kernel_row *row = &r->row[i];
        cli_cell(&t, "%s", row->kernel);
        cli_cell(&t, "%s", row->encoding);
        cli_cell(&t, "%zu", row->rows);
        cli_cell(&t, "%.1f", row->seconds * 1e6);
        cli_cell(&t, "%.2f", row->bytes / row->seconds / 1e9);
        if (row->ops > 0)
            cli_cell(&t, "%.1f", row->ops / row->seconds / 1e9);
        else
            cli_cell(&t, " ");
        cli_cell(&t, "%s", limit_name(row));
        cli_cell(&t, "%.1f", 100 * limit_share(row));
        if (isfinite(row->rms_error))
            cli_cell(&t, "%.1e", row->rms_error);
        else
            cli_cell(&t, " ");
    }
    pare_status st = cli_table_end(c, &t);
    if (st != PARE_OK) return st;
    return cli_printf(
        c,
        "\nlimits in this run: memory %.1f GB/s, f32 %.0f, bf16 %.0f, int8 %.0f, int4 "
        "%.0f G op/s\n",
        l->dram_read_bytes_per_s / 1e9, l->f32_flop_per_s / 1e9, l->bf16_flop_per_s / 1e9,
        l->int8_op_per_s / 1e9, l->int4_op_per_s / 1e9);
}

/* The quality that `exact` promises. */
static void check_errors(cli *c, const results *r) {
    const pare_kernel_row *worst = NULL;
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->row[i].kernel, "linear_exact") == 0 &&
            !(r->row[i].rms_error <= (worst ? worst->rms_error : EXACT_ERROR)))
            worst = &r->row[i];
    if (worst)
        cli_bound(c,
                  "bench: linear_exact, %s, %zu rows: found an RMS error of %.1e, expected at "
                  "most %.0e",
                  worst->encoding, worst->rows, worst->rms_error, EXACT_ERROR);
}

pare_status bench_kernels(cli *c, const bench_kernels_options *o, size_t reps) {
    const char *encodings[MAX_NAMES] = {NULL}, *kernels[MAX_NAMES] = {NULL};
    results r = {.n = 0};
    pare_kernel_bench_options k = pare_kernel_bench_options_default();
    k.rows = o->rows.item;
    k.n_rows = o->rows.n;
    k.encodings = encodings;
    k.kernels = kernels;
    k.ctx = (size_t)o->ctx;
    k.reps = reps;
    k.cached = o->cached;
    k.on_row = keep_row;
    k.arg = &r;
    pare_status st = parse_options(c, &k, encodings, kernels, o);
    if (st == PARE_OK) st = cli_runtime(c);
    if (st == PARE_OK) tell_unused(c, &k, o);
    if (st == PARE_OK) st = pare_bench_kernels(&r.limits, c->rt, &k, &c->err);
    cli_progress_end(c);
    if (st == PARE_OK && r.failed) st = cli_fail(c, PARE_ERR_NOMEM, "bench: out of memory");
    if (st == PARE_OK) st = c->common.json ? print_json(c, &r) : print_table(c, &r);
    if (st == PARE_OK) check_errors(c, &r);
    free(r.row);
    return st;
}
