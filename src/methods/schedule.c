#include "methods/schedule.h"

#include <math.h>

bool pare_schedule_is_update(const pare_schedule *s, int64_t t) {
    if (s->kind == PARE_SCHEDULE_NONE) return false;
    if (s->kind == PARE_SCHEDULE_ONE_SHOT) return t == s->from;
    return t % s->every == 0 && t >= s->from && (s->until < 0 || t <= s->until);
}

double pare_schedule_sparsity(const pare_schedule *s, double target, int64_t t) {
    if (s->kind != PARE_SCHEDULE_POLYNOMIAL) return target;
    double length = (double)(s->until - s->from), done = (double)(t + 1 - s->from);
    double q = length > 0 ? fmin(fmax(done, 0), length) / length : 1;
    return target * (1 - pow(1 - q, s->power));
}
