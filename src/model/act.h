/* Quantized activations of a model: which tensors, and on which grids (tensor/act_quant.h).
 *
 * A site is the input that matrices of a layer share: of q, k, v; of the attention's output; of
 * gate and up; of down. With bmm what q, k and v are made as, too, each one a site. Embedding,
 * head, norms, softmax and residual sums stay as they are.
 *
 *     pare_act_sites_create(&a, m, &scheme, err);
 *     pare_model_attach_act(m, a);                     // before any session is made
 *     pare_act_calibrate(m, ids, n_sequences, ctx, PARE_COMPUTE_EXACT, err);   // static only
 *
 * In `exact` values are rounded and multiplied as f32. In `fast` the codes are multiplied as
 * integers where the weights are codes too (packed panels; with 8 bits those without -128), and in
 * f32 elsewhere: both give the same up to the rounding of their sums. */
#ifndef PARE_SRC_MODEL_ACT_H
#define PARE_SRC_MODEL_ACT_H

#include "model/model.h"

/* Sites of a layer. */
enum {
    PARE_ACT_QKV,
    PARE_ACT_OUTPUT,
    PARE_ACT_FFN,
    PARE_ACT_DOWN,
    PARE_ACT_INPUTS, /* so many inputs of matrices */
    PARE_ACT_Q = PARE_ACT_INPUTS,
    PARE_ACT_K,
    PARE_ACT_V,
    PARE_ACT_SITES
};

typedef struct pare_act_sites {
    size_t n_layers;
    int n_threads;
    pare_act_scheme *schemes; /* [n_layers][PARE_ACT_SITES] bits 0: the site stays as it is */
    pare_act_site *sites;     /* [n_layers][PARE_ACT_SITES] */
    pare_act_range *ranges;   /* [n_layers][PARE_ACT_SITES] what static grids are made of */
    pare_act_range *seen;     /* [n_layers][PARE_ACT_SITES][n_threads] */
    pare_act_count *counts;   /* [n_layers][PARE_ACT_SITES][n_threads], or NULL: not counted */
    float *row_sums;          /* of all matrices of layers */
    pare_tensor *weights;     /* [n_weights] that take the place of the file's */
    size_t n_weights, n_kept; /* n_kept: others that are codes already */
    ptrdiff_t bytes_changed;  /* so many more than the file's */
    bool from_file;           /* matrices of which the file says nothing stay as they are */
    char *text;               /* what the scheme is called */
} pare_act_sites;

/* For a model with all layers loaded. scheme: of all sites (with bmm those of attention too), or
 * NULL: none has one yet. Static ranges are those of nothing. Errors: PARE_ERR_NOMEM. */
pare_status pare_act_sites_create(pare_act_sites **out, const pare_model *m,
                                  const pare_act_scheme *scheme, pare_error *err);
void pare_act_sites_free(pare_act_sites *a);

enum { PARE_ACT_TEXT = 80 };

/* "a8:act=per_token,sym=true", and ",bmm=true" where it has that; the length. */
size_t pare_act_scheme_text(char out[PARE_ACT_TEXT], const pare_act_scheme *s, bool bmm);

/* The site that a matrix of a layer takes its input from, by its canonical name
 * ("blk.0.ffn_up.weight"); *layer and the result. PARE_ACT_SITES: none. */
size_t pare_act_site_of(const char *canonical, size_t *layer);

/* The static range of a site, from a file. */
void pare_act_set_range(pare_act_sites *a, size_t layer, size_t site, pare_act_range range);

/* Has a site one grid for all rows of a pass, made of those? Then what shares a pass matters. */
bool pare_act_is_joint(const pare_model *m);

/* As the model's files say it, matrix by matrix: attached; nothing where they do not. Errors:
 * PARE_ERR_UNSUPPORTED (matrices that share an input and have it on different grids),
 * PARE_ERR_INPUT (grids), PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_act_load(pare_model *m, pare_error *err);

/* The model's layers use them from now on, those whose site has a scheme (and, of a file's, whose
 * matrix has one); it takes them over. Before any session is made. */
void pare_model_attach_act(pare_model *m, pare_act_sites *a);

/* As the model was before; its own files' scheme is gone, too. Not where weights were quantized. */
void pare_model_detach_act(pare_model *m);

/* Rounds w[rows][cols] in place to the grid of an encoding: scale [rows][groups], no zero points
 * but the middle code. */
typedef pare_status (*pare_act_round_fn)(void *arg, const pare_encoding *enc, const char *name,
                                         float *w, size_t rows, size_t cols, float *scale,
                                         pare_error *err);

/* Stores the weights of all matrices of layers that are not codes yet in `enc`, symmetric grouped
 * integers, as `round` makes them, packed. Before attach: a->weights owns them. Errors:
 * PARE_ERR_ARG (widths that do not fit), PARE_ERR_NOMEM, those of `round`. */
pare_status pare_act_quantize_weights(pare_act_sites *a, pare_model *m, const pare_encoding *enc,
                                      pare_act_round_fn round, void *arg, pare_error *err);

/* Values pass as they are until it is over: for keys and values that stand before the text. */
void pare_act_pause(pare_act_sites *a);
void pare_act_go_on(pare_act_sites *a);

/* Static ranges: minima and maxima of what passes each site while ids[n][ctx] run through the
 * model, each row a sequence, after its prefix where it has one. Errors: PARE_ERR_INPUT (NaN or
 * infinity, nothing but 0: names the site), those of sessions. */
pare_status pare_act_calibrate(pare_model *m, const int32_t *ids, size_t n, size_t ctx,
                               pare_compute compute, pare_error *err);

#endif
