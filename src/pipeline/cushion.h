/* The prefix of a cushioncache step: texts, candidates, the search (methods/quant/cushioncache.c)
 * on a loaded model, what a cut-off run had found, the prefix's keys and values, their tuning. */
#ifndef PARE_SRC_PIPELINE_CUSHION_H
#define PARE_SRC_PIPELINE_CUSHION_H

#include "methods/cushion_search.h"
#include "model/prefix.h"
#include "pare/tokenizer.h"
#include "pipeline/work_folder.h"

/* The last one of so many tokens of the text is for the tuning's losses and for the checks. */
enum { PARE_CUSHION_HELD_PART = 10 };

typedef struct pare_cushion_input {
    const char *model, *text; /* files */
    const char *start;        /* a prefix's file, with whose tokens it begins; NULL: none */
    const pare_cushion_options *options;
    pare_compute compute;
    /* What is done otherwise than asked; may be NULL. */
    pare_status (*fallback)(void *arg, const char *line, pare_error *err);
    void *fallback_arg;
    pare_work *work; /* each step is kept there, as "cushion", how far one is, as "cushion_token",
                        and checkpoints of the tuning, as "cushion_tuning"; NULL: nowhere */
    double note_every_s; /* how far a step is, at most so often; 0: every two minutes */
} pare_cushion_input;

/* *out NULL: no token was worth it. *record: JSON text of every choice and of what was found, to be
 * freed. Errors: PARE_ERR_INPUT (a text too short), PARE_ERR_ARG (prefix and text are longer than
 * the model's context; start=bos without a BOS; a start that was not computed from tokens), those
 * of loading, PARE_ERR_INTERRUPTED. */
pare_status pare_cushion_make(pare_prefix **out, char **record, pare_runtime *rt,
                              const pare_cushion_input *in, pare_error *err);

/* What pare_cushion_make refuses before its search, without the model: the text, the start, the
 * context. Errors: as there. */
pare_status pare_cushion_check(const pare_cushion_input *in, const pare_model_config *c,
                               pare_error *err);

/* What search and tuning take at most, without running them: bytes of memory beside the weights of
 * the whole model, and tokens that pass through the model (a gradient counts as two more passes).
 */
uint64_t pare_cushion_memory(const pare_cushion_options *o, const pare_model_config *c);
double pare_cushion_tokens(const pare_cushion_options *o, const pare_model_config *c);

/* ---- cushion_start.c ---- */

/* The tokens that most often carry outliers at the input of ffn_down, as many as there are outliers
 * in a text, then bos (-1: none), at most `most` in all: PrefixQuant's choice. ids [most]; texts
 * [n_texts][n]. Errors: PARE_ERR_NOMEM, PARE_ERR_INTERRUPTED. */
pare_status pare_cushion_outlier_tokens(int32_t *ids, size_t *n_ids, size_t most, pare_model *m,
                                        const int32_t *texts, size_t n_texts, size_t n, int32_t bos,
                                        pare_compute compute, pare_error *err);

/* ---- cushion_state.c ---- */

/* Where a search notes what a run that is cut off goes on from. */
typedef struct pare_cushion_state {
    pare_runtime *rt;
    pare_work *work; /* NULL: nowhere */
    double every_s;  /* how far a step is is noted at most so often */
    double saved_s;  /* when it last was, or the search began */
    bool stale;      /* the file that is noted is damaged */
} pare_cushion_state;

/* For the manifest and the record. */
json_t *pare_cushion_steps_json(const pare_cushion_result *r);
/* Errors of all: PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_cushion_keep_steps(pare_cushion_state *s, const pare_cushion_result *r,
                                    pare_error *err);
/* r holds the start; the steps are appended. */
void pare_cushion_resume_steps(const pare_cushion_state *s, const pare_cushion_options *o,
                               pare_cushion_result *r);
/* pare_cushion_job's `within` and `again`. A file that is damaged is told, and the step begins
 * anew. */
pare_status pare_cushion_keep_within(pare_cushion_state *s, const pare_cushion_within *w, bool last,
                                     pare_error *err);
pare_status pare_cushion_resume_within(pare_cushion_state *s, pare_cushion_within *w,
                                       size_t n_candidates, pare_error *err);

/* ---- cushion_tune.c ---- */

/* Texts of a tokenizer that adds BOS begin with it, every second one; of those behind a prefix
 * every eighth begins with one of its tokens, for which that token is no sink. */
typedef struct pare_cushion_texts {
    const int32_t *ids; /* [n_ids] of the file */
    size_t n_ids;
    int32_t bos;           /* -1: none is added */
    const int32_t *prefix; /* [n_prefix] */
    size_t n_prefix;
} pare_cushion_texts;

/* to[n] = from[n], the beginning as text number i has it. */
void pare_cushion_text(const pare_cushion_texts *t, int32_t *to, const int32_t *from, size_t n,
                       size_t i);

/* Trains the keys and values of m's prefix, which was computed from tokens, on texts; *out is what
 * did best on text held out, and without ids unless that is what it began with. The
 * model has no prefix afterwards. *record: an object of what was chosen and found. Errors: as for
 * pare_cushion_make; PARE_ERR_INPUT (losses that are no finite numbers from the start). */
pare_status pare_cushion_tune(pare_prefix **out, json_t **record, pare_model *m,
                              const pare_cushion_input *in, const pare_cushion_texts *texts,
                              pare_error *err);
/* *n: tokens of a text of the tuning, where the file has n_ids. Errors: PARE_ERR_ARG,
 * PARE_ERR_INPUT (the context or the file is too short). */
pare_status pare_cushion_tune_length(size_t *n, const pare_cushion_input *in,
                                     const pare_model_config *c, size_t n_ids, pare_error *err);

#endif
