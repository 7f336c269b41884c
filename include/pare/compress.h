/* Compression: a recipe applied to a model, and conversion between containers.
 *
 *     pare_compress_options o = {.model = "model.gguf", .out = "small.gguf", .recipe = "q4_k_m"};
 *     pare_compress_report *report = NULL;
 *     if (pare_compress(&report, rt, &o, &err) != PARE_OK) ...
 *     printf("%.2f bits per weight\n", pare_compress_result(report)->bits_per_weight);
 *     pare_compress_report_free(report);
 *
 * A recipe is a list of steps, "step + step" or one per line: METHOD:param=value,... or the name of
 * an encoding or of a mix of encodings (q4_k_m), each optionally for some tensors only: STEP@TARGET
 * with TARGET attn, ffn, embd, output, all, or /REGEX/ over canonical names
 * ("blk.0.attn_q.weight").
 * '#' starts a comment. */
#ifndef PARE_COMPRESS_H
#define PARE_COMPRESS_H

#include "pare/base.h"
#include "pare/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pare_recipe pare_recipe;

/* Parses a recipe. Every name, parameter and range is checked; errors name the step and suggest the
 * nearest known name. An empty recipe (no steps) is legal here. */
pare_status pare_recipe_parse(pare_recipe **out, const char *text, pare_error *err);
/* The canonical form: all steps, parameters that differ from their defaults, fixed order. Owned by
 * the recipe. */
const char *pare_recipe_text(const pare_recipe *r);
void pare_recipe_free(pare_recipe *r);

/* The mixes of encodings ("q4_k_m", ...): i from 0; NULL past the last. */
const char *pare_mix_name_at(size_t i);

typedef struct pare_compress_options {
    const char *model, *out;
    const char *recipe;   /* recipe text; "" or NULL only changes the container */
    const char *format;   /* "hf", "gguf", packed as other programs load it: "compressed-tensors",
                             "int-quantized", "gptq", "gptq-v2", "awq"; or NULL: gguf when `out`
                             ends in .gguf, else hf */
    const char *keep;     /* regex over canonical names: these tensors stay as they are; or NULL */
    uint64_t split_bytes; /* largest part of the output, 0 = one file */
    /* A low-rank adapter (pare_model_add_lora) that becomes part of the weights, or NULL: its
     * matrices are f32 unless the recipe says otherwise. Not with methods: that takes two runs. */
    const char *lora;
    bool lora_keep_zeros; /* weights that are 0 stay 0: the model keeps its sparsity, at some loss,
                             since the adapter was trained beside all of it */
    /* A cushion (pare_model_set_prefix) that becomes part of the output, in place of the
     * model's own: calibration stands behind it. NULL: the model's own, if it has one; "": none. */
    const char *prefix;
    /* Calibration, for methods that need it: NULL and 0 elsewhere. */
    const char *calib;          /* file of text */
    size_t calib_samples;       /* sequences; 0 = 128 */
    size_t calib_ctx;           /* tokens of a sequence; 0 = 512, at most the model's maximum */
    pare_compute calib_compute; /* of the blocks' forward passes; default exact */
    bool true_sequential; /* within a block, inputs are measured again behind each group of layers
                             that has been compressed; else once, behind the dense layers */
    const char *imatrix;  /* llama.cpp's importance matrix for block types; or NULL */
    const char *write_imatrix; /* file to write one to from calibration (".dat": the legacy form);
                                  or NULL. The inputs are those that methods see: of the dense
                                  model where the recipe has no methods */
    bool shared_inputs;        /* calib and imatrix stand for several recipes: no warning where this
                                  one uses neither */
    uint64_t max_memory;       /* bytes of the whole process: what is planned to take more keeps
                                  activations in files, and is refused where that is not enough; 0
                                  = no limit */
    bool restart;              /* drop what an interrupted run left, instead of going on */
    bool no_fallback; /* a tensor that does not fit its encoding (its rows, or blocks of values
                         too small for its scales) is an error, not a fallback */
    bool dry_run;     /* plan and report only: nothing is written; `out` is checked if given */
    bool keep_work;   /* OUT.work stays until pare_compress_settle: after a cut between them the
                         same call gives its report once more, without writing OUT anew */
} pare_compress_options;

