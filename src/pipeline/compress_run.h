/* A compression run from the inside: the plan of every tensor, and what the parts of the pipeline
 * share. compress.c plans and drives, sparsity_plan.c shares sparsities out, transform.c treats one
 * tensor, calibrate.c runs blocks over calibration text, work_folder.c keeps what is finished. */
#ifndef PARE_SRC_PIPELINE_COMPRESS_RUN_H
#define PARE_SRC_PIPELINE_COMPRESS_RUN_H

#include "io/imatrix.h"
#include "model/lora.h"
#include "model/source.h"
#include "pipeline/calibrate.h"
#include "pipeline/export_quant.h"
#include "pipeline/recipe.h"
#include "pipeline/work_folder.h"

enum { PARE_CHUNK_VALUES = 1 << 20 }; /* f32 values decoded at once where rows are independent */

/* What becomes of one tensor of the input. */
typedef struct tensor_plan {
    const pare_source_tensor *t;
    const pare_encoding *enc;
    const pare_encoding *stored; /* the output's, which says the same numbers */
    bool raw;                    /* the bytes are copied */
    bool recode;                 /* decoded, transformed, encoded */
    size_t n_dims, dims[4];
    size_t rows, cols;
    size_t n_methods;             /* how many of the recipe's method steps apply */
    const pare_method *quantizer; /* the last of them that says the encoding, or NULL */
    const void *quantizer_options;
    const pare_step *act;          /* that quantizes the tensor's inputs, or NULL */
    pare_act_range range;          /* of these, from calibration; once its unit is done */
    unsigned needs;                /* PARE_NEED_* of its methods */
    unsigned dense_needs;          /* of the pass over the dense model */
    const pare_lora_pair *adapter; /* that is merged into it, or NULL */
    bool feeds;                    /* a step may put scales of a layer's input into it */
    size_t unit;                   /* number of the layer; n_layers for what is in none */
} tensor_plan;

struct pare_compress_report {
    pare_compress_info info;
    pare_layer_report *layers;
    char **fallbacks;
    size_t fallback_capacity;
    char *recipe, *format, *keep, imatrix_sha256[65], prefix_sha256[65]; /* "" without a file */
    char *prefix_search;                                                 /* JSON text, or NULL */
    char *prefix_file;                                                   /* or NULL */
    char *work;                                                          /* OUT.work, or NULL */
    char **names;
    size_t n_names;
};

typedef struct compress_run {
    pare_runtime *rt;
    const pare_compress_options *o;
    pare_source *source;
    pare_recipe *recipe;
    pare_lora *lora; /* or NULL */
    char *prefix;    /* path of the cushion that the output has, or NULL */
    void *keep;      /* compiled regex */
    const pare_output_format *format;
    bool same_format /* the container's */, tied;
    tensor_plan *plans;
    size_t n_plans;
    unsigned needs;       /* of all plans, the dense pass too; 0 = no calibration */
    bool dense_pass;      /* a distribution looks at the dense model first */
    pare_imatrix imatrix; /* of the file given, or empty */
    bool imatrix_used;    /* some tensor's errors are weighed by it */
    double *shares;       /* [n_steps][n_plans] sparsity of a step for a tensor; NAN: its own */
    bool scales;          /* a step chooses scales of inputs */
    bool acts;            /* a step quantizes inputs */
    bool tunes;           /* a step tunes blocks: there are two streams of hidden states */
    bool published;       /* OUT is there already, by an earlier run that was cut off behind it */
    bool spills;          /* activations lie in files (max_memory), */
    const char *spill;    /* of this folder; NULL: in memory */
    uint64_t peak_before; /* of the process, when the run began, and what is */
    uint64_t resident;    /* resident beside what is at work */
    const pare_mix *mix;  /* the last mix step without a target */
    pare_compress_report *report;
} compress_run;

/* Keeps a line for the report. Errors: PARE_ERR_NOMEM. */
__attribute__((format(printf, 3, 4))) pare_status
compress_add_fallback(compress_run *c, pare_error *err, const char *format, ...);

/* Does the tensor's plan need all of its values at once? */
static inline bool plan_is_whole(const tensor_plan *p) {
    return p->n_methods || p->needs || p->enc->block_bytes == 0;
}

/* A tensor on its way through the steps of a recipe, of which some need a whole block at once. */
typedef struct tensor_state {
    float *w;          /* [rows][cols] values so far; NULL: still as in the file */
    float *row, *col;  /* [rows], [cols] what rows and columns were multiplied by; NULL: 1 */
    size_t first_step; /* the steps before it are done */
    bool pruned;       /* one of them pruned: zeros stay */
    float *scale;      /* [n_scales] the grid that tuning left, or NULL */
    uint8_t *zero;
    size_t n_scales;
} tensor_state;

