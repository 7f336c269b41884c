/* The options of quantized activations, of every verb that runs a model. */
#ifndef PARE_CLI_ACT_OPTIONS_H
#define PARE_CLI_ACT_OPTIONS_H

#include "cli.h"

#include "pare/compress.h"

typedef struct cli_act {
    const char *spec, *calib;
    int64_t calib_samples, calib_ctx;
} cli_act;

#define CLI_ACT_OPTIONS(type_, field_)                                                             \
    CLI_OPTION(type_, 0, "act", CLI_TEXT, field_.spec, "SPEC", 0, 0,                               \
               "quantize the layers' inputs (and weights that are not codes yet): "                \
               "w8a8:act=per_token (pare methods w8a8); none = not as the folder asks for"),       \
        CLI_OPTION(type_, 0, "calib", CLI_TEXT, field_.calib, "FILE", 0, 0,                        \
                   "with --act: calibration text, for per_tensor_static"),                         \
        CLI_OPTION(type_, 0, "calib-samples", CLI_INT, field_.calib_samples, "N", 0, 1 << 20,      \
                   "calibration sequences; 0 = 128"),                                              \
        CLI_OPTION(type_, 0, "calib-ctx", CLI_INT, field_.calib_ctx, "N", 0, 1 << 20,              \
                   "tokens of a calibration sequence; 0 = 512, at most the model's maximum")

/* Does what they say to a loaded model, before sessions are made of it. Errors: PARE_ERR_ARG
 * (calibration options without --act), those of pare_model_quantize_act. */
pare_status cli_act_apply(cli *c, const cli_act *o, pare_model *m);

/* What the static grids of a model have clamped since pare_model_count_clamped. */
typedef struct cli_clamped {
    double share, worst; /* of all values; of the site with most, which is */
    size_t layer;
    const char *site; /* NULL: the model has no static grids */
    json_t *json;     /* {"share", "worst", "sites": [...]}; null where there are none. Owned */
} cli_clamped;
cli_clamped cli_clamped_of(const pare_model *m);
/* A line, where there are static grids. */
void cli_clamped_print(cli *c, const cli_clamped *k);

#endif