typedef struct pare_layer_report {
    const char *name; /* canonical, or the stored name of a tensor the model does not use */
    const char *from, *encoding; /* encodings before and after */
    uint64_t n_params, in_bytes, out_bytes;
    double bits_per_weight, sparsity; /* sparsity: share of exact zeros after; in a dry run what
                                         the recipe means the tensor to have */
    double error;                     /* ||w' - w|| / ||w||, 0 when the bytes were copied */
    double output_error; /* the same of the layer's output on the calibration tokens; -1: not
                            measured (it takes a method that needs the Hessian) */
    double seconds;
    bool changed; /* the values differ from the input's */
} pare_layer_report;

/* A program's own memory differs by less than this from run to run (pages of files come by chance).
 * Plans have it on top, so that a run is let through with the limit that a dry run told. */
enum { PARE_RESIDENT_WANDERS = 256 << 10 };

typedef struct pare_compress_info {
    const char *recipe; /* canonical */
    const char *format;
    const pare_layer_report *layers;
    size_t n_layers;
    const char *const *fallbacks; /* one line each */
    size_t n_fallbacks;
    uint64_t in_bytes, out_bytes;    /* of tensors */
    uint64_t work_bytes;             /* planned peak of what is at work */
    uint64_t memory_bytes;           /* planned peak of the process: with what was resident when it
                                        was planned (program, libraries, tokenizer) */
    uint64_t resident_bytes;         /* of them what was resident */
    uint64_t disk_bytes;             /* of OUT.work at most; 0 = none */
    uint64_t spill_bytes;            /* of it activations that max_memory keeps out of memory */
    double planned_seconds;          /* of a dry run: what the run will take; 0 = unknown */
    size_t n_resumed;                /* blocks that an interrupted run had finished */
    size_t calib_samples, calib_ctx; /* 0 without calibration */
    uint32_t calib_crc32;            /* of all calibration ids in order */
    pare_compute calib_compute;      /* of the calibration and of searches */
    const char *keep;                /* the options of these names; NULL = none */
    bool true_sequential;
    const char *imatrix_sha256; /* of the importance matrix that was read; NULL = none */
    size_t prefix_length;       /* positions of the cushion; 0 = none */
    const char *prefix_sha256;  /* of its file; NULL = none */
    const char *prefix_file;    /* the file that has it: in the output folder, or the output
                                   itself; NULL = none, or a dry run */
    double bits_per_weight, sparsity, seconds;
    const char *prefix_search; /* JSON text of a search for the cushion: choices, tokens, errors
                                  (docs/cushion.md); NULL: none was searched */
    bool lossless;             /* no value changed */
    bool dense_pass;           /* all calibration sequences run through the dense model first */
} pare_compress_info;

typedef struct pare_compress_report pare_compress_report;

/* Streams the model tensor by tensor through the recipe; peak memory is the tensors at work, not
 * the model. The output is read back and compared before it appears under its name; on any failure
 * nothing is there. Tokenizer, generation config and chat template travel along. Errors:
 * PARE_ERR_ARG (recipe, output = input), PARE_ERR_INPUT, PARE_ERR_UNSUPPORTED (the format cannot
 * hold the result), PARE_ERR_IO, PARE_ERR_NOMEM, PARE_ERR_INTERRUPTED. */
pare_status pare_compress(pare_compress_report **out, pare_runtime *rt,
                          const pare_compress_options *options, pare_error *err);
const pare_compress_info *pare_compress_result(const pare_compress_report *r);
/* With keep_work: what the run left beside OUT is no longer needed. */
void pare_compress_settle(const pare_compress_report *r);
void pare_compress_report_free(pare_compress_report *r);

/* Quantized activations for a model in memory. */
typedef struct pare_act_options {
    const char *spec; /* "w8a8:act=per_token": a method of slot "activation"; "none": a folder's own
                         scheme is left out */
    const char *calib;               /* file of text for static grids, else NULL */
    size_t calib_samples, calib_ctx; /* 0 = 128, 512, as in compression */
    pare_compute calib_compute;      /* default exact */
} pare_act_options;

/* The model computes with quantized activations from now on, and its layers' matrices that are not
 * codes already with weights in as many bits as the method says: what a recipe with that step would
 * store. Before any session is made of it, and once. Errors: PARE_ERR_ARG (an unknown method, a
 * parameter out of range, static grids without text, activations that are quantized already),
 * PARE_ERR_INPUT (the text; NaN or infinity in the model), PARE_ERR_NOMEM. After one the model can
 * only be freed. */
pare_status pare_model_quantize_act(pare_model *m, const pare_act_options *o, pare_error *err);

#ifdef __cplusplus
}
#endif
#endif
