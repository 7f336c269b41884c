#include "train/tape_room.h"

#include "base/memory.h"
#include "base/runtime.h"

pare_fwd pare_tape_room_plan(pare_worker *worker, pare_runtime *rt, pare_compute compute,
                             pare_tape *tape) {
    pare_fwd f = pare_fwd_plan(worker, pare_runtime_threads(rt), pare_runtime_isa(rt), compute);
    tape->saves = tape->work = (pare_arena){.capacity = SIZE_MAX};
    f.own.capacity = 0;
    f.many = true;
    f.tape = tape;
    return f;
}

pare_status pare_tape_room_make(pare_tape_room *room, const pare_fwd *plan, pare_runtime *rt,
                                pare_error *err) {
    *room = (pare_tape_room){.saves_bytes = plan->tape->saves.peak + 64,
                             .work_bytes = plan->tape->work.peak + 64};
    PARE_TRY(pare_pass_room_make(&room->pass, plan, rt, err));
    room->shadow = pare_big_alloc(room->pass.arena_bytes);
    room->saves = pare_big_alloc(room->saves_bytes);
    room->work = pare_big_alloc(room->work_bytes);
    if (room->shadow && room->saves && room->work) return PARE_OK;
    pare_fail(err, PARE_ERR_NOMEM, "training: %zu bytes for a pass", pare_tape_room_bytes(room));
    pare_tape_room_free(room);
    return PARE_ERR_NOMEM;
}

pare_fwd pare_tape_room_fwd(const pare_tape_room *room, pare_worker *w, pare_runtime *rt,
                            pare_compute compute, pare_tape *tape) {
    pare_fwd f = pare_pass_room_fwd(&room->pass, w, rt, compute);
    f.own = (pare_arena){0};
    f.many = true;
    f.tape = tape;
    if (!tape) return f;
    tape->saves = (pare_arena){.base = room->saves, .capacity = room->saves_bytes};
    tape->work = (pare_arena){.base = room->work, .capacity = room->work_bytes};
    tape->shadow = room->shadow;
    return f;
}

void pare_tape_room_free(pare_tape_room *room) {
    if (room->shadow) pare_big_free(room->shadow, room->pass.arena_bytes);
    if (room->saves) pare_big_free(room->saves, room->saves_bytes);
    if (room->work) pare_big_free(room->work, room->work_bytes);
    pare_pass_room_free(&room->pass);
    *room = (pare_tape_room){0};
}

size_t pare_tape_room_bytes(const pare_tape_room *room) {
    return room->pass.bytes + room->pass.arena_bytes + room->saves_bytes + room->work_bytes;
}
