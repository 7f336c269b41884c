/* The tables of the encoders' kernels, one per instruction-set level. */
#include "kernels/encode.h"

#include <pthread.h>

static pare_encode_kernels tables[PARE_ISA_COUNT];

static void fill_tables(void) {
    for (int isa = 0; isa < PARE_ISA_COUNT; isa++) {
        pare_encode_kernels_ref(&tables[isa]);
#if defined(__x86_64__)
        if (isa >= PARE_ISA_AVX2) pare_encode_kernels_avx2(&tables[isa]);
        if (isa >= PARE_ISA_AVX512) tables[isa].grid_errors = pare_grid_errors_avx512;
#endif
    }
}

const pare_encode_kernels *pare_encode_kernels_get(pare_isa isa) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_tables);
    return &tables[isa];
}
