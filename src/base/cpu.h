/* Features behind the instruction-set levels of pare/base.h. */
#ifndef PARE_SRC_BASE_CPU_H
#define PARE_SRC_BASE_CPU_H

#include "base/error.h"

enum {
    PARE_CPU_AVX2 = 1,
    PARE_CPU_AVX512 = 2,
    PARE_CPU_AVX512_BF16 = 4,
    PARE_CPU_AMX = 8,
    PARE_CPU_SHA = 16,          /* rounds of SHA-256; of no level */
    PARE_CPU_AVX512_VBMI2 = 32, /* with VBMI: bytes and words expanded, moved across a register */
    PARE_CPU_PCLMUL = 64,       /* products without carries, with SSE4.1; of no level */
};

/* Bits above, as found at start; the AMX bit also means that the system granted the tile state. */
unsigned pare_cpu_features(void);

#endif
