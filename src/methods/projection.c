#include "methods/projection.h"

#include <math.h>

typedef struct row_sums {
    double gw, gg, ww, dw; /* products of gradient, weights and direction */
} row_sums;
enum { N_SUMS = sizeof(row_sums) / sizeof(double) };

typedef struct projection_job {
    const pare_update *u;
    pare_direction_fn direction;
    const void *rule;
    row_sums *sums; /* [rows] */
} projection_job;

size_t pare_projection_work(const pare_update *u) {
    return u->is_vector ? 0 : (N_SUMS + 1) * u->rows;
}

static void sum_rows(void *arg, size_t begin, size_t end) {
    const projection_job *j = arg;
    const pare_update *u = j->u;
    float d[PARE_ROW_PIECE];
    for (size_t r = begin; r < end; r++) {
        double sums[N_SUMS] = {0};
        for (size_t i = r * u->cols, stop = i + u->cols, next; i < stop; i = next) {
            next = stop - i < PARE_ROW_PIECE ? stop : i + PARE_ROW_PIECE;
            j->direction(d, u, j->rule, i, next);
            u->k->dots(sums, &u->a, d, i, next);
        }
        j->sums[r] = (row_sums){.gw = sums[0], .gg = sums[1], .ww = sums[2], .dw = sums[3]};
    }
}

/* n: kept weights. A gradient of zeros is orthogonal to everything. */
static bool is_orthogonal(const row_sums *s, size_t n, double delta, double eps) {
    double cosine = fabs(s->gw) / fmax(sqrt(s->gg) * sqrt(s->ww), eps);
    return n == 0 || cosine < delta / sqrt((double)n);
}

static double coefficient(const row_sums *s, double eps) {
    double norm = sqrt(s->ww) + eps;
    return norm > 0 ? s->dw / (norm * norm) : 0;
}

pare_projection pare_project(const pare_update *u, pare_direction_fn direction, const void *rule,
                             double delta, double eps) {
    projection_job j = {u, direction, rule, (row_sums *)u->work};
    double *row = u->work + N_SUMS * u->rows;
    pare_parallel_for(u->rt, u->rows, 1 + PARE_UPDATE_BLOCK / u->cols, sum_rows, &j);
    pare_projection p = {.fired = true, .row = row};
    row_sums all = {0};
    size_t n = 0;
    for (size_t r = 0; r < u->rows; r++) {
        const row_sums *s = &j.sums[r];
        size_t kept = pare_update_n_kept(u->a.mask, r * u->cols, (r + 1) * u->cols);
        p.fired &= is_orthogonal(s, kept, delta, eps);
        row[r] = coefficient(s, eps);
        all.gw += s->gw;
        all.gg += s->gg;
        all.ww += s->ww;
        all.dw += s->dw;
        n += kept;
    }
    if (p.fired) return p;
    p.whole = true;
    p.fired = is_orthogonal(&all, n, delta, eps);
    p.all = coefficient(&all, eps);
    return p;
}
