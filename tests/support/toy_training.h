/* pare_train on toy models and a toy text: what its tests share. */
#ifndef PARE_TESTS_SUPPORT_TOY_TRAINING_H
#define PARE_TESTS_SUPPORT_TOY_TRAINING_H

#include "pare/train.h"
#include "support/test.h"

#include <signal.h>

/* A model with a tokenizer (tiny_model.h), 32 KiB of text, the output of the runs. */
typedef struct toy_paths {
    char tokenizer[600], text[600], out[600], work[600];
} toy_paths;
extern toy_paths toy;

/* For cmocka's groups. */
int toy_set_up(void **state);

/* 12 steps of a new Llama of two layers. */
pare_train_options toy_options(void);
/* The same from a model. */
pare_train_options toy_options_from(const char *model);

/* Keeps what is warned of (toy_warnings). cancel may be NULL. */
pare_status toy_run(pare_train_report *report, const pare_train_options *o, int threads,
                    const volatile sig_atomic_t *cancel, pare_error *err);
/* The warnings of the last run, a line each. */
const char *toy_warnings(void);

/* Removes output and work folder. */
void toy_clean(void);
/* Moves the output away, to test_path(name), which is returned. */
const char *toy_keep(const char *name);

/* All values of a tensor of a safetensors file in a folder, f32; *n of them. Free with pare_free.
 */
float *toy_tensor(const char *folder, const char *name, size_t *n);

#endif
