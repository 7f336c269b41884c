/* Training: a new model from text, or one that exists trained further.
 *
 *     const char *const files[] = {"book.txt"};
 *     pare_train_options o = pare_train_options_default();
 *     o.out = "tuned";
 *     o.from = "model";
 *     o.data = files;
 *     o.n_data = 1;
 *     o.steps = 200;
 *     pare_train_report report;
 *     if (pare_train(&report, rt, &o, &err) != PARE_OK) ...
 *     printf("perplexity of the text held out: %.3f\n", report.val_ppl);
 *
 * A run keeps a work folder OUT.work with checkpoints: killed and called again with the same
 * options it goes on and ends with the same bytes. */
#ifndef PARE_TRAIN_H
#define PARE_TRAIN_H

#include "pare/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a new model looks like; 0 and NULL: the architecture's or the default in brackets. */
typedef struct pare_train_shape {
    const char
        *config; /* a config.json as transformers has it, in place of all sizes below; or NULL */
    const char *arch; /* "llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", ... */
    size_t dim, n_layers, n_heads;
    size_t n_kv_heads;     /* (n_heads) */
    size_t head_dim;       /* (dim / n_heads) */
    size_t ffn_dim;        /* (8/3 of dim for gated kinds, else 4 dim, up to a multiple of 32) */
    size_t ctx_max;        /* (the training's ctx) */
    bool untied;           /* a head of its own; else the embeddings' */
    const char *tokenizer; /* a model or tokenizer.json whose tokenizer it gets */
    size_t vocab_size;     /* a byte-level BPE cut to its first tokens; 0: all */
} pare_train_shape;

/* A line of the log. */
typedef struct pare_train_line {
    uint64_t step; /* steps done; 0: the model as it is, of which only val_loss is known */
    double loss;   /* mean over the step's tokens, nats */
    double lr, grad_norm;
    double sparsity;                 /* of the weights that the pruner works on */
    double left_out;                 /* share of the step's products that masks spared */
    double tokens_per_s, flop_per_s; /* of the steps since the line before, without evaluations and
                                        checkpoints; of products that were computed */
    double val_loss;                 /* NaN where no evaluation was due */
} pare_train_line;

typedef struct pare_train_options {
    const char *out;  /* folder of the result */
    const char *from; /* model to go on from, or NULL: a new one of `shape` */
    pare_train_shape shape;
    const char *const *data; /* [n_data] files: text, or .jsonl with "text" on each line */
    size_t n_data;
    const char *val;      /* file of held-out text, or NULL: the last val_share of the data */
    double val_share;     /* default 0.02 */
    uint64_t steps;       /* optimizer steps of the whole run */
    uint64_t stop_at;     /* end early after so many, ready to go on; 0: do not */
    size_t batch, ctx;    /* sequences and tokens of a step; default 16, 256 */
    size_t micro_batch;   /* sequences computed at once; 0: batch */
    const char *optim;    /* "adamw:lr=1e-3,beta2=0.95" */
    const char *lr_scale; /* "embd=5,ffn=0.2": factors above 0 of the learning rate, by tensor
                             (attn, ffn, embd, output, all: matrices; /REGEX/: by name, vectors
                             too); the first that takes a tensor counts; or NULL */
    const char *schedule; /* "cosine", "linear", "constant", "wsd" */
    uint64_t warmup;      /* steps; UINT64_MAX (default): 5% of steps, at most 1000 */
    double min_lr;        /* share of the lr that is left at the end; default 0.1 */
    double clip;          /* largest norm of the gradient; 0: none; default 1 */
    const char *distill; /* model whose distributions are the targets; or NULL. Held-out losses stay
                            those of the text */
    double temperature;  /* of both distributions; default 1 */
    double hard;         /* share of the text's own tokens in the loss; default 0 */
    const char *adapter; /* "lora:rank=8,alpha=16": only that is trained beside the model `from`,
                            which stays in its encoding, and `out` is an adapter; or NULL */
    const char *sparsity;     /* "rigl:sparsity=0.8,every=100"; or NULL */
    const char *act_sparsity; /* "top_k:sparsity=0.5": of the feed-forward activations, in training
                                 and, by the key in the model's config.json, whenever pare computes
                                 the model; NULL: as the model has it */
    pare_compute compute;     /* fast: bf16 products from f32 masters; exact: f32 */
    bool recompute;           /* less memory: layers are computed again in the backward pass */
    double ema;     /* decay of an average of the weights after each step, [0, 1): it is what is
                       evaluated and written; 0 (default): none */
    bool keep_best; /* write the weights of least held-out loss, not the last ones */
    uint64_t eval_every, save_every, log_every; /* steps; defaults 250, 250, 10; 0: only at the end,
                                                   and evaluation also before the first step. A
                                                   checkpoint is also written after five minutes */
    size_t eval_windows;                        /* of the held-out text, at most; default 64 */
    bool restart;                               /* drop what an interrupted run left */
    bool resume;                                /* refuse to begin anew */
    bool keep_work;                             /* leave the work folder there at the end */
    void (*on_line)(void *arg, const pare_train_line *line); /* may be NULL */
    void *arg;
} pare_train_options;
pare_train_options pare_train_options_default(void);

