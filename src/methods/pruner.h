/* Sparse training from the inside: what an algorithm's file gives, and the parts that algorithms
 * share. The driver (pruner.c) holds state, schedule and the order of a step. */
#ifndef PARE_SRC_METHODS_PRUNER_H
#define PARE_SRC_METHODS_PRUNER_H

#include "methods/mask.h"
#include "methods/schedule.h"
#include "methods/score.h"
#include "methods/spec.h"
#include "pare/sparsity.h"

/* An algorithm's options begin with these. */
typedef struct pare_sparse_options {
    pare_prune_options p;
    int schedule; /* pare_schedule_kind */
    int every, from, until;
    double power;
    bool sparse_grads, skip_gradients, embeddings, mask_at_init;
    pare_text only, dense, own; /* which tensors: pruner_tensors.c; empty: as the default */
} pare_sparse_options;

/* Lines of its table; `options` begins with pare_sparse_options as member `s`. */
#define PARE_SPARSE_FIELD(options, field, type_, def_, min_, max_, help_)                          \
    {                                                                                              \
        .name = #field, .type = type_, .offset = offsetof(options, s.field), .def = def_,          \
        .min = min_, .max = max_, .help = help_                                                    \
    }
#define PARE_SPARSE_SPARSITY(options)                                                              \
    {                                                                                              \
        .name = "sparsity", .type = PARE_PARAM_SPARSITY,                                           \
        .offset = offsetof(options, s.p.sparsity), .def = 0.8, .max = 1,                           \
        .help = "share of weights that goes, or N:M (keep N of every M inputs)"                    \
    }
#define PARE_SPARSE_AXIS(options)                                                                  \
    {                                                                                              \
        .name = "nm_axis", .type = PARE_PARAM_CHOICE, .offset = offsetof(options, s.p.nm_axis),    \
        .choices = "in|out",                                                                       \
        .help = "N:M: of M consecutive inputs of an output, as packed forms need it, or of M "     \
                "outputs of an input, which no product here gains from"                            \
    }
#define PARE_SPARSE_STRUCTURE(options)                                                             \
    {.name = "type",                                                                               \
     .type = PARE_PARAM_STRUCTURE,                                                                 \
     .offset = offsetof(options, s.p.type),                                                        \
     .choices = "weight|block_RxC|channel_in|channel_out",                                         \
     .help = "what goes together: single weights, tiles of outputs x inputs, inputs or outputs"},  \
        {.name = "pool",                                                                           \
         .type = PARE_PARAM_CHOICE,                                                                \
         .offset = offsetof(options, s.p.pool),                                                    \
         .choices = "avg|max",                                                                     \
         .help = "a tile's score: the mean of its weights' or the largest"},                       \
        PARE_SPARSE_AXIS(options)
#define PARE_SPARSE_DISTRIBUTION(options)                                                          \
    {.name = "dist",                                                                               \
     .type = PARE_PARAM_CHOICE,                                                                    \
     .offset = offsetof(options, s.p.dist),                                                        \
     .choices = "uniform|erk",                                                                     \
     .help = "how the sparsity is shared out among the tensors"},                                  \
        PARE_PRUNE_ERK_POWER(options, s.p), {                                                      \
        .name = "erk_kernel", .type = PARE_PARAM_BOOL,                                             \
        .offset = offsetof(options, s.p.erk_kernel), .def = 1,                                     \
        .help = "erk: by all dimensions, those of a convolution's kernel too; false: by inputs "   \
                "and outputs"                                                                      \
    }
/* Which tensors. */
#define PARE_SPARSE_TENSORS(options)                                                               \
    PARE_SPARSE_FIELD(options, embeddings, PARE_PARAM_BOOL, 0, 0, 1, "embeddings are pruned too"), \
        {.name = "only",                                                                           \
         .type = PARE_PARAM_TEXT,                                                                  \
         .offset = offsetof(options, s.only),                                                      \
         .choices = "all|attn|ffn|embd|output|/REGEX/",                                            \
         .help = "the tensors that are pruned, by name; all: linear layers"},                      \
    {                                                                                              \
        .name = "dense", .type = PARE_PARAM_TEXT, .offset = offsetof(options, s.dense),            \
        .choices = "none|attn|ffn|embd|output|/REGEX/", .help = "tensors that are not pruned"      \
    }
#define PARE_SPARSE_OWN(options)                                                                   \
    {                                                                                              \
        .name = "own", .type = PARE_PARAM_TEXT, .offset = offsetof(options, s.own),                \
        .choices = "none|TARGET=S;TARGET=S;...",                                                   \
        .help = "sparsities of their own, which go before all else: ffn=0.9;/attn_v/=50%"          \
    }
