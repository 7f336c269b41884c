/* AMX: four accumulator tiles from two tiles of A and two of B, as a matrix kernel holds them.
 * A tile is 16 rows of 64 bytes: one instruction does 16 x 16 x 64 products of bytes, or half as
 * many of bf16. */
#include "eval/peak.h"
#include "kernels/amx.h"

static void tiles_begin(void) {
    static const uint8_t rows[8] = {16, 16, 16, 16, 16, 16, 16, 16};
    pare_amx_configure(rows);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

static float tiles_end(void) {
    int32_t out[16][16];
    _tile_stored(0, out, 64);
    _tile_release();
    return (float)out[0][0];
}

static float run_int8(size_t rounds) {
    tiles_begin();
    for (size_t r = 0; r < rounds; r++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    return tiles_end();
}

static float run_bf16(size_t rounds) {
    tiles_begin();
    for (size_t r = 0; r < rounds; r++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    return tiles_end();
}

void pare_peak_loops_amx(pare_peak_loops *loops) {
    loops->int8 = loops->int4 = (pare_peak_loop){run_int8, 4 * 2.0 * 16 * 16 * 64};
    loops->bf16 = (pare_peak_loop){run_bf16, 4 * 2.0 * 16 * 16 * 32};
}