typedef struct pare_train_report {
    uint64_t steps, tokens;
    double loss;                          /* of the last step */
    double val_loss, val_ppl;             /* NaN without held-out text: of the last evaluation (of
                                             the weights that are written, once it is finished), */
    uint64_t val_step;                    /* after so many steps */
    double best_val_loss, first_val_loss; /* the latter before the first step */
    double sparsity, seconds, tokens_per_s, flop_per_s;
    double left_out;    /* share of the products of this call's steps that masks spared */
    uint64_t n_params;  /* trained: of the adapter where there is one */
    uint64_t n_skipped; /* steps that were left out: their gradient was not finite */
    uint64_t peak_rss_bytes;
    bool missed_sparsity; /* what was asked for was not reached */
    bool finished;        /* false: stopped at stop_at */
} pare_train_report;

/* Errors: PARE_ERR_ARG (options), those of reading models and text, PARE_ERR_INTERRUPTED (the work
 * folder goes on from the last checkpoint), PARE_ERR_INPUT (loss or gradient is not finite: the
 * message names step and tensor). */
pare_status pare_train(pare_train_report *out, pare_runtime *rt, const pare_train_options *o,
                       pare_error *err);

/* What a run of these options takes. */
typedef struct pare_train_plan {
    uint64_t n_params;                     /* trained */
    uint64_t tokens_per_step, text_tokens; /* the latter to train on: an epoch */
    double flop_per_step;                  /* without what masks will spare */
    uint64_t weights_bytes;                /* f32; with an adapter the model's as they are stored */
    uint64_t gradients_bytes;              /* and their sums over micro-batches */
    uint64_t optimizer_bytes, masks_bytes; /* state, estimate of the Hessian; masks and scores */
    uint64_t copies_bytes;                 /* in bf16, masked, averages, the best ones */
    uint64_t passes_bytes;                 /* activations, what the backward pass keeps, logits */
    uint64_t teacher_bytes, tokenizer_bytes; /* the latter as it was found here */
    uint64_t memory_bytes; /* all of these; the process itself takes a few MiB more */
    uint64_t tokens_bytes, checkpoint_bytes, model_bytes; /* files, one of each */
    uint64_t disk_bytes; /* at most at a time: tokens, a new model's first weights, checkpoints, the
                            result */
    double step_seconds, eval_seconds, planned_seconds; /* measured, and of the run without its
                            checkpoints; NaN: the machine has not the memory to measure */
} pare_train_plan;

/* Opens everything as a run does (a work folder OUT.plan.work, removed at the end), and measures
 * three steps and an evaluation where memory_bytes are there. OUT and OUT.work are not touched.
 * Errors: as pare_train, also those of an OUT.work of another run (but not that one works there).
 */
pare_status pare_train_estimate(pare_train_plan *out, pare_runtime *rt, const pare_train_options *o,
                                pare_error *err);

#ifdef __cplusplus
}
#endif
#endif
