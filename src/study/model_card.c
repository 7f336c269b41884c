/* The README.md of an output folder. Its head is the YAML that model hubs read. */
#include "study/escape.h"
#include "study/report_data.h"

#include "base/memory.h"
#include "base/os.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double MIB = 1.0 / (1 << 20);

#define PRINT(...) pare_buffer_print(b, __VA_ARGS__)

/* A YAML string in double quotes. */
static void yaml_text(pare_buffer *b, const char *text) {
    PRINT("\"");
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte < 0x20 || byte == 0x7F)
            PRINT(" ");
        else if (byte == '"' || byte == '\\')
            PRINT("\\%c", byte);
        else
            pare_buffer_add(b, text, 1);
    }
    PRINT("\"");
}

static void yaml(pare_buffer *b, const pare_record *r) {
    PRINT("---\n");
    if (r->licence) {
        PRINT("license: ");
        yaml_text(b, r->licence);
        PRINT("\n");
    }
    if (r->model) {
        PRINT("base_model: ");
        yaml_text(b, pare_model_title(r));
        PRINT("\n");
    }
    PRINT("library_name: pare\ntags:\n- pare\n- %s\n---\n\n",
          r->steps > 0 ? "trained" : "compressed");
}

static void line(pare_buffer *b, const char *before, const char *text, const char *after) {
    PRINT("%s", before);
    pare_markdown_text(b, text);
    PRINT("%s", after);
}

/* Text as code, in a fence longer than any run of backticks in it. */
static void code_block(pare_buffer *b, const char *text) {
    size_t longest = 2, run = 0;
    for (const char *p = text; *p; p++) {
        run = *p == '`' ? run + 1 : 0;
        if (run > longest) longest = run;
    }
    for (size_t i = 0; i <= longest; i++) PRINT("`");
    PRINT("\n");
    pare_buffer_add(b, text, strlen(text));
    PRINT("\n");
    for (size_t i = 0; i <= longest; i++) PRINT("`");
    PRINT("\n\n");
}

static void row(pare_buffer *b, const char *what, double before, double after, int digits) {
    if (!isfinite(after)) return;
    PRINT("| %s | ", what);
    if (isfinite(before)) PRINT("%.*f", digits, before);
    PRINT(" | %.*f |\n", digits, after);
}

static void numbers(pare_buffer *b, const pare_record *r) {
    double params = (double)r->n_params, in = r->in_bytes ? (double)r->in_bytes : (double)NAN;
    PRINT("## Numbers\n\n| | before | after |\n|---|---:|---:|\n");
    row(b, "size of the tensors, MiB", MIB * in, MIB * (double)r->out_bytes, 1);
    row(b, "bits per weight", params > 0 ? 8 * in / params : (double)NAN, r->bits_per_weight, 3);
    row(b, "zeros, %", (double)NAN, 100 * r->sparsity, 2);
    row(b, "perplexity", r->base_ppl, r->ppl, 4);
    if (isfinite(r->base_prefix_ppl))
        row(b, "perplexity, the base model behind the cushion too", r->base_prefix_ppl, r->ppl, 4);
    row(b, "KL divergence to the base model", (double)NAN, r->kl_mean, 5);
    row(b, "same top token, %", (double)NAN, 100 * r->same_top, 2);
    row(b, "loss of the text held out, nats a token", r->first_val_loss, r->val_loss, 4);
    for (size_t i = 0; i < r->n_tasks; i++) {
        bool norm = isfinite(r->tasks[i].acc_norm);
        if (!isfinite(norm ? r->tasks[i].acc_norm : r->tasks[i].acc)) continue;
        line(b, "| ", r->tasks[i].name ? r->tasks[i].name : "?", "");
        PRINT(", %s | | %.4f |\n", norm ? "acc\\_norm" : "acc",
              norm ? r->tasks[i].acc_norm : r->tasks[i].acc);
    }
    PRINT("\n");
    if (!isfinite(r->ppl)) return;
    pare_setting setting = {.example = r};
    char text[400];
    pare_setting_text(&setting, text, sizeof text);
    line(b, "Perplexity: ", text, ".\n\n");
}

static void encodings(pare_buffer *b, const pare_record *r) {
    if (!r->n_layers) return;
    PRINT("## Encodings\n\n| encoding | tensors | weights | MiB |\n|---|---:|---:|---:|\n");
    for (size_t i = 0; i < r->n_layers; i++) {
        const char *name = r->layers[i].encoding;
        size_t n = 0;
        int64_t params = 0, bytes = 0;
        bool again = !name;
        for (size_t k = 0; k < r->n_layers; k++) {
            bool same = name && r->layers[k].encoding && strcmp(name, r->layers[k].encoding) == 0;
            again |= same && k < i;
            n += same;
            params += same ? r->layers[k].n_params : 0;
            bytes += same ? r->layers[k].out_bytes : 0;
        }
        if (again) continue;
        line(b, "| ", name, "");
        PRINT(" | %zu | %lld | %.1f |\n", n, (long long)params, MIB * (double)bytes);
    }
    PRINT("\n");
    for (size_t i = 0; i < r->n_fallbacks; i++)
        line(b, i ? "- " : "Done otherwise than asked:\n\n- ",
             r->fallbacks[i] ? r->fallbacks[i] : "?", "\n");
    if (r->n_fallbacks) PRINT("\n");
}