/* Reads tensor i where that has not been done, and runs the method steps before `upto` on it. x:
 * statistics of its inputs, NULL where its methods need none. */
pare_status compress_hold(compress_run *c, size_t i, tensor_state *s, size_t upto,
                          const pare_input_stats *x, pare_error *err);
/* The tensor as read becomes f32 with the adapter's part in it. */
pare_status compress_merge(const compress_run *c, const tensor_plan *p, pare_tensor *t,
                           pare_error *err);
/* Multiplies the rows or the columns by scale[n], the last n of them; the tensor is held. */
pare_status compress_multiply_rows(const compress_run *c, size_t i, tensor_state *s,
                                   const float *scale, size_t n, pare_error *err);
pare_status compress_multiply_cols(const compress_run *c, size_t i, tensor_state *s,
                                   const float *scale, size_t n, pare_error *err);
void compress_state_free(tensor_state *s, const tensor_plan *p);

/* Is there room for the output and, where no earlier run left one, OUT.work? Errors: PARE_ERR_IO.
 */
pare_status compress_check_disk(const compress_run *c, pare_error *err);

/* Every weight that will be decoded is a finite number: what is not is refused before work. Errors:
 * PARE_ERR_INPUT (names tensor, row and column), PARE_ERR_NOMEM, PARE_ERR_INTERRUPTED. */
pare_status compress_check_weights(compress_run *c, pare_error *err);

/* Reads, transforms, encodes and measures tensor i; its line of the report is filled in. *out owns
 * its storage. s: what has been done already, NULL: nothing. */
pare_status compress_tensor(compress_run *c, size_t i, tensor_state *s, const pare_input_stats *x,
                            pare_tensor *out, pare_error *err);

/* scales.c: the step chooses scales of the inputs of a block's layers, and they are folded. plans,
 * states [n]: of the block's tensors. */
pare_status compress_scale_block(compress_run *c, pare_calibration *cal, size_t unit, size_t step,
                                 const size_t *plans, tensor_state *states, size_t n,
                                 pare_error *err);
/* Memory that a block takes for it: what is held, and what methods compare. cal: NULL without
 * calibration. */
uint64_t compress_scale_memory(const compress_run *c, const pare_calibration *cal, size_t unit);

/* Does the work of tensor i on `in`, of any number of rows and columns, for its time alone: the
 * result and what there would be to report are dropped. */
pare_status compress_sample(compress_run *c, size_t i, const pare_tensor *in,
                            const pare_input_stats *x, pare_error *err);

/* ---- act_plan.c: steps that quantize inputs ---- */

/* What the step means for the tensor; *weights: also for its values. Errors: PARE_ERR_ARG,
 * PARE_ERR_UNSUPPORTED (the format cannot say it). */
pare_status compress_plan_act(compress_run *c, tensor_plan *p, const pare_step *step, bool *weights,
                              pare_error *err);
/* The format of an output whose recipe has such steps, where none is given. */
const char *compress_act_format(const compress_run *c);
/* Notes the range of the tensor's inputs; x may be NULL. */
void compress_note_range(tensor_plan *p, const pare_input_stats *x);
/* Errors: PARE_ERR_INPUT (a static grid of inputs that calibration never saw, or saw as 0 only). */
pare_status compress_check_range(const tensor_plan *p, pare_error *err);
/* The scheme of a tensor's inputs by a step; false: none. */
bool compress_act_of(const tensor_plan *p, pare_act_scheme *scheme);
/* What attention multiplies is quantized for all of q, k and v of a block, or none. Errors:
 * PARE_ERR_ARG. */
pare_status compress_check_bmm(const compress_run *c, pare_error *err);
/* Does the input's own scheme go along? It does where no step changes weights or inputs. */
bool compress_carries_act(const compress_run *c);
/* What the output stores of a tensor's inputs; bits 0: nothing. Errors: those of the file's grids.
 */
pare_status compress_stored_act(const compress_run *c, const tensor_plan *p,
                                pare_act_scheme *scheme, pare_act_grid *grid, pare_error *err);

/* ---- tune.c ---- */

/* The step tunes the block's matrices together. from: hidden states before the block; targets: the
 * dense block's outputs, [sequences][ctx][dim]. */
pare_status compress_tune_block(compress_run *c, pare_calibration *cal, size_t unit, size_t step,
                                const char *from, const pare_spill *targets, const size_t *plans,
                                tensor_state *states, size_t n, pare_error *err);
/* Memory that a block takes for it: what is held, targets, passes, the method's own. */
pare_status compress_tune_memory(const compress_run *c, pare_calibration *cal, size_t unit,
                                 uint64_t *bytes, pare_error *err);
/* Seconds that a sequence takes forward and backward through the first block. */
pare_status compress_tune_seconds(pare_calibration *cal, double *seconds, pare_error *err);

/* ---- compress_ranks.c ---- */

