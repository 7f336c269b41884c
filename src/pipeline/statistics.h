/* Statistics of a linear layer's inputs, gathered while the model runs over calibration text. */
#ifndef PARE_SRC_PIPELINE_STATISTICS_H
#define PARE_SRC_PIPELINE_STATISTICS_H

#include "methods/method.h"

typedef struct pare_statistics pare_statistics;

/* Tokens of a block of the Hessian: its products are summed in f32, the blocks in f64. */
size_t pare_statistics_tokens(const pare_runtime *rt, pare_compute compute);

/* For inputs of `cols` values; needs: PARE_NEED_*; compute: fast may round the Hessian's inputs to
 * bf16. n_samples: so many of the first rows are kept, where PARE_NEED_SAMPLES is among the needs;
 * spill: a folder in which they lie, NULL: in memory. Errors: PARE_ERR_NOMEM, PARE_ERR_IO. */
pare_status pare_statistics_create(pare_statistics **out, pare_runtime *rt, pare_compute compute,
                                   size_t cols, unsigned needs, size_t n_samples, const char *spill,
                                   pare_error *err);
void pare_statistics_free(pare_statistics *s);

/* Bytes that it takes; of samples in a file n_samples are those at work. */
size_t pare_statistics_bytes(size_t cols, unsigned needs, size_t n_samples);

/* Adds the rows x[n][ldx]. Called by every thread of a team with the same arguments; ends with a
 * barrier. The result does not depend on the number of threads. */
void pare_statistics_add(pare_worker *w, pare_statistics *s, const float *x, size_t ldx, size_t n);

/* Samples: the rows that are added next are numbers first, ... of all ranks'. */
void pare_statistics_at(pare_statistics *s, size_t first);
/* Samples first, ... are not at work for now (base/spill.h). */
void pare_statistics_rest(const pare_statistics *s, size_t first, size_t n);
/* The sums of all ranks, each of which added rows of its own; before the result. */
void pare_statistics_sum_ranks(pare_statistics *s);

/* Are all sums finite? After a pass, by one thread. */
bool pare_statistics_finite(const pare_statistics *s);

/* All that was added, of n_sequences sequences; borrowed until the next call. */
const pare_input_stats *pare_statistics_result(pare_statistics *s, size_t n_sequences);

/* The result becomes that of inputs divided by scale[cols]; nothing may be added afterwards. */
void pare_statistics_divide(pare_statistics *s, const float *scale);

#endif
