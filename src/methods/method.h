/* A method's descriptor: one file, one `const pare_method`, one line in methods.def. The core reads
 * its fields and never compares names.
 *
 * A method of a recipe sees one linear layer at a time: its weights, and of its inputs over the
 * calibration tokens the statistics that it asked for. It knows nothing of files or architectures.
 * Methods of training (slots "optimizer" and "sparse_training") have tables of their own. Names are
 * unique within a slot. */
#ifndef PARE_SRC_METHODS_METHOD_H
#define PARE_SRC_METHODS_METHOD_H

#include "base/team.h"
#include "pare/methods.h"
#include "tensor/act_quant.h"
#include "tensor/encoding.h"

/* Statistics that a method may ask for. */
enum {
    PARE_NEED_SQUARES = 1, /* squares */
    PARE_NEED_ABS = 2,     /* abs_max, abs_sum */
    PARE_NEED_HESSIAN = 4, /* hessian; squares too */
    PARE_NEED_SAMPLES = 8, /* samples */
    PARE_NEED_RANGE = 32,  /* min, max */
    PARE_NEED_TUNE = 16    /* nothing of x: the block's inputs and dense outputs, for `tune` */
};

/* The inputs x of a linear layer over all calibration tokens; layers that share their input share
 * this. What nobody asked for is NULL. All finite. */
typedef struct pare_input_stats {
    size_t cols;
    uint64_t n_tokens, n_sequences;
    const double *squares; /* [cols] sum of x^2 */
    const float *abs_max;  /* [cols] max |x| */
    const double *abs_sum; /* [cols] sum of |x| */
    const double *hessian; /* [cols][cols] sum of x x^T, symmetric */
    const float *samples;  /* [n_samples][cols] the inputs themselves, of the first sequences */
    size_t n_samples;
    const float *min, *max; /* [cols] smallest and largest x */
    const float *half;      /* the Hessian for pare_output_error (methods/obs.h); NULL: not kept */
} pare_input_stats;

/* What a method had to do that its user would not expect: one line, counted and told. */
typedef void (*pare_note_fn)(void *arg, const char *line);

/* What a method works on: one linear layer's weights. */
typedef struct pare_weight_job {
    pare_runtime *rt;
    const char *name; /* canonical tensor name, for messages */
    uint64_t stream;  /* random stream of this tensor: the same whatever the order of work */
    float *w;         /* [rows][cols] f32, transformed in place */
    size_t rows, cols;
    const pare_input_stats *x; /* NULL for methods without `needs`, and without data for `uses` */
    bool keep_zeros;           /* weights that are 0 were pruned and stay 0 */

    /* Of methods with an encoding: the grid that w lies on afterwards. */
    const pare_encoding *enc;
    float *scale;  /* [rows][groups] */
    uint8_t *zero; /* [rows][groups] */

    pare_note_fn note; /* may be NULL */
    void *note_arg;
} pare_weight_job;

/* Linear layers that share their input, and what makes it: a scale of each channel of the input can
 * be taken out of what makes it and put into the layers' columns. */
typedef struct pare_scale_job {
    pare_runtime *rt;
    const char *name; /* of the first layer, for messages */
    size_t n, cols;
    const float *const *w; /* [n] weights [rows[i]][cols] */
    const size_t *rows;    /* [n] */
    const pare_input_stats *x;
    bool from_norm; /* the input is made by a norm, else by another linear layer */

    /* *loss = mean square of what the output of the layers' module (attention for q, k, v; the
     * feed-forward part for gate and up; else the layer) changes by on the samples, when the layers
     * have the weights w[i][rows[i]][cols] in place of theirs. Errors: PARE_ERR_NOMEM,
     * PARE_ERR_INTERRUPTED. */
    pare_status (*loss)(void *arg, const float *const *w, double *loss, pare_error *err);
    void *arg;

    pare_note_fn note; /* may be NULL */
    void *note_arg;
} pare_scale_job;

typedef struct pare_optim_fns pare_optim_fns;   /* methods/optimizer.h */
typedef struct pare_sparse_fns pare_sparse_fns; /* methods/pruner.h */

/* All matrices of a block that a step takes, tuned together against the block's output. */
typedef struct pare_tune_job {
    pare_runtime *rt;
    const char *name; /* "blk.3", for messages */
    uint64_t stream;  /* of random numbers, this block's */
    size_t n;
    const pare_weight_job *weights; /* [n]; w is the starting point and stays until the end */
    size_t n_sequences;             /* of calibration */

    /* *loss = mean square of the difference between the block's output with the weights
     * w[i][rows][cols] on the sequences (their numbers, at most as many as `batch` told) and what
     * the dense block made of them; the last token of each sequence counts as no difference. g [n],
     * or NULL: its gradient for each w[i]. Errors: PARE_ERR_IO, PARE_ERR_INTERRUPTED. */
    pare_status (*loss)(void *arg, const size_t *sequences, size_t n_sequences,
                        const float *const *w, float *const *g, double *loss, pare_error *err);
    void *arg;
} pare_tune_job;

