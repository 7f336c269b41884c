/* A training run on its way: what train_run.c, train_open.c, train_eval.c and train_state.c share.
 */
#ifndef PARE_SRC_PIPELINE_TRAIN_RUN_H
#define PARE_SRC_PIPELINE_TRAIN_RUN_H

#include "methods/spec.h"
#include "pare/sparsity.h"
#include "pare/train.h"
#include "pipeline/train_init.h"
#include "pipeline/work_folder.h"
#include "train/batches.h"
#include "train/gradients.h"
#include "train/hessian.h"
#include "train/step.h"

/* What a checkpoint holds besides arrays. */
typedef struct pare_train_state {
    uint64_t step; /* done */
    uint64_t n_skipped, skipped_in_a_row;
    uint64_t n_averaged;                  /* updates in the average of the weights */
    double lr, grad_norm;                 /* of the last step */
    bool to_tell;                         /* the last step has yet to be evaluated and told */
    double loss, val_loss, best_val_loss; /* NaN: none yet */
    uint64_t val_step, best_step;         /* of the latter two */
    double sparsity;
    double best_sparsity; /* of the weights of best_val_loss: sparser ones are always better */
    double first_val_loss, first_sparsity; /* before the first step */
} pare_train_state;

typedef struct pare_train_run {
    pare_runtime *rt;
    const pare_train_options *o;
    pare_spec adapter; /* method NULL: all weights are trained */
    pare_spec top_k;   /* of the activations; method NULL: as the model has it */
    pare_compute compute;
    size_t micro; /* sequences at once */
    pare_work *work;
    pare_train_weights *weights;
    pare_tokenizer *tok;
    pare_model *teacher;     /* or NULL */
    char (*data_sha256)[65]; /* [n_data] of the text's files */
    char val_sha256[65];
    pare_token_file tokens, val_tokens;
    pare_batches batches;
    pare_step *step;
    pare_gradients sums;
    size_t n_micro;        /* micro-batches of a step, of all ranks */
    double *nll;           /* [n_micro] */
    pare_trained *trained; /* [n_trained] */
    float **grads;
    size_t n_trained;
    pare_optim *optim;
    pare_hessian *hessian;           /* of optimizers that need it, else NULL */
    const uint64_t **masks;          /* [n_trained] for it */
    pare_pruner *pruner;             /* NULL: dense */
    int32_t *window, *ids, *targets; /* [ctx + 1]; [micro * ctx] */
    size_t *lengths;                 /* [micro] */
    float *ema, *best; /* [n_values] all tensors in their order, or NULL: the average of the
                          weights; the weights of least held-out loss, as a forward pass saw them */
    size_t n_values;
    const pare_train_options *planned; /* of the run that this one plans, or NULL */
    size_t tokenizer_bytes;            /* of a plan: memory in use */
    double flop_per_token;             /* of a step, forward and backward */
    int passes;                        /* gradients that a step takes */
    double left_out;                   /* share of them that the last step left out */
    double done_flop;                  /* of all steps of this call */
    double zeros_before; /* share of zeros in linear layers of the model that it goes on from, */
    uint64_t *was_zero;  /* and which; NULL: not noted */
    pare_train_state state;
    struct {
        char *data;
        size_t n, capacity;
    } log; /* lines of JSON */
} pare_train_run;

/* Errors: PARE_ERR_ARG. */
pare_status pare_train_check_options(const pare_train_options *o, pare_error *err);

/* Everything but rt and o is 0, the token files' fd -1. The run stands where its last checkpoint
 * does. Also after a failure pare_train_close frees what there is; remove: the work folder too. */
pare_status pare_train_open(pare_train_run *r, pare_error *err);
void pare_train_close(pare_train_run *r, bool remove);

/* All that the result depends on, for the work folder; also fills in the hashes of the text. *out
 * is the caller's, also after a failure. Errors: those of reading the files. */
pare_status pare_train_fingerprint(json_t **out, pare_train_run *r, pare_error *err);

