/* What goes on inside a model: which activations are far larger than the others, and who carries
 * them.
 *
 *     pare_outliers *o = NULL;
 *     pare_outlier_options oo = pare_outlier_options_default();
 *     oo.n_windows = 4;
 *     if (pare_analyze_outliers(&o, rt, "model.gguf", text, strlen(text), &oo, &err) == PARE_OK)
 *         for (size_t i = 0; i < o->n_sites; i++)
 *             printf("%zu %s %g\n", o->sites[i].layer, o->sites[i].name, o->sites[i].top1);
 *     pare_outliers_free(o);
 */
#ifndef PARE_ANALYZE_H
#define PARE_ANALYZE_H

#include "pare/base.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PARE_MAX_LARGEST = 16 };

typedef struct pare_outlier_options {
    size_t ctx;           /* tokens a window; 0 = 2048, at most the model's maximum */
    size_t n_windows;     /* at most so many, those that the text has; 0 = 10 */
    size_t n_largest;     /* tokens named at each site, at most PARE_MAX_LARGEST; 0 = 4 */
    pare_compute compute; /* default exact */
    const char *name;     /* of the text, for messages; NULL = "text" */
    const char *prefix;   /* the windows stand behind this file's (pare_model_set_prefix); NULL:
                             behind   the model's own, if it has one; "": behind none */
} pare_outlier_options;
pare_outlier_options pare_outlier_options_default(void);

/* The largest value of a token at a site. */
typedef struct pare_outlier_token {
    size_t window, position, channel; /* each from 0 */
    int32_t id;
    float value; /* with its sign */
} pare_outlier_token;

/* A tensor [tokens][width] of a block: the input of matrices that share one, or the block's output.
 * All figures are of |x|. top1 to median: of a window's tensor as a whole, mean over the windows
 * (CushionCache, arXiv:2406.12016, table 5). */
typedef struct pare_outlier_site {
    size_t layer;
    const char *name; /* of the first matrix: "attn_q", "attn_output", "ffn_gate" or "ffn_up",
                         "ffn_down"; "block_out" */
    size_t width;
    double top1;                                 /* the largest */
    double top10;                                /* the least of the largest tenth */
    double top10_mean;                           /* the mean of the largest tenth */
    double median;                               /* the lower one of two */
    double largest;                              /* of all windows */
    double largest_behind;                       /* the same without the windows' first tokens */
    pare_outlier_token tokens[PARE_MAX_LARGEST]; /* the largest ones of all windows */
    size_t n_tokens;
} pare_outlier_site;

typedef struct pare_outliers {
    size_t ctx, n_windows, n_layers;
    size_t n_text;                  /* tokens of the whole text */
    uint32_t crc32;                 /* of their ids */
    const pare_outlier_site *sites; /* layer by layer, in the order of the computation */
    size_t n_sites;
    const double *attention_first;  /* [n_layers] share of the attention that goes to the window's
                                       first token: mean over heads and over the tokens behind it */
    const double *attention_prefix; /* [n_layers] the same of the prefix; NaN without one */
    size_t prefix_length;           /* positions in front of every window */
    double seconds;
    pare_compute compute;
} pare_outliers;

/* Runs the text's windows, cut as for perplexity (protocol hf, pare/eval.h), through the model
 * block by block, so that memory holds one block's weights and the windows' hidden states. Free
 * with pare_outliers_free. Errors: PARE_ERR_INPUT (a text shorter than a window, an activation that
 * is no finite number, files), PARE_ERR_ARG (ctx out of range), PARE_ERR_IO, PARE_ERR_NOMEM,
 * PARE_ERR_INTERRUPTED. */
pare_status pare_analyze_outliers(pare_outliers **out, pare_runtime *rt, const char *model,
                                  const char *text, size_t len, const pare_outlier_options *options,
                                  pare_error *err);
void pare_outliers_free(pare_outliers *o);

#ifdef __cplusplus
}
#endif
#endif
