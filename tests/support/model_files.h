/* For tests of models: the fixtures, changed copies of them, and the same weights as GGUF files. */
#ifndef PARE_TESTS_SUPPORT_MODEL_FILES_H
#define PARE_TESTS_SUPPORT_MODEL_FILES_H

#include "support/test.h"

#include "base/os.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/config.h"

/* The path of a fixture's folder; static ring. A path from the root stands for itself. */
const char *fixture_path(const char *name);
/* The first n token ids of its reference.json. */
void fixture_ids(int32_t *ids, size_t n, const char *fixture);

/* One tensor on its way into a copy. An edit may change everything; name NULL leaves it out. The
 * values are owned by the copier. */
typedef struct copied_tensor {
    const char *name, *dtype;
    size_t n_dims, dims[4];
    uint8_t *data;
    size_t n_bytes;
} copied_tensor;

/* What makes a copy differ; either may be NULL. */
typedef struct copy_edit {
    void (*config)(json_t *config, void *arg);
    void (*tensor)(copied_tensor *t, void *arg);
    void *arg;
} copy_edit;

/* A copy of a fixture's folder under that name in the test's folder; returns its path. */
const char *copy_fixture(const char *fixture, const char *name, const copy_edit *edit);

/* The same weights as a GGUF file with f32 tensors; c: the configuration of the folder. Written
 * from the format's description alone: names, order of rows, +1 and transposition are done here
 * again. */
const char *write_as_gguf(const char *folder, const char *file_name, const pare_model_config *c);

/* Values of a 16- or 32-bit tensor as f32; pare_free. */
float *tensor_values(const copied_tensor *t, size_t *n);

#endif
