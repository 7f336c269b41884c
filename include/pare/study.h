/* Records of runs, and what is made from them: reports, sweeps, model cards.
 *
 *     pare_records *db = NULL;
 *     if (pare_records_open(&db, "records.db", true, &err) == PARE_OK) {
 *         pare_record *r = NULL;
 *         pare_record_new(&r, "eval", rt, &err);
 *         r->model = "model.gguf";
 *         r->ppl = 19.92;
 *         pare_record_complete(r, rt, db, &err);   // architecture, sizes, SHA-256 of the files
 *         pare_records_add(db, r, &err);           // r->id
 *         pare_record_free(r);
 *     }
 *     pare_records_close(db);
 *
 * A database is one SQLite file. Several processes may use it at once. */
#ifndef PARE_STUDY_H
#define PARE_STUDY_H

#include "pare/analyze.h"
#include "pare/base.h"
#include "pare/compress.h"
#include "pare/eval.h"
#include "pare/train.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- one record --- */

/* A tensor of a compression; as in pare_layer_report. */
typedef struct pare_record_layer {
    const char *name, *from, *encoding;
    int64_t n_params, in_bytes, out_bytes;
    double bits_per_weight, sparsity, error, seconds;
    double output_error; /* NaN where it was not measured */
} pare_record_layer;

/* A line of a training's log; as in pare_train_line, NaN = not known. */
typedef struct pare_record_point {
    int64_t step;
    double loss, val_loss, lr, grad_norm, sparsity;
} pare_record_point;

typedef struct pare_record_task {
    const char *name;
    int64_t n;
    double acc, acc_stderr, acc_norm, acc_norm_stderr, ppl, ppl_stderr;
    const char *crc32; /* of all ids, 8 hexadecimal digits: documents, prompts and BOS */
    int64_t bos;
    /* with another model beside it, as in pare_task_pair; NaN and 0 without */
    double diff, diff_stderr, diff_norm, diff_norm_stderr;
    int64_t gained, lost;
} pare_record_task;

/* A site of an analysis; as in pare_outlier_site, with the largest token of all windows. */
typedef struct pare_record_site {
    int64_t layer;
    const char *site;
    double top1, top10, top10_mean, median, largest, largest_behind;
    int64_t position, channel, token_id;
    double attention_first, attention_prefix; /* of the layer */
} pare_record_site;

/* One run. What is not known is NULL, 0 (counts, bytes) or NaN (measures). Every field but the
 * lists is a column of the database, a key of its JSON form, a column of the CSV report and a key
 * of filters, all with the field's name. Strings that the caller assigns are borrowed until
 * pare_record_free; those that the library fills in are owned by the record. */