/* owner[n]: the rank that transforms each of these tensors; -1: all of them. */
pare_status compress_owners(const compress_run *c, const size_t *plans, size_t n, int *owner,
                            pare_error *err);
/* All ranks: tensor i, its line of the report and the fallbacks from first_fallback on as the owner
 * has them. */
pare_status compress_share_result(compress_run *c, size_t i, int owner, size_t first_fallback,
                                  pare_tensor *t, pare_error *err);

/* ---- compress_prefix.c ---- */

/* The step that searches a prefix, or NULL. */
const pare_step *compress_prefix_step(const compress_run *c);
/* Tokens that it may find; 0 without such a step. */
size_t compress_longest_prefix(const compress_run *c);
/* c->prefix becomes the file that is asked for, or the input's own; with a step that searches one
 * the file that it begins with, or NULL. It is read, so that no hours of work come to nothing.
 * Errors: PARE_ERR_ARG, PARE_ERR_UNSUPPORTED (a format that cannot hold it), PARE_ERR_INPUT,
 * PARE_ERR_NOMEM. */
pare_status compress_plan_prefix(compress_run *c, pare_error *err);
/* The memory that a search takes, into the report; in a dry run what it may take is told. */
void compress_plan_search(compress_run *c);
/* What the step would refuse before its search, before there is a work folder. Errors: as
 * pare_cushion_check. */
pare_status compress_check_search(compress_run *c, pare_error *err);
/* Searches, where a step does: the file is in the work folder then, and the calibration's sequences
 * stand behind it. cal: NULL without calibration. */
pare_status compress_search_prefix(compress_run *c, pare_calibration *cal, pare_work *work,
                                   pare_error *err);

/* ---- estimate.c ---- */

/* How long the run will take, into the report. Errors:
 * PARE_ERR_NOMEM, those of loading a block and of the methods. */
pare_status compress_estimate(compress_run *c, pare_calibration *cal, pare_error *err);

/* ---- importance.c: imatrix files ---- */

/* Reads the file given, if any. */
pare_status compress_open_imatrix(compress_run *c, pare_error *err);
/* What a planned tensor needs for its importance, or to write it down; what it lacks is told. */
pare_status compress_plan_importance(compress_run *c, tensor_plan *p, pare_error *err);
/* *importance [cols]: of the file, else of x, else NULL; *own: what is to be freed. */
pare_status compress_importance(const compress_run *c, const tensor_plan *p,
                                const pare_input_stats *x, float **own, const float **importance,
                                pare_error *err);
/* pare_work_write_unit, with the sums that a file is to be written from. plans[n], tensors[n]. */
pare_status compress_write_unit(const compress_run *c, const pare_calibration *cal, pare_work *work,
                                size_t unit, const size_t *plans, const pare_tensor *tensors,
                                size_t n, pare_error *err);
/* Writes the file asked for from all units. */
pare_status compress_write_imatrix(const compress_run *c, const pare_work *work, pare_error *err);

/* ---- sparsity_plan.c: distributions of pruning steps become a sparsity per tensor ---- */

/* Fills c->shares with what the headers tell; the rest waits for the dense pass (c->dense_pass). */
pare_status compress_plan_sparsities(compress_run *c, pare_error *err);

/* Runs the calibration sequences through the dense blocks, or takes what an interrupted run found
 * by doing so, and fills the rest of c->shares. */
pare_status compress_dense_pass(compress_run *c, pare_calibration *cal, pare_work *work,
                                pare_error *err);

/* A step's options for tensor i: options[method->options_size]. */
void compress_step_options(const compress_run *c, size_t step, size_t i, void *options);

/* The sparsity that the recipe means tensor i to have; 0 for one that nothing prunes. */
double compress_planned_sparsity(const compress_run *c, size_t i);

/* ---- units.c: blocks of a recipe with methods. cal: NULL without calibration ---- */

/* Memory and disk that the units take, into the report. Errors: PARE_ERR_IO (the disk has less),
 * those of loading a block. */
pare_status compress_plan_units(compress_run *c, pare_calibration *cal, pare_error *err);

/* What a matrix of a block needs to know of its inputs. */
unsigned compress_needs_of(void *run, const char *name);
/* Do blocks get the dense outputs of those before? */
bool compress_wants_dense_inputs(const compress_run *c);

/* OUT.work of this run. */
pare_status compress_open_work(compress_run *c, const pare_calibration *cal, pare_work **work,
                               pare_error *err);

/* For a plan: does OUT.work of an earlier run, if there is one, belong to this run? Nothing is
 * changed. Errors: PARE_ERR_ARG (no), those of reading the model. */
pare_status compress_check_work(const compress_run *c, const pare_calibration *cal,
                                pare_error *err);

/* Finishes all units that are not. */
pare_status compress_units(compress_run *c, pare_calibration *cal, pare_work *work,
                           pare_error *err);

#endif
