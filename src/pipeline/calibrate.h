/* Calibration: the model's blocks run one after the other over sequences of text, and the inputs of
 * their linear layers are measured. Hidden states between two blocks live in files, so that memory
 * holds one block and one sequence whatever the model and the number of sequences.
 *
 * A file of hidden states is f32 [n_sequences][ctx][dim]; with two streams those of the dense
 * blocks come first, then as many of the compressed ones. */
#ifndef PARE_SRC_PIPELINE_CALIBRATE_H
#define PARE_SRC_PIPELINE_CALIBRATE_H

#include "base/spill.h"
#include "model/model.h"
#include "pipeline/statistics.h"

typedef struct pare_calibration_options {
    const char *text;   /* file */
    const char *prefix; /* the sequences stand behind this file's (model/prefix.h); NULL: behind the
                           model's own, if it has one; "": behind none */
    size_t n_sequences; /* 0 = 128 */
    size_t ctx;         /* 0 = 512, at most the model's maximum (less the prefix) */
    size_t front;       /* tokens of a prefix that may come later (pare_calibration_set_prefix): ctx
                           is such that they have room */
    size_t n_samples;   /* of them, whose inputs are kept where a method needs samples */
    bool two_streams;   /* hidden states of the dense blocks too, beside those of compressed ones */
    pare_compute compute;
} pare_calibration_options;

typedef struct pare_calibration pare_calibration;

/* Takes sequences of ctx tokens from the text: its lines joined as for perplexity (protocol hf),
 * begun at random places that the runtime's seed chooses. Where the tokenizer adds a BOS each
 * sequence begins with it. Loads what the model has outside its blocks. Errors: PARE_ERR_INPUT
 * (fewer tokens than one sequence), PARE_ERR_ARG (ctx out of range), PARE_ERR_NOMEM, those of
 * loading. */
pare_status pare_calibration_open(pare_calibration **out, pare_runtime *rt, const char *model,
                                  const pare_calibration_options *o, pare_error *err);
void pare_calibration_close(pare_calibration *cal);

size_t pare_calibration_sequences(const pare_calibration *cal);
size_t pare_calibration_ctx(const pare_calibration *cal);
size_t
pare_calibration_text_tokens(const pare_calibration *cal);    /* that there were to choose from */
uint32_t pare_calibration_crc32(const pare_calibration *cal); /* of all ids, in order */
/* Samples lie in files of this folder from now on (borrowed; NULL: in memory); `planned`: so they
 * will. */
void pare_calibration_spill(pare_calibration *cal, bool planned, const char *folder);
/* Files of hidden states are written into the room of this file, where it is there (borrowed). */
void pare_calibration_set_spare(pare_calibration *cal, const char *spare);
/* Bytes of a file of hidden states; of memory without statistics. */
uint64_t pare_calibration_file_bytes(const pare_calibration *cal);
size_t pare_calibration_memory(const pare_calibration *cal);

/* All sequences stand behind a prefix from now on, which it takes over (also when it fails).
 * Errors: PARE_ERR_ARG (no room for the sequences behind it). */
struct pare_prefix;
pare_status pare_calibration_set_prefix(pare_calibration *cal, struct pare_prefix *p,
                                        pare_error *err);

/* Writes the embeddings of all sequences. *crc: CRC-32 of the file. */
pare_status pare_calibration_embed(pare_calibration *cal, const char *to, uint32_t *crc,
                                   pare_error *err);

/* Loads the weights of a layer as the model has them; gives them back. */
pare_status pare_calibration_load(pare_calibration *cal, size_t layer, pare_error *err);
void pare_calibration_drop(pare_calibration *cal, size_t layer);

/* Uses t (borrowed until drop) in place of the loaded layer's matrix or (f32) vector of that name.
 */
void pare_calibration_replace(pare_calibration *cal, size_t layer, const char *name,
                              const pare_tensor *t);

/* What a matrix of the layer needs to know of its inputs (PARE_NEED_*). */
typedef unsigned (*pare_needs_fn)(void *arg, const char *name);

