/* Memory of passes with a tape: that of a pass (model/pass_room.h), the shadow of its arena, the
 * stack of saved values, scratch of the backward halves.
 *
 *     pare_tape tape = {.leaves = leaves, .n_leaves = n, .half = half};
 *     pare_fwd plan = pare_tape_room_plan(&worker, rt, compute, &tape);
 *     pass(&plan, ...);                                 // counts
 *     pare_tape_room_make(&room, &plan, rt, &err);
 *     ... on every thread: f = pare_tape_room_fwd(&room, w, rt, compute, &tape); pass(&f, ...);
 *     pare_tape_room_free(&room);
 */
#ifndef PARE_SRC_TRAIN_TAPE_ROOM_H
#define PARE_SRC_TRAIN_TAPE_ROOM_H

#include "autograd/tape.h"
#include "model/pass_room.h"

typedef struct pare_tape_room {
    pare_pass_room pass;
    uint8_t *shadow, *saves, *work;
    size_t saves_bytes, work_bytes;
} pare_tape_room;

/* A context that counts what passes with that tape need, which is filled, its leaves kept. */
pare_fwd pare_tape_room_plan(pare_worker *worker, pare_runtime *rt, pare_compute compute,
                             pare_tape *tape);
/* Room for all passes that were run on the plan. Errors: PARE_ERR_NOMEM. */
pare_status pare_tape_room_make(pare_tape_room *room, const pare_fwd *plan, pare_runtime *rt,
                                pare_error *err);
/* A thread's context on it, on the path of many rows. tape: the thread's own, filled, its leaves
 * kept; NULL: a pass without gradient. */
pare_fwd pare_tape_room_fwd(const pare_tape_room *room, pare_worker *w, pare_runtime *rt,
                            pare_compute compute, pare_tape *tape);
/* Accepts a zeroed one. */
void pare_tape_room_free(pare_tape_room *room);
size_t pare_tape_room_bytes(const pare_tape_room *room);

#endif
