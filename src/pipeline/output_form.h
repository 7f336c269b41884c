/* A tensor of the model in the form of the file that is written (pipeline/model_output.c). */
#ifndef PARE_SRC_PIPELINE_OUTPUT_FORM_H
#define PARE_SRC_PIPELINE_OUTPUT_FORM_H

#include "tensor/encoding.h"

/* Can a tensor of that encoding be stored in the file's form? A type that would have to be computed
 * anew cannot, but for rows that move whole. */
bool pare_output_form_fits(const pare_encoding *enc, unsigned fix, bool vector);

/* Canonical values -> the file's, what pare_fix bits say undone: 1 taken away, transposed, heads'
 * rows in pairs. to: as many bytes as t's first part. vector: it has one dimension. name: for
 * errors. Errors: PARE_ERR_UNSUPPORTED where it does not fit; PARE_ERR_NOMEM. */
pare_status pare_output_form(uint8_t *to, const pare_tensor *t, unsigned fix, bool vector,
                             size_t head_dim, const char *name, pare_error *err);

/* Grouped integers as blocks `enc` of the same numbers: *out owns its storage. Errors:
 * PARE_ERR_NOMEM. */
pare_status pare_output_blocks(const pare_tensor *t, const pare_encoding *enc, pare_tensor *out,
                               pare_error *err);

#endif
