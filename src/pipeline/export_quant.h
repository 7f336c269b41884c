/* The formats of an output (--format), what each can say, and the quantization_config of those that
 * other programs load: compressed-tensors, GPTQ, AWQ (io/quant_layout.h). */
#ifndef PARE_SRC_PIPELINE_EXPORT_QUANT_H
#define PARE_SRC_PIPELINE_EXPORT_QUANT_H

#include "io/quant_layout.h"
#include "methods/method.h"
#include "model/source.h"
#include "tensor/act_quant.h"

#include <jansson.h>

typedef struct pare_output_format {
    const char *name;
    const char *container; /* "gguf" or "hf" */
    pare_layout_kind
        kind; /* how matrices of whole-number codes are packed; NONE: pare's own form */
} pare_output_format;

/* The names, for messages. */
#define PARE_OUTPUT_FORMATS "hf, gguf, compressed-tensors, int-quantized, gptq, gptq-v2 or awq"
/* NULL = no such format. */
const pare_output_format *pare_output_format_find(const char *name);

/* Can the format hold a tensor [rows][cols] in enc? canonical: its name, NULL for what the model
 * does not use; anew: the run computes the values. *stored = the encoding in the file, which says
 * the same numbers. On "no" the reason. */
bool pare_export_fits(const pare_encoding **stored, const pare_output_format *f,
                      const pare_source *source, const char *canonical, const pare_encoding *enc,
                      size_t rows, size_t cols, bool anew, char reason[200]);

/* The plain type for what a format cannot hold. */
const pare_encoding *pare_export_plain(const pare_source *source);

/* How a run has found the codes of a matrix. */
typedef struct pare_export_way {
    pare_quant_told told;
    bool true_sequential; /* inputs were measured again behind each group of a block's layers */
} pare_export_way;

typedef struct pare_export_item {
    const char *name;           /* in the folder, "... .weight" */
    const pare_layout *layout;  /* NULL = plain */
    bool linear;                /* a matrix that tokens are multiplied with */
    const pare_act_scheme *act; /* of its inputs, or NULL: as the format has them by default */
    bool own_act;               /* pare's own key says it: no default */
    const pare_export_way *way; /* NULL: the codes are the input's, and nothing is told */
} pare_export_item;

/* The group that all matrices of one form get: the largest of group, group / 2 ... 32 that divides
 * every one of the n widths; 0 = none. */
size_t pare_export_group(size_t group, const size_t *cols, size_t n);

/* quantization_config for config.json; NULL: out of memory. */
json_t *pare_export_quantization(pare_layout_kind kind, const pare_export_item *items, size_t n);

#endif