#define PARE_SPARSE_SCHEDULE(options, schedule_, from_)                                            \
    {.name = "schedule",                                                                           \
     .type = PARE_PARAM_CHOICE,                                                                    \
     .offset = offsetof(options, s.schedule),                                                      \
     .def = schedule_,                                                                             \
     .choices = "none|one_shot|periodic|polynomial",                                               \
     .help = "when masks are updated: never, at step `from`, or at multiples of `every` from "     \
             "`from` to `until`, with the full sparsity or one that grows to it"},                 \
        PARE_SPARSE_FIELD(options, every, PARE_PARAM_INT, 0, 0, 1e9,                               \
                          "steps from one update to the next; 0: a fiftieth of those from `from` " \
                          "to `until`, but 10 to 100"),                                            \
        PARE_SPARSE_FIELD(options, from, PARE_PARAM_INT, from_, -1, 2e9,                           \
                          "first step with an update; -1: a quarter of the training, but `every` " \
                          "or more"),                                                              \
        PARE_SPARSE_FIELD(options, until, PARE_PARAM_INT, -1, -1, 2e9,                             \
                          "last one; -1: three quarters of the training"),                         \
        PARE_SPARSE_FIELD(options, power, PARE_PARAM_FLOAT, 3, 0.1, 100,                           \
                          "of the polynomial that the sparsity follows")
#define PARE_SPARSE_SWITCHES(options, sparse_grads_, skip_)                                        \
    PARE_SPARSE_FIELD(options, sparse_grads, PARE_PARAM_BOOL, sparse_grads_, 0, 1,                 \
                      "the optimizer sees no gradient of pruned weights"),                         \
        PARE_SPARSE_FIELD(options, skip_gradients, PARE_PARAM_BOOL, skip_, 0, 1,                   \
                          "the optimizer stands still on steps that update masks"),                \
        PARE_SPARSE_TENSORS(options), PARE_SPARSE_OWN(options),                                    \
        PARE_SPARSE_FIELD(options, mask_at_init, PARE_PARAM_BOOL, 1, 0, 1,                         \
                          "false: as JaxPruner, whose first step runs before masks are applied")

/* A tensor as a pruner sees it. */
typedef struct pare_pruned {
    pare_trained t;
    size_t n, rows, cols, inner; /* n = rows * cols; inner as in pare_mask_job */
    bool chosen;                 /* it is pruned, or has a sparsity of its own */
    double target;               /* NAN: not pruned, and bits NULL */
    uint64_t *bits;              /* [pare_bit_words(n)] owned */
    size_t k;                    /* ones among them */
} pare_pruned;

/* What is known at an update. */
typedef struct pare_sparse_input {
    float *const *g;       /* as pare_optim_args; or NULL */
    const pare_stepper *s; /* or NULL */
    bool full;             /* the full sparsity, not that of the schedule */
} pare_sparse_input;

struct pare_pruner {
    pare_runtime *rt;
    pare_spec spec;
    const pare_sparse_options *o; /* of spec.options */
    const pare_sparse_fns *fns;
    pare_schedule schedule;
    int64_t n_steps;      /* of the training; 0: not known */
    bool told;            /* what is odd about the schedule */
    pare_pruned *tensors; /* [n] */
    size_t n;
    int64_t count;
    float *scores; /* scratch, grown on demand */
    size_t scores_bytes;
    bool forward_stale;            /* straight-through: no mask was made yet */
    pare_score_callback own_score; /* in place of fns->score or fns->grow; or NULL */
    pare_top_k_callback own_top_k; /* in place of the selection of a tensor; or NULL */
    void *own_score_arg, *own_top_k_arg;
};

struct pare_sparse_fns {
    pare_score_fn score; /* NULL: none */
    pare_score_fn grow;  /* of drop and grow; NULL: none */
    bool needs_gradient; /* by `update`, whose score or growth reads it */
    bool never;          /* no masks at all */
    bool straight_through;

    /* Masks of the start; NULL: all ones. */
    pare_status (*init)(pare_pruner *p, pare_error *err);
    /* New masks of all tensors from scores, at the schedule's or at full sparsity; NULL: the
     * algorithm cannot prune at once. */
    pare_status (*masks)(pare_pruner *p, const pare_sparse_input *in, pare_error *err);
    /* NULL: the schedule says. */
    bool (*is_update)(const pare_pruner *p);
    /* On update steps; NULL: `masks`. */
    pare_status (*update)(pare_pruner *p, const pare_sparse_input *in, pare_error *err);
    /* Refuses at creation what `check` cannot see; may be NULL. */
    pare_status (*check)(const pare_pruner *p, pare_error *err);
};