/* Does OUT.work of an earlier run belong to another run? In a run only what pare_work_open cannot
 * say as well; in a plan all of it. Errors: PARE_ERR_ARG, PARE_ERR_NOMEM. */
pare_status pare_train_check_earlier(const pare_train_run *r, json_t *fingerprint, pare_error *err);
/* In a plan: does one of its checkpoints lie on the way of this run? Errors: PARE_ERR_ARG. */
pare_status pare_train_check_steps(const pare_train_run *r, pare_error *err);
/* The error of a run that cannot go on with so many steps. */
pare_status pare_train_fail_steps(const pare_train_run *r, const pare_work *work, pare_error *err);

/* Steps to the full learning rate. */
uint64_t pare_train_warmup(const pare_train_options *o);
/* Share of the learning rate at a step, from 0. */
double pare_train_rate(const pare_train_options *o, uint64_t step);

/* How many steps of a run take the rates that they take in any longer one too, warmed up alike: all
 * of a constant schedule, those of wsd before it falls, else none (the warm-up is not worth it). */
uint64_t pare_train_trunk(const pare_train_options *o);

/* Share of zeros among the weights that are pruned; 0 without a pruner. */
double pare_train_sparsity(const pare_train_run *r);

/* Memory for an average of the weights, which begins with them, and for the best ones. */
pare_status pare_train_begin_copies(pare_train_run *r, pare_error *err);
/* After an update: the average moves by (1 - d) / (1 - d^t) of the way to the weights, t updates
 * done. That is the mean of all weights so far, those of t - k updates ago counting d^k: where the
 * training began has no part in it. Under a mask it is masked too (straight-through: when it is
 * evaluated or written, by the mask of its own values). */
void pare_train_average(pare_train_run *r);
/* *loss of the held-out text, of the average where there is one; the state takes note, and the best
 * weights are kept. NaN where nothing is held out. */
pare_status pare_train_evaluate(pare_train_run *r, double *loss, pare_error *err);

/* Warns of a pruned model that is trained without its masks. */
void pare_train_tell_begin(pare_train_run *r);
/* Warns of a sparsity that was not reached, of zeros that were lost, and of a loss that is worse
 * than before. True: the sparsity was not reached. */
bool pare_train_tell_end(const pare_train_run *r);

/* Tells the passes that follow what masks leave of the weights, and where gradients are wanted. */
pare_status pare_train_leave_out(pare_train_run *r, pare_error *err);

/* Sets the weights of bit 0 in a pruner's mask to 0, in w of trained tensor i. */
void pare_train_mask(const pare_train_run *r, size_t i, float *w);

/* One step: gradient, update, counters. Errors: those of passes and optimizer, PARE_ERR_INPUT (no
 * finite gradient ten times in a row). */
pare_status pare_train_step(pare_train_run *r, pare_error *err);

/* Bytes that checkpoints and model take together at most; of one checkpoint and of the model. */
uint64_t pare_train_disk(const pare_train_run *r, uint64_t *checkpoint_bytes,
                         uint64_t *model_bytes);
/* Is there room for the checkpoints and the model? Errors: PARE_ERR_IO: no. */
pare_status pare_train_check_disk(const pare_train_run *r, pare_error *err);

/* Writes a checkpoint. The one before it stays; so does, in a work folder that is kept, the one at
 * the end of the trunk, from which a longer run can go on. */
pare_status pare_train_save(pare_train_run *r, pare_error *err);
/* Goes back to the last checkpoint that is whole, if there is one; a damaged one is told. Where the
 * run had another number of steps, to the last one that a run of this number would have come to as
 * well; errors: PARE_ERR_ARG (there is none). */
pare_status pare_train_restore(pare_train_run *r, pare_error *err);
/* A line of the log. */
pare_status pare_train_log_add(pare_train_run *r, const pare_train_line *line, pare_error *err);
/* The output folder: weights in f32, and what the model before the first step had beside them. */
pare_status pare_train_write_model(pare_train_run *r, pare_error *err);

#endif