/* Bytes of the statistics that a layer's inputs take, and of them the samples that could lie in
 * files (or will: then memory has one sequence of them); it is loaded for that and given back. */
pare_status pare_calibration_plan(pare_calibration *cal, size_t layer, pare_needs_fn needs,
                                  void *arg, size_t *bytes, uint64_t *samples, pare_error *err);

/* Seconds that a pass of one sequence through a layer takes, and that the statistics take which its
 * inputs need, as `price` tells for one input of `cols` values. The layer is loaded for that and
 * given back. */
typedef pare_status (*pare_price_fn)(double *seconds, pare_runtime *rt, pare_compute compute,
                                     size_t cols, unsigned needs, pare_error *err);
pare_status pare_calibration_time(pare_calibration *cal, size_t layer, pare_needs_fn needs,
                                  void *arg, pare_price_fn price, double *sequence,
                                  double *statistics, pare_error *err);

/* Finds out which matrices of the loaded layer share an input, for pare_calibration_sharing. */
void pare_calibration_discover(pare_calibration *cal, size_t layer);

/* Seconds that pare_calibration_module takes with weights to try, on made-up samples and weights.
 * The layer is loaded and its inputs are known. Errors: PARE_ERR_NOMEM, PARE_ERR_INTERRUPTED. */
pare_status pare_calibration_module_seconds(pare_calibration *cal, size_t layer, size_t i,
                                            double *seconds, pare_error *err);

/* Runs the loaded layer over all sequences of file `from`. needs: statistics are gathered, see
 * pare_calibration_inputs; NULL: none. to: the outputs, with their CRC-32; NULL: not kept. Errors:
 * PARE_ERR_INPUT (NaN or infinity: names the layer, the matrix and the sequence),
 * PARE_ERR_INTERRUPTED, PARE_ERR_IO, PARE_ERR_NOMEM. */
pare_status pare_calibration_run(pare_calibration *cal, size_t layer, const char *from,
                                 pare_needs_fn needs, void *arg, const char *to, uint32_t *crc,
                                 pare_error *err);

/* With two streams, in this order: the loaded dense layer over the dense states of `from`; then, as
 * often as wanted, pare_calibration_run with `needs` and no `to`, over the compressed states; and
 * the compressed layer over these. targets [n][ctx][dim]: the dense outputs; `to` (NULL: none) gets
 * both and appears with the second call. Errors: as pare_calibration_run. */
pare_status pare_calibration_run_dense(pare_calibration *cal, size_t layer, const char *from,
                                       const char *to, const pare_spill *targets, pare_error *err);
pare_status pare_calibration_run_compressed(pare_calibration *cal, size_t layer, const char *from,
                                            uint32_t *crc, pare_error *err);

/* The loaded layer, for a trainer of it. */
pare_model *pare_calibration_model(pare_calibration *cal);
pare_compute pare_calibration_compute(const pare_calibration *cal);
/* h[ctx][dim] = compressed states number i of a file that is open. */
pare_status pare_calibration_read(const pare_calibration *cal, const pare_file *from, size_t i,
                                  float *h, pare_error *err);

/* The statistics of a matrix's inputs in the last run that gathered; NULL = it has none. */
const pare_input_stats *pare_calibration_inputs(const pare_calibration *cal, const char *name);

/* The inputs that matrices share, as the last run that gathered found them: the names of the n
 * matrices with input i; NULL past the last. */
const char *const *pare_calibration_sharing(const pare_calibration *cal, size_t i, size_t *n);

/* Sequences and tokens of the samples. */
size_t pare_calibration_samples(const pare_calibration *cal);

/* y[samples * ctx][dim] = on the samples of input i the output of the module that takes it:
 * attention, the feed-forward part, or the matrix alone. w: f32 weights in place of those of the
 * input's matrices, in their order; NULL: as they are. Errors: PARE_ERR_INTERRUPTED. */
pare_status pare_calibration_module(pare_calibration *cal, size_t layer, size_t i,
                                    const float *const *w, const pare_spill *y, pare_error *err);

/* Input i is divided by scale from now on. */
void pare_calibration_divide(pare_calibration *cal, size_t i, const float *scale);

#endif
