/* The steps of sampling apart, for speculative decoding: weigh, then one or more draws. */
#ifndef PARE_SRC_GENERATE_SAMPLER_H
#define PARE_SRC_GENERATE_SAMPLER_H

#include "pare/generate.h"

/* Steps 1 to 5 of pare/generate.h: what is left are the sampler's candidates, p not divided by
 * their sum (a single one with p = 1 at temperature 0). Errors: those of pare_sampler_pick. */
pare_status pare_sampler_weigh(pare_sampler *s, const float *logits, pare_error *err);
/* The sum of the candidates' p. */
double pare_sampler_mass(const pare_sampler *s);
/* Step 6. p of the candidates may have been changed; not all are 0. */
int32_t pare_sampler_draw(pare_sampler *s);
/* The next random number in [0, 1). */
double pare_sampler_uniform(pare_sampler *s);

/* The next draw is number `draw`. */
void pare_sampler_start(pare_sampler *s, uint64_t draw);

/* A sampler of a draft: the same options and banned tokens, its own stream of random numbers
 * from the same draw on. */
pare_status pare_sampler_fork(pare_sampler **out, const pare_sampler *s, pare_error *err);
/* The recent tokens of `from`, for the repeat penalty. */
void pare_sampler_follow(pare_sampler *s, const pare_sampler *from);

#endif