typedef struct pare_record {
    int64_t id;          /* > 0 once it is in a database; never given twice */
    int64_t time;        /* when it was added, seconds since 1970 UTC; 0 = now */
    const char *verb;    /* "compress", "eval", "sweep", "train", "analyze" */
    const char *version; /* of pare */
    const char *status;  /* "ok" or "failed" */
    const char *message; /* of a failure */
    const char *run_key; /* of a sweep's run: SHA-256 of all that decides its result */
    /* the machine */
    const char *cpu, *isa;
    int64_t threads, deterministic, seed;
    /* what was computed; paths are absolute, hashes as pare_content_hash gives them */
    const char *model, *model_sha256, *arch, *name, *licence;
    const char *recipe; /* canonical; "" = the dense model or another container; of a training
                           "train: " and what made it: optimizer, steps, sparsity, ... */
    const char *out, *out_sha256, *format;
    const char *calib, *calib_sha256;
    int64_t calib_samples, calib_ctx;
    const char *calib_crc32, *calib_compute; /* of the ids, 8 hexadecimal digits; exact or fast */
    const char *keep;                        /* a regular expression: tensors that stayed */
    int64_t true_sequential;
    const char *imatrix, *imatrix_sha256; /* an importance matrix that was read */
    const char *text, *text_sha256;
    const char *against, *against_sha256;
    const char *lora, *lora_sha256; /* an adapter that was evaluated with the model, or merged */
    const char *prefix, *prefix_sha256; /* a cushion that all sequences stood behind, or that became
                                           part of the output (a model's own is in model_sha256) */
    const char *prefix_tokens;          /* text of the tokens that they stood behind instead */
    const char *data, *data_sha256;     /* of a training; several files: a line each */
    const char *teacher, *teacher_sha256; /* of a distillation */
    const char *options; /* of a training: "steps=200 batch=16 ..."; of a compression that searched
                            a cushion, its choices and what it found as JSON text */
    /* the result's size */
    int64_t n_params, in_bytes, out_bytes; /* of tensors */
    double bits_per_weight, sparsity;
    /* quality (eval.h) */
    const char *protocol, *compute, *kv;
    double clamped;  /* share of the inputs that static grids clamped in the evaluation */
    const char *act; /* how activations are quantized (pare_model_act); NULL: they are not */
    int64_t ctx, n_windows, n_scored, n_tokens;
    const char *crc32; /* of the text's ids, 8 hexadecimal digits */
    double ppl, ppl_stderr, nll_sum;
    double base_ppl;        /* of the dense model under the same protocol */
    double base_prefix_ppl; /* the same behind the output's cushion, with inputs in f32 */
    double kl_mean, kl_mean_stderr, kl_p99, kl_max, same_top, ppl_ratio;
    /* a training; losses are means over tokens in nats */
    int64_t steps, train_tokens;
    double train_loss;        /* of the last step */
    double val_loss, val_ppl; /* of the text that was held out, of what is written: */
    int64_t val_step;         /* the weights after so many steps */
    double first_val_loss;    /* before the first step */
    double train_tokens_per_s;
    /* cost */
    double seconds;           /* of the compression, of the training (its last part if resumed) */
    double eval_seconds;      /* of the perplexity */
    double eval_tokens_per_s; /* of the perplexity */
    double prefill_tokens_per_s, decode_tokens_per_s;
    int64_t peak_rss_bytes;
    /* lists; owned by the record where the library filled them in */
    const pare_record_layer *layers;
    const pare_record_task *tasks;
    const pare_record_point *curve; /* by step */
    const pare_record_site *sites;  /* layer by layer */
    const char *const *fallbacks;   /* one line each */
    size_t n_layers, n_tasks, n_fallbacks, n_curve, n_sites;
    struct pare_record_memory *memory; /* private */
} pare_record;

/* A record of this program, machine and runtime (rt may be NULL), status "ok", all else unknown.
 * Errors: PARE_ERR_NOMEM. */
pare_status pare_record_new(pare_record **out, const char *verb, const pare_runtime *rt,
                            pare_error *err);
void pare_record_free(pare_record *r);

/* Takes over what a call has returned; strings are borrowed. Errors: PARE_ERR_NOMEM. */
pare_status pare_record_set_compression(pare_record *r, const pare_compress_info *info,
                                        pare_error *err);
/* A finished training; the curve is read from the log in its output. Errors: PARE_ERR_NOMEM,
 * PARE_ERR_INPUT and PARE_ERR_IO (the log; all else is set then). */
pare_status pare_record_set_training(pare_record *r, const pare_train_options *o,
                                     const pare_train_report *report, pare_error *err);
pare_status pare_record_set_perplexity(pare_record *r, const pare_perplexity *ppl, pare_error *err);
void pare_record_set_distance(pare_record *r, const pare_distance *d);
/* n results of pare_eval_tasks; pairs: beside another model, or NULL. Errors: PARE_ERR_NOMEM. */
pare_status pare_record_set_tasks(pare_record *r, const pare_task_result *results,
                                  const pare_task_pair *pairs, size_t n, pare_error *err);
/* Errors: PARE_ERR_NOMEM. */
pare_status pare_record_set_outliers(pare_record *r, const pare_outliers *o, pare_error *err);

/* The record as JSON text, one object: fields in their order, unknown ones null; bytes that are no
 * UTF-8 become U+FFFD. details: with layers, tasks, curve, sites and fallbacks. Free with
 * pare_text_free.
 */
pare_status pare_record_json(char **text, const pare_record *r, bool details, pare_error *err);
void pare_text_free(char *text);

/* --- contents --- */

typedef struct pare_content {
    char sha256[65]; /* hexadecimal */
    uint64_t bytes;
    size_t n_files;
} pare_content;

typedef struct pare_records pare_records;

