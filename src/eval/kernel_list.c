/* Which variant each kernel table uses: found by comparing the tables of the levels, so that the
 * list cannot differ from what runs. */
#include "pare/bench.h"

#include "kernels/dot.h"
#include "kernels/op_kernels.h"
#include "kernels/select.h"
#include "kernels/tile.h"
#include "kernels/update.h"

#include <string.h>

/* One kernel: where its function, or the table that holds it, stands in a level's tables. */
typedef struct entry {
    const char *family, *name;
    const void *(*at)(pare_isa isa, size_t offset);
    size_t offset;
} entry;

/* The pointer at `offset` of a table; function pointers and pointers to tables alike. */
static const void *pointer_at(const void *table, size_t offset) {
    const void *p;
    memcpy(&p, (const char *)table + offset, sizeof p);
    return p;
}
static const void *dot_at(pare_isa isa, size_t offset) {
    return pointer_at(pare_dot_kernels_get(isa), offset);
}
static const void *tile_at(pare_isa isa, size_t offset) {
    return pointer_at(pare_tile_kernels_get(isa), offset);
}
static const void *op_at(pare_isa isa, size_t offset) {
    return pointer_at(pare_op_kernels_get(isa), offset);
}

static const void *select_at(pare_isa isa, size_t offset) {
    return pointer_at(pare_select_kernels_get(isa), offset);
}
static const void *update_at(pare_isa isa, size_t offset) {
    return pointer_at(pare_update_kernels_get(isa), offset);
}

#define DOT(id) {"decode_int8", #id, dot_at, offsetof(pare_dot_kernels, dot[PARE_DOT_##id])},
#define DOTF(id) {"decode_f32", #id, dot_at, offsetof(pare_dot_kernels, dotf[PARE_DOTF_##id])},
#define TILE(field) {"prefill", #field, tile_at, offsetof(pare_tile_kernels, field)},
#define OP(field) {"operators", #field, op_at, offsetof(pare_op_kernels, field)},
#define SELECT(field) {"mask", #field, select_at, offsetof(pare_select_kernels, field)},
#define UPDATE(field) {"optimizer", #field, update_at, offsetof(pare_update_kernels, field)},
static const entry entries[] = {
    PARE_DOT_LIST(DOT) PARE_DOT_F32_LIST(DOTF) TILE(f32) TILE(bf16) TILE(u8) TILE(s16) OP(attn)
        OP(norm) OP(rope) OP(softmax) OP(act) SELECT(keys) SELECT(compare) SELECT(bend)
            SELECT(match) SELECT(quads) UPDATE(sgd) UPDATE(adam) UPDATE(mask)};

/* The lowest level whose table holds the same pointer as the table of `isa`. */
static pare_isa level_of(const entry *e, pare_isa isa) {
    for (int level = 0; level < (int)isa; level++)
        if (e->at((pare_isa)level, e->offset) == e->at(isa, e->offset)) return (pare_isa)level;
    return isa;
}

bool pare_kernel_at(pare_kernel_choice *out, size_t i, pare_isa isa) {
    for (size_t k = 0; k < sizeof entries / sizeof *entries; k++) {
        const entry *e = &entries[k];
        if (!e->at(isa, e->offset)) continue; /* the level does without it */
        if (i-- > 0) continue;
        *out = (pare_kernel_choice){.name = e->name, .family = e->family, .isa = level_of(e, isa)};
        return true;
    }
    return false;
}