static void data_line(pare_buffer *b, const char *what, const char *path, const char *sha256) {
    if (!path) return;
    PRINT("- %s: ", what);
    pare_markdown_text(b, strcmp(path, "-") == 0 ? "standard input" : pare_path_name(path));
    if (sha256) PRINT(", SHA-256 %s", sha256);
    PRINT("\n");
}

static void origins(pare_buffer *b, const pare_record *r) {
    PRINT("## Data and hashes\n\n");
    data_line(b, "base model", r->model, r->model_sha256);
    data_line(b, "text", r->data && !strchr(r->data, '\n') ? r->data : NULL, r->data_sha256);
    if (r->data && strchr(r->data, '\n') && r->data_sha256)
        PRINT("- text: several files, SHA-256 of their list %s\n", r->data_sha256);
    data_line(b, "teacher", r->teacher, r->teacher_sha256);
    data_line(b, "calibration", r->calib, r->calib_sha256);
    if (r->calib && r->calib_samples)
        PRINT("- calibration: %lld sequences of %lld tokens, CRC-32 of their ids %s, %s%s\n",
              (long long)r->calib_samples, (long long)r->calib_ctx,
              r->calib_crc32 ? r->calib_crc32 : "unknown",
              r->calib_compute ? r->calib_compute : "exact",
              r->true_sequential ? ", true sequential" : "");
    if (r->keep) line(b, "- tensors that stayed as they were: ", r->keep, "\n");
    data_line(b, "importance matrix", r->imatrix, r->imatrix_sha256);
    data_line(b, "evaluation", r->text, r->text_sha256);
    if (r->out_sha256) PRINT("- this folder: SHA-256 %s\n", r->out_sha256);
    PRINT("- seed %lld, %lld thread%s, ", (long long)r->seed, (long long)r->threads,
          r->threads == 1 ? "" : "s");
    line(b, "", r->cpu ? r->cpu : "unknown processor", "");
    PRINT(" (%s), pare %s\n\n", r->isa ? r->isa : "?", r->version ? r->version : "?");
    if (r->out_sha256)
        PRINT("The folder's hash is that of the list of its files, this one left out:\n\n"
              "    sha256sum -- $(ls | grep -v '\\.md$' | LC_ALL=C sort) | sha256sum\n\n");
}

static void card(pare_buffer *b, const pare_record *r) {
    yaml(b, r);
    bool trained = r->steps > 0;
    line(b, "# ", pare_model_title(r), trained ? ", trained\n\n" : ", compressed\n\n");
    if (r->model)
        line(b, "Made from ", pare_model_title(r), "");
    else
        PRINT("A new model");
    if (r->arch) line(b, " (", r->arch, ")");
    PRINT(" by pare, with the recipe\n\n");
    code_block(b, r->recipe ? r->recipe : "");
    if (trained) code_block(b, r->options ? r->options : "");
    if (!r->model)
        PRINT("It was trained on the data below.\n\n");
    else if (r->licence)
        line(b, "The base model's licence is ", r->licence,
             "; it holds for these weights too, which are derived from it.\n\n");
    else
        PRINT("The base model's files name no licence: look it up before you pass this on.\n\n");
    if (r->format && strcmp(r->format, "peft") == 0)
        PRINT("This folder is an adapter: it goes with the base model.\n\n"
              "    pare run MODEL --lora . -p \"Once upon a time\" -n 100\n"
              "    pare convert MODEL merged --lora .\n\n");
    else
        PRINT("    pare run . -p \"Once upon a time\" -n 100\n"
              "    pare eval . --text wiki.test.raw\n"
              "    pare convert . model.gguf\n\n");
    numbers(b, r);
    encodings(b, r);
    origins(b, r);
}

pare_status pare_model_card_write(const char *folder, const pare_record *r, pare_error *err) {
    if (!pare_path_is_folder(folder))
        return pare_fail(err, PARE_ERR_INPUT,
                         "%s: found no folder, expected one for the model card", folder);
    pare_buffer b = {0};
    card(&b, r);
    char *path = pare_path_join(folder, "README.md");
    pare_status st = b.failed || !path ? pare_fail(err, PARE_ERR_NOMEM, "%s: out of memory", folder)
                                       : pare_text_save(path, (const char *)b.data, b.n, err);
    pare_free(path);
    pare_buffer_free(&b);
    return st;
}
