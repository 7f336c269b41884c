/* PARE_UNROLL before a loop of constant length makes it straight code, so that arrays indexed by it
 * live in registers. */
#ifndef PARE_SRC_KERNELS_UNROLL_H
#define PARE_SRC_KERNELS_UNROLL_H

#if defined(__clang__)
#define PARE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PARE_UNROLL _Pragma("GCC unroll 64")
#endif

#endif
