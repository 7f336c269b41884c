/* Intrinsics above AVX2 in plain C, so that kernels for AVX-512 and AMX are tested on any machine:
 * SIMDe under the native names, and here what it lacks. */
#ifndef PARE_TESTS_SUPPORT_EMULATE_H
#define PARE_TESTS_SUPPORT_EMULATE_H

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop

#endif
