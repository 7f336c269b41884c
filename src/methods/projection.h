/* What AdamP and SGDP share: the test whether a tensor looks scale invariant, and the part of a
 * step along the weights that is then taken out. Heo et al., arXiv:2006.08217. */
#ifndef PARE_SRC_METHODS_PROJECTION_H
#define PARE_SRC_METHODS_PROJECTION_H

#include "methods/optimizer.h"

/* out[end - begin]: the step's direction at weights [begin, end), in any order. advance: called
 * once for each weight with true, then it moves state; else the direction of the state there is. */
typedef void (*pare_direction_fn)(float *out, const pare_update *u, const void *rule, bool advance,
                                  size_t begin, size_t end);

/* A step w = keep w - size (d - c w) along directions d. c = 0 where the tensor does not look scale
 * invariant; vectors never do. */
typedef struct pare_projected {
    pare_direction_fn direction;
    const void *rule;        /* handed to it */
    double delta, eps;       /* of the test; least norm */
    float size;              /* the learning rate with all its factors */
    float keep, keep_if_cut; /* 1 - weight decay, and where c is not 0 */
    bool cut_momentum;       /* the first moment loses c w too */
} pare_projected;

/* Tests rows of the raw gradient first, then the whole: |cos(g, w)| < delta / sqrt(n of a row), for
 * every row. n counts the weights that a mask keeps. Where it holds, c is that of each row, or of
 * the whole. Work: pare_projected_work doubles. */
void pare_projected_update(const pare_update *u, const pare_projected *step);
size_t pare_projected_work(const void *options, const pare_update *u);

#endif