/* Which tensors are pruned, and which have a sparsity of their own: sets p->tensors[].chosen, and
 * has_sparsity by `own`. Errors: PARE_ERR_ARG (what cannot be read; a target without a tensor),
 * PARE_ERR_NOMEM. */
pare_status pare_pruner_choose(pare_pruner *p, pare_error *err);
/* Can the options' targets be read? Errors as above. */
pare_status pare_sparse_check_targets(const pare_sparse_options *o, pare_error *err);

/* What every algorithm's check begins with. */
pare_status pare_sparse_check(const pare_sparse_options *o, pare_error *err);

/* Room for n scores, kept from call to call; NULL: out of memory (told). */
float *pare_pruner_scores(pare_pruner *p, size_t n, pare_error *err);

/* Are the scores |w|, so that they need no array? */
bool pare_pruner_scores_are_weights(const pare_pruner *p, pare_score_fn fn);

/* *score: the scores of tensor i by fn, in p->scores; NULL where they are |w|. */
pare_status pare_pruner_score(const float **score, pare_pruner *p, size_t i, pare_score_fn fn,
                              const pare_sparse_input *in, pare_error *err);

/* The same into score[n]. */
pare_status pare_pruner_score_into(float *score, pare_pruner *p, size_t i, pare_score_fn fn,
                                   const pare_sparse_input *in, pare_error *err);

/* The sparsity that a target means now. */
double pare_pruner_share(const pare_pruner *p, double target, bool full);

/* Masks of each tensor by its own sparsity: `masks` of most algorithms. */
pare_status pare_pruner_masks(pare_pruner *p, const pare_sparse_input *in, pare_error *err);

/* Masks of one selection over all tensors: `masks` of global algorithms. normalize: scores are
 * divided by the norm of the tensor's scores + eps. Tensors with a sparsity of their own keep it.
 */
pare_status pare_pruner_masks_global(pare_pruner *p, const pare_sparse_input *in, bool normalize,
                                     double eps, pare_error *err);

/* Masks of the start of global algorithms: tensors with a sparsity of their own, by |w|. */
pare_status pare_pruner_init_global(pare_pruner *p, pare_error *err);

/* Warns of scores (NULL: weights) that are NaN. */
void pare_pruner_tell_nan(pare_pruner *p, size_t i, const float *score);

/* Before the first forward pass: tensor i's place for its weights, or NULL, in place of what the
 * pruner was made with. */
void pare_pruner_set_forward(pare_pruner *p, size_t i, float *w_forward);

/* All weights of a tensor are kept. */
void pare_pruner_fill(pare_pruned *t);
/* A mask by scores at a share. score NULL: |w|. */
pare_status pare_pruner_make_mask(pare_pruner *p, size_t i, const float *score, double share,
                                  pare_error *err);

/* Masks of the start: random, with exact counts. */
pare_status pare_pruner_init_random(pare_pruner *p, pare_error *err);

/* Parameters of drop and grow. */
typedef struct pare_drop_options {
    double drop;
    int decay; /* PARE_DECAY_* */
} pare_drop_options;
enum { PARE_DECAY_COSINE, PARE_DECAY_NONE };
#define PARE_DROP_PARAMS(options)                                                                  \
    {.name = "drop",                                                                               \
     .type = PARE_PARAM_FLOAT,                                                                     \
     .offset = offsetof(options, d.drop),                                                          \
     .def = 0.1,                                                                                   \
     .min = 0,                                                                                     \
     .max = 1,                                                                                     \
     .help = "share of the kept weights that goes at an update"},                                  \
    {                                                                                              \
        .name = "decay", .type = PARE_PARAM_CHOICE, .offset = offsetof(options, d.decay),          \
        .choices = "cosine|none", .help = "how that share falls from step 0 to `until`"            \
    }
/* The share at this step: drop (1 + cos(pi min(t, until) / until)) / 2, or drop. */
double pare_drop_share(const pare_drop_options *o, const pare_pruner *p);
/* N:M is refused: within a group nothing can change. */
pare_status pare_drop_check(const pare_sparse_options *o, pare_error *err);

/* Drop and grow (set, rigl): of k kept weights (or tiles) those of largest |w| stay, round(k (1 -
 * drop)) but at least one; then the best of all others by `grow` join them, up to k again. State of
 * the optimizer is zeroed at weights that were not kept before. */
pare_status pare_pruner_drop_grow(pare_pruner *p, const pare_sparse_input *in, pare_score_fn grow,
                                  double drop, pare_error *err);
/* Number that stays: JaxPruner's expression in f32 for n below 3e6, whole numbers above. */
size_t pare_drop_keep(size_t n, size_t k, double drop);

/* The optimizer's array of that name with a value for each weight of tensor i; NULL: none. */
float *pare_stepper_moment(const pare_stepper *s, size_t i, size_t n, const char *moment);

#endif