/* How a method has found its codes, as files of other programs tell it. */
typedef struct pare_quant_told {
    double damp;    /* added to the Hessian's diagonal, as a share of its mean; < 0: it has none */
    bool act_order; /* columns in the order of their inputs, with groups as in the matrix */
    bool static_groups; /* groups are fitted before the first column is rounded */
    bool searched;      /* scales of the least error, not those of the extremes */
} pare_quant_told;

struct pare_method {
    const char *name, *slot, *paper, *summary, *help, *example;
    size_t options_size;
    const pare_param *params; /* ends with name NULL */
    unsigned needs;           /* PARE_NEED_*; 0 = no calibration data */
    /* PARE_NEED_* that it makes use of where there is calibration data and does without where there
     * is none; may be NULL. */
    unsigned (*uses)(const void *options);
    bool prunes; /* the options begin with pare_prune_options */
    bool prefix; /* searches a prefix of the KV cache before all other steps: the
                    options are pare_cushion_options; takes no tensor */
    /* The statistics are those of the dense model's blocks, each of which gets the dense output of
     * the one before; else of blocks that follow compressed ones. */
    bool dense_inputs;

    /* Checks what ranges cannot say (parameters that exclude each other); may be NULL. */
    pare_status (*check)(const void *options, pare_error *err);

    /* The encoding that the weights get (one with a grid); NULL = the method leaves that open. */
    const pare_encoding *(*encoding)(const void *options);

    /* Of a method with an encoding; may be NULL: no Hessian, no search. */
    void (*tell)(pare_quant_told *told, const void *options);

    /* The method quantizes activations, by this scheme; NULL: it does not. Its weights are for
     * matrices that no step before it has quantized. */
    void (*act)(pare_act_scheme *scheme, const void *options);

    /* Bytes of work space for a matrix; may be NULL: none that counts. */
    size_t (*work_bytes)(const void *options, size_t rows, size_t cols);

    /* Sequences that are kept as samples; may be NULL: none. */
    size_t (*samples)(const void *options);

    /* Chooses s[cols] (1 on entry, finite, > 0): the layers' columns are multiplied by s and what
     * makes their input is divided by it, so that the model computes the same. All groups of a
     * block choose before any scale is applied, and then `run` sees the scaled weights and
     * statistics. May be NULL. */
    pare_status (*scales)(const pare_scale_job *job, const void *options, float *s,
                          pare_error *err);

    /* Tunes the matrices of a block together: leaves each weights[i].w on the grid that it puts
     * into scale and zero. `run` is then for tensors that are in no block. May be NULL. */
    pare_status (*tune)(const pare_tune_job *job, const void *options, pare_error *err);
    /* Sequences that `loss` is asked of at once, at most, and how often it is for a block. */
    size_t (*batch)(const void *options);
    size_t (*steps)(const void *options);

    /* Transforms one weight matrix; NULL: the method is done with its scales. Errors: PARE_ERR_ARG
     * when the shape does not fit the parameters, PARE_ERR_NOMEM; w may then be half transformed
     * and is not used. */
    pare_status (*run)(const pare_weight_job *job, const void *options, pare_error *err);

    const pare_optim_fns *optim;   /* of an optimizer, else NULL */
    const pare_sparse_fns *sparse; /* of a sparse training, else NULL */
};

__attribute__((format(printf, 2, 3))) void pare_job_note(const pare_weight_job *job,
                                                         const char *format, ...);
__attribute__((format(printf, 2, 3))) void pare_scale_note(const pare_scale_job *job,
                                                           const char *format, ...);

/* Fills an options struct with the defaults of the descriptor. */
void pare_method_defaults(const pare_method *m, void *options);

/* Sets one parameter from text and checks its range. Errors name the parameter, what was found and
 * what was expected. */
pare_status pare_param_set(const pare_param *p, void *options, const char *text, pare_error *err);

/* "0.5" or "50%", len bytes. */
bool pare_parse_share(double *out, const char *text, size_t len);

/* The canonical text of a parameter's value ("0.5", "2:4", "true", a choice's name) into out. */
enum { PARE_PARAM_TEXT_MAX = 4096 }; /* holds every value */
void pare_param_text(const pare_param *p, const void *options, char *out, size_t out_size);

/* True when the value is the default. */
bool pare_param_is_default(const pare_param *p, const void *options);

#endif
