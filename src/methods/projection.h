/* What AdamP and SGDP share: the test whether a tensor looks scale invariant, and the part of a
 * step along the weights that is then taken out. Heo et al., arXiv:2006.08217. */
#ifndef PARE_SRC_METHODS_PROJECTION_H
#define PARE_SRC_METHODS_PROJECTION_H

#include "methods/optimizer.h"

/* out[end - begin]: the step's direction at weights [begin, end); called once for each, in any
 * order, and advances state. */
typedef void (*pare_direction_fn)(float *out, const pare_update *u, const void *rule, size_t begin,
                                  size_t end);

/* Values that are treated at once, on the stack. */
enum { PARE_ROW_PIECE = 512 };

typedef struct pare_projection {
    bool fired;        /* the gradient is nearly orthogonal to the weights */
    bool whole;        /* of the tensor as a whole, else of each row */
    const double *row; /* [rows] coefficients, in u->work */
    double all;        /* the coefficient of the whole */
} pare_projection;

/* Tests rows of the raw gradient first, then the whole: |cos(g, w)| < delta / sqrt(n of a row), for
 * every row. n counts the weights that a mask keeps. Where it fires, the step's direction d becomes
 * d - c w with the coefficient c. Work: pare_projection_work doubles. Not for vectors. */
pare_projection pare_project(const pare_update *u, pare_direction_fn direction, const void *rule,
                             double delta, double eps);
size_t pare_projection_work(const pare_update *u);

static inline float pare_projection_coefficient(const pare_projection *p, size_t row) {
    return !p->fired ? 0.0f : (float)(p->whole ? p->all : p->row[row]);
}

#endif
