/* Memory that passes through a model need besides their inputs and outputs: the arena that all
 * threads share, scratch of the linear layers, an arena of each thread's own.
 *
 *     pare_worker worker;
 *     pare_fwd plan = pare_fwd_plan(&worker, n_threads, isa, compute);
 *     pass(&plan, ...);                                 // counts
 *     pare_pass_room_make(&room, &plan, rt, &err);
 *     ... on every thread: pare_fwd f = pare_pass_room_fwd(&room, w, rt, compute); pass(&f, ...);
 *     pare_pass_room_free(&room);
 */
#ifndef PARE_SRC_MODEL_PASS_ROOM_H
#define PARE_SRC_MODEL_PASS_ROOM_H

#include "autograd/ops.h"

typedef struct pare_pass_room {
    uint8_t *memory;
    size_t arena_bytes, linear_bytes, own_bytes, bytes;
} pare_pass_room;

/* Room for all passes that were run on the plan. Errors: PARE_ERR_NOMEM. */
pare_status pare_pass_room_make(pare_pass_room *room, const pare_fwd *plan, pare_runtime *rt,
                                pare_error *err);
/* A thread's context on it, without tape and hooks. */
pare_fwd pare_pass_room_fwd(const pare_pass_room *room, pare_worker *w, pare_runtime *rt,
                            pare_compute compute);
/* Accepts a zeroed one. */
void pare_pass_room_free(pare_pass_room *room);

#endif
