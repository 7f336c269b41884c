/* pare methods: every method, or one in full, from the descriptors. */
#include "cli.h"

#include "pare/compress.h"
#include "pare/encoding.h"
#include "pare/methods.h"

#include <string.h>

typedef struct methods_options {
    const char *slot;
} methods_options;

static const cli_option options[] = {
    CLI_OPTION(methods_options, 0, "slot", CLI_TEXT, slot, "SLOT", 0, 0,
               "only methods of that kind: pruner, weight, optimizer, sparse_training, ..."),
    {0},
};
static const methods_options defaults = {0};

static const char *type_name(pare_param_type type) {
    static const char *const names[] = {"float",  "int",       "bool",   "sparsity",
                                        "choice", "structure", "shares", "text"};
    return names[type];
}

static const char *choice_at(const char *choices, int index, int *len) {
    for (; index > 0; index--) choices += strcspn(choices, "|") + 1;
    *len = (int)strcspn(choices, "|");
    return choices;
}

static json_t *param_json(const pare_param *p) {
    bool choice = p->choices != NULL;
    json_t *o = json_pack("{s:s, s:s}", "name", p->name, "type", type_name(p->type));
    int len = 0;
    const char *text = choice ? choice_at(p->choices, (int)p->def, &len) : NULL;
    json_object_set_new(o, "default",
                        choice                       ? json_stringn(text, (size_t)len)
                        : p->type == PARE_PARAM_BOOL ? json_boolean(p->def != 0)
                        : p->type == PARE_PARAM_INT  ? json_integer((json_int_t)p->def)
                                                     : json_real(p->def));
    bool number =
        p->type == PARE_PARAM_FLOAT || p->type == PARE_PARAM_INT || p->type == PARE_PARAM_SPARSITY;
    json_object_set_new(o, "min", number ? json_real(p->min) : json_null());
    json_object_set_new(o, "max", number ? json_real(p->max) : json_null());
    if (choice) json_object_set_new(o, "choices", json_string(p->choices));
    json_object_set_new(o, "help", json_string(p->help));
    return o;
}

static json_t *method_json(const pare_method *m) {
    json_t *params = json_array();
    for (const pare_param *p = pare_method_params(m); p->name; p++)
        json_array_append_new(params, param_json(p));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:o}", "name", pare_method_name(m), "slot",
                     pare_method_slot(m), "paper", pare_method_paper(m), "summary",
                     pare_method_summary(m), "help", pare_method_help(m), "example",
                     pare_method_example(m), "params", params);
}

/* Is it wanted by name (NULL: any) and slot (NULL: any)? A name may stand in two slots. */
static bool wanted(const pare_method *m, const char *name, const char *slot) {
    return (!name || strcmp(name, pare_method_name(m)) == 0) &&
           (!slot || strcmp(slot, pare_method_slot(m)) == 0);
}

static pare_status print_json(cli *c, const char *name, const char *slot) {
    json_t *list = json_array();
    for (size_t i = 0; pare_method_at(i); i++) {
        const pare_method *m = pare_method_at(i);
        if (wanted(m, name, slot)) json_array_append_new(list, method_json(m));
    }
    json_t *o = cli_json_begin(c);
    json_object_set_new(o, "methods", list);
    json_t *encodings = json_array(), *mixes = json_array();
    for (size_t i = 0; pare_encoding_at(i); i++)
        json_array_append_new(encodings,
                              json_pack("{s:s, s:f, s:s}", "name",
                                        pare_encoding_name(pare_encoding_at(i)), "bits_per_weight",
                                        pare_encoding_bits_per_weight(pare_encoding_at(i)),
                                        "summary", pare_encoding_summary(pare_encoding_at(i))));
    for (size_t i = 0; pare_mix_name_at(i); i++)
        json_array_append_new(mixes, json_string(pare_mix_name_at(i)));
    json_object_set_new(o, "encodings", encodings);
    json_object_set_new(o, "mixes", mixes);
    return cli_json_print(c, o, true);
}

static pare_status print_one(cli *c, const pare_method *m) {
    cli_printf(c, "%s (%s, %s): %s\n\n", pare_method_name(m), pare_method_slot(m),
               pare_method_paper(m), pare_method_summary(m));
    cli_print_wrapped(pare_method_help(m), 0, 0);
    cli_printf(c, "\n");
    cli_table t;
    cli_table_begin(&t, "parameter|type|default|range");
    for (const pare_param *p = pare_method_params(m); p->name; p++) {
        int len = 0;
        const char *text = p->choices ? choice_at(p->choices, (int)p->def, &len) : "";
        cli_cell(&t, "%s", p->name);
        cli_cell(&t, "%s", type_name(p->type));
        if (p->choices)
            cli_cell(&t, "%.*s", len, text);
        else if (p->type == PARE_PARAM_BOOL)
            cli_cell(&t, "%s", p->def != 0 ? "true" : "false");
        else
            cli_cell(&t, "%g", p->def);
        if (p->choices)
            cli_cell(&t, "%s", p->choices);
        else if (p->type == PARE_PARAM_BOOL)
            cli_cell(&t, "true|false");
        else
            cli_cell(&t, "%g to %g%s", p->min, p->max,
                     p->type == PARE_PARAM_SPARSITY ? ", or N:M" : "");
    }
    pare_status st = cli_table_end(c, &t);
    if (st != PARE_OK) return st;
    cli_printf(c, "\n");
    for (const pare_param *p = pare_method_params(m); p->name; p++) {
        cli_printf(c, "%s: ", p->name);
        cli_print_wrapped(p->help, strlen(p->name) + 2, 4);
    }
    const char *slot = pare_method_slot(m);
    return cli_printf(c, "\nexample: pare %s '%s'\n",
                      strcmp(slot, "optimizer") == 0         ? "train OUT --optim"
                      : strcmp(slot, "sparse_training") == 0 ? "train OUT --sparsity"
                      : strcmp(slot, "adapter") == 0         ? "train OUT --from MODEL --adapter"
                      : strcmp(slot, "activation_sparsity") == 0 ? "train OUT --act-sparsity"
                                                                 : "compress MODEL -o OUT -r",
                      pare_method_example(m));
}

