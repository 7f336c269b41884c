/* Which variant each kernel table uses: found by comparing the tables of the levels, so that the
 * list cannot differ from what runs. */
#include "pare/bench.h"

#include "kernels/dot.h"

#include <string.h>

static const char *const dot_names[PARE_DOT_COUNT] = {"none",
#define X(name) #name,
                                                      PARE_DOT_LIST(X)
#undef X
};
static const char *const dotf_names[PARE_DOTF_COUNT] = {"none",
#define X(name) #name,
                                                        PARE_DOT_F32_LIST(X)
#undef X
};

/* The lowest level whose table holds the same function as the table of `isa`. */
static pare_isa dot_level(size_t id, bool f32, pare_isa isa) {
    const pare_dot_kernels *used = pare_dot_kernels_get(isa);
    for (int level = 0; level < (int)isa; level++) {
        const pare_dot_kernels *k = pare_dot_kernels_get((pare_isa)level);
        if (f32 ? k->dotf[id] == used->dotf[id] : k->dot[id] == used->dot[id])
            return (pare_isa)level;
    }
    return isa;
}

bool pare_kernel_at(pare_kernel_choice *out, size_t i, pare_isa isa) {
    size_t n_dot = PARE_DOT_COUNT - 1, n_dotf = PARE_DOTF_COUNT - 1; /* 0 is "none" */
    if (i >= n_dot + n_dotf) return false;
    bool f32 = i >= n_dot;
    size_t id = 1 + (f32 ? i - n_dot : i);
    *out = (pare_kernel_choice){.name = f32 ? dotf_names[id] : dot_names[id],
                                .family = f32 ? "dot_f32" : "dot_int8",
                                .isa = dot_level(id, f32, isa)};
    return true;
}
