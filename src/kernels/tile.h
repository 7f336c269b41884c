/* Many rows (prefill, perplexity, calibration): C[m][NR] (+)= A[m][k] * panel[k][NR], bound by
 * arithmetic.
 *
 * The driver (tensor/linear.c) unpacks a panel of PARE_TILE_NR weight rows once in the form that
 * the tile kernel wants and runs all activation rows over it while it sits in L2. Three forms: f32
 * panel[k][NR]: `exact`, and 16/32-bit weights where nothing better exists bf16  panel[k/2][NR][2]
 * (AVX-512 BF16, AMX) int   codes u8[k/4][NR][4] or s16[k/2][NR][2] with an f32 scale and offset
 * per group of 16 or 32 and output: value = scale * code + offset See tile_*.c for each level's
 * kernels. */
#ifndef PARE_SRC_KERNELS_TILE_H
#define PARE_SRC_KERNELS_TILE_H

#include "kernels/activation.h"
#include "pare/base.h"

#define PARE_TILE_NR 16 /* outputs a panel */

/* (The owner of this header fixes the exact kernel signatures.) */

#endif