/* SHA-256 of a file; of a split GGUF file (by its first part) or a folder, of the lines
 * "SHA256  NAME\n" of its files in the order of their bytes. Of a folder's files those count that
 * make up the model: not hidden ones and not *.md (a card may be added later).
 * cache   hashes are taken from there for files whose device, inode, size and times are as they
 *         were, and are kept there; a cache that cannot be read or written is as none; may be NULL
 * Errors: PARE_ERR_INPUT (nothing there), PARE_ERR_IO, PARE_ERR_NOMEM, PARE_ERR_INTERRUPTED. */
pare_status pare_content_hash(pare_content *out, pare_runtime *rt, pare_records *cache,
                              const char *path, pare_error *err);

/* Makes paths absolute, hashes the files that are named and have no hash, and describes the model
 * (that in `out` where there is one) from its headers. A path of "-" (standard input) stays. `db`
 * as `cache` above. Errors: as pare_content_hash and pare_describe; what was filled in stays. */
pare_status pare_record_complete(pare_record *r, pare_runtime *rt, pare_records *db,
                                 pare_error *err);

typedef enum pare_check_state {
    PARE_CHECK_SAME = 0,
    PARE_CHECK_CHANGED,
    PARE_CHECK_MISSING, /* no longer there, or not readable */
    PARE_CHECK_UNKNOWN  /* the record has no hash, or the text came from standard input */
} pare_check_state;
typedef struct pare_record_check {
    const char *role, *path, *recorded; /* borrowed from the record */
    pare_check_state state;
    char found[65]; /* "" unless the file was read */
} pare_record_check;
enum { PARE_RECORD_FILES = 10 };

/* Reads the files of a record again, without any cache. Errors: PARE_ERR_NOMEM,
 * PARE_ERR_INTERRUPTED. */
pare_status pare_record_verify(pare_record_check checks[PARE_RECORD_FILES], size_t *n,
                               const pare_record *r, pare_runtime *rt, pare_error *err);

/* --- the database --- */

/* Where records go: $PARE_RECORDS, else $XDG_DATA_HOME/pare/records.db, else
 * ~/.local/share/pare/records.db. Errors: PARE_ERR_ARG (no home, longer than `size`). */
pare_status pare_records_default_path(char *path, size_t size, pare_error *err);

/* Opens a database. create: one that is not there is made (with its folder), and it can be written
 * to; otherwise it is only read. Errors: PARE_ERR_INPUT (not a database, damaged, another
 * program's, a folder), PARE_ERR_UNSUPPORTED (a newer pare's), PARE_ERR_IO (read-only, locked for
 * more than five seconds, full disk). */
pare_status pare_records_open(pare_records **out, const char *path, bool create, pare_error *err);
void pare_records_close(pare_records *db);
const char *pare_records_path(const pare_records *db);

/* Adds a record in one transaction and sets its id and time. Errors: as above; nothing is added. */
pare_status pare_records_add(pare_records *db, pare_record *r, pare_error *err);
/* Errors: PARE_ERR_INPUT when there is none of that id. */
pare_status pare_records_remove(pare_records *db, int64_t id, pare_error *err);

typedef struct pare_record_query {
    /* All must hold: "KEY=VALUE", "KEY!=VALUE", "KEY~PART" (contains, whatever the case), "KEY<N",
     * "KEY>N", with the name of a field of pare_record that is no list. A path equals a VALUE also
     * when its last part does. */
    const char *const *filters;
    size_t n_filters;
    size_t limit; /* the newest that many; 0 = all */
    bool details; /* layers, tasks, curve, sites and fallbacks too */
} pare_record_query;

typedef struct pare_record_list {
    pare_record **items; /* newest first */
    size_t n;
} pare_record_list;

/* query NULL: all. Errors: PARE_ERR_ARG (a filter that cannot be read; the message names the keys),
 * PARE_ERR_INPUT (damaged), PARE_ERR_IO, PARE_ERR_NOMEM. Free with pare_record_list_free. */
pare_status pare_records_list(pare_record_list *out, pare_records *db,
                              const pare_record_query *query, pare_error *err);
void pare_record_list_free(pare_record_list *list);

/* --- model cards --- */

/* Writes README.md into a folder that a compression made, from its completed record: recipe, base
 * model and its licence, data, numbers before and after, hashes, how to run it. One that stands
 * there is replaced. Errors: PARE_ERR_IO, PARE_ERR_INPUT (no such folder), PARE_ERR_NOMEM. */
