/* Configuration of AMX's tiles. Only for files that are compiled for AMX. */
#ifndef PARE_SRC_KERNELS_AMX_H
#define PARE_SRC_KERNELS_AMX_H

#include "kernels/intrinsics.h"

#include <stddef.h>
#include <stdint.h>

/* The operand of ldtilecfg. */
typedef struct pare_amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} pare_amx_config;
_Static_assert(sizeof(pare_amx_config) == 64, "as the instruction reads it");

/* Tile t has rows[t] rows of 64 bytes; 0: it is not used. */
static inline void pare_amx_configure(const uint8_t rows[8]) {
    pare_amx_config config = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        config.row_bytes[t] = rows[t] ? 64 : 0; /* one of both alone being 0 is a fault */
        config.rows[t] = rows[t];
    }
    /* gcc 12 tells the optimizer of 8 of the 64 bytes that the instruction reads */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}

#endif
