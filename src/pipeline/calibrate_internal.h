/* Inside of calibration: what calibrate.c and calibrate_samples.c share. */
#ifndef PARE_SRC_PIPELINE_CALIBRATE_INTERNAL_H
#define PARE_SRC_PIPELINE_CALIBRATE_INTERNAL_H

#include "base/os.h"
#include "model/pass_room.h"
#include "pipeline/calibrate.h"

enum { PARE_CALIB_INPUTS = 16 };

/* The input that some matrices of the layer share. */
typedef struct shared_input {
    const char *names[PARE_OP_MAX_OUTS]; /* the source's */
    size_t n_names, in;
    pare_statistics *statistics; /* NULL: nobody asked */
    const pare_input_stats *result;
} shared_input;

/* A file of hidden states being written; not open: none. */
typedef struct output {
    pare_writer writer;
    uint32_t crc;
    bool open, wanted; /* wanted: some rank has it open */
} output;

struct pare_calibration {
    pare_runtime *rt;
    pare_model *m;
    pare_compute compute;
    size_t n, n_samples, ctx, text_tokens;
    const char *text; /* its file */
    int32_t *ids;     /* [n][ctx] */
    float *h;         /* [ctx][dim] */
    size_t h_bytes;
    pare_pass_room room;
    shared_input inputs[PARE_CALIB_INPUTS];
    size_t n_inputs;
    const shared_input *last; /* nothing behind it is needed; NULL: the block's output is */
    double done;              /* sequences through layers, for progress */
    bool two_streams;
    bool spills;       /* samples lie in files, */
    const char *spill; /* of this folder */
    /* Ranks share the sequences: run_length after each other go to one rank, so that the Hessian's
     * blocks of tokens are those of one rank. Two streams: every rank computes all, the first one
     * writes.
     */
    bool shared;
    size_t run_length;
    float *round; /* [run_length][ranks][ctx][dim] of rank 0, for the file */
    size_t round_bytes;
    const char *spare; /* a file whose room the next one takes */
    output half;       /* with two streams: a file of which the dense half is written */
};

/* --- the region that all threads run --- */

typedef enum module { WHOLE_LAYER = 0, ATTENTION, FEED_FORWARD, MATRIX } module;

typedef struct region {
    pare_calibration *cal;
    const int32_t *ids; /* embed these, or */
    size_t layer;       /* run this layer, or */
    module module;      /* this part of it, */
    const pare_linear *matrix;
    const float *x; /* from x[n][] */
    float *y;       /* to y[n][dim] */
    size_t n;
    pare_probe_fn probe;
} region;

/* For pare_team_run; arg: a region. */
void calibration_region(pare_worker *w, void *arg);

#endif
