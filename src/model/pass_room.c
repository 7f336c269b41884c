#include "model/pass_room.h"

pare_status pare_pass_room_make(pare_pass_room *room, const pare_fwd *plan, pare_runtime *rt,
                                pare_error *err) {
    size_t own;
    *room = (pare_pass_room){0};
    if (pare_align_size(&room->arena_bytes, plan->arena.peak + 64, 64) &&
        pare_align_size(&room->linear_bytes, plan->linear_bytes, 64) &&
        pare_align_size(&room->own_bytes, plan->own.peak + 64, 64) &&
        pare_mul_size(&own, room->own_bytes, (size_t)pare_runtime_threads(rt)) &&
        pare_add_size(&room->bytes, room->arena_bytes, room->linear_bytes) &&
        pare_add_size(&room->bytes, room->bytes, own))
        room->memory = pare_big_alloc(room->bytes);
    if (room->memory) return PARE_OK;
    return pare_fail(err, PARE_ERR_NOMEM, "scratch of a pass: %zu bytes", room->bytes);
}

pare_fwd pare_pass_room_fwd(const pare_pass_room *room, pare_worker *w, pare_runtime *rt,
                            pare_compute compute) {
    uint8_t *linear = room->memory + room->arena_bytes;
    return (pare_fwd){.w = w,
                      .isa = pare_runtime_isa(rt),
                      .compute = compute,
                      .k = pare_op_kernels_get(pare_runtime_isa(rt)),
                      .arena = {.base = room->memory, .capacity = room->arena_bytes},
                      .own = {.base = linear + room->linear_bytes + (size_t)w->id * room->own_bytes,
                              .capacity = room->own_bytes},
                      .linear_scratch = linear,
                      .linear_bytes = room->linear_bytes};
}

void pare_pass_room_free(pare_pass_room *room) {
    if (room->memory) pare_big_free(room->memory, room->bytes);
    *room = (pare_pass_room){0};
}
