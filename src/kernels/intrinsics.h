/* The x86 intrinsics. A test compiles the kernels of levels that its machine lacks a second time
 * with PARE_EMULATE: then the same source runs on an emulation in C (tests/support/emulate.h). */
#ifndef PARE_SRC_KERNELS_INTRINSICS_H
#define PARE_SRC_KERNELS_INTRINSICS_H

#ifdef PARE_EMULATE
#include "support/emulate.h"
#else
#include <immintrin.h>
#endif

#endif