pare_status pare_model_card_write(const char *folder, const pare_record *r, pare_error *err);

/* --- sweeps --- */

typedef struct pare_sweep pare_sweep;

typedef enum pare_keep {
    PARE_KEEP_NONE = 0, /* outputs are removed when they have been evaluated */
    PARE_KEEP_BEST,     /* of each model the one with the least perplexity stays */
    PARE_KEEP_ALL
} pare_keep;

typedef enum pare_run_state {
    PARE_RUN_WAITING = 0,
    PARE_RUN_THERE, /* a record of the same run is there: skipped */
    PARE_RUN_DONE,
    PARE_RUN_FAILED
} pare_run_state;

/* One run: a recipe applied to a model, and one evaluation of the result. Strings are owned by the
 * sweep. */
typedef struct pare_sweep_run {
    const char *model, *recipe; /* canonical; "" = the dense model */
    const char *eval;           /* "FILE hf-2048 10 windows exact", "piqa,arc_easy", "speed" */
    const char *out;            /* of the compression; NULL = dense */
    pare_run_state state;
    int64_t record;               /* id; 0 = none */
    uint64_t in_bytes, out_bytes; /* of tensors; 0 = not known yet */
    double bits_per_weight, ppl;  /* NaN = not known */
    const char *message;          /* of a failure, else NULL */
} pare_sweep_run;

/* Reads a sweep file (docs/sweeps.md): lines "key = value", or recipes; '#' starts a comment. more:
 * n_more further lines, from elsewhere. Every key, value and recipe is checked; nothing is read but
 * this text. name: for messages. Errors: PARE_ERR_INPUT with the line, PARE_ERR_NOMEM. */
pare_status pare_sweep_parse(pare_sweep **out, const char *text, size_t n, const char *name,
                             const char *const *more, size_t n_more, pare_error *err);
void pare_sweep_free(pare_sweep *s);
/* In the order in which they run: model by model, the dense one first. */
size_t pare_sweep_n_runs(const pare_sweep *s);
const pare_sweep_run *pare_sweep_run_at(const pare_sweep *s, size_t i);

typedef struct pare_sweep_options {
    pare_options runtime; /* of all jobs together: each gets its share of the threads */
    pare_records
        *records; /* runs whose record is there are skipped; NULL = neither that nor records */
    int jobs;     /* compressions at the same time, 1 to 64; 0 = 1 */
    bool dry_run; /* sizes and states only: plans every run, writes nothing */
    /* After each run (skipped ones too); never two at once. May be NULL. */
    void (*on_run)(void *arg, const pare_sweep_run *run, size_t n_done, size_t n_runs);
    void *arg;
} pare_sweep_options;

/* Runs them all. A failed run is told in its state and kept as a record; the others go on, and the
 * result is PARE_OK. Errors are those that concern all: PARE_ERR_INPUT (a model or text that is not
 * there, before any work), PARE_ERR_ARG, PARE_ERR_NOMEM, PARE_ERR_INTERRUPTED (what is finished has
 * its record: the same call goes on). */
pare_status pare_sweep_run_all(pare_sweep *s, const pare_sweep_options *options, pare_error *err);

/* --- reports --- */

typedef enum pare_report_format {
    PARE_REPORT_HTML = 0, /* one page that needs nothing else: no scripts, no other files */
    PARE_REPORT_MARKDOWN, /* its tables */
    PARE_REPORT_CSV       /* a row per record: the fields, then the tasks as NAME=ACC;... */
} pare_report_format;

/* A report of records with their details. Base models, the variants that recipes made of them and
 * evaluations are joined by the hashes of contents, never by names; perplexities stand in one table
 * only when protocol, context, windows, text and mode are the same. title NULL: "pare report".
 * *n bytes and a NUL; free with pare_text_free. Errors: PARE_ERR_NOMEM. */
pare_status pare_report(char **text, size_t *n, const pare_record_list *records,
                        pare_report_format format, const char *title, pare_error *err);

/* Writes text to a file that appears when it is complete; one that stands there is replaced. */
pare_status pare_text_save(const char *path, const char *text, size_t n, pare_error *err);

#ifdef __cplusplus
}
#endif
#endif
