/* AVX512-BF16, an extension of its own. */
#ifndef PARE_SRC_KERNELS_BF16_AVX512_H
#define PARE_SRC_KERNELS_BF16_AVX512_H

#include "kernels/intrinsics.h"

#include <string.h>

#ifdef PARE_EMULATE
#define BF16
#else
#define BF16 __attribute__((target("avx512bf16")))
#endif

BF16 static inline __m512bh pairs(__m512i v) {
    __m512bh r;
    memcpy(&r, &v, sizeof r);
    return r;
}

#endif
