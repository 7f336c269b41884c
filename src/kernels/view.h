/* A weight matrix as the kernels see it: raw parts, no names, no descriptors. w[rows][cols],
 * row-major, y = W x. */
#ifndef PARE_SRC_KERNELS_VIEW_H
#define PARE_SRC_KERNELS_VIEW_H

#include <stddef.h>
#include <stdint.h>

#define PARE_MAX_PARTS 4

typedef struct pare_view {
    size_t rows, cols;
    size_t row_bytes;                 /* of part 0, where rows have a fixed size; else 0 */
    const void *part[PARE_MAX_PARTS]; /* meaning: the encoding's file; 64-byte aligned, readable 64
                                         bytes past the end */
} pare_view;

#endif