static pare_status print_named(cli *c, const char *name, const char *slot) {
    pare_status st = PARE_OK;
    bool first = true;
    for (size_t i = 0; st == PARE_OK && pare_method_at(i); i++) {
        if (!wanted(pare_method_at(i), name, slot)) continue;
        if (!first) st = cli_printf(c, "\n");
        if (st == PARE_OK) st = print_one(c, pare_method_at(i));
        first = false;
    }
    return st;
}

/* Refuses a slot that no method has; the message lists those there are. */
static pare_status check_slot(cli *c, const char *slot) {
    char known[200] = "";
    for (size_t i = 0; pare_method_at(i); i++) {
        const char *have = pare_method_slot(pare_method_at(i));
        if (strcmp(have, slot) == 0) return PARE_OK;
        size_t n = strlen(known);
        if (!strstr(known, have))
            snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", have);
    }
    return cli_fail(c, PARE_ERR_ARG, "--slot: found '%s', expected one of: %s", slot, known);
}

static pare_status print_all(cli *c, const char *slot) {
    cli_table t;
    cli_table_begin(&t, "method|slot|paper|<what");
    for (size_t i = 0; pare_method_at(i); i++) {
        const pare_method *m = pare_method_at(i);
        if (!wanted(m, NULL, slot)) continue;
        cli_cell(&t, "%s", pare_method_name(m));
        cli_cell(&t, "%s", pare_method_slot(m));
        cli_cell(&t, "%s", pare_method_paper(m));
        cli_cell(&t, "%s", pare_method_summary(m));
    }
    pare_status st = cli_table_end(c, &t);
    if (st != PARE_OK || slot) return st;

    cli_printf(c, "\n");
    cli_table_begin(&t, "encoding|>bits/weight|<what");
    for (size_t i = 0; pare_encoding_at(i); i++) {
        const pare_encoding *e = pare_encoding_at(i);
        double bits = pare_encoding_bits_per_weight(e);
        if (pare_encoding_is_grouped(e)) continue; /* 48 of a kind: a line for all */
        cli_cell(&t, "%s", pare_encoding_name(e));
        if (bits > 0)
            cli_cell(&t, "%.4g", bits);
        else
            cli_cell(&t, "-");
        cli_cell(&t, "%s", pare_encoding_summary(e));
    }
    if ((st = cli_table_end(c, &t)) != PARE_OK) return st;
    cli_printf(c, "\ngrouped integers (a scale per row or group, uint: and a zero point):");
    for (size_t i = 0; pare_encoding_at(i); i++)
        if (pare_encoding_is_grouped(pare_encoding_at(i)))
            cli_printf(c, " %s", pare_encoding_name(pare_encoding_at(i)));
    cli_printf(c, "\n\nmixes (one encoding per kind of tensor):");
    for (size_t i = 0; pare_mix_name_at(i); i++) cli_printf(c, " %s", pare_mix_name_at(i));
    return cli_printf(c, "\n");
}

static pare_status run(cli *c, const void *opts, char **args, size_t n_args) {
    const methods_options *o = opts;
    const char *name = n_args == 1 ? args[0] : NULL;
    if (name && !pare_method_find(name)) {
        const char *names[256];
        size_t n = 0;
        for (; n < 255 && pare_method_at(n); n++) names[n] = pare_method_name(pare_method_at(n));
        names[n] = NULL;
        const char *near = cli_nearest(args[0], names);
        return cli_fail(c, PARE_ERR_ARG, "methods: found '%s', which is not known%s%s%s", args[0],
                        near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    pare_status st = o->slot ? check_slot(c, o->slot) : PARE_OK;
    if (st != PARE_OK) return st;
    if (c->common.json) return print_json(c, name, o->slot);
    return name ? print_named(c, name, o->slot) : print_all(c, o->slot);
}

const cli_verb cli_verb_methods = {
    .name = "methods",
    .arguments = "[NAME]",
    .summary =
        "lists methods of compression and training, encodings and mixes, or one method in full",
    .options = options,
    .defaults = &defaults,
    .options_size = sizeof(methods_options),
    .max_args = 1,
    .examples = {"pare methods", "pare methods magnitude", "pare methods --slot pruner --json"},
    .run = run,
};
