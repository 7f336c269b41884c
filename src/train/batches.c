#include "train/batches.h"

#include "base/memory.h"
#include "base/rng.h"

enum { STREAM = 0x0b47c }; /* of random numbers: the order of an epoch */

/* Fisher and Yates by the counter (seed, epoch, i). */
static void shuffle(pare_batches *b, uint64_t epoch) {
    for (uint64_t i = 0; i < b->n_train; i++) b->order[i] = (uint32_t)i;
    for (uint64_t i = b->n_train; i > 1; i--) {
        uint32_t r[4];
        pare_philox(r, b->seed, STREAM + (epoch << 20), i);
        uint64_t j = (((uint64_t)r[0] << 32) | r[1]) % i;
        uint32_t other = b->order[j];
        b->order[j] = b->order[i - 1];
        b->order[i - 1] = other;
    }
    b->epoch = epoch;
}

pare_status pare_batches_init(pare_batches *b, const pare_token_file *file, size_t ctx,
                              double share, uint64_t seed, pare_error *err) {
    uint64_t windows = file->n > 1 ? (file->n - 1) / ctx : 0;
    uint64_t held_out = (uint64_t)((double)windows * share);
    *b = (pare_batches){.file = file, .ctx = ctx, .seed = seed};
    if (share > 0 && held_out == 0) held_out = 1;
    if (windows <= held_out || windows - held_out > UINT32_MAX)
        return pare_fail(
            err, PARE_ERR_INPUT,
            "training: the text: found %llu tokens, expected at least %llu for windows "
            "of %zu to train on%s",
            (unsigned long long)file->n, (unsigned long long)(ctx * (held_out + 1) + 1), ctx,
            held_out ? " and to hold out" : "");
    b->n_train = windows - held_out;
    b->n_held_out = held_out;
    b->order = pare_malloc(b->n_train, sizeof *b->order);
    if (!b->order)
        return pare_fail(err, PARE_ERR_NOMEM, "training: order of %llu windows",
                         (unsigned long long)b->n_train);
    shuffle(b, 0);
    return PARE_OK;
}

void pare_batches_free(pare_batches *b) {
    pare_free(b->order);
    b->order = NULL;
}

pare_status pare_batches_train(pare_batches *b, uint64_t i, int32_t *ids, pare_error *err) {
    uint64_t epoch = i / b->n_train;
    if (epoch != b->epoch) shuffle(b, epoch);
    return pare_token_file_read(b->file, (uint64_t)b->order[i % b->n_train] * b->ctx, b->ctx + 1,
                                ids, err);
}

pare_status pare_batches_held_out(const pare_batches *b, uint64_t i, int32_t *ids,
                                  pare_error *err) {
    return pare_token_file_read(b->file, (b->n_train + i) * b->ctx, b->ctx + 1, ids, err);
}
