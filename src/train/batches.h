/* The order in which a model sees a text: windows of ctx + 1 ids of a token file, every epoch in an
 * order of its own. All of it follows from (seed, step), so that a run goes on without a state. The
 * last windows of the file are held out. */
#ifndef PARE_SRC_TRAIN_BATCHES_H
#define PARE_SRC_TRAIN_BATCHES_H

#include "text/token_file.h"

typedef struct pare_batches {
    const pare_token_file *file; /* borrowed */
    size_t ctx;
    uint64_t n_train, n_held_out; /* windows; the held-out ones lie behind the others */
    uint64_t seed, epoch;         /* of the order that stands in `order` */
    uint32_t *order;              /* [n_train], owned */
} pare_batches;

/* share: of the windows held out, at least one where it is above 0. Errors: PARE_ERR_INPUT (less
 * text than one window of each kind), PARE_ERR_NOMEM. */
pare_status pare_batches_init(pare_batches *b, const pare_token_file *file, size_t ctx,
                              double share, uint64_t seed, pare_error *err);
void pare_batches_free(pare_batches *b);

/* ids[ctx + 1] of training window number i of the whole run, or of held-out window i. */
pare_status pare_batches_train(pare_batches *b, uint64_t i, int32_t *ids, pare_error *err);
pare_status pare_batches_held_out(const pare_batches *b, uint64_t i, int32_t *ids, pare_error *err);

#endif
