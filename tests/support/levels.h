/* The instruction sets that a test goes through. In a second build (PARE_EMULATE) the kernels above
 * AVX2 are emulated in C: there these alone, as the first build has had the others. */
#ifndef PARE_TESTS_SUPPORT_LEVELS_H
#define PARE_TESTS_SUPPORT_LEVELS_H

#include "pare/base.h"

#ifdef PARE_EMULATE
#define FIRST_LEVEL PARE_ISA_AVX512
#define FIRST_VECTOR_LEVEL PARE_ISA_AVX512
#define TOP_LEVEL PARE_ISA_AMX
#elif defined(__SANITIZE_THREAD__)
/* races do not depend on the level */
#define FIRST_LEVEL pare_isa_best()
#define FIRST_VECTOR_LEVEL pare_isa_best()
#define TOP_LEVEL pare_isa_best()
#else
#define FIRST_LEVEL PARE_ISA_REF
#define FIRST_VECTOR_LEVEL PARE_ISA_AVX2
#define TOP_LEVEL pare_isa_best()
#endif

#endif
